//! What the kernel does for the engine: asked once, when the threads start.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use openmoat_io::{
    OffloadState, Offloads, OuterSocket, SocketKind, SocketOffloads, TunDevice, TunOffloads,
};

use crate::inbound::join::Joins;

/// What was wanted, and what came of it.
pub struct Probed {
    wanted: Offloads,
    found: OnceLock<(TunOffloads, SocketOffloads)>,
}

impl Probed {
    /// Nothing is asked yet.
    pub fn new(wanted: Offloads) -> Self {
        Self {
            wanted,
            found: OnceLock::new(),
        }
    }

    /// Ask all devices; an offload is on where all have it.
    pub fn enable<'a>(
        &self,
        tun: impl Iterator<Item = &'a dyn TunDevice>,
        sockets: &[Arc<dyn OuterSocket>],
    ) {
        let tun = tun.map(|tun| tun.enable_offloads(self.wanted));
        let tun = tun.reduce(|all, one| TunOffloads {
            tso: all.tso.and(one.tso),
            uso: all.uso.and(one.uso),
        });
        let udp = udp_sockets(sockets).map(|socket| socket.enable_offloads(self.wanted));
        let udp = udp.reduce(|all, one| SocketOffloads {
            gso: all.gso.and(one.gso),
            gro: all.gro.and(one.gro),
        });
        let none = || OffloadState::NoDevice;
        let _ = self.found.set((
            tun.unwrap_or_else(|| TunOffloads {
                tso: none(),
                uso: none(),
            }),
            udp.unwrap_or_else(|| SocketOffloads {
                gso: none(),
                gro: none(),
            }),
        )); // an engine is started once
    }

    /// What may be written to the TUN device as a super-packet.
    pub fn joins(&self) -> Joins {
        self.found
            .get()
            .map_or_else(Joins::default, |(tun, _)| Joins {
                tcp: tun.tso.is_on(),
                udp: tun.uso.is_on(),
            })
    }

    /// Each by its name: `on`, or why it is off. Nothing before they were asked.
    pub fn tell(&self, sockets: &[Arc<dyn OuterSocket>]) -> BTreeMap<&'static str, String> {
        let Some((tun, udp)) = self.found.get().cloned() else {
            return BTreeMap::new();
        };
        let gso = if udp.gso.is_on() && !udp_sockets(sockets).all(|socket| socket.segments()) {
            OffloadState::GivenUp
        } else {
            udp.gso
        };
        BTreeMap::from([
            ("tun-tso", tun.tso.to_string()),
            ("tun-uso", tun.uso.to_string()),
            ("udp-gso", gso.to_string()),
            ("udp-gro", udp.gro.to_string()),
        ])
    }
}

fn udp_sockets(sockets: &[Arc<dyn OuterSocket>]) -> impl Iterator<Item = &Arc<dyn OuterSocket>> {
    sockets
        .iter()
        .filter(|socket| matches!(socket.kind(), SocketKind::Udp { .. }))
}
