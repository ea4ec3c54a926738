//! Decapsulated TCP segments and UDP datagrams into super-packets for the host: one write, one walk through its stack, for
//! many of them.
//!
//! Only packets that the host could cut apart again as they were, to the octet, are joined: of one flow and one SA, in
//! order, with equal headers, each of one size but the last (RFC 9293, RFC 768; what Linux does on receipt itself). Their
//! own checksums are checked first, as the host is told to make new ones: damage done on the far side must not be covered
//! up here, and a packet without a checksum must not get one. So it stays alone what has IP options or extension headers,
//! is a fragment, has a TCP flag other than ACK, PSH and ECE, another DSCP, ECN, hop limit, flow label, or TCP option than
//! its neighbour, or an IPv4 identification that does not count up.

use std::ops::Range;

use openmoat_esp::wire::{Flow, IPV4_HEADER, IPV6_HEADER, IpPacket, checksum, protocol};
use openmoat_io::{GsoType, MAX_PACKET, MAX_UDP_SEGMENTS, PacketList, VnetHeader};

use crate::sizes::segment::{mend_ipv4_checksum, pseudo_header};

const TCP_HEADER: usize = 20;
const TCP_CHECKSUM: usize = 16;
const UDP_HEADER: usize = 8;
const UDP_CHECKSUM: usize = 6;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const ECE: u8 = 0x40;

/// Super-packets that may grow at a time.
const MAX_OPEN: usize = 16;

/// Segments of one super-packet; each is a piece of one write, and Linux takes no more of UDP.
const MAX_SEGMENTS: usize = MAX_UDP_SEGMENTS;

/// What the host takes as super-packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joins {
    /// TCP over either family.
    pub tcp: bool,
    /// UDP over either family.
    pub udp: bool,
}

/// A TCP segment or UDP datagram with payload, and nothing unusual about it.
#[derive(Clone)]
struct Segment {
    flow: Flow,
    /// The SA it came by.
    handle: u32,
    start: usize,
    /// Octets of the IP header.
    ip: usize,
    /// Octets of all headers.
    headers: usize,
    payload: Range<usize>,
    /// Of TCP.
    sequence: u32,
    has_push: bool,
}

impl Segment {
    fn of(
        arena: &[u8],
        range: &Range<usize>,
        packet: &IpPacket,
        handle: u32,
        joins: Joins,
    ) -> Option<Self> {
        let ip = if packet.flow.source.is_ipv6() {
            IPV6_HEADER
        } else {
            IPV4_HEADER
        };
        if packet.is_fragment || packet.next_layer != ip || packet.length != range.len() {
            return None;
        }
        let octets = arena.get(range.clone())?;
        let (header, transport) = octets.split_at_checked(ip)?;
        if ip == IPV4_HEADER && !is_canonical_ipv4(header) {
            return None;
        }
        let length = transport_header(packet.flow.protocol, transport, joins)?;
        let pseudo = pseudo_header(
            octets,
            ip == IPV6_HEADER,
            packet.flow.protocol,
            transport.len(),
        );
        if length >= transport.len() || checksum(pseudo, transport) != 0 {
            return None;
        }
        let is_tcp = packet.flow.protocol == protocol::TCP;
        let sequence: [u8; 4] = *transport.get(4..)?.first_chunk()?;
        Some(Self {
            flow: packet.flow,
            handle,
            start: range.start,
            ip,
            headers: ip + length,
            payload: range.start + ip + length..range.end,
            sequence: if is_tcp {
                u32::from_be_bytes(sequence)
            } else {
                0
            },
            has_push: is_tcp && transport[13] & PSH != 0,
        })
    }

    fn is_tcp(&self) -> bool {
        self.flow.protocol == protocol::TCP
    }
}

/// Whether a new header checksum would be the old one: it is right, and written as everybody writes it.
fn is_canonical_ipv4(header: &[u8]) -> bool {
    checksum(0, header) == 0 && header[10..12] != [0xff; 2]
}

/// Octets of the header of a protocol whose packets are joined.
fn transport_header(protocol: u8, transport: &[u8], joins: Joins) -> Option<usize> {
    match protocol {
        protocol::TCP if joins.tcp => tcp_header(transport),
        protocol::UDP if joins.udp => udp_header(transport),
        _ => None,
    }
}

/// Octets of a TCP header whose segment may be joined.
fn tcp_header(tcp: &[u8]) -> Option<usize> {
    let header: &[u8; TCP_HEADER] = tcp.first_chunk()?;
    let length = usize::from(header[12] >> 4) * 4;
    let is_plain = header[13] & !(PSH | ECE) == ACK && header[12] & 0x0f == 0;
    // Linux would write 0 for such a sum; an urgent pointer without its flag says nothing, and is compared later.
    let is_canonical = header[TCP_CHECKSUM..][..2] != [0xff; 2];
    (is_plain && is_canonical && length >= TCP_HEADER).then_some(length)
}

/// Octets of a UDP header whose datagram may be joined: it fills its packet, and has a checksum.
fn udp_header(udp: &[u8]) -> Option<usize> {
    let header: &[u8; UDP_HEADER] = udp.first_chunk()?;
    let is_whole = usize::from(u16::from_be_bytes([header[4], header[5]])) == udp.len();
    (is_whole && header[UDP_CHECKSUM..] != [0, 0]).then_some(UDP_HEADER)
}

/// A super-packet that may grow.
struct Open {
    first: Segment,
    place: usize,
    segments: usize,
    payload: usize,
    has_push: bool,
    is_closed: bool,
}

impl Open {
    /// Whether `next` is the next segment: the host would have sent it so.
    fn takes(&self, arena: &[u8], next: &Segment) -> bool {
        let first = &self.first;
        let is_next =
            !first.is_tcp() || next.sequence == first.sequence.wrapping_add(self.payload as u32);
        !self.is_closed
            && self.segments < MAX_SEGMENTS
            && first.handle == next.handle
            && next.payload.len() <= first.payload.len()
            && first.headers == next.headers
            && first.headers + self.payload + next.payload.len() <= MAX_PACKET
            && is_next
            && has_equal_headers(arena, first, next, self.segments)
    }

    /// Whether a packet of this flow comes behind it and not into it. A fragment does not tell its flow.
    fn is_passed_by(&self, packet: &IpPacket) -> bool {
        let (ours, theirs) = (&self.first.flow, &packet.flow);
        let is_between = (ours.source, ours.destination) == (theirs.source, theirs.destination);
        ours == theirs || (packet.is_fragment && is_between)
    }
}

/// Whether two headers differ only in what cutting writes anew.
fn has_equal_headers(arena: &[u8], first: &Segment, next: &Segment, distance: usize) -> bool {
    let ours = &arena[first.start..first.start + first.headers];
    let theirs = &arena[next.start..next.start + next.headers];
    let ip = if first.ip == IPV6_HEADER {
        ours[..4] == theirs[..4] && ours[7] == theirs[7]
    } else {
        let identification = |header: &[u8]| u16::from_be_bytes([header[4], header[5]]);
        let counts_up =
            identification(theirs) == identification(ours).wrapping_add(distance as u16);
        ours[..2] == theirs[..2] && ours[6..10] == theirs[6..10] && counts_up
    };
    let (ours, theirs) = (&ours[first.ip..], &theirs[first.ip..]);
    // UDP has nothing else: its ports are those of the flow.
    ip && (!first.is_tcp()
        || ours[8..13] == theirs[8..13]
            && (ours[13] ^ theirs[13]) & !PSH == 0
            && ours[14..16] == theirs[14..16]
            && ours[18..] == theirs[18..])
}

/// The super-packets of one list.
#[derive(Default)]
pub struct Joiner {
    joins: Joins,
    open: Vec<Open>,
}

impl Joiner {
    /// For a host that takes these.
    pub fn new(joins: Joins) -> Self {
        Self {
            joins,
            open: Vec::with_capacity(MAX_OPEN),
        }
    }

    /// Put the packet at `range`, which came by the SA `handle`, into the list, or at the end of a super-packet there.
    /// The caller has asked for room.
    pub fn add(
        &mut self,
        arena: &[u8],
        range: Range<usize>,
        packet: &IpPacket,
        handle: u32,
        list: &mut PacketList,
    ) {
        let Some(segment) = Segment::of(arena, &range, packet, handle, self.joins) else {
            for open in &mut self.open {
                open.is_closed |= open.is_passed_by(packet);
            }
            list.push(VnetHeader::default(), range);
            return;
        };
        // The newest of a flow comes first, so that its packets stay in order.
        let newest = self
            .open
            .iter_mut()
            .rev()
            .find(|open| open.first.flow == packet.flow);
        if let Some(open) = newest.filter(|open| open.takes(arena, &segment)) {
            open.segments += 1;
            open.payload += segment.payload.len();
            open.has_push = segment.has_push;
            open.is_closed = segment.has_push || segment.payload.len() < open.first.payload.len();
            list.extend(open.place, segment.payload);
            return;
        }
        let place = list.push(VnetHeader::default(), range);
        self.begin(segment, place);
    }

    fn begin(&mut self, first: Segment, place: usize) {
        // One of the same flow that came before must not grow any more, also where this one finds no room.
        for open in &mut self.open {
            open.is_closed |= open.first.flow == first.flow;
        }
        if self.open.len() == MAX_OPEN {
            // One that has not grown needs no finishing touch; if all have, this packet stays by itself.
            let Some(idle) = self.open.iter().position(|open| open.segments == 1) else {
                return;
            };
            self.open.remove(idle);
        }
        let (payload, has_push) = (first.payload.len(), first.has_push);
        self.open.push(Open {
            first,
            place,
            segments: 1,
            payload,
            has_push,
            is_closed: has_push,
        });
    }

    /// Write the headers of all super-packets, and begin anew. Call it before the list is written or cleared.
    pub fn finish(&mut self, arena: &mut [u8], list: &mut PacketList) {
        for open in self.open.drain(..).filter(|open| open.segments > 1) {
            let first = &open.first;
            let header = &mut arena[first.start..first.start + first.headers];
            write_headers(header, &open);
            let gso_type = match (first.is_tcp(), first.ip == IPV6_HEADER) {
                (true, true) => GsoType::TcpV6,
                (true, false) => GsoType::TcpV4,
                (false, _) => GsoType::Udp,
            };
            let vnet = VnetHeader {
                needs_checksum: true,
                gso_type,
                header_length: first.headers as u16,
                gso_size: first.payload.len() as u16,
                checksum_start: first.ip as u16,
                checksum_offset: checksum_offset(first) as u16,
            };
            list.set_vnet(open.place, vnet);
        }
    }
}

fn checksum_offset(segment: &Segment) -> usize {
    if segment.is_tcp() {
        TCP_CHECKSUM
    } else {
        UDP_CHECKSUM
    }
}

/// Lengths, checksums and PSH of a super-packet; the checksum behind the IP header is left to the host.
fn write_headers(header: &mut [u8], open: &Open) {
    let (ip, total) = (open.first.ip, header.len() + open.payload);
    let transport = (total - ip) as u16;
    let is_v6 = ip == IPV6_HEADER;
    if is_v6 {
        header[4..6].copy_from_slice(&transport.to_be_bytes());
    } else {
        header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        mend_ipv4_checksum(&mut header[..ip]);
    }
    if open.has_push {
        header[ip + 13] |= PSH;
    }
    if !open.first.is_tcp() {
        header[ip + 4..ip + 6].copy_from_slice(&transport.to_be_bytes());
    }
    let pseudo = pseudo_header(header, is_v6, open.first.flow.protocol, transport.into());
    let at = ip + checksum_offset(&open.first);
    header[at..at + 2].copy_from_slice(&(!checksum(pseudo, &[])).to_be_bytes());
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
