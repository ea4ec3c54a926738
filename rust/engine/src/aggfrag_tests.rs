//! AGGFRAG (RFC 9347) from one engine to the other: whatever goes in comes out octet for octet, or not at all.

use std::collections::{HashMap, HashSet};

use std::time::Duration;

use openmoat_esp::aggfrag::NEXT_HEADER;
use openmoat_esp::drops::DropReason;
use openmoat_esp::meter::Limits;
use openmoat_esp::reassembly::SILENCE;
use openmoat_esp::sa::{OutboundSa, SaConfig};
use openmoat_esp::spd::{Action, Missing};
use openmoat_io::VnetHeader;
use openmoat_io::memory::Datagram;
use proptest::prelude::*;

use crate::command::Command;
use crate::config::Config;
use crate::counters::Counters;
use crate::lab::{Gateway, Options, WAYS, connect, gateways, gateways_with, keys, with_offloads};
use crate::oracle;
use crate::samples::{back, ip, tcp_super_packet, udp, udp_super_packet};
use crate::sizes::ladder::Rung;
use crate::sizes::plan::{Framing, MtuPlan, OuterDf};
use crate::tables::sa_counters::SaCounter;

/// A plan for an outer path that leaves so much room for data blocks.
fn plan(room: usize) -> MtuPlan {
    MtuPlan {
        framing: Framing::Aggfrag,
        slices: true,
        outer_size: room + 66,
        inner_room: room,
        outer_df: OuterDf::Set,
        oversize: vec![],
        ..MtuPlan::default()
    }
}

/// What an outer path of 1280 octets leaves.
const ROOM: usize = 1214;

fn options() -> Options {
    Options {
        plan: plan(ROOM),
        ..Options::default()
    }
}

/// A packet of `size` octets that is told from others by `number`, and is joined with none.
fn numbered(is_v6: bool, number: usize, size: usize) -> Vec<u8> {
    let header = if is_v6 { 40 } else { 20 };
    let payload: Vec<u8> = (header..size).map(|at| (at * 7 + number) as u8).collect();
    let mut packet = ip(is_v6, 253, &payload);
    if is_v6 {
        // In the flow label: a header alone must be told from others, too.
        packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&(number as u16).to_be_bytes());
        crate::sizes::segment::mend_ipv4_checksum(&mut packet[..20]);
    }
    packet
}

fn send_all(gateway: &Gateway, packets: &[Vec<u8>]) {
    let packets = packets.iter().cloned();
    gateway
        .tun
        .send(packets.map(|packet| (VnetHeader::default(), packet)));
}

#[test]
fn packets_of_every_size_and_family_come_out_as_they_went_in() {
    for offloads in WAYS {
        with_offloads(offloads, || {
            for (is_udp, suite) in [(true, "aes128gcm16"), (false, "aes256-sha512")] {
                let (first, second) = gateways();
                let options = Options {
                    suite,
                    is_udp,
                    ..options()
                };
                connect(&first, &second, &options);
                let sizes = [
                    40, 41, 1_213, 1_214, 1_215, 1_500, 2_428, 9_000, 65_534, 65_535,
                ];
                let packets: Vec<_> = (0..40)
                    .map(|n| numbered(n % 3 == 0, n, sizes[n * 7 % sizes.len()]))
                    .collect();
                send_all(&first, &packets);
                for packet in &packets {
                    assert_eq!(&second.expect(), packet);
                }
                second.send(back(packets[3].clone()));
                assert_eq!(first.expect(), back(packets[3].clone()));
            }
        });
    }
}

#[test]
fn super_packets_are_cut_at_their_own_size_and_their_segments_packed() {
    for offloads in WAYS {
        with_offloads(offloads, || {
            for is_v6 in [false, true] {
                let (first, second) = gateways();
                connect(&first, &second, &options());
                for (vnet, octets) in [
                    tcp_super_packet(is_v6, 1_448, 60_000),
                    tcp_super_packet(is_v6, 9_000, 60_001),
                    udp_super_packet(is_v6, 100, 5_000),
                ] {
                    first.send_super(vnet, &octets);
                    let segments = oracle::cut(&vnet, &octets);
                    let mut got = Vec::new();
                    while got.len() < segments.len() {
                        let (vnet, octets) = second.receive().unwrap();
                        got.extend(oracle::cut(&vnet, &octets));
                    }
                    assert_eq!(got, segments);
                }
            }
        });
    }
}

/// A pair of each of two engines between which the test is the network.
struct Apart {
    first: Gateway,
    second: Gateway,
    handles: (u32, u32),
    /// Kept, as the sockets of the others end in them.
    _far: (Gateway, Gateway),
}

impl Apart {
    fn new(options: &Options) -> Self {
        let ((first, far), (near, second)) = (gateways(), gateways());
        let handles = connect(&first, &second, options);
        Self {
            first,
            second,
            handles,
            _far: (near, far),
        }
    }

    /// Let the first engine carry all these, and end its pair: the sealed packets, one by one, and what it counted.
    fn send(&self, packets: &[Vec<u8>]) -> (Vec<Datagram>, Counters) {
        send_all(&self.first, packets);
        self.first.work();
        let handle = self.handles.0;
        let counters = self.first.apply(vec![Command::Remove(handle)]).remove(0);
        let mut sealed = Vec::new();
        while sealed.len() < counters[SaCounter::OutboundSequence] as usize {
            sealed.extend(split(&self.first.sent().unwrap()));
        }
        (sealed, counters)
    }

    /// Let the second engine receive these at once, and end its pair: the packets that came out, and what it counted.
    fn receive(&self, sealed: Vec<Datagram>) -> (Vec<Vec<u8>>, Counters) {
        self.second.udp.deliver_all(sealed);
        self.second.work();
        let counters = self.second.apply(vec![Command::Remove(self.handles.1)]);
        let mut got = Vec::new();
        while let Some((vnet, octets)) = self.second.tun.receive() {
            got.extend(oracle::cut(&vnet, &octets));
        }
        (got, counters.into_iter().next().unwrap())
    }
}

/// Packets and octets that left.
fn outbound(counters: &Counters) -> (u64, u64) {
    (
        counters[SaCounter::OutboundPackets],
        counters[SaCounter::OutboundOctets],
    )
}

/// Packets that left whole beside others, that left in slices, and slices.
fn packed(counters: &Counters) -> (u64, u64, u64) {
    (
        counters[SaCounter::OutboundPacked],
        counters[SaCounter::OutboundSliced],
        counters[SaCounter::OutboundSlices],
    )
}

fn split(datagram: &Datagram) -> Vec<Datagram> {
    let segment = match datagram.segment {
        0 => datagram.octets.len(),
        segment => segment,
    };
    let pieces = datagram.octets.chunks(segment);
    let piece = |octets: &[u8]| Datagram {
        octets: octets.to_vec(),
        segment: 0,
        ..datagram.clone()
    };
    pieces.map(piece).collect()
}

#[test]
fn outer_packets_are_of_one_size_and_show_nothing_of_inner_ones() {
    let apart = Apart::new(&options());
    let mut packets: Vec<_> = (0..30).map(|n| numbered(n % 2 == 0, n, 1_500)).collect();
    for packet in packets.iter_mut().filter(|packet| packet[0] == 0x45) {
        packet[1] = 0xb9; // expedited, and capable of ECN
    }
    let (sealed, counters) = apart.send(&packets);
    let size = sealed[0].octets.len();
    assert!(sealed.iter().rev().skip(1).all(|s| s.octets.len() == size));
    assert!(sealed.iter().all(|s| s.df && s.tos == 0));
    // 45 000 octets in payloads of 1214: all but the last one full.
    assert_eq!(sealed.len(), 45_000_usize.div_ceil(ROOM));
    assert_eq!(outbound(&counters), (30, 45_000));
    let (packed, sliced, slices) = packed(&counters);
    assert_eq!((packed, sliced), (0, 30));
    assert!(slices >= 60);
    let (got, counters) = apart.receive(sealed);
    assert_eq!(got, packets);
    assert_eq!(
        (
            counters[SaCounter::InboundPackets],
            counters[SaCounter::InboundOctets]
        ),
        (30, 45_000)
    );
    assert_eq!(
        (counters[SaCounter::InboundAssembled], counters.drops),
        (30, vec![])
    );
}

#[test]
fn small_packets_that_wait_together_travel_together_and_alone_when_alone() {
    let apart = Apart::new(&options());
    let packets: Vec<_> = (0..24).map(|n| numbered(false, n, 50)).collect();
    let (sealed, counters) = apart.send(&packets);
    assert_eq!((sealed.len(), packed(&counters)), (1, (24, 0, 0)));
    assert_eq!(apart.receive(sealed).0, packets);

    let (first, second) = gateways();
    let (handle, _) = connect(&first, &second, &options());
    for packet in &packets {
        first.send(packet.clone());
        assert_eq!(&second.expect(), packet);
    }
    let counters = &first.engine.read_counters(Some(&[handle]))[0];
    assert_eq!(counters[SaCounter::OutboundSequence], 24);
    assert_eq!(packed(counters), (0, 0, 0));
}

#[test]
fn packets_of_two_sas_that_come_by_turns_are_packed_all_the_same() {
    let (first, second) = gateways();
    let handles = [true, false].map(|is_v6| connect_family(&first, &second, is_v6));
    first.begin();
    second.begin();
    let packets: Vec<_> = (0..192).map(|n| numbered(n % 2 == 0, n, 60)).collect();
    send_all(&first, &packets);
    let got: Vec<_> = packets.iter().map(|_| second.expect()).collect();
    for is_v6 in [false, true] {
        let of = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let own = packets.iter().filter(|p| (p[0] >> 4 == 6) == is_v6);
            own.cloned().collect()
        };
        assert_eq!(of(&got), of(&packets));
    }
    let counters = first.engine.read_counters(Some(&handles));
    let payloads: u64 = counters
        .iter()
        .map(|c| c[SaCounter::OutboundSequence])
        .sum();
    // The first batch shows that they come mixed; each of the others needs two payloads for each SA.
    assert!((66..=72).contains(&payloads), "{payloads} payloads");
}

/// A pair for one family on each side, of one policy; answers the handle of the first.
fn connect_family(first: &Gateway, second: &Gateway, is_v6: bool) -> u32 {
    let (ours, theirs) = (
        first.engine.reserve_spis(1)[0],
        second.engine.reserve_spis(1)[0],
    );
    for (gateway, inbound, outbound) in [(first, ours, theirs), (second, theirs, ours)] {
        let mut halves = [
            gateway.add_inbound(inbound, &options()),
            gateway.add_outbound(inbound, outbound, &options()),
        ];
        for half in &mut halves {
            let selectors = match half {
                Command::AddInbound(half) => &mut half.selectors,
                Command::AddOutbound(half) => &mut half.selectors,
                _ => continue,
            };
            // The lab has the one of IPv4 first.
            let place = usize::from(is_v6);
            selectors.local = [selectors.local[place]].into();
            selectors.remote = [selectors.remote[place]].into();
        }
        gateway.apply(vec![gateway.policy(Action::Protect, Missing::Drop)]);
        gateway.apply(halves.into());
        gateway.apply(vec![Command::Activate(inbound)]);
    }
    ours
}

#[test]
fn a_packet_that_fits_alone_is_never_sliced() {
    let apart = Apart::new(&options());
    let packets: Vec<_> = (0..20).map(|n| numbered(false, n, 900)).collect();
    let (sealed, counters) = apart.send(&packets);
    assert_eq!((sealed.len(), packed(&counters)), (20, (0, 0, 0)));
}

#[test]
fn a_peer_that_takes_no_slices_gets_whole_packets_and_what_the_rungs_say() {
    let refusing = MtuPlan {
        slices: false,
        oversize: vec![Rung::Refuse],
        ..plan(ROOM)
    };
    let options = |plan: MtuPlan| Options {
        plan,
        ..Options::default()
    };
    let apart = Apart::new(&options(refusing.clone()));
    let packets = [50, ROOM + 1, 50, ROOM, 60].map(|size| numbered(false, size, size));
    let (sealed, counters) = apart.send(&packets);
    assert_eq!((sealed.len(), packed(&counters)), (3, (2, 0, 0)));
    assert_eq!(counters.drops, [(DropReason::TooBig, 1)]);
    let (got, _) = apart.receive(sealed);
    assert_eq!(got, [0, 2, 3, 4].map(|at| packets[at].clone()));

    let fragmenting = MtuPlan {
        oversize: vec![Rung::FragmentOuter],
        ..refusing
    };
    let apart = Apart::new(&options(fragmenting));
    let (sealed, counters) = apart.send(&packets);
    assert_eq!((sealed.len(), counters[SaCounter::OutboundPackets]), (5, 5));
    let large = |sealed: &&Datagram| sealed.octets.len() > ROOM + 66;
    assert!(sealed.iter().filter(large).all(|sealed| !sealed.df));
    assert_eq!(apart.receive(sealed).0, packets);
}

#[test]
fn several_workers_keep_the_slices_of_a_packet_together() {
    let (first, second) = gateways_with(Config::default(), 2);
    connect(&first, &second, &options());
    let packets: Vec<_> = (0..400).map(|n| numbered(n % 3 == 0, n, 1_500)).collect();
    for (queue, half) in first.queues.iter().zip(packets.chunks(200)) {
        let half = half.iter().cloned();
        queue.send(half.map(|packet| (VnetHeader::default(), packet)));
    }
    let mut got = Vec::new();
    while got.len() < packets.len() {
        got.push(second.expect());
    }
    let (mut got, mut sent) = (got, packets);
    got.sort();
    sent.sort();
    assert_eq!(got, sent);
    assert!(second.engine.read_drops().is_empty());
}

#[test]
fn no_packet_lies_half_in_one_sa_and_half_in_the_next() {
    let (first, second) = gateways();
    let old = connect(&first, &second, &options());
    let packets: Vec<_> = (0..300).map(|n| numbered(false, n, 3_000)).collect();
    for (number, packet) in packets.iter().enumerate() {
        if number % 100 == 50 {
            connect(&first, &second, &options()); // a rekey: new pairs of the same policy
        }
        first.send(packet.clone());
    }
    for packet in &packets {
        assert_eq!(&second.expect(), packet);
    }
    let last = second.apply(vec![Command::Remove(old.1)]);
    assert_eq!(last[0].drops, []);
}

#[test]
fn a_packet_is_begun_only_where_limits_let_it_be_ended() {
    let limits = Limits {
        hard_octets: 20_000,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..options()
    };
    let apart = Apart::new(&options);
    let packets = [9_000, 9_000, 9_000, 100].map(|size| numbered(false, size, size));
    let (sealed, counters) = apart.send(&packets);
    assert_eq!(outbound(&counters), (3, 18_100));
    assert_eq!(counters.drops, [(DropReason::HardLimit, 1)]);
    let (got, counters) = apart.receive(sealed);
    assert_eq!((got.len(), counters.drops), (3, vec![]));
}

#[test]
fn what_waits_for_the_rest_of_its_packet_is_dropped_after_a_second() {
    let apart = Apart::new(&options());
    let (sealed, _) = apart.send(&[numbered(false, 1, 3_000)]);
    apart.second.udp.deliver(sealed[0].clone());
    let is_dropped = || {
        apart.second.work();
        apart.second.drops("aggfrag-incomplete") == 1
    };
    assert!(!is_dropped());
    apart.second.advance(Duration::from_nanos(SILENCE - 1));
    assert!(!is_dropped());
    apart.second.advance(Duration::from_nanos(1));
    assert!(is_dropped());
}

#[path = "aggfrag_peer_tests.rs"]
mod peer;
