use super::*;
use crate::samples::{self, is_checksummed};

fn cut(vnet: VnetHeader, octets: &[u8]) -> (Cut, Vec<Vec<u8>>) {
    let packet = IpPacket::parse(octets).unwrap();
    let cut = Cut::of(&vnet, &packet, octets).unwrap().unwrap();
    let write = |index: usize| {
        let mut out = vec![0xee; 65_535];
        cut.write(octets, index, &mut out);
        out.truncate(cut.length(index));
        out
    };
    (cut, (0..cut.count()).map(write).collect())
}

#[test]
fn a_tcp_super_packet_becomes_segments_of_its_own_size() {
    for is_v6 in [false, true] {
        let (vnet, octets) = samples::tcp_super_packet(is_v6, 1_000, 3_500);
        let headers = octets.len() - 3_500;
        let (cut, segments) = cut(vnet, &octets);
        let sizes: Vec<_> = segments
            .iter()
            .map(|segment| segment.len() - headers)
            .collect();
        assert_eq!(sizes, [1_000, 1_000, 1_000, 500]);
        assert_eq!(cut.largest(), headers + 1_000);
        for (index, segment) in segments.iter().enumerate() {
            assert!(is_checksummed(segment), "v6 {is_v6} segment {index}");
            let next_layer = if is_v6 { 40 } else { 20 };
            let tcp = &segment[next_layer..];
            let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            assert_eq!(
                sequence,
                samples::SEQUENCE.wrapping_add(1_000 * index as u32)
            );
            assert_eq!(
                tcp[13] & TCP_FIN_PSH != 0,
                index == 3,
                "only the last pushes"
            );
            assert_eq!(tcp[13] & TCP_CWR != 0, index == 0, "only the first reports");
        }
        let joined: Vec<u8> = segments
            .iter()
            .flat_map(|segment| segment[headers..].to_vec())
            .collect();
        assert_eq!(joined, octets[headers..]);
    }
}

#[test]
fn a_udp_super_packet_becomes_datagrams() {
    for is_v6 in [false, true] {
        let (vnet, octets) = samples::udp_super_packet(is_v6, 700, 2_000);
        let headers = octets.len() - 2_000;
        let (_, segments) = cut(vnet, &octets);
        let sizes: Vec<_> = segments
            .iter()
            .map(|segment| segment.len() - headers)
            .collect();
        assert_eq!(sizes, [700, 700, 600]);
        assert!(segments.iter().all(|segment| is_checksummed(segment)));
    }
}

#[test]
fn a_header_that_does_not_fit_its_packet_is_refused() {
    let (vnet, octets) = samples::tcp_super_packet(false, 1_000, 2_000);
    let packet = IpPacket::parse(&octets).unwrap();
    let refused = |vnet: VnetHeader, octets: &[u8]| Cut::of(&vnet, &packet, octets).is_err();
    assert!(refused(
        VnetHeader {
            gso_size: 0,
            ..vnet
        },
        &octets
    ));
    assert!(refused(
        VnetHeader {
            gso_type: GsoType::Udp,
            ..vnet
        },
        &octets
    ));
    assert!(refused(
        VnetHeader {
            gso_type: GsoType::Unknown,
            ..vnet
        },
        &octets
    ));
    let mut short = octets.clone();
    short[32] = 0x10;
    assert!(refused(vnet, &short));
    assert!(refused(vnet, &octets[..30]));
}

#[test]
fn a_checksum_left_to_us_is_made() {
    for is_v6 in [false, true] {
        let (vnet, mut octets) = samples::udp_without_checksum(is_v6, b"hello");
        assert!(!is_checksummed(&octets));
        let packet = IpPacket::parse(&octets).unwrap();
        let before = octets.clone();
        let at = |checksum_start, checksum_offset| VnetHeader {
            checksum_start,
            checksum_offset,
            ..vnet
        };
        let start = vnet.checksum_start;
        // Outside; the end of the destination address; the ports; past the end of the packet.
        for lie in [at(60_000, 6), at(0, start - 4), at(start, 2), at(start, 13)] {
            assert!(!complete_checksum(&lie, &packet, &mut octets), "{lie:?}");
        }
        assert_eq!(octets, before);
        assert!(complete_checksum(&vnet, &packet, &mut octets));
        assert!(is_checksummed(&octets));
    }
}
