use proptest::prelude::*;

use super::*;
use crate::aggfrag::{HEADER, Packer};
use crate::replay::ReplayWindow;

/// Payloads of a batch for which there is room, whatever they complete.
const TOGETHER: usize = 8;

/// A receiver that keeps what it delivers.
struct Receiver {
    reassembler: Reassembler,
    drops: DropCounters,
    bench: Vec<u8>,
    delivered: Vec<Vec<u8>>,
}

impl Receiver {
    fn within(limit: usize) -> Self {
        Self {
            reassembler: Reassembler::new(Arc::new(Budget::new(limit))),
            drops: DropCounters::default(),
            bench: vec![0; TOGETHER * AssemblyBuffer::NEEDED],
            delivered: Vec::new(),
        }
    }

    fn new() -> Self {
        Self::within(MAX_HELD_BY_ALL)
    }

    fn take(&mut self, sequence: u64, payload: &[u8]) -> Result<Option<Congestion>, DropReason> {
        self.sit(&[(sequence, payload)]).remove(0)
    }

    /// Take payloads in one batch; between two of them lie as many octets of nobody as their turn is.
    fn sit(&mut self, payloads: &[(u64, &[u8])]) -> Vec<Result<Option<Congestion>, DropReason>> {
        let (mut source, mut places) = (vec![0xee; 3], Vec::new());
        for (turn, (_, payload)) in payloads.iter().enumerate() {
            places.push(source.len()..source.len() + payload.len());
            source.extend_from_slice(payload);
            source.resize(source.len() + turn, 0xee);
        }
        let (mut delivered, mut accepted) = (Vec::new(), Vec::new());
        let bench = AssemblyBuffer::new(&mut self.bench, usize::MAX);
        let mut batch = self.reassembler.begin(&mut source, &self.drops, bench);
        for ((sequence, _), place) in payloads.iter().zip(places) {
            accepted.push(batch.accept((*sequence, 0), place, |packet| delivered.push(packet)));
        }
        batch.finish();
        // Only now, as in an engine: nothing that is delivered may be overwritten by what follows.
        let octets = |delivery| match delivery {
            Delivery::Whole(range) | Delivery::Joined(range) => source[range].to_vec(),
            Delivery::Assembled(range) => self.bench[range].to_vec(),
        };
        self.delivered.extend(delivered.into_iter().map(octets));
        accepted
    }

    fn take_all(&mut self, payloads: &[(u64, Vec<u8>)]) {
        for (sequence, payload) in payloads {
            self.take(*sequence, payload).unwrap();
        }
    }

    fn happened(&self) -> Vec<(DropReason, u64)> {
        self.drops.happened().collect()
    }
}

fn v4(length: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet
}

fn v6(length: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..length).map(|at| (at * 5) as u8).collect();
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
    packet
}

fn payload(offset: u16, blocks: &[&[u8]]) -> Vec<u8> {
    let [high, low] = offset.to_be_bytes();
    [&[0, 0, high, low][..], &blocks.concat()].concat()
}

type Payloads = Vec<(u64, Vec<u8>)>;

/// Payloads numbered from 1, as the packer fills them.
fn pack(room: usize, packets: &[Vec<u8>]) -> Vec<(u64, Vec<u8>)> {
    let mut packer = Packer::new(room).unwrap();
    let (mut buffer, mut payloads) = (vec![0; HEADER + room], Vec::new());
    for packet in packets {
        let mut rest = &packet[..];
        loop {
            rest = &rest[packer.put(&mut buffer, rest)..];
            if rest.is_empty() {
                break;
            }
            let size = packer.finish(&mut buffer).unwrap();
            payloads.push(buffer[..size].to_vec());
        }
    }
    payloads.extend(
        packer
            .finish(&mut buffer)
            .map(|size| buffer[..size].to_vec()),
    );
    (1..).zip(payloads).collect()
}

/// The flow of RFC 9347 appendix A.
fn appendix_a() -> (Vec<Vec<u8>>, Payloads) {
    let packets = vec![v4(750), v4(750), v4(60), v4(240), v4(3000)];
    let stream = [packets.concat(), vec![0; 800]].concat();
    let payloads = [0_u16, 100, 2000, 600].into_iter().zip(stream.chunks(1400));
    let payloads = payloads.map(|(offset, blocks)| payload(offset, &[blocks]));
    (packets, (1..).zip(payloads).collect())
}

#[test]
fn the_example_of_the_rfc_comes_out_whole_in_any_order() {
    let (packets, payloads) = appendix_a();
    assert_eq!(payloads.len(), 4);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let mut receiver = Receiver::new();
        for at in order {
            receiver.take_all(&payloads[at..=at]);
        }
        receiver.delivered.sort();
        let mut expected = packets.clone();
        expected.sort();
        assert_eq!((receiver.delivered, order), (expected, order));
    }
}

#[test]
fn in_order_packets_leave_in_their_order() {
    let (packets, payloads) = appendix_a();
    let mut receiver = Receiver::new();
    receiver.take_all(&payloads);
    assert_eq!(receiver.delivered, packets);
    assert_eq!(receiver.happened(), []);
}

#[test]
fn payloads_that_come_together_give_the_same_packets_in_the_same_order() {
    let sizes = (0..60).map(|n| 20 + n * n * 3 % 4000);
    let packets: Vec<_> = sizes
        .map(|size| if size > 200 { v6(size) } else { v4(size) })
        .collect();
    let payloads = pack(700, &packets);
    for together in 1..=TOGETHER {
        for reverse in [false, true] {
            let mut receiver = Receiver::new();
            for chunk in payloads.chunks(together) {
                let mut rows: Vec<_> = chunk
                    .iter()
                    .map(|(at, octets)| (*at, &octets[..]))
                    .collect();
                if reverse {
                    rows.reverse();
                }
                assert!(receiver.sit(&rows).iter().all(Result::is_ok));
            }
            let (mut got, mut sent) = (receiver.delivered.clone(), packets.clone());
            if reverse {
                got.sort();
                sent.sort();
            }
            assert!(got == sent, "{together} together, reverse {reverse}");
            assert_eq!(receiver.happened(), []);
        }
    }
}

#[test]
fn pieces_that_meet_in_one_batch_need_no_buffer_and_others_wait_in_one() {
    let payloads = pack(1400, &[v4(1500), v4(60)]);
    let [(_, first), (_, second)] = &payloads[..] else {
        panic!("{}", payloads.len())
    };
    let slots = WINDOW * size_of::<Slot>();
    let mut receiver = Receiver::within(slots * SHARE);
    receiver.sit(&[(1, first), (2, second)]);
    assert_eq!(
        (receiver.reassembler.held(), receiver.happened()),
        (slots, vec![])
    );
    assert_eq!(receiver.delivered, [v4(1500), v4(60)]);
    // There is no memory for what still waits.
    receiver.sit(&[(11, first)]);
    assert_eq!(receiver.happened(), [(DropReason::AggfragMemory, 1)]);
    receiver.sit(&[(12, second)]);
    assert_eq!(receiver.delivered[2..], [v4(60)]);
    let mut receiver = Receiver::new();
    receiver.sit(&[(1, first)]);
    assert!(receiver.reassembler.held() > slots);
}

#[test]
fn head_and_tail_that_follow_each_other_are_not_taken_for_the_whole_packet() {
    let packet = v4(3000);
    let payloads = pack(1400, std::slice::from_ref(&packet));
    let [(_, head), (_, middle), (_, tail)] = &payloads[..] else {
        panic!("{}", payloads.len())
    };
    let mut receiver = Receiver::new();
    receiver.sit(&[(2, middle), (1, head), (3, tail)]);
    assert_eq!(
        (receiver.delivered, receiver.drops.happened().count()),
        (vec![packet], 0)
    );
}

#[test]
fn what_is_joined_where_it_lies_overwrites_nothing_that_leaves() {
    let broken = payload(0, &[&v4(90), &v4(600)[..100]]);
    let late = payload(0, &[&v4(70), &v4(500)[..60]]);
    let end = payload(500, &[&v4(600)[100..], &v4(80)]);
    // A payload of another place in the sequence lies between the two pieces, and has pieces of its own.
    let mut receiver = Receiver::new();
    receiver.sit(&[(1, &broken), (40, &late), (2, &end)]);
    receiver.sit(&[(41, &payload(440, &[&v4(500)[60..]]))]);
    assert_eq!(
        receiver.delivered,
        [v4(90), v4(70), v4(600), v4(80), v4(500)]
    );
    assert_eq!(receiver.happened(), []);
}

#[test]
fn a_lost_payload_costs_only_the_packets_it_touches() {
    let (packets, payloads) = appendix_a();
    let mut receiver = Receiver::new();
    receiver.take_all(&[
        payloads[0].clone(),
        payloads[2].clone(),
        payloads[3].clone(),
    ]);
    assert_eq!(receiver.delivered, packets[..1]);
    receiver.reassembler.expire(SILENCE - 1, &receiver.drops);
    assert!(receiver.reassembler.held() > 0);
    receiver.reassembler.expire(SILENCE, &receiver.drops);
    assert_eq!(
        receiver.happened(),
        [(DropReason::AggfragIncomplete, 3)],
        "a head and two pieces of another"
    );
    assert_eq!(receiver.reassembler.held(), 0);
}

#[test]
fn what_the_linux_kernel_packs_comes_out_as_the_linux_kernel_delivers_it() {
    let mut receiver = Receiver::new();
    let mut compared = 0;
    for line in include_str!("../../../tests/vectors/linux/iptfs.txt").lines() {
        let octets = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect()
        };
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["payload", sequence, text] => receiver
                .take(sequence.parse().unwrap(), &octets(text))
                .map(|_| ())
                .unwrap(),
            ["inner", text] => {
                let ours = receiver.delivered.remove(0);
                let theirs = octets(text);
                // The kernel forwards what it delivers: TTL and checksum are those of one hop later, if it was captured there.
                assert_eq!((&ours[..8], &ours[12..]), (&theirs[..8], &theirs[12..]));
                compared += 1;
            }
            _ => assert!(line.starts_with('#')),
        }
    }
    assert_eq!((compared, receiver.happened()), (2, vec![]));
}

#[test]
fn all_pad_payloads_may_stand_between_pieces_and_come_last() {
    let packet = v4(3000);
    let pieces = pack(1400, std::slice::from_ref(&packet));
    let pad = payload(0, &[&[0; 50]]);
    let stream = [
        (1, pieces[0].1.clone()),
        (2, pad.clone()),
        (3, pad),
        (4, pieces[1].1.clone()),
        (5, payload(0, &[])),
        (6, pieces[2].1.clone()),
    ];
    for late in [1, 2, 4, 5] {
        let mut receiver = Receiver::new();
        receiver.take_all(&[&stream[..late], &stream[late + 1..]].concat());
        assert_eq!(receiver.delivered, [] as [Vec<u8>; 0]);
        receiver.take_all(&stream[late..=late]);
        assert_eq!(receiver.delivered, std::slice::from_ref(&packet));
    }
}

#[test]
fn an_all_pad_payload_may_be_the_first_of_all_to_come() {
    let packet = v4(2000);
    let pieces = pack(1400, std::slice::from_ref(&packet));
    let mut receiver = Receiver::new();
    receiver.take_all(&[
        (2, payload(0, &[&[0; 50]])),
        (1, pieces[0].1.clone()),
        (3, pieces[1].1.clone()),
    ]);
    assert_eq!(receiver.delivered, [packet]);
}

#[test]
fn a_payload_of_packets_is_not_taken_for_all_pad_while_a_continuation_is_awaited() {
    let pieces = pack(1400, &[v4(3000)]);
    let mut receiver = Receiver::new();
    receiver.take_all(&[pieces[0].clone(), (2, payload(0, &[&v4(60), &v6(80)]))]);
    assert_eq!(receiver.delivered, [v4(60), v6(80)]);
    assert_eq!(receiver.happened(), [(DropReason::AggfragBadOffset, 1)]);
}

#[test]
fn runts_of_heads_are_taken() {
    for (packet, length) in [(v4(900), 1..6), (v6(900), 1..8)] {
        for head in length {
            let mut receiver = Receiver::new();
            receiver
                .take(9, &payload(0, &[&v4(60), &packet[..head]]))
                .unwrap();
            receiver
                .take(10, &payload(900 - head as u16, &[&packet[head..], &v4(44)]))
                .unwrap();
            assert_eq!(receiver.delivered, [v4(60), packet.clone(), v4(44)]);
        }
    }
}

#[test]
fn offsets_that_contradict_the_length_drop_the_packet_and_no_other() {
    for wrong in [1_u16, 599, 601, 2000] {
        let packet = v4(1000);
        let mut receiver = Receiver::new();
        receiver.take(1, &payload(0, &[&packet[..400]])).unwrap();
        receiver
            .take(2, &payload(wrong, &[&packet[400..], &[0; 2000]]))
            .unwrap();
        receiver.take(3, &payload(0, &[&v4(50)])).unwrap();
        assert_eq!(receiver.delivered.last(), Some(&v4(50)));
        assert!(!receiver.delivered.contains(&packet), "offset {wrong}");
        assert!(receiver.drops.read(DropReason::AggfragBadOffset) >= 2);
    }
}

#[test]
fn the_offset_behind_a_pad_is_zero() {
    let mut receiver = Receiver::new();
    receiver.take_all(&pack(1400, &[v4(1500)]));
    receiver.take(3, &payload(0, &[&v4(60), &[0; 9]])).unwrap();
    receiver.take(4, &payload(5, &[&[7; 5], &v4(61)])).unwrap();
    assert_eq!(receiver.delivered, [v4(1500), v4(60), v4(61)]);
    assert_eq!(receiver.happened(), [(DropReason::AggfragBadOffset, 1)]);
}

#[test]
fn nothing_behind_an_unknown_or_impossible_block_is_read() {
    for (bad, reason) in [
        ([0x50, 0, 0, 20], DropReason::AggfragUnknownBlock),
        ([0x45, 0, 0, 0], DropReason::AggfragBadLength),
    ] {
        let mut receiver = Receiver::new();
        receiver
            .take(1, &payload(0, &[&v4(60), &bad, &v4(70)]))
            .unwrap();
        receiver.take(2, &payload(0, &[&v4(80)])).unwrap();
        assert_eq!(receiver.delivered, [v4(60), v4(80)]);
        assert_eq!(receiver.happened(), [(reason, 1)]);
    }
}

#[test]
fn an_offset_into_nothing_is_refused() {
    assert_eq!(
        Receiver::new().take(1, &payload(7, &[])),
        Err(DropReason::AggfragBadOffset)
    );
}

#[test]
fn sub_types_may_change_from_payload_to_payload() {
    let packet = v6(1500);
    let mut pieces = pack(1400, std::slice::from_ref(&packet));
    let (start, blocks) = pieces[1].1.split_at(HEADER);
    let congestion = [&[1, 3], &start[2..], &[0x11; 20], blocks].concat();
    pieces[1].1 = congestion;
    let mut receiver = Receiver::new();
    receiver.take(1, &pieces[0].1).unwrap();
    let told = receiver.take(2, &pieces[1].1).unwrap().unwrap();
    assert!(told.is_probing && told.counts_marks && told.echo == 0x1111_1111);
    assert_eq!(receiver.delivered, [packet]);
}

#[test]
fn a_piece_from_before_the_window_is_late_and_whole_packets_beside_it_still_leave() {
    let mut receiver = Receiver::new();
    let far = 1 + WINDOW as u64;
    receiver.take(far, &payload(0, &[&v4(600)[..100]])).unwrap();
    receiver
        .take(1, &payload(0, &[&v4(60), &v4(600)[..100]]))
        .unwrap();
    assert_eq!(receiver.delivered, [v4(60)]);
    assert_eq!(receiver.happened(), [(DropReason::AggfragLate, 1)]);
    let next = payload(500, &[&v4(600)[100..]]);
    receiver.take(far + 1, &next).unwrap();
    assert_eq!(receiver.delivered.last(), Some(&v4(600)));
}

#[test]
fn the_same_sequence_number_does_not_count_twice() {
    let pieces = pack(1400, &[v4(3000)]);
    let mut receiver = Receiver::new();
    receiver.take_all(&pieces);
    assert_eq!(receiver.take(2, &pieces[1].1), Err(DropReason::Replayed));
    assert_eq!(receiver.delivered.len(), 1);
}

#[test]
fn a_hostile_sender_costs_no_more_than_the_bounds() {
    let budget = Arc::new(Budget::new(4 << 20));
    let mut receivers: Vec<_> = (0..4).map(|_| Receiver::new()).collect();
    for receiver in &mut receivers {
        receiver.reassembler = Reassembler::new(Arc::clone(&budget));
        for sequence in (1..4 * WINDOW as u64).step_by(2) {
            let piece = payload(65_535, &[&vec![1; 60_000 - sequence as usize]]);
            receiver.take(sequence, &piece).unwrap();
            assert!(receiver.reassembler.held() <= MAX_HELD && budget.used() <= 4 << 20);
        }
        assert!(receiver.drops.read(DropReason::AggfragMemory) > 0);
    }
    // Whole packets need no memory.
    receivers[3].take(9999, &payload(0, &[&v4(60)])).unwrap();
    assert_eq!(receivers[3].delivered, [v4(60)]);
    drop(receivers);
    assert_eq!(budget.used(), 0);
}

/// A receiver whose peer holds as much as it can, and keeps it by a payload now and then.
fn greedy(budget: &Arc<Budget>) -> Receiver {
    let mut receiver = Receiver::new();
    receiver.reassembler = Reassembler::new(Arc::clone(budget));
    for sequence in (1..2 * WINDOW as u64).step_by(2) {
        let piece = payload(65_535, &[&vec![1; 9_200]]);
        receiver.take(sequence, &piece).unwrap();
    }
    receiver
}

#[test]
fn hostile_peers_leave_enough_for_others() {
    let budget = Arc::new(Budget::new(MAX_HELD_BY_ALL));
    let mut hostile: Vec<_> = (0..400).map(|_| greedy(&budget)).collect();
    // They are looked after once a second.
    for receiver in &mut hostile {
        receiver.reassembler.expire(SILENCE / 2, &receiver.drops);
    }
    let mut honest = Receiver::new();
    honest.reassembler = Reassembler::new(Arc::clone(&budget));
    honest.take_all(&pack(1_222, &[v4(65_535)]));
    assert!(honest.delivered == [v4(65_535)]);
    assert_eq!(honest.happened(), []);
    // A peer that sheds what it holds goes on with what it sends next.
    let last = hostile.last_mut().unwrap();
    last.take(9_999, &payload(0, &[&v4(60)])).unwrap();
    assert_eq!(last.delivered, [v4(60)]);
    drop((hostile, honest));
    assert_eq!(budget.used(), 0);
}

#[test]
fn in_steady_state_the_buffers_stay_the_same() {
    let packets: Vec<_> = (0..400).map(|_| v4(1500)).collect();
    let mut receiver = Receiver::new();
    let payloads = pack(1442, &packets);
    receiver.take_all(&payloads[..300]);
    let held = receiver.reassembler.held();
    receiver.take_all(&payloads[300..]);
    assert_eq!(receiver.reassembler.held(), held);
    assert!(receiver.delivered == packets);
}

fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (20_usize..200).prop_map(v4),
        4 => (40_usize..3000).prop_map(v6),
        2 => (20_usize..=65_535).prop_map(v4),
    ]
}

proptest! {
    // A case is up to a dozen packets of up to 64 KiB: enough of them take a second.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_packet_leaves_identical_or_not_at_all_in_any_schedule(
        packets in prop::collection::vec(any_packet(), 1..12), room in 474_usize..1500,
        schedule in prop::collection::vec((0_u8..20, 0_usize..70), 1500),
    ) {
        let packets: Vec<_> = packets.into_iter().enumerate().map(|(index, mut packet)| {
            // No two are alike.
            let mark = if packet[0] == 0x45 { 5 } else { 7 };
            packet[mark] = index as u8;
            packet
        }).collect();
        let payloads = pack(room, &packets);
        let mut arrivals = Vec::new();
        for (at, payload) in payloads.iter().enumerate() {
            let (fate, delay) = schedule[at % schedule.len()];
            for copy in 0..match fate { 0 => 0, 1 => 2, _ => 1 } {
                arrivals.push((at + if fate < 6 { delay * (copy + 1) } else { 0 }, payload));
            }
        }
        arrivals.sort_by_key(|arrival| arrival.0);
        let window = ReplayWindow::new(1024, false, 0).unwrap();
        let mut receiver = Receiver::new();
        let (mut touched, mut together) = (vec![false; payloads.len()], Vec::new());
        for (turn, (_, (sequence, payload))) in arrivals.iter().enumerate() {
            let Some(candidate) = window.candidate(*sequence as u32) else { continue };
            if window.accept(candidate).is_some() {
                together.push((candidate, &payload[..]));
                touched[*sequence as usize - 1] = true;
            }
            if together.len() > schedule[turn % schedule.len()].1 % TOGETHER {
                prop_assert!(receiver.sit(&together).iter().all(Result::is_ok));
                together.clear();
            }
        }
        receiver.sit(&together);
        let mut left = packets.clone();
        for delivered in &receiver.delivered {
            let Some(place) = left.iter().position(|packet| packet == delivered) else {
                return Err(TestCaseError::fail("delivered what was not sent, or twice"));
            };
            left.remove(place);
        }
        let late = receiver.drops.read(DropReason::AggfragLate);
        prop_assert!(!touched.iter().all(|&came| came) || late > 0 || left.is_empty(), "nothing was lost");
        prop_assert_eq!(receiver.drops.read(DropReason::AggfragBadOffset), 0);
    }

}

proptest! {
    #[test]
    fn any_payloads_deliver_only_ip_packets_within_the_bounds(
        payloads in prop::collection::vec((1_u64..600, prop_oneof![0_u8..2, any::<u8>()], 0_u16..400, prop::collection::vec(prop_oneof![Just(0_u8), Just(0x45), Just(0x60), 0_u8..60], 0..300)), 1..60),
    ) {
        let mut receiver = Receiver::within(1 << 20);
        for (sequence, sub_type, offset, blocks) in payloads {
            let [high, low] = offset.to_be_bytes();
            let _ = receiver.take(sequence, &[&[sub_type, 0, high, low][..], &blocks].concat());
            prop_assert!(receiver.reassembler.held() <= 1 << 20);
        }
        for packet in &receiver.delivered {
            prop_assert_eq!(Block::of(packet), Ok(Block::Packet(packet.len())));
        }
    }
}
