//! Packets that do not fit, rung by rung, through two engines: what arrives, what is answered, what is counted.

use openmoat_esp::mss::MssBounds;
use openmoat_esp::wire::IpPacket;

use crate::command::{Command, Update};
use crate::events::{Event, flag};
use crate::lab::{Gateway, Options, connect, gateways};
use crate::oracle;
use crate::samples::{is_checksummed, tcp, tcp_super_packet, udp};
use crate::sizes::ladder::{MAX_FRAGMENTED_BURST, Rung, SizeAction};
use crate::sizes::plan::{MtuPlan, OuterDf};

const ROOM: usize = 1_422;

/// Two gateways whose plan has these rungs, and the handle of the first.
fn with_rungs(oversize: &[Rung]) -> (Gateway, Gateway, u32) {
    with_plan(MtuPlan {
        oversize: oversize.to_vec(),
        outer_df: OuterDf::Set,
        ..MtuPlan::default()
    })
}

fn with_plan(plan: MtuPlan) -> (Gateway, Gateway, u32) {
    let (first, second) = gateways();
    let options = Options {
        plan,
        ..Options::default()
    };
    let (handle, _) = connect(&first, &second, &options);
    (first, second, handle)
}

fn size_actions(gateway: &Gateway, handle: u32) -> Vec<(SizeAction, u64)> {
    gateway.engine.read_counters(Some(&[handle]))[0]
        .deeds
        .clone()
}

fn with_df(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] |= 0x40;
    crate::sizes::segment::mend_ipv4_checksum(&mut packet[..20]);
    packet
}

/// Put fragments together again, which must be of one packet and in order.
fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = fragments[0][..20].to_vec();
    for (index, fragment) in fragments.iter().enumerate() {
        let packet = IpPacket::parse(fragment).unwrap();
        assert!(fragment.len() <= ROOM);
        assert_eq!(openmoat_esp::wire::checksum(0, &fragment[..20]), 0);
        assert_eq!(fragment[4..6], whole[4..6]);
        let field = u16::from_be_bytes([fragment[6], fragment[7]]);
        assert_eq!(usize::from(field & 0x1fff) * 8, whole.len() - 20);
        assert_eq!(field & 0xe000 == 0x2000, index + 1 < fragments.len());
        whole.extend(&fragment[packet.next_layer..]);
    }
    let length = (whole.len() as u16).to_be_bytes();
    whole[2..4].copy_from_slice(&length);
    whole[6..8].fill(0);
    crate::sizes::segment::mend_ipv4_checksum(&mut whole[..20]);
    whole
}

#[test]
fn ipv4_without_df_is_fragmented_before_esp_and_with_df_goes_down_the_ladder() {
    let (first, second, handle) = with_rungs(&[Rung::FragmentInner, Rung::Refuse]);
    let packet = udp(false, 53, &[3; 3_000]);
    first.send(packet.clone());
    let fragments: Vec<_> = (0..3).map(|_| second.expect()).collect();
    assert_eq!(reassemble(&fragments), packet);
    first.send(with_df(packet));
    let answer = first.expect();
    assert!(is_checksummed(&answer));
    assert_eq!(answer[12..16], [10, 2, 0, 1]);
    assert_eq!(answer[20..22], [3, 4]);
    assert_eq!(answer[26..28], (ROOM as u16).to_be_bytes());
    let expected = [(SizeAction::FragmentInner, 1), (SizeAction::Refuse, 1)];
    assert_eq!(size_actions(&first, handle), expected);
    assert_eq!(first.drops("too-big"), 1);
}

#[test]
fn ipv6_of_up_to_1280_octets_passes_in_outer_fragments_and_more_is_told_to_be_1280() {
    let (first, second, handle) = with_plan(MtuPlan {
        outer_size: 1_280,
        inner_room: 1_198,
        oversize: vec![Rung::FragmentInner, Rung::MinimumOuter, Rung::Refuse],
        outer_df: OuterDf::Set,
        ..MtuPlan::default()
    });
    let fits = udp(true, 53, &[3; 1_280 - 48]);
    first.send(fits.clone());
    assert_eq!(second.expect(), fits);
    first.send(udp(true, 53, &[3; 1_281 - 48]));
    let answer = first.expect();
    assert!(is_checksummed(&answer));
    assert_eq!((answer[40], &answer[44..48]), (2, &[0, 0, 5, 0][..]));
    let expected = [(SizeAction::MinimumOuter, 1), (SizeAction::Refuse, 1)];
    assert_eq!(size_actions(&first, handle), expected);
}

#[test]
fn only_the_packet_that_does_not_fit_leaves_without_df_outside() {
    let (first, second, handle) = with_rungs(&[Rung::FragmentOuter, Rung::Refuse]);
    second.engine.stop(); // it must not take what is looked at here
    first.send(with_df(udp(false, 53, &[3; 3_000])));
    assert!(!first.sent().unwrap().df);
    first.send(udp(false, 53, &[3; 30]));
    assert!(first.sent().unwrap().df);
    assert_eq!(
        size_actions(&first, handle),
        [(SizeAction::FragmentOuter, 1)]
    );
}

#[test]
fn a_packet_in_outer_fragments_arrives_as_it_was() {
    for is_v6 in [false, true] {
        let (first, second, _) = with_rungs(&[Rung::FragmentOuter, Rung::Refuse]);
        let packet = udp(is_v6, 53, &[3; 60_000]);
        first.send(packet.clone());
        assert_eq!(second.expect(), packet);
    }
}

#[test]
fn beyond_the_identifier_guard_the_next_rung_has_its_turn() {
    let (first, _second, handle) = with_rungs(&[Rung::FragmentOuter, Rung::Refuse]);
    let burst = MAX_FRAGMENTED_BURST as usize;
    for _ in 0..4 * burst {
        first.send(with_df(udp(false, 53, &[3; 1_500])));
    }
    let answer = first.expect();
    assert_eq!(answer[20..22], [3, 4]);
    let taken = size_actions(&first, handle);
    let of = |deed| {
        taken
            .iter()
            .find(|row| row.0 == deed)
            .map_or(0, |row| row.1)
    };
    assert_eq!(of(SizeAction::Guard), of(SizeAction::Refuse));
    assert_eq!(
        of(SizeAction::FragmentOuter) + of(SizeAction::Refuse),
        4 * burst as u64
    );
    assert!(of(SizeAction::FragmentOuter) >= burst as u64);
}

#[test]
fn df_is_ignored_only_where_the_plan_says_so_and_the_daemon_hears_of_it_once() {
    let (first, second, handle) = with_rungs(&[Rung::FragmentInner, Rung::FragmentAnyway]);
    let packet = with_df(udp(false, 53, &[3; 3_000]));
    let mut identifications = Vec::new();
    for _ in 0..2 {
        first.send(packet.clone());
        let fragments: Vec<_> = (0..3).map(|_| second.expect()).collect();
        let mut whole = reassemble(&fragments);
        identifications.push([whole[4], whole[5]]);
        whole[4..8].copy_from_slice(&packet[4..8]);
        assert_eq!(whole[20..], packet[20..]);
        assert_eq!(whole[12..20], packet[12..20]);
    }
    // Those of packets with DF may all be the same: fragments must not be taken for those of another packet.
    assert_ne!(identifications[0], identifications[1]);
    assert_eq!(
        size_actions(&first, handle),
        [(SizeAction::FragmentAnyway, 2)]
    );
    let told = first.engine.drain(100);
    let ignored = |event: &&Event| matches!(event, Event::State { flags, .. } if flags & flag::DF_IGNORED != 0);
    assert_eq!(told.iter().filter(ignored).count(), 1);
}

#[test]
fn segments_of_a_super_packet_that_do_not_fit_are_fragmented_each() {
    let (first, second, handle) = with_rungs(&[Rung::FragmentInner, Rung::Refuse]);
    let (vnet, octets) = tcp_super_packet(false, 1_448, 10_000);
    let segments = oracle::cut(&vnet, &octets);
    first.tun.send([(vnet, octets)]);
    for segment in &segments {
        let count = if segment.len() > ROOM { 2 } else { 1 };
        let fragments: Vec<_> = (0..count).map(|_| second.expect()).collect();
        assert_eq!(&reassemble(&fragments), segment);
    }
    let all = segments.len() as u64;
    assert_eq!(
        size_actions(&first, handle),
        [(SizeAction::FragmentInner, all)]
    );
}

#[test]
fn the_mss_of_a_syn_is_lowered_both_ways_and_counted_at_both_ends() {
    let mss = MssBounds {
        v4: Some(1_200),
        v6: None,
    };
    let (first, second, handle) = with_plan(MtuPlan {
        mss,
        ..MtuPlan::default()
    });
    let (vnet, packet) = tcp(false, 2, &[2, 4, 0x05, 0xb4], &[]);
    first.send_super(vnet, &packet);
    let got = second.expect();
    assert!(is_checksummed(&got));
    assert_eq!(got[42..44], 1_200_u16.to_be_bytes());
    assert_eq!(size_actions(&first, handle), [(SizeAction::Clamp, 1)]);
}

#[test]
fn the_mss_of_a_syn_from_a_peer_that_clamps_nothing_is_lowered_on_its_way_in() {
    let (first, second) = gateways();
    let options = Options::default();
    let (ours, theirs) = connect(&first, &second, &options);
    let plan = MtuPlan {
        mss: MssBounds {
            v4: Some(1_200),
            v6: Some(1_180),
        },
        ..MtuPlan::default()
    };
    let update = Update {
        handle: theirs,
        plan: Some(plan),
        ..Update::default()
    };
    second.apply(vec![Command::Update(Box::new(update))]);
    for (is_v6, expected) in [(false, 1_200_u16), (true, 1_180)] {
        let (vnet, packet) = tcp(is_v6, 0x12, &[2, 4, 0x05, 0xb4], &[]);
        first.send_super(vnet, &packet);
        let got = second.expect();
        assert!(is_checksummed(&got));
        let at = if is_v6 { 62 } else { 42 };
        assert_eq!(got[at..at + 2], expected.to_be_bytes());
    }
    assert_eq!(size_actions(&second, theirs), [(SizeAction::Clamp, 2)]);
    assert_eq!(size_actions(&first, ours), []);
}
