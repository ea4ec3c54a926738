//! IPv6 packets in fragments of our own making (RFC 8200 4.5), for paths that are smaller than the link.
//!
//! The kernel fragments what its link does not take, and nothing smaller, whatever `IPV6_MTU` says: that is only the size
//! of fragments once it makes any. Routers of IPv6 make none. So the host has to, with headers of its own.

use std::net::{Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::batch::Outgoing;
use crate::bounds::MAX_PACKET;
use crate::socket::SocketKind;

const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const FRAGMENT_HEADER: usize = 8;

/// Next header: a fragment; UDP; ESP.
const FRAGMENT: u8 = 44;
const UDP: u8 = 17;
const ESP: u8 = 50;

const HOP_LIMIT: u8 = 64;

/// Octets that every link of IPv6 carries (RFC 8200 5).
const MIN_MTU: usize = 1280;

/// A datagram that is to leave in fragments.
pub(crate) struct Fragmented<'a> {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    tos: u8,
    next_header: u8,
    /// The header of UDP, in the first octets, if it has one.
    header: [u8; UDP_HEADER],
    header_length: usize,
    octets: &'a [u8],
    size: usize,
}

impl<'a> Fragmented<'a> {
    /// None where it fits, may not be fragmented, or has no source address yet, which then the kernel chooses.
    pub(crate) fn of(kind: SocketKind, outgoing: &Outgoing, arena: &'a [u8]) -> Option<Self> {
        let (SocketAddr::V6(local), SocketAddr::V6(remote)) = (outgoing.local, outgoing.remote)
        else {
            return None;
        };
        let octets = &arena[outgoing.octets.clone()];
        let (next_header, header_length) = match kind {
            SocketKind::Udp { .. } => (UDP, UDP_HEADER),
            SocketKind::Raw => (ESP, 0),
        };
        let size = usize::from(outgoing.fragment_size);
        let whole = header_length + octets.len();
        if size == 0
            || outgoing.df
            || outgoing.segment != 0
            || IPV6_HEADER + whole <= size.max(MIN_MTU)
            || whole > MAX_PACKET
            || local.ip().is_unspecified()
        {
            return None;
        }
        let mut fragmented = Self {
            source: *local.ip(),
            destination: *remote.ip(),
            tos: outgoing.tos,
            next_header,
            header: [0; UDP_HEADER],
            header_length,
            octets,
            size: size.max(MIN_MTU),
        };
        if let SocketKind::Udp { port } = kind {
            fragmented.set_udp_header(port, remote.port());
        }
        Some(fragmented)
    }

    fn set_udp_header(&mut self, source: u16, destination: u16) {
        let length = (UDP_HEADER + self.octets.len()) as u16;
        let [source, destination, length] = [source, destination, length].map(u16::to_be_bytes);
        self.header = [
            source[0],
            source[1],
            destination[0],
            destination[1],
            length[0],
            length[1],
            0,
            0,
        ];
        let mut sum = u64::from(UDP);
        // The length counts twice: in the header, and in the pseudo-header (RFC 8200 8.1).
        for octets in [
            &self.source.octets()[..],
            &self.destination.octets(),
            &length,
            &self.header,
            self.octets,
        ] {
            sum += words(octets);
        }
        while sum >> 16 > 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // RFC 8200 8.1: a checksum of zero is sent as its complement.
        let checksum = match !(sum as u16) {
            0 => 0xffff,
            other => other,
        };
        self.header[6..].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Replace the content of `out` by whole packets, one behind the other; `packets` tells where they lie.
    pub(crate) fn write(
        &self,
        identification: u32,
        out: &mut Vec<u8>,
        packets: &mut Vec<Range<usize>>,
    ) {
        out.clear();
        packets.clear();
        let whole = self.header_length + self.octets.len();
        // All but the last carry a multiple of eight octets (RFC 8200 4.5).
        let room = (self.size - IPV6_HEADER - FRAGMENT_HEADER) & !7;
        for start in (0..whole).step_by(room) {
            let end = (start + room).min(whole);
            let (begin, is_last) = (out.len(), end == whole);
            out.extend_from_slice(&[0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            out.extend_from_slice(&((FRAGMENT_HEADER + end - start) as u16).to_be_bytes());
            out.extend_from_slice(&[FRAGMENT, HOP_LIMIT]);
            out.extend_from_slice(&self.source.octets());
            out.extend_from_slice(&self.destination.octets());
            let [high, low] = (start as u16 | u16::from(!is_last)).to_be_bytes();
            out.extend_from_slice(&[self.next_header, 0, high, low]);
            out.extend_from_slice(&identification.to_be_bytes());
            let of_header = start.min(self.header_length)..end.min(self.header_length);
            out.extend_from_slice(&self.header[of_header]);
            let of_octets = start.saturating_sub(self.header_length)..end - self.header_length;
            out.extend_from_slice(&self.octets[of_octets]);
            packets.push(begin..out.len());
        }
    }
}

/// Sum of octets as 16-bit numbers; an odd one at the end is followed by zero (RFC 1071).
fn words(octets: &[u8]) -> u64 {
    let (pairs, rest) = octets.as_chunks::<2>();
    let last = rest.first().map_or(0, |octet| u64::from(*octet) << 8);
    pairs
        .iter()
        .map(|pair| u64::from(u16::from_be_bytes(*pair)))
        .sum::<u64>()
        + last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(length: usize, size: u16) -> Outgoing {
        let end = |last: u16, port| {
            let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
            SocketAddr::new(ip.into(), port)
        };
        Outgoing {
            octets: 0..length,
            local: end(1, 0),
            remote: end(2, 4500),
            tos: 0x2e << 2,
            df: false,
            fragment_size: size,
            segment: 0,
            tag: 0,
        }
    }

    const UDP_4500: SocketKind = SocketKind::Udp { port: 4500 };

    /// What a receiver puts together, after a look at every header.
    fn reassemble(out: &[u8], packets: &[Range<usize>], size: usize) -> Vec<u8> {
        let mut whole = Vec::new();
        for (index, range) in packets.iter().enumerate() {
            let packet = &out[range.clone()];
            assert!(packet.len() <= size);
            assert_eq!(&packet[..4], [0x6b, 0x80, 0, 0]);
            let length = u16::from_be_bytes([packet[4], packet[5]]);
            assert_eq!(usize::from(length) + IPV6_HEADER, packet.len());
            assert_eq!(packet[6..8], [FRAGMENT, HOP_LIMIT]);
            assert_eq!((packet[23], packet[39]), (1, 2));
            let offset = usize::from(u16::from_be_bytes([packet[42], packet[43]]));
            assert_eq!(offset & !7, whole.len());
            assert_eq!(offset & 7 == 0, index + 1 == packets.len());
            assert_eq!(packet[44..48], [9, 8, 7, 6]);
            whole.extend_from_slice(&packet[48..]);
        }
        whole
    }

    #[test]
    fn fragments_of_every_size_give_the_datagram_again() {
        let arena: Vec<u8> = (0..9_000).map(|at| (at * 7) as u8).collect();
        let (mut out, mut packets) = (Vec::new(), Vec::new());
        for size in [1_280, 1_281, 1_300, 1_399, 1_500] {
            for length in [1_461, 1_500, 2_463, 9_000] {
                for (kind, header) in [(SocketKind::Raw, 0), (UDP_4500, UDP_HEADER)] {
                    let outgoing = outgoing(length, size);
                    let fragmented = Fragmented::of(kind, &outgoing, &arena).unwrap();
                    fragmented.write(0x0908_0706, &mut out, &mut packets);
                    assert!(packets.len() > 1);
                    let whole = reassemble(&out, &packets, size.into());
                    assert_eq!(whole[header..], arena[..length]);
                }
            }
        }
    }

    #[test]
    fn the_checksum_of_udp_covers_the_whole_datagram() {
        let arena: Vec<u8> = (0..1_501).map(|at| (at * 3) as u8).collect();
        let (mut out, mut packets) = (Vec::new(), Vec::new());
        let outgoing = outgoing(1_501, 1_300);
        let fragmented = Fragmented::of(UDP_4500, &outgoing, &arena).unwrap();
        fragmented.write(0x0908_0706, &mut out, &mut packets);
        let whole = reassemble(&out, &packets, 1_300);
        assert_eq!(whole[..6], [0x11, 0x94, 0x11, 0x94, 0x05, 0xe5]);
        let mut sum = words(&out[8..40]) + words(&[0, 17]) + words(&whole[4..6]) + words(&whole);
        while sum >> 16 > 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    }

    #[test]
    fn what_fits_or_may_not_be_fragmented_is_left_alone() {
        let arena = vec![0; 2_000];
        let is_cut =
            |outgoing: Outgoing| Fragmented::of(SocketKind::Raw, &outgoing, &arena).is_some();
        assert!(is_cut(outgoing(1_261, 1_300)));
        assert!(!is_cut(outgoing(1_260, 1_300)));
        assert!(!is_cut(outgoing(1_900, 0)));
        let df = Outgoing {
            df: true,
            ..outgoing(1_900, 1_300)
        };
        assert!(!is_cut(df));
        let mut nobody = outgoing(1_900, 1_300);
        nobody.local.set_ip(Ipv6Addr::UNSPECIFIED.into());
        assert!(!is_cut(nobody));
    }

    #[test]
    fn no_fragment_is_smaller_than_what_every_link_carries() {
        let arena = vec![0; 2_000];
        let (mut out, mut packets) = (Vec::new(), Vec::new());
        let outgoing = outgoing(1_500, 576);
        let fragmented = Fragmented::of(SocketKind::Raw, &outgoing, &arena).unwrap();
        fragmented.write(1, &mut out, &mut packets);
        assert_eq!((packets.len(), packets[0].len()), (2, 1_280));
    }
}
