//! The engine as a Python object.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use openmoat_engine::{self as core, Config, IkeOutgoing};
use openmoat_io::{DeviceError, Offloads, OuterSocket, Socket, SocketKind, Tun, TunDevice};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::batch::Batch;
use crate::errors::{device_error, engine_error};
use crate::types::{
    AcquireRow, CounterRow, HostPort, StateRow, path, to_counters, to_events, to_host_port,
};

/// One IKE datagram on its way in.
type Received<'py> = (Bound<'py, PyBytes>, HostPort<'py>, HostPort<'py>);

/// One on its way out, with DF and DSCP.
type Sent<'py> = (Bound<'py, PyBytes>, HostPort<'py>, HostPort<'py>, bool, u8);

/// Threads that carry packets between one TUN device and the outside.
#[pyclass(frozen, module = "openmoat._native")]
pub struct Engine(core::Engine);

#[pymethods]
impl Engine {
    // Many parameters: each is a keyword of Python.
    #[new]
    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (*, tun, udp, raw, slots=65_536, ike_queue=1_024, noise=256, offloads=(true, true, true, true)))]
    fn new(
        py: Python<'_>,
        tun: Vec<RawFd>,
        udp: Vec<(RawFd, u16)>,
        raw: Vec<RawFd>,
        slots: usize,
        ike_queue: usize,
        noise: usize,
        offloads: (bool, bool, bool, bool),
    ) -> PyResult<Self> {
        let (tun_tso, tun_uso, udp_gso, udp_gro) = offloads;
        let config = Config {
            slots,
            ike_queue,
            noise,
            offloads: Offloads {
                tun_tso,
                tun_uso,
                udp_gso,
                udp_gro,
            },
            #[cfg(feature = "unsealed")]
            seals: true,
        };
        adopt(&tun, &udp, &raw, config)
            .map(Self)
            .map_err(|error| device_error(py, &error))
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        self.0.start().map_err(|error| engine_error(py, &error))
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }

    fn reserve_spis(&self, count: usize) -> Vec<u32> {
        self.0.reserve_spis(count)
    }

    fn release_spis(&self, spis: Vec<u32>) {
        self.0.release_spis(&spis);
    }

    fn apply(&self, py: Python<'_>, batch: &Batch) -> PyResult<Vec<CounterRow>> {
        let commands = batch.take();
        let applied = py.detach(|| self.0.apply(commands));
        let counters = applied.map_err(|error| engine_error(py, &error))?;
        Ok(counters.into_iter().map(to_counters).collect())
    }

    fn read_counters(&self, py: Python<'_>, handles: Option<Vec<u32>>) -> Vec<CounterRow> {
        let counters = py.detach(|| self.0.read_counters(handles.as_deref()));
        counters.into_iter().map(to_counters).collect()
    }

    fn read_drops(&self, py: Python<'_>) -> BTreeMap<&'static str, u64> {
        py.detach(|| self.0.read_drops())
    }

    fn read_offloads(&self) -> BTreeMap<&'static str, String> {
        self.0.read_offloads()
    }

    fn fileno(&self) -> RawFd {
        self.0.events_fd().as_raw_fd()
    }

    fn drain<'py>(
        &self,
        py: Python<'py>,
        limit: usize,
    ) -> (Vec<StateRow<'py>>, Vec<AcquireRow<'py>>) {
        to_events(py, self.0.drain(limit))
    }

    fn wire_fileno(&self) -> RawFd {
        self.0.ike_fd().as_raw_fd()
    }

    fn receive_batch<'py>(&self, py: Python<'py>, limit: usize) -> Vec<Received<'py>> {
        let received = self.0.receive_ike(limit).into_iter();
        let tuple = |datagram: core::IkeDatagram| {
            let path = datagram.path;
            (
                PyBytes::new(py, &datagram.octets),
                to_host_port(py, &path.local),
                to_host_port(py, &path.remote),
            )
        };
        received.map(tuple).collect()
    }

    fn send_batch(&self, py: Python<'_>, datagrams: Vec<Sent<'_>>) -> PyResult<usize> {
        let outgoing = datagrams.iter().map(|(octets, local, remote, df, dscp)| {
            Ok(IkeOutgoing {
                octets: octets.as_bytes(),
                path: path(local, remote)?,
                df: *df,
                dscp: *dscp,
            })
        });
        let outgoing = outgoing.collect::<PyResult<Vec<_>>>()?;
        Ok(py.detach(|| self.0.send_ike(&outgoing)))
    }

    fn know_spis(&self, added: Vec<u64>, removed: Vec<u64>) {
        self.0.know_ike_spis(&added, &removed);
    }
}

/// An engine that encrypts nothing, for measurements: all packets leave unencrypted.
#[cfg(feature = "unsealed")]
#[pyfunction]
#[pyo3(signature = (*, tun, udp, raw, slots=65_536))]
pub fn unsealed_engine(
    py: Python<'_>,
    tun: Vec<RawFd>,
    udp: Vec<(RawFd, u16)>,
    raw: Vec<RawFd>,
    slots: usize,
) -> PyResult<Engine> {
    let config = Config {
        slots,
        seals: false,
        ..Config::default()
    };
    adopt(&tun, &udp, &raw, config)
        .map(Engine)
        .map_err(|error| device_error(py, &error))
}

fn adopt(
    tun: &[RawFd],
    udp: &[(RawFd, u16)],
    raw: &[RawFd],
    config: Config,
) -> Result<core::Engine, DeviceError> {
    let mut queues: Vec<Arc<dyn TunDevice>> = Vec::new();
    for fd in tun {
        queues.push(Arc::new(Tun::adopt(*fd)?));
    }
    let mut raws = Vec::new();
    for fd in raw {
        raws.push(Arc::new(Socket::adopt(*fd, SocketKind::Raw)?));
    }
    let mut sockets: Vec<Arc<dyn OuterSocket>> = Vec::new();
    for (fd, port) in udp {
        let socket = Socket::adopt(*fd, SocketKind::Udp { port: *port })?;
        if let Some(fragmenter) = raws.iter().find(|raw| raw.is_v6()) {
            socket.fragment_by(fragmenter);
        }
        sockets.push(Arc::new(socket));
    }
    for raw in raws {
        sockets.push(raw);
    }
    core::Engine::new(queues, sockets, config)
}
