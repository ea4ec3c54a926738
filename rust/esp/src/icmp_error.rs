//! ICMP errors and the packets they quote (RFC 792, RFC 4443, RFC 4301 6.2). What they quote was read from the octets of the
//! error itself, which may be hostile; nothing here believes it.

use crate::wire::{Flow, IpPacket, Ports, protocol, quoted_flow};

/// Octets before the quoted packet.
pub const HEADER: usize = 8;

/// Whether an inbound ICMP error is looked into although its own addresses are inside the selectors (RFC 4301 6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IcmpCheck {
    /// Only where its own addresses are outside.
    #[default]
    Outside,
    /// Always.
    Strict,
}

/// Whether a packet is an ICMP error, which no other error may answer.
pub fn is_error(packet: &IpPacket) -> bool {
    match (packet.flow.protocol, kind(packet)) {
        (protocol::ICMP, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (protocol::ICMPV6, Some(kind)) => kind < 128,
        _ => false,
    }
}

/// The flow of the answers to the packet that an ICMP error quotes; None where it quotes none, or not one of the host that
/// it goes to.
pub fn return_flow(packet: &IpPacket, octets: &[u8]) -> Option<Flow> {
    if !is_error(packet) {
        return None;
    }
    let quoted = quoted_flow(octets.get(packet.next_layer + HEADER..packet.length)?)?;
    let ports = match quoted.ports {
        Ports::Known(source, destination) => Ports::Known(destination, source),
        Ports::Opaque => Ports::Opaque,
    };
    (quoted.source == packet.flow.destination).then_some(Flow {
        source: quoted.destination,
        destination: quoted.source,
        protocol: quoted.protocol,
        ports,
    })
}

/// Whether an error is of those that RFC 4301 6.2 lets pass for what they quote: something was unreachable, too big, too
/// long under way, or not understood. No redirect is.
pub fn may_pass_for_its_quote(packet: &IpPacket) -> bool {
    match (packet.flow.protocol, kind(packet)) {
        (protocol::ICMP, Some(kind)) => matches!(kind, 3 | 11 | 12),
        (protocol::ICMPV6, Some(kind)) => (1..=4).contains(&kind),
        _ => false,
    }
}

fn kind(packet: &IpPacket) -> Option<u16> {
    match packet.flow.ports {
        Ports::Known(type_and_code, _) if !packet.is_later_fragment => Some(type_and_code >> 8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum;
    use crate::wire::tests::{ipv4, ipv6};
    use proptest::prelude::*;

    const UDP: [u8; 8] = [0x03, 0xe8, 0, 53, 0, 8, 0, 0];

    fn quoted_v4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let mut quoted = ipv4(source, destination, protocol::UDP, &UDP);
        quoted[10..12].fill(0);
        let sum = checksum(0, &quoted[..20]).to_be_bytes();
        quoted[10..12].copy_from_slice(&sum);
        quoted
    }

    fn error_v4(kind: u8, quoted: &[u8]) -> Vec<u8> {
        let mut body = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        body.extend(quoted);
        ipv4([192, 0, 2, 9], [10, 1, 0, 5], protocol::ICMP, &body)
    }

    fn flow_of(octets: &[u8]) -> Option<Flow> {
        return_flow(&IpPacket::parse(octets).unwrap(), octets)
    }

    #[test]
    fn the_return_flow_is_that_of_the_quoted_packet_the_other_way() {
        let flow = flow_of(&error_v4(11, &quoted_v4([10, 1, 0, 5], [10, 2, 0, 7]))).unwrap();
        assert_eq!(flow.source, std::net::IpAddr::from([10, 2, 0, 7]));
        assert_eq!(flow.destination, std::net::IpAddr::from([10, 1, 0, 5]));
        assert_eq!((flow.protocol, flow.ports), (17, Ports::Known(53, 1000)));
    }

    #[test]
    fn a_quote_that_was_cut_off_behind_its_ports_is_enough() {
        let mut quoted = quoted_v4([10, 1, 0, 5], [10, 2, 0, 7]);
        quoted[2..4].copy_from_slice(&1_400_u16.to_be_bytes());
        quoted[10..12].fill(0);
        let sum = checksum(0, &quoted[..20]).to_be_bytes();
        quoted[10..12].copy_from_slice(&sum);
        assert!(flow_of(&error_v4(3, &quoted)).is_some());
        assert_eq!(flow_of(&error_v4(3, &quoted[..19])), None);
        let ports = flow_of(&error_v4(3, &quoted[..22])).unwrap().ports;
        assert_eq!(ports, Ports::Opaque);
    }

    #[test]
    fn a_quote_of_somebody_else_of_another_family_or_with_a_wrong_checksum_says_nothing() {
        let others = quoted_v4([10, 1, 0, 6], [10, 2, 0, 7]);
        assert_eq!(flow_of(&error_v4(11, &others)), None);
        let mut wrong = quoted_v4([10, 1, 0, 5], [10, 2, 0, 7]);
        wrong[10] ^= 1;
        assert_eq!(flow_of(&error_v4(11, &wrong)), None);
        assert_eq!(flow_of(&error_v4(11, &ipv6(17, &UDP))), None);
        assert_eq!(flow_of(&error_v4(11, &[])), None);
        let echo = error_v4(8, &quoted_v4([10, 1, 0, 5], [10, 2, 0, 7]));
        assert_eq!(flow_of(&echo), None);
    }

    #[test]
    fn only_four_kinds_pass_for_what_they_quote() {
        let passes = |octets: &[u8]| may_pass_for_its_quote(&IpPacket::parse(octets).unwrap());
        let v4: Vec<u8> = (0..=255)
            .filter(|&kind| passes(&error_v4(kind, &UDP)))
            .collect();
        assert_eq!(v4, [3, 11, 12]);
        let v6: Vec<u8> = (0..=255)
            .filter(|&kind| passes(&ipv6(protocol::ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0])))
            .collect();
        assert_eq!(v6, [1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn no_octets_make_a_quote_of_another_host_count(quoted in prop::collection::vec(any::<u8>(), 0..100), kind: u8, is_v6: bool) {
            let mut body = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            body.extend(&quoted);
            let octets = if is_v6 { ipv6(protocol::ICMPV6, &body) } else { error_v4(kind, &quoted) };
            let packet = IpPacket::parse(&octets).unwrap();
            if let Some(flow) = return_flow(&packet, &octets) {
                prop_assert!(is_error(&packet));
                prop_assert_eq!(flow.destination, packet.flow.destination);
            }
        }
    }
}
