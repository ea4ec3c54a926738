//! Decapsulated TCP segments into super-packets for the host: one write, one walk through its stack, for many of them.
//!
//! Only segments that the host could cut apart again as they were are joined: one flow, in order, equal headers, each of
//! one size but the last (RFC 9293; what Linux does in `tcp_gro_receive`). Their own checksums are checked first, as the
//! host is told to make a new one: damage done on the far side must not be covered up here.

use std::ops::Range;

use openmoat_esp::wire::{Flow, IPV4_HEADER, IPV6_HEADER, IpPacket, checksum, protocol};
use openmoat_io::{GsoType, MAX_PACKET, PacketList, VnetHeader};

use crate::segment::{mend_ipv4_checksum, pseudo_header};

const TCP_HEADER: usize = 20;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Super-packets that may grow at a time.
const MAX_OPEN: usize = 16;

/// Segments of one super-packet; each is a piece of one write.
const MAX_SEGMENTS: usize = 64;

/// A TCP segment with payload, and nothing unusual about it.
#[derive(Clone)]
struct Segment {
    flow: Flow,
    start: usize,
    /// Octets of the IP header.
    ip: usize,
    /// Octets of all headers.
    headers: usize,
    payload: Range<usize>,
    sequence: u32,
    has_push: bool,
}

impl Segment {
    fn of(arena: &[u8], range: &Range<usize>, packet: &IpPacket) -> Option<Self> {
        let ip = if packet.flow.source.is_ipv6() {
            IPV6_HEADER
        } else {
            IPV4_HEADER
        };
        if packet.flow.protocol != protocol::TCP || packet.is_fragment || packet.next_layer != ip {
            return None;
        }
        let octets = arena.get(range.clone())?;
        let tcp = octets.get(ip..)?;
        let header: &[u8; TCP_HEADER] = tcp.first_chunk()?;
        let header_length = usize::from(header[12] >> 4) * 4;
        let flags = header[13];
        if flags & !PSH != ACK || header_length < TCP_HEADER || header_length >= tcp.len() {
            return None;
        }
        if checksum(
            pseudo_header(octets, ip == IPV6_HEADER, protocol::TCP, tcp.len()),
            tcp,
        ) != 0
        {
            return None;
        }
        Some(Self {
            flow: packet.flow,
            start: range.start,
            ip,
            headers: ip + header_length,
            payload: range.start + ip + header_length..range.end,
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            has_push: flags & PSH != 0,
        })
    }
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
        !self.is_closed
            && self.segments < MAX_SEGMENTS
            && next.payload.len() <= first.payload.len()
            && first.headers == next.headers
            && first.headers + self.payload + next.payload.len() <= MAX_PACKET
            && next.sequence == first.sequence.wrapping_add(self.payload as u32)
            && has_equal_headers(arena, first, next, self.segments)
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
        // The identification of a packet that is not fragmented and must not be says nothing (RFC 6864 4.1).
        let is_atomic = ours[6] & 0x40 != 0;
        ours[..2] == theirs[..2] && ours[6..10] == theirs[6..10] && (is_atomic || counts_up)
    };
    let (ours, theirs) = (&ours[first.ip..], &theirs[first.ip..]);
    ip && ours[8..13] == theirs[8..13]
        && ours[14..16] == theirs[14..16]
        && ours[18..] == theirs[18..]
}

/// The super-packets of one list.
#[derive(Default)]
pub struct Joiner {
    open: Vec<Open>,
}

impl Joiner {
    /// Put the packet at `range` into the list, or at the end of a super-packet there. The caller has asked for room.
    pub fn add(
        &mut self,
        arena: &[u8],
        range: Range<usize>,
        packet: &IpPacket,
        list: &mut PacketList,
    ) {
        // The newest of a flow comes first, so that its packets stay in order.
        let newest = self
            .open
            .iter_mut()
            .rev()
            .find(|open| open.first.flow == packet.flow);
        let Some(segment) = Segment::of(arena, &range, packet) else {
            if let Some(open) = newest {
                open.is_closed = true;
            }
            list.push(VnetHeader::default(), range);
            return;
        };
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
            let total = first.headers + open.payload;
            let header = &mut arena[first.start..first.start + first.headers];
            write_headers(header, first.ip, total, open.has_push);
            let is_v6 = first.ip == IPV6_HEADER;
            let vnet = VnetHeader {
                needs_checksum: true,
                gso_type: if is_v6 {
                    GsoType::TcpV6
                } else {
                    GsoType::TcpV4
                },
                header_length: first.headers as u16,
                gso_size: first.payload.len() as u16,
                checksum_start: first.ip as u16,
                checksum_offset: 16,
            };
            list.set_vnet(open.place, vnet);
        }
    }
}

/// Lengths, checksums and PSH of a super-packet; the checksum of TCP is left to the host.
fn write_headers(header: &mut [u8], ip: usize, total: usize, has_push: bool) {
    let is_v6 = ip == IPV6_HEADER;
    if is_v6 {
        header[4..6].copy_from_slice(&((total - ip) as u16).to_be_bytes());
    } else {
        header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        mend_ipv4_checksum(&mut header[..ip]);
    }
    if has_push {
        header[ip + 13] |= PSH;
    }
    let pseudo = !checksum(pseudo_header(header, is_v6, protocol::TCP, total - ip), &[]);
    header[ip + 16..ip + 18].copy_from_slice(&pseudo.to_be_bytes());
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
