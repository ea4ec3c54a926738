//! Plain data on its way up and down; twins of the dataclasses in `dataplane.backend` and `mtu.plan`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use openmoat_engine::Counters;
use openmoat_engine::events::Event;
use openmoat_engine::ladder::Rung;
use openmoat_engine::plan::{self, Framing, IcmpSource, OuterDf};
use openmoat_esp::aggfrag::MIN_ROOM;
use openmoat_esp::mss::MssBounds;
use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_io::Path;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::misuse;

/// Address and port as Python gives them.
pub type HostPort<'py> = (Bound<'py, PyBytes>, u16);

/// A selector as Python gives it.
pub type SelectorTuple<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>, u8, u16, u16);

/// An address of 4 or 16 octets.
pub fn address(octets: &Bound<'_, PyBytes>) -> PyResult<IpAddr> {
    let octets = octets.as_bytes();
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(v4.into());
    }
    let wrong = |_| misuse(format!("address: 4 or 16 octets, got {}", octets.len()));
    <[u8; 16]>::try_from(octets)
        .map(IpAddr::from)
        .map_err(wrong)
}

/// An end of a path.
pub fn host_port(end: &HostPort<'_>) -> PyResult<SocketAddr> {
    Ok(SocketAddr::new(address(&end.0)?, end.1))
}

/// Both ends, which are of one family.
pub fn path(local: &HostPort<'_>, remote: &HostPort<'_>) -> PyResult<Path> {
    let path = Path {
        local: host_port(local)?,
        remote: host_port(remote)?,
    };
    if path.local.is_ipv4() != path.remote.is_ipv4() {
        return Err(misuse(format!(
            "path: ends of one family, got {} and {}",
            path.local, path.remote
        )));
    }
    Ok(path)
}

/// Selectors of an SA or a policy.
pub fn selectors(
    local: &[SelectorTuple<'_>],
    remote: &[SelectorTuple<'_>],
) -> PyResult<SelectorPair> {
    let side = |side: &[SelectorTuple<'_>]| {
        side.iter()
            .map(selector)
            .collect::<PyResult<Box<[Selector]>>>()
    };
    Ok(SelectorPair {
        local: side(local)?,
        remote: side(remote)?,
    })
}

fn selector(tuple: &SelectorTuple<'_>) -> PyResult<Selector> {
    let (start, end, protocol, start_port, end_port) = tuple;
    let made = Selector::new(
        address(start)?,
        address(end)?,
        *protocol,
        *start_port,
        *end_port,
    );
    made.map_err(|error| misuse(error.to_string()))
}

/// Address and port as Python takes them.
pub fn to_host_port<'py>(py: Python<'py>, end: &SocketAddr) -> HostPort<'py> {
    (to_bytes(py, end.ip()), end.port())
}

fn to_bytes(py: Python<'_>, ip: IpAddr) -> Bound<'_, PyBytes> {
    match ip {
        IpAddr::V4(v4) => PyBytes::new(py, &v4.octets()),
        IpAddr::V6(v6) => PyBytes::new(py, &v6.octets()),
    }
}

/// First and last address of a prefix, and the address of ours for it.
type IcmpSourceTuple<'py> = (
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
);

/// Twin of `mtu.plan.MtuPlan`.
#[pyclass(frozen, module = "openmoat._native")]
pub struct MtuPlan(pub plan::MtuPlan);

#[pymethods]
impl MtuPlan {
    #[new]
    #[pyo3(signature = (*, framing, slices, outer_size, inner_room, mss_v4, mss_v6, outer_df, oversize, watch_above, echoes, too_big_per_second, icmp_sources))]
    #[allow(clippy::too_many_arguments)] // keywords of Python
    fn new(
        framing: &str,
        slices: bool,
        outer_size: usize,
        inner_room: usize,
        mss_v4: Option<u16>,
        mss_v6: Option<u16>,
        outer_df: &str,
        oversize: Vec<String>,
        watch_above: Option<usize>,
        echoes: bool,
        too_big_per_second: f64,
        icmp_sources: Vec<IcmpSourceTuple<'_>>,
    ) -> PyResult<Self> {
        let source = |(first, last, ours): &IcmpSourceTuple<'_>| {
            Ok(IcmpSource {
                first: address(first)?,
                last: address(last)?,
                address: address(ours)?,
            })
        };
        let framing = framing_of(framing)?;
        if framing == Framing::Aggfrag && inner_room < MIN_ROOM {
            return Err(misuse(format!(
                "inner_room: AGGFRAG needs {MIN_ROOM} octets, got {inner_room}"
            )));
        }
        Ok(Self(plan::MtuPlan {
            framing,
            slices,
            outer_size,
            inner_room,
            mss: MssBounds {
                v4: mss_v4,
                v6: mss_v6,
            },
            outer_df: outer_df_of(outer_df)?,
            oversize: oversize
                .iter()
                .map(|word| rung_of(word))
                .collect::<PyResult<_>>()?,
            watch_above,
            echoes,
            too_big_per_second,
            icmp_sources: icmp_sources.iter().map(source).collect::<PyResult<_>>()?,
        }))
    }
}

/// How packets lie in payloads.
pub fn framing_of(word: &str) -> PyResult<Framing> {
    match word {
        "whole" => Ok(Framing::Whole),
        "aggfrag" => Ok(Framing::Aggfrag),
        _ => Err(misuse(format!("framing: whole or aggfrag, got {word:?}"))),
    }
}

fn outer_df_of(word: &str) -> PyResult<OuterDf> {
    match word {
        "clear" => Ok(OuterDf::Clear),
        "set" => Ok(OuterDf::Set),
        "copy" => Ok(OuterDf::Copy),
        _ => Err(misuse(format!(
            "outer_df: clear, set or copy, got {word:?}"
        ))),
    }
}

fn rung_of(word: &str) -> PyResult<Rung> {
    match word {
        "fragment-inner" => Ok(Rung::FragmentInner),
        "minimum-outer" => Ok(Rung::MinimumOuter),
        "fragment-outer" => Ok(Rung::FragmentOuter),
        "fragment-anyway" => Ok(Rung::FragmentAnyway),
        "refuse" => Ok(Rung::Refuse),
        _ => Err(misuse(format!("oversize: a rung, got {word:?}"))),
    }
}

/// Twin of `dataplane.backend.SaCounters`.
#[pyclass(frozen, get_all, module = "openmoat._native")]
pub struct SaCounters {
    handle: u32,
    inbound_packets: u64,
    inbound_octets: u64,
    outbound_packets: u64,
    outbound_octets: u64,
    inbound_sequence: u64,
    outbound_sequence: u64,
    outbound_packed: u64,
    outbound_sliced: u64,
    outbound_slices: u64,
    outbound_proved: u64,
    inbound_assembled: u64,
    inbound_reports: u64,
    inbound_marks: u64,
    drops: BTreeMap<&'static str, u64>,
    deeds: BTreeMap<&'static str, u64>,
}

impl From<Counters> for SaCounters {
    fn from(counters: Counters) -> Self {
        Self {
            handle: counters.handle,
            inbound_packets: counters.inbound.0,
            inbound_octets: counters.inbound.1,
            outbound_packets: counters.outbound.0,
            outbound_octets: counters.outbound.1,
            inbound_sequence: counters.inbound_sequence,
            outbound_sequence: counters.outbound_sequence,
            outbound_packed: counters.outbound_packed.0,
            outbound_sliced: counters.outbound_packed.1,
            outbound_slices: counters.outbound_packed.2,
            outbound_proved: counters.outbound_proved,
            inbound_assembled: counters.inbound_assembled,
            inbound_reports: counters.inbound_reports,
            inbound_marks: counters.inbound_marks,
            drops: counters
                .drops
                .iter()
                .map(|(reason, packets)| (reason.name(), *packets))
                .collect(),
            deeds: counters
                .deeds
                .iter()
                .map(|(deed, packets)| (deed.name(), *packets))
                .collect(),
        }
    }
}

/// Twin of `dataplane.backend.SaState`.
#[pyclass(frozen, module = "openmoat._native")]
pub struct SaState {
    #[pyo3(get)]
    handle: u32,
    #[pyo3(get)]
    flags: u32,
    path: Option<Path>,
}

#[pymethods]
impl SaState {
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> Option<(HostPort<'py>, HostPort<'py>)> {
        self.path.map(|path| {
            (
                to_host_port(py, &path.local),
                to_host_port(py, &path.remote),
            )
        })
    }
}

/// Twin of `dataplane.backend.Acquire`.
#[pyclass(frozen, module = "openmoat._native")]
pub struct Acquire {
    #[pyo3(get)]
    policy: u32,
    source: IpAddr,
    destination: IpAddr,
    #[pyo3(get)]
    protocol: u8,
    #[pyo3(get)]
    source_port: u16,
    #[pyo3(get)]
    destination_port: u16,
}

#[pymethods]
impl Acquire {
    #[getter]
    fn source<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        to_bytes(py, self.source)
    }

    #[getter]
    fn destination<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        to_bytes(py, self.destination)
    }
}

/// Twin of `dataplane.backend.StrangeSpi`.
#[pyclass(frozen, module = "openmoat._native")]
pub struct StrangeSpi {
    #[pyo3(get)]
    spi: u32,
    path: Path,
}

#[pymethods]
impl StrangeSpi {
    #[getter]
    fn local<'py>(&self, py: Python<'py>) -> HostPort<'py> {
        to_host_port(py, &self.path.local)
    }

    #[getter]
    fn remote<'py>(&self, py: Python<'py>) -> HostPort<'py> {
        to_host_port(py, &self.path.remote)
    }
}

/// An event as the object that Python knows.
pub fn to_event(py: Python<'_>, event: Event) -> PyResult<Py<PyAny>> {
    Ok(match event {
        Event::State {
            handle,
            flags,
            path,
        } => Py::new(
            py,
            SaState {
                handle,
                flags,
                path,
            },
        )?
        .into_any(),
        Event::Acquire {
            policy,
            source,
            destination,
            protocol,
            source_port,
            destination_port,
        } => {
            let acquire = Acquire {
                policy,
                source,
                destination,
                protocol,
                source_port,
                destination_port,
            };
            Py::new(py, acquire)?.into_any()
        }
        Event::StrangeSpi { spi, path } => Py::new(py, StrangeSpi { spi, path })?.into_any(),
    })
}
