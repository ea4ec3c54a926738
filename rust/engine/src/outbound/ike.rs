//! IKE datagrams from Python to the outside, behind their marker on port 4500 (RFC 3948 2.2).

use std::ops::Range;

use openmoat_io::{Outgoing, Path};

use crate::inbound::ike_queues::{NON_ESP_MARKER, has_marker};
use crate::outer_sockets::OuterSockets;
use crate::sizes::divide::MIN_MTU_V6;

/// One message without its marker.
pub struct IkeOutgoing<'a> {
    /// The message.
    pub octets: &'a [u8],
    /// Its way.
    pub path: Path,
    /// Forbid fragmentation.
    pub df: bool,
    /// 6 bits.
    pub dscp: u8,
}

/// Octets of the largest IP packet that is sent whole, whatever the path; what is larger leaves IPv6 in fragments that
/// every path carries, since no router makes smaller ones.
const MAX_WHOLE_V6: usize = 1500;

/// Octets of the headers of IPv6 and UDP.
const HEADERS_V6: usize = 48;

fn fragment_size(octets: Range<usize>, path: &Path) -> u16 {
    let is_large = octets.len() + HEADERS_V6 > MAX_WHOLE_V6;
    if is_large && path.remote.is_ipv6() {
        MIN_MTU_V6 as u16
    } else {
        0
    }
}

/// Send in order, without waiting; answers how many the network did not take.
pub fn send(sockets: &OuterSockets, datagrams: &[IkeOutgoing<'_>]) -> usize {
    let mut lost_in_all = 0;
    let mut arena = Vec::new();
    let mut run: Vec<Outgoing> = Vec::new();
    let mut socket_of_run = None;
    let mut lost = Vec::new();
    let mut flush = |arena: &[u8], run: &mut Vec<Outgoing>, socket: Option<usize>| {
        if let Some(socket) = socket {
            sockets.senders(0)[socket].send_batch(arena, run, 0, &mut lost);
            lost_in_all += lost.len();
        } else {
            lost_in_all += run.len();
        }
        run.clear();
    };
    for datagram in datagrams {
        let socket = sockets.udp_socket(&datagram.path.local);
        if socket != socket_of_run && !run.is_empty() {
            flush(&arena, &mut run, socket_of_run);
            arena.clear();
        }
        socket_of_run = socket;
        run.push(append(datagram, &mut arena));
    }
    if !run.is_empty() {
        flush(&arena, &mut run, socket_of_run);
    }
    lost_in_all
}

/// Put a datagram behind those that are there, with the marker where its port wants it.
fn append(datagram: &IkeOutgoing<'_>, arena: &mut Vec<u8>) -> Outgoing {
    let start = arena.len();
    if has_marker(&datagram.path.local) {
        arena.extend(NON_ESP_MARKER);
    }
    arena.extend(datagram.octets);
    Outgoing {
        octets: start..arena.len(),
        local: datagram.path.local,
        remote: datagram.path.remote,
        tos: datagram.dscp << 2,
        df: datagram.df,
        fragment_size: fragment_size(start..arena.len(), &datagram.path),
        segment: 0,
        tag: 0,
    }
}
