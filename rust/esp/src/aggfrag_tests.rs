use super::*;

fn v4(length: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| at as u8).collect();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet
}

fn pack(room: usize, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut packer = Packer::new(room).unwrap();
    let (mut payload, mut payloads) = (vec![0xee; HEADER + room], Vec::new());
    for packet in packets {
        let mut rest = &packet[..];
        while !rest.is_empty() {
            rest = &rest[packer.put(&mut payload, rest)..];
            if !rest.is_empty() {
                let size = packer.finish(&mut payload).unwrap();
                payloads.push(payload[..size].to_vec());
            }
        }
    }
    payloads.extend(
        packer
            .finish(&mut payload)
            .map(|size| payload[..size].to_vec()),
    );
    payloads
}

fn shapes(payloads: &[Vec<u8>]) -> Vec<(usize, usize)> {
    let shape = |payload: &Vec<u8>| {
        let header = Header::parse(payload).unwrap();
        (header.block_offset, payload.len() - header.size)
    };
    payloads.iter().map(shape).collect()
}

#[test]
fn packets_that_fit_share_a_payload_and_are_never_sliced() {
    let payloads = pack(1400, &[v4(750), v4(650), v4(60), v4(1400)]);
    assert_eq!(shapes(&payloads), [(0, 1400), (0, 60), (0, 1400)]);
}

#[test]
fn a_packet_that_exceeds_the_room_begins_in_what_is_left_and_its_tail_rides_with_the_next() {
    let payloads = pack(1400, &[v4(300), v4(3000), v4(100)]);
    assert_eq!(shapes(&payloads), [(0, 1400), (1900, 1400), (500, 600)]);
}

#[test]
fn a_tail_that_fills_its_payload_has_the_offset_of_the_end() {
    assert_eq!(
        shapes(&pack(1400, &[v4(2800), v4(40)])),
        [(0, 1400), (1400, 1400), (0, 40)]
    );
}

#[test]
fn no_head_is_shorter_than_what_shows_a_length() {
    for (first, heads) in [
        (1394, vec![(0, 1400), (1494, 1400), (94, 94)]),
        (1395, vec![(0, 1395), (0, 1400), (100, 100)]),
    ] {
        assert_eq!(shapes(&pack(1400, &[v4(first), v4(1500)])), heads);
    }
}

#[test]
fn the_largest_packet_crosses_the_smallest_room() {
    let payloads = pack(MIN_ROOM, &[v4(65_535)]);
    assert_eq!(payloads.len(), 65_535_usize.div_ceil(MIN_ROOM));
    assert_eq!(shapes(&payloads)[1], (65_535 - MIN_ROOM, MIN_ROOM));
    assert!(Packer::new(MIN_ROOM - 1).is_none());
}

#[test]
fn nothing_packed_is_nothing_to_send_and_what_is_sent_has_no_flags() {
    let mut packer = Packer::new(100).unwrap();
    assert_eq!(packer.finish(&mut [0; 104]), None);
    assert_eq!(&pack(100, &[v4(200)])[1][..4], [0, 0, 0, 100]);
}

#[test]
fn reserved_bits_are_ignored_and_unassigned_sub_types_are_not() {
    assert_eq!(Header::parse(&[0, 0xff, 1, 2]).unwrap().block_offset, 258);
    for sub_type in 2..=255 {
        assert_eq!(
            Header::parse(&[sub_type; 64]),
            Err(DropReason::AggfragSubType)
        );
    }
}

#[test]
fn a_header_is_whole_or_the_payload_is_too_short() {
    for length in 0..HEADER {
        assert_eq!(
            Header::parse(&[0; HEADER][..length]),
            Err(DropReason::AggfragTooShort)
        );
    }
    for length in 1..CONGESTION_HEADER {
        assert_eq!(
            Header::parse(&[1; CONGESTION_HEADER][..length]),
            Err(DropReason::AggfragTooShort)
        );
    }
}

#[test]
fn the_header_with_congestion_control_is_read_field_by_field() {
    let times = (0x2a_aaaa_u64 << 42 | 0x15_5555 << 21 | 0x0f_f00f).to_be_bytes();
    let start = [1, 0xfe, 0x12, 0x34, 0, 0, 1, 0];
    let payload = [&start[..], &times, &[1, 2, 3, 4, 5, 6, 7, 8]].concat();
    let header = Header::parse(&payload).unwrap();
    let congestion = Congestion {
        is_probing: true,
        counts_marks: false,
        loss_event_rate: 256,
        rtt: 0x2a_aaaa,
        echo_delay: 0x15_5555,
        transmit_delay: 0x0f_f00f,
        value: 0x0102_0304,
        echo: 0x0506_0708,
    };
    assert_eq!(
        (header.block_offset, header.size, header.congestion),
        (0x1234, 24, Some(congestion))
    );
}

#[test]
fn blocks_are_told_by_their_first_nibble_and_lengths_that_cannot_be_are_refused() {
    assert_eq!(Block::of(&[0x0f]), Ok(Block::Pad));
    assert_eq!(Block::of(&[0x45, 0, 0]), Ok(Block::Runt));
    assert_eq!(Block::of(&[0x60, 0, 0, 0, 0]), Ok(Block::Runt));
    assert_eq!(Block::of(&[0x45, 0, 0, 20]), Ok(Block::Packet(20)));
    assert_eq!(
        Block::of(&[0x60, 0, 0, 0, 0xff, 0xff]),
        Ok(Block::Packet(MAX_INNER))
    );
    for bad in [
        [0x45, 0, 0, 0],
        [0x45, 0, 0, 19],
        [0x44, 0, 0, 40],
        [0x4f, 0, 0, 59],
    ] {
        assert_eq!(Block::of(&bad), Err(DropReason::AggfragBadLength));
    }
    for nibble in (1..16).filter(|nibble| ![4, 6].contains(nibble)) {
        assert_eq!(
            Block::of(&[nibble << 4; 40]),
            Err(DropReason::AggfragUnknownBlock)
        );
    }
}

#[test]
fn a_payload_that_says_something_has_less_room_and_carries_the_same() {
    let says = Congestion {
        is_probing: true,
        counts_marks: false,
        loss_event_rate: 0x0102_0304,
        rtt: 0x3f_ffff,
        echo_delay: 0x15_5555,
        transmit_delay: MAX_DELAY,
        value: 0xdead_beef,
        echo: 0xc0ff_ee00,
    };
    let mut packer = Packer::new(1400).unwrap();
    let mut payload = vec![0xee; HEADER + 1400];
    let packet = v4(2000);
    assert!(!packer.would_fill(1400) && packer.would_fill(1401));
    packer.say(says);
    assert_eq!(packer.put(&mut payload, &packet), 1380);
    assert!(!packer.would_fill(2000));
    assert_eq!(packer.finish(&mut payload), Some(HEADER + 1400));
    let header = Header::parse(&payload).unwrap();
    assert_eq!(
        (header.size, header.block_offset, header.congestion),
        (24, 0, Some(says))
    );
    assert_eq!(payload[24..], packet[..1380]);
    // What comes next says nothing any more.
    assert_eq!(packer.put(&mut payload, &packet[1380..]), 620);
    assert_eq!(packer.finish(&mut payload), Some(HEADER + 620));
    assert_eq!(payload[..4], [0, 0, 2, 108]);
}

#[test]
fn pad_says_something_and_belongs_to_no_packet() {
    let says = Congestion {
        value: 1,
        rtt: u32::MAX,
        echo_delay: u32::MAX,
        ..Congestion::default()
    };
    let mut payload = vec![0xee; 40];
    says.write_pad(&mut payload, 30);
    let header = Header::parse(&payload[..30]).unwrap();
    let bounded = Congestion {
        rtt: 0x3f_ffff,
        echo_delay: MAX_DELAY,
        ..says
    };
    assert_eq!((header.block_offset, header.congestion), (0, Some(bounded)));
    assert_eq!(payload[24..], [&[0; 6][..], &[0xee; 10]].concat());
}
