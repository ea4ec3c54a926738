//! ICMP errors about inner packets: octets only. Who may get how many, and through which SA, is the caller's business.

use std::net::IpAddr;

use crate::wire::{IPV4_HEADER, IPV6_HEADER, IpPacket, Ports, checksum, protocol};

/// The largest error over IPv4 (RFC 1812 4.3.2.3).
pub const MAX_V4_ERROR: usize = 576;
/// The largest error over IPv6 (RFC 4443 2.4 c).
pub const MAX_V6_ERROR: usize = 1280;
const ICMP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;
/// Internetwork control (RFC 1812 4.3.2.5).
const ERROR_TOS: u8 = 0xc0;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Larger than `mtu`: fragmentation needed (RFC 1191 4) or packet too big (RFC 4443 3.2).
    TooBig {
        /// The largest packet that would have passed.
        mtu: u16,
    },
    /// Communication administratively prohibited (RFC 1812 5.2.7.1, RFC 4443 3.1).
    Prohibited,
    /// No SA and none to be had: host unreachable (RFC 792), address unreachable (RFC 4443 3.1).
    Unreachable,
}

impl Fault {
    const fn v4_type_code_rest(self) -> (u8, u8, u32) {
        match self {
            Fault::TooBig { mtu } => (3, 4, mtu as u32),
            Fault::Prohibited => (3, 13, 0),
            Fault::Unreachable => (3, 1, 0),
        }
    }

    const fn v6_type_code_rest(self) -> (u8, u8, u32) {
        match self {
            Fault::TooBig { mtu } => (2, 0, mtu as u32),
            Fault::Prohibited => (1, 1, 0),
            Fault::Unreachable => (1, 3, 0),
        }
    }
}

/// Write the error about `packet` from `source` to the packet's sender into `out`; answers its size.
///
/// `parsed` is what `IpPacket::parse` said of `packet`, `source` is of its family, `out` takes `MAX_V4_ERROR` or
/// `MAX_V6_ERROR` octets. None where no error may be sent (RFC 1122 3.2.2, RFC 4443 2.4 e) or `out` is too small.
pub fn error(
    fault: Fault,
    packet: &[u8],
    parsed: &IpPacket,
    source: IpAddr,
    out: &mut [u8],
) -> Option<usize> {
    if !may_answer(fault, parsed) {
        return None;
    }
    let packet = packet.get(..parsed.length)?;
    match (source, parsed.flow.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let quote = &packet[..packet.len().min(MAX_V4_ERROR - IPV4_HEADER - ICMP_HEADER)];
            let size = IPV4_HEADER + ICMP_HEADER + quote.len();
            let out = out.get_mut(..size)?;
            // An atomic datagram: DF set, so that the identification means nothing (RFC 6864 4).
            out[..12].copy_from_slice(&[
                0x45,
                ERROR_TOS,
                0,
                0,
                0,
                0,
                0x40,
                0,
                HOP_LIMIT,
                protocol::ICMP,
                0,
                0,
            ]);
            out[2..4].copy_from_slice(&(size as u16).to_be_bytes());
            out[12..16].copy_from_slice(&from.octets());
            out[16..20].copy_from_slice(&to.octets());
            let sum = checksum(0, &out[..IPV4_HEADER]);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
            write_message(&mut out[IPV4_HEADER..], fault.v4_type_code_rest(), quote, 0);
            Some(size)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let quote = &packet[..packet.len().min(MAX_V6_ERROR - IPV6_HEADER - ICMP_HEADER)];
            let size = IPV6_HEADER + ICMP_HEADER + quote.len();
            let out = out.get_mut(..size)?;
            let length = (size - IPV6_HEADER) as u16;
            out[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, protocol::ICMPV6, HOP_LIMIT]);
            out[4..6].copy_from_slice(&length.to_be_bytes());
            out[8..24].copy_from_slice(&from.octets());
            out[24..40].copy_from_slice(&to.octets());
            let pseudo = !checksum(u32::from(length) + u32::from(protocol::ICMPV6), &out[8..40]);
            write_message(
                &mut out[IPV6_HEADER..],
                fault.v6_type_code_rest(),
                quote,
                pseudo.into(),
            );
            Some(size)
        }
        _ => None,
    }
}

fn write_message(out: &mut [u8], (kind, code, rest): (u8, u8, u32), quote: &[u8], pseudo: u32) {
    out[..4].copy_from_slice(&[kind, code, 0, 0]);
    out[4..8].copy_from_slice(&rest.to_be_bytes());
    out[ICMP_HEADER..].copy_from_slice(quote);
    let sum = checksum(pseudo, out);
    out[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// No errors about errors, about later fragments, to or about what is not one host.
fn may_answer(fault: Fault, parsed: &IpPacket) -> bool {
    let kind = match parsed.flow.ports {
        Ports::Known(type_and_code, _) => Some((type_and_code >> 8) as u8),
        Ports::Opaque => None,
    };
    let is_error = match parsed.flow.protocol {
        // An ICMP message whose type cannot be seen may be an error.
        protocol::ICMP => kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
        protocol::ICMPV6 => kind.is_none_or(|kind| kind < 128 || kind == 137),
        _ => false,
    };
    if is_error || (parsed.is_later_fragment && parsed.flow.source.is_ipv4()) {
        return false;
    }
    match (parsed.flow.source, parsed.flow.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let first = from.octets()[0];
            !(first == 0 || first == 127 || first >= 224 || to.is_multicast() || to.is_broadcast())
        }
        // RFC 4443 2.4 e.3: packet too big is the exception for multicast, so that its path MTU can be found.
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let is_host = !(from.is_unspecified() || from.is_loopback() || from.is_multicast());
            is_host && (!to.is_multicast() || matches!(fault, Fault::TooBig { .. }))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::{ipv4, ipv6};

    fn answer(fault: Fault, packet: &[u8], source: &str) -> Option<Vec<u8>> {
        let mut out = vec![0xee; MAX_V6_ERROR];
        let size = error(
            fault,
            packet,
            &IpPacket::parse(packet).unwrap(),
            source.parse().unwrap(),
            &mut out,
        )?;
        out.truncate(size);
        Some(out)
    }

    #[test]
    fn frag_needed_names_the_mtu_and_quotes_the_packet() {
        let packet = ipv4([10, 0, 0, 1], [10, 9, 0, 2], 17, &[7; 1472]);
        let error = answer(Fault::TooBig { mtu: 1438 }, &packet, "10.9.0.254").unwrap();
        let parsed = IpPacket::parse(&error).unwrap();
        assert_eq!(
            (parsed.length, parsed.flow.ports),
            (576, Ports::Known(0x0304, 0x0304))
        );
        assert_eq!(parsed.flow.destination.to_string(), "10.0.0.1");
        assert_eq!(
            (checksum(0, &error[..20]), checksum(0, &error[20..])),
            (0, 0)
        );
        assert_eq!(
            (&error[24..28], &error[28..]),
            (&[0, 0, 0x05, 0x9e][..], &packet[..548])
        );
    }

    #[test]
    fn packet_too_big_fills_the_minimum_mtu_and_has_a_right_checksum() {
        let packet = ipv6(17, &[7; 1400]);
        let error = answer(Fault::TooBig { mtu: 1418 }, &packet, "2001:db8::ff").unwrap();
        assert_eq!(
            (error.len(), error[40], &error[44..48]),
            (1280, 2, &[0, 0, 0x05, 0x8a][..])
        );
        let pseudo = !checksum(error.len() as u32 - 40 + 58, &error[8..40]);
        assert_eq!(checksum(pseudo.into(), &error[40..]), 0);
    }

    #[test]
    fn a_small_packet_is_quoted_whole() {
        let packet = ipv4([10, 0, 0, 1], [10, 9, 0, 2], 17, &[0; 8]);
        let error = answer(Fault::Prohibited, &packet, "10.0.0.254").unwrap();
        assert_eq!(
            (error.len(), error[20], error[21], &error[28..]),
            (56, 3, 13, &packet[..])
        );
        assert_eq!(
            answer(Fault::Unreachable, &packet, "10.0.0.254").unwrap()[21],
            1
        );
    }

    #[test]
    fn nothing_is_said_about_errors_later_fragments_and_what_is_no_host() {
        let mut fragment = ipv4([10, 0, 0, 1], [10, 9, 0, 2], 17, &[0; 8]);
        fragment[7] = 1;
        let silent = [
            ipv4([10, 0, 0, 1], [10, 9, 0, 2], 1, &[3, 4, 0, 0, 0, 0, 0, 0]),
            ipv4([10, 0, 0, 1], [10, 9, 0, 2], 1, &[8]),
            fragment,
            ipv4([0, 0, 0, 0], [10, 9, 0, 2], 17, &[0; 8]),
            ipv4([127, 0, 0, 1], [10, 9, 0, 2], 17, &[0; 8]),
            ipv4([224, 0, 0, 1], [10, 9, 0, 2], 17, &[0; 8]),
            ipv4([10, 0, 0, 1], [224, 0, 0, 2], 17, &[0; 8]),
            ipv4([10, 0, 0, 1], [255, 255, 255, 255], 17, &[0; 8]),
        ];
        for packet in silent {
            assert_eq!(
                answer(Fault::Prohibited, &packet, "10.0.0.254"),
                None,
                "{packet:02x?}"
            );
        }
        assert_eq!(
            answer(Fault::Prohibited, &ipv6(58, &[1, 0, 0, 0]), "2001:db8::ff"),
            None
        );
        assert!(
            answer(
                Fault::Prohibited,
                &ipv6(58, &[128, 0, 0, 0]),
                "2001:db8::ff"
            )
            .is_some()
        );
    }

    #[test]
    fn a_source_of_the_other_family_or_a_small_buffer_gives_nothing() {
        let packet = ipv4([10, 0, 0, 1], [10, 9, 0, 2], 17, &[0; 8]);
        assert_eq!(answer(Fault::Prohibited, &packet, "2001:db8::ff"), None);
        let parsed = IpPacket::parse(&packet).unwrap();
        assert_eq!(
            error(
                Fault::Prohibited,
                &packet,
                &parsed,
                [10, 0, 0, 254].into(),
                &mut [0; 55]
            ),
            None
        );
    }
}
