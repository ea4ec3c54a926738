use super::*;
use proptest::prelude::*;

/// An IPv4 packet with a right checksum, for the tests of this crate.
pub fn ipv4(source: [u8; 4], destination: [u8; 4], next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, next, 0, 0];
    packet.extend_from_slice(&source);
    packet.extend_from_slice(&destination);
    packet.extend_from_slice(body);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let sum = checksum(0, &packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An IPv6 packet from 2001:db8::1 to 2001:db8::2.
pub fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&(body.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[next, 64]);
    for last in [1_u16, 2] {
        packet.extend_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets());
    }
    packet.extend_from_slice(body);
    packet
}

fn flow(packet: &[u8]) -> Flow {
    IpPacket::parse(packet).unwrap().flow
}

const UDP_53: [u8; 8] = [0xc0, 0x00, 0, 53, 0, 8, 0, 0];

#[test]
fn ipv4_udp_has_its_ports() {
    let packet = ipv4([10, 0, 0, 1], [10, 9, 0, 2], 17, &UDP_53);
    let parsed = IpPacket::parse(&packet).unwrap();
    assert_eq!(parsed.flow.ports, Ports::Known(0xc000, 53));
    assert_eq!(
        (
            parsed.length,
            parsed.next_layer,
            parsed.is_df,
            parsed.is_fragment
        ),
        (28, 20, false, false)
    );
    assert_eq!(parsed.flow.source.to_string(), "10.0.0.1");
}

#[test]
fn a_later_fragment_has_no_ports_and_a_first_one_has() {
    let mut packet = ipv4([10, 0, 0, 1], [10, 9, 0, 2], 17, &UDP_53);
    packet[6] = 0x20;
    assert_eq!(flow(&packet).ports, Ports::Known(0xc000, 53));
    packet[7] = 1;
    assert_eq!(flow(&packet).ports, Ports::Opaque);
    assert!(IpPacket::parse(&packet).unwrap().is_later_fragment);
}

#[test]
fn icmp_type_and_code_stand_for_both_ports() {
    assert_eq!(
        flow(&ipv4([1, 1, 1, 1], [2, 2, 2, 2], 1, &[3, 4, 0, 0])).ports,
        Ports::Known(0x0304, 0x0304)
    );
    assert_eq!(
        flow(&ipv6(58, &[128, 0, 0, 0])).ports,
        Ports::Known(0x8000, 0x8000)
    );
}

#[test]
fn a_cut_off_transport_header_is_opaque() {
    assert_eq!(
        flow(&ipv4([1, 1, 1, 1], [2, 2, 2, 2], 6, &[1, 2, 3])).ports,
        Ports::Opaque
    );
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let mut body = vec![60, 0, 0, 0, 0, 0, 0, 0, 17, 1];
    body.extend_from_slice(&[0; 14]);
    body.extend_from_slice(&UDP_53);
    let parsed = IpPacket::parse(&ipv6(0, &body)).unwrap();
    assert_eq!(
        (parsed.flow.protocol, parsed.flow.ports, parsed.next_layer),
        (17, Ports::Known(0xc000, 53), 64)
    );
}

#[test]
fn ipv6_later_fragments_are_opaque_and_hide_what_follows_options() {
    let mut body = vec![17, 0, 0x00, 0x08, 0, 0, 0, 1];
    body.extend_from_slice(&UDP_53);
    assert_eq!(
        (
            flow(&ipv6(44, &body)).protocol,
            flow(&ipv6(44, &body)).ports
        ),
        (17, Ports::Opaque)
    );
    body[0] = 60;
    assert_eq!(flow(&ipv6(44, &body)).protocol, protocol::FRAGMENT);
    body[0] = 17;
    body[3] = 0;
    assert!(
        !IpPacket::parse(&ipv6(44, &body)).unwrap().is_fragment,
        "an atomic fragment is whole"
    );
}

#[test]
fn an_endless_chain_of_extension_headers_is_refused() {
    let body: Vec<u8> = std::iter::repeat_n([60, 0, 0, 0, 0, 0, 0, 0], 32)
        .flatten()
        .collect();
    assert!(IpPacket::parse(&ipv6(60, &body)).is_err());
}

#[test]
fn lengths_that_do_not_hold_are_refused() {
    let good = ipv4([10, 0, 0, 1], [10, 9, 0, 2], 17, &UDP_53);
    for (at, value) in [
        (0, 0x05),
        (0, 0x44),
        (0, 0x4f),
        (0, 0xf5),
        (3, 29),
        (3, 19),
        (2, 0xff),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(
            IpPacket::parse(&bad),
            Err(DropReason::MalformedInner),
            "octet {at} = {value:#x}"
        );
    }
    let mut long = ipv6(17, &UDP_53);
    long[5] += 1;
    assert!(IpPacket::parse(&long).is_err());
    assert!(IpPacket::parse(&[]).is_err());
}

#[test]
fn trailing_octets_are_not_part_of_the_packet() {
    let mut packet = ipv6(17, &UDP_53);
    packet.extend_from_slice(&[0; 100]);
    assert_eq!(IpPacket::parse(&packet).unwrap().length, 48);
}

#[test]
fn tos_is_written_in_both_families_with_a_right_checksum() {
    let mut packet = ipv4([10, 0, 0, 1], [10, 9, 0, 2], 17, &UDP_53);
    set_tos(&mut packet, 0xbb);
    assert_eq!((packet[1], checksum(0, &packet[..20])), (0xbb, 0));
    let mut packet = ipv6(17, &UDP_53);
    packet[1] = 0x05;
    set_tos(&mut packet, 0xbb);
    assert_eq!(IpPacket::parse(&packet).unwrap().tos, 0xbb);
    assert_eq!(packet[1] & 0x0f, 5, "the flow label stays");
}

proptest! {
    #[test]
    fn any_octets_parse_or_are_refused(mut octets in prop::collection::vec(any::<u8>(), 0..200), version in 0_u8..=15) {
        if let Some(first) = octets.first_mut() { *first = (version << 4) | (*first & 0x0f); }
        if let Ok(packet) = IpPacket::parse(&octets) {
            prop_assert!(packet.length <= octets.len() && packet.next_layer <= packet.length);
        }
        set_tos(&mut octets, 1);
    }

    #[test]
    fn the_checksum_is_that_of_the_definition(octets in prop::collection::vec(any::<u8>(), 0..100), start: u32) {
        let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        let mut sum = u64::from(start) + octets.chunks(2).map(word).sum::<u64>();
        while sum >> 16 != 0 { sum = (sum & 0xffff) + (sum >> 16); }
        prop_assert_eq!(checksum(start, &octets), !(sum as u16));
    }

    #[test]
    fn incremental_checksum_is_the_recomputed_one(mut octets in prop::collection::vec(any::<u8>(), 2..60), at in 0_usize..30, new: u16) {
        if octets.len() % 2 == 1 { octets.pop(); }
        octets[0] |= 1; // not all zero: 0 and 0xffff are the same sum
        let at = at * 2 % octets.len();
        prop_assume!(at != 0);
        let before = checksum(0, &octets);
        let old = u16::from_be_bytes([octets[at], octets[at + 1]]);
        octets[at..at + 2].copy_from_slice(&new.to_be_bytes());
        prop_assert_eq!(update_checksum(before, old, new), checksum(0, &octets));
    }
}
