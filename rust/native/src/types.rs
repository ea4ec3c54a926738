//! Plain data on its way up: tuples, which `dataplane.userspace` makes into its records.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use openmoat_engine::Counters;
use openmoat_engine::events::Event;
use openmoat_io::Path;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::misuse;

/// Address and port as Python gives them.
pub type HostPort<'py> = (Bound<'py, PyBytes>, u16);

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
    checked_path(host_port(local)?, host_port(remote)?)
}

/// The same of ends that have been read.
pub fn checked_path(local: SocketAddr, remote: SocketAddr) -> PyResult<Path> {
    if local.is_ipv4() != remote.is_ipv4() {
        return Err(misuse(format!(
            "path: ends of one family, got {local} and {remote}"
        )));
    }
    Ok(Path { local, remote })
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

/// Handle, values in the order of `SaCounter::ALL`, drops by reason, and what was done about sizes.
pub type CounterRow = (
    u32,
    Vec<u64>,
    BTreeMap<&'static str, u64>,
    BTreeMap<&'static str, u64>,
);

/// Counters as Python takes them.
pub fn to_counters(counters: Counters) -> CounterRow {
    let drops = counters.drops.iter();
    let deeds = counters.deeds.iter();
    (
        counters.handle,
        counters.values.to_vec(),
        drops.map(|(row, count)| (row.name(), *count)).collect(),
        deeds.map(|(row, count)| (row.name(), *count)).collect(),
    )
}

/// Both ends of a path as Python takes them.
type Ends<'py> = (HostPort<'py>, HostPort<'py>);

/// Handle, flags, and where packets come from if that is new.
pub type StateRow<'py> = (u32, u32, Option<Ends<'py>>);

/// Policy, source, destination, protocol and ports of a packet that no SA serves.
pub type AcquireRow<'py> = (u32, Bound<'py, PyBytes>, Bound<'py, PyBytes>, u8, u16, u16);

/// Events as Python takes them: states, then packets that wait for an SA.
pub fn to_events(py: Python<'_>, events: Vec<Event>) -> (Vec<StateRow<'_>>, Vec<AcquireRow<'_>>) {
    let (mut states, mut acquires) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::State {
                handle,
                flags,
                path,
            } => {
                let ends = |path: Path| {
                    (
                        to_host_port(py, &path.local),
                        to_host_port(py, &path.remote),
                    )
                };
                states.push((handle, flags, path.map(ends)));
            }
            Event::Acquire {
                policy,
                source,
                destination,
                protocol,
                source_port,
                destination_port,
            } => acquires.push((
                policy,
                to_bytes(py, source),
                to_bytes(py, destination),
                protocol,
                source_port,
                destination_port,
            )),
        }
    }
    (states, acquires)
}
