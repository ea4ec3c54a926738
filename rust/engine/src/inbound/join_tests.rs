use super::*;
use crate::samples;
use crate::sizes::segment::Cut;

const EVERYTHING: Joins = Joins {
    tcp: true,
    udp: true,
};

/// The segments of a super-packet, as a peer's engine would have cut them.
fn segments(is_v6: bool, size: u16, payload: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (vnet, octets) = samples::tcp_super_packet(is_v6, size, payload);
    // Without CWR, which stands alone.
    let mut octets = octets;
    octets[if is_v6 { 53 } else { 33 }] &= !0x80;
    let packet = IpPacket::parse(&octets).unwrap();
    let cut = Cut::of(&vnet, &packet, &octets).unwrap().unwrap();
    let write = |index: usize| {
        let mut out = vec![0; cut.length(index)];
        cut.write(&octets, index, &mut out);
        out
    };
    let segments = (0..cut.count()).map(write).collect();
    (octets, segments)
}

/// What the host gets.
fn join(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut arena = packets.concat();
    let (mut list, mut joiner) = (PacketList::new(), Joiner::new(EVERYTHING));
    let mut start = 0;
    for packet in packets {
        let range = start..start + packet.len();
        joiner.add(
            &arena,
            range.clone(),
            &IpPacket::parse(packet).unwrap(),
            1,
            &mut list,
        );
        start = range.end;
    }
    joiner.finish(&mut arena, &mut list);
    let whole = |pieces: &mut dyn Iterator<Item = Range<usize>>| {
        pieces.flat_map(|p| arena[p].to_vec()).collect()
    };
    list.iter()
        .map(|(vnet, mut pieces)| (vnet, whole(&mut pieces)))
        .collect()
}

/// What the host makes of it again.
fn cut(joined: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (vnet, octets) in joined {
        let packet = IpPacket::parse(octets).unwrap();
        let Some(cut) = Cut::of(vnet, &packet, octets).unwrap() else {
            packets.push(octets.clone());
            continue;
        };
        for index in 0..cut.count() {
            let mut out = vec![0; cut.length(index)];
            cut.write(octets, index, &mut out);
            packets.push(out);
        }
    }
    packets
}

#[test]
fn segments_join_to_what_they_were_cut_from() {
    for is_v6 in [false, true] {
        let (octets, packets) = segments(is_v6, 1_300, 40_000);
        let joined = join(&packets);
        assert_eq!(joined.len(), 1);
        assert_eq!(
            (joined[0].0.gso_size, joined[0].1.len()),
            (1_300, octets.len())
        );
        assert_eq!(joined[0].1, octets, "v6 {is_v6}");
        assert_eq!(cut(&joined), packets);
    }
}

#[test]
fn flows_that_interleave_are_joined_apart_and_each_stays_in_order() {
    let (_, ours) = segments(false, 1_000, 10_000);
    let (_, theirs) = segments(true, 900, 9_000);
    let mixed: Vec<Vec<u8>> = ours
        .iter()
        .zip(&theirs)
        .flat_map(|(a, b)| [a.clone(), b.clone()])
        .collect();
    let joined = join(&mixed);
    assert_eq!(joined.len(), 2);
    assert_eq!(cut(&joined), [ours, theirs].concat());
}

#[test]
fn what_cannot_be_cut_again_as_it_was_is_not_joined() {
    let (_, packets) = segments(false, 1_000, 3_000);
    let spoil = |at: usize, value: u8| {
        let mut packets = packets.clone();
        packets[1][at] ^= value;
        // With good checksums, so that the difference itself is what matters.
        mend_ipv4_checksum(&mut packets[1][..20]);
        packets[1][36..38].fill(0);
        let sum = checksum(
            pseudo_header(&packets[1], false, protocol::TCP, packets[1].len() - 20),
            &packets[1][20..],
        );
        packets[1][36..38].copy_from_slice(&sum.to_be_bytes());
        join(&packets).len()
    };
    assert_eq!(spoil(1, 0), 1, "nothing spoiled");
    for (at, what) in [
        (1, "tos"),
        (5, "identification"),
        (8, "ttl"),
        (27, "sequence"),
        (31, "acknowledgement"),
        (35, "window"),
    ] {
        assert!(spoil(at, 1) > 1, "{what}");
    }
    for (flag, what) in [
        (0x01, "fin"),
        (0x02, "syn"),
        (0x04, "rst"),
        (0x20, "urg"),
        (0x40, "ece"),
        (0x80, "cwr"),
    ] {
        assert!(spoil(33, flag) > 1, "{what}");
    }
    assert!(spoil(41, 1) > 1, "options");
}

#[test]
fn a_damaged_segment_keeps_its_bad_checksum() {
    let (_, mut packets) = segments(false, 1_000, 3_000);
    packets[1][500] ^= 1;
    let joined = join(&packets);
    assert_eq!(joined.len(), 3);
    assert_eq!(joined[1].1, packets[1]);
}

#[test]
fn a_short_or_pushed_segment_ends_its_super_packet() {
    let (_, first) = segments(false, 1_000, 2_500);
    let joined = join(&[first.clone(), first.clone()].concat());
    assert_eq!(joined.len(), 2);
    assert_eq!(cut(&joined), [first.clone(), first].concat());
}

#[test]
fn more_flows_than_may_be_open_and_more_than_fits_lose_nothing() {
    let flows: Vec<Vec<Vec<u8>>> = (0..40_u8)
        .map(|flow| {
            let mut packets = segments(false, 1_000, 2_000).1;
            for packet in &mut packets {
                packet[21] = flow; // source port
                let sum = openmoat_esp::wire::update_checksum(
                    u16::from_be_bytes([packet[36], packet[37]]),
                    0x03e8,
                    u16::from_be_bytes([3, flow]),
                );
                packet[36..38].copy_from_slice(&sum.to_be_bytes());
            }
            packets
        })
        .collect();
    let mixed: Vec<Vec<u8>> = (0..2)
        .flat_map(|n| flows.iter().map(move |flow| flow[n].clone()))
        .take(60)
        .collect();
    let mut back = cut(&join(&mixed));
    let mut wanted = mixed;
    back.sort();
    wanted.sort();
    assert_eq!(back, wanted);
    let (_, large) = segments(true, 1_000, 65_000);
    assert_eq!(cut(&join(&large)), large);
}
