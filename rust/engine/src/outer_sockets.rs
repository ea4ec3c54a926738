//! The sockets of the outside, shared out among workers, and which of them carries what.

use std::net::SocketAddr;
use std::sync::Arc;

use openmoat_io::{OuterSocket, SocketKind};

use crate::command::Carriage;

/// The port on which ESP and IKE share datagrams (RFC 3948 2).
pub const NATT_PORT: u16 = 4500;

/// Sockets of the outside.
///
/// Those of one kind and family are replicas: the first belongs to the first worker, and so on. Who opened them sees to it
/// that the packets of one SA reach one of them. A replica beyond the number of workers takes what is no ESP packet.
pub struct OuterSockets {
    all: Vec<Arc<dyn OuterSocket>>,
    senders: Vec<Vec<Arc<dyn OuterSocket>>>,
    receivers: Vec<Vec<Arc<dyn OuterSocket>>>,
}

impl OuterSockets {
    /// Share `all` out among so many workers.
    pub fn new(all: Vec<Arc<dyn OuterSocket>>, workers: usize) -> Self {
        let groups = replicas(&all);
        let sender = |worker: usize| {
            let replica =
                |group: &Vec<&Arc<dyn OuterSocket>>| Arc::clone(group[worker.min(group.len() - 1)]);
            groups.iter().map(replica).collect()
        };
        let mut receivers = vec![Vec::new(); workers];
        for group in &groups {
            for (replica, socket) in group.iter().enumerate() {
                let owner = if replica < workers { replica } else { 0 };
                if replica >= workers || carries_ike_alone(socket.kind()) {
                    receivers[owner].insert(0, Arc::clone(socket));
                } else {
                    receivers[owner].push(Arc::clone(socket));
                }
            }
        }
        Self {
            senders: (0..workers).map(sender).collect(),
            receivers,
            all,
        }
    }

    /// All of them.
    pub fn all(&self) -> &[Arc<dyn OuterSocket>] {
        &self.all
    }

    /// The sockets that a worker sends by; the same kind has the same place for all workers.
    pub fn senders(&self, worker: usize) -> &[Arc<dyn OuterSocket>] {
        &self.senders[worker]
    }

    /// What an inbound worker receives from; first what carries IKE alone.
    pub fn receivers(&self, worker: usize) -> &[Arc<dyn OuterSocket>] {
        &self.receivers[worker]
    }

    /// The socket that carries ESP this way, by its place among those of any worker.
    pub fn socket_for(&self, carriage: &Carriage) -> Option<usize> {
        let local = &carriage.path.local;
        if carriage.is_udp {
            return self.udp_socket(local);
        }
        self.place_of(SocketKind::Raw, local.is_ipv6())
    }

    /// The UDP socket of this family and local port, by its place.
    pub fn udp_socket(&self, local: &SocketAddr) -> Option<usize> {
        self.place_of(SocketKind::Udp { port: local.port() }, local.is_ipv6())
    }

    fn place_of(&self, kind: SocketKind, is_v6: bool) -> Option<usize> {
        self.senders(0)
            .iter()
            .position(|socket| socket.kind() == kind && socket.is_v6() == is_v6)
    }
}

/// Sockets of one kind and family, group by group.
fn replicas(all: &[Arc<dyn OuterSocket>]) -> Vec<Vec<&Arc<dyn OuterSocket>>> {
    let mut groups: Vec<Vec<&Arc<dyn OuterSocket>>> = Vec::new();
    for socket in all {
        let is_like = |group: &&mut Vec<&Arc<dyn OuterSocket>>| {
            group[0].kind() == socket.kind() && group[0].is_v6() == socket.is_v6()
        };
        match groups.iter_mut().find(is_like) {
            Some(group) => group.push(socket),
            None => groups.push(vec![socket]),
        }
    }
    groups
}

fn carries_ike_alone(kind: SocketKind) -> bool {
    matches!(kind, SocketKind::Udp { port } if port != NATT_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openmoat_io::memory::MemorySocket;

    #[test]
    fn workers_share_out_replicas_and_keep_places_alike() {
        let socket = |port| -> Arc<dyn OuterSocket> {
            Arc::new(
                MemorySocket::pair(SocketKind::Udp { port }, false)
                    .unwrap()
                    .0,
            )
        };
        let all = [socket(500), socket(4500), socket(4500), socket(4500)];
        let sockets = OuterSockets::new(all.to_vec(), 2);
        let is = |one: &Arc<dyn OuterSocket>, other: usize| Arc::ptr_eq(one, &all[other]);
        assert!(is(&sockets.senders(0)[0], 0) && is(&sockets.senders(1)[0], 0));
        assert!(is(&sockets.senders(0)[1], 1) && is(&sockets.senders(1)[1], 2));
        let (first, second) = (sockets.receivers(0), sockets.receivers(1));
        assert_eq!((first.len(), second.len()), (3, 1));
        assert!(is(&second[0], 2) && is(&first[2], 1), "data comes last");
    }
}
