use openmoat_esp::meter::Limits;
use openmoat_esp::spd::{Action, Missing};
#[cfg(feature = "unsealed")]
use openmoat_io::memory::Datagram;
use openmoat_io::{GsoType, Offloads, VnetHeader};

use std::time::Duration;

use super::*;
use crate::events::flag;
use crate::lab::{Gateway, Options, POLICY, connect, gateways, offloads};
use crate::oracle;
use crate::samples::{back, is_checksummed, tcp_super_packet, udp, udp_super_packet};
use crate::sizes::plan::{Framing, MtuPlan};
use crate::sizes::suspicion::SILENCE;
use crate::tables::sa_counters::SaCounter;

/// A packet more, which arrives.
fn send_last(from: &Gateway, to: &Gateway) {
    let last = udp(false, 9_999, b"last");
    let last = if from.net == 1 { last } else { back(last) };
    from.send(last.clone());
    while to.expect() != last {}
}

#[test]
fn large_packets_that_nobody_answers_are_told_of_and_not_told_twice() {
    for framing in [Framing::Whole, Framing::Aggfrag] {
        let (first, second) = gateways();
        let plan = MtuPlan {
            framing,
            slices: framing == Framing::Aggfrag,
            watch_above: Some(1_000),
            ..MtuPlan::default()
        };
        connect(
            &first,
            &second,
            &Options {
                plan,
                ..Options::default()
            },
        );
        let suspected = || {
            let is_suspect = |event: &&Event| matches!(event, Event::State { flags, .. } if flags & flag::SUSPECT != 0);
            first.events().iter().filter(is_suspect).count()
        };
        let large = udp(false, 7, &[0; 1_200]);
        let send = || {
            first.send(large.clone());
            second.expect();
        };
        send();
        first.advance(Duration::from_nanos(SILENCE - 1));
        send();
        assert_eq!(suspected(), 0);
        first.advance(Duration::from_nanos(1));
        send();
        assert_eq!(suspected(), 1);
        send();
        // Another flag that is told does not bring it back.
        second.send(back(udp(false, 7, b"at last")));
        first.expect();
        assert_eq!(suspected(), 0);
    }
}

fn to_and_fro(first: &Gateway, second: &Gateway, packet: Vec<u8>) {
    first.send(packet.clone());
    assert_eq!(second.expect(), packet);
    second.send(back(packet.clone()));
    assert_eq!(first.expect(), back(packet));
}

#[test]
fn packets_go_both_ways_in_every_carriage_family_and_suite() {
    let suites = [
        "aes128gcm16",
        "aes256gcm16",
        "chacha20poly1305",
        "aes128-sha256",
        "aes256-sha512",
        "null-aes128gmac",
    ];
    for (is_udp, suite) in suites.map(|suite| [(false, suite), (true, suite)]).concat() {
        for has_esn in [false, true] {
            let (first, second) = gateways();
            let (ours, theirs) = connect(
                &first,
                &second,
                &Options {
                    suite,
                    is_udp,
                    has_esn,
                    ..Options::default()
                },
            );
            for is_v6 in [false, true] {
                to_and_fro(&first, &second, udp(is_v6, 53, suite.as_bytes()));
            }
            let counters = &first.engine.read_counters(Some(&[ours]))[0];
            let rows = [
                SaCounter::InboundPackets,
                SaCounter::OutboundPackets,
                SaCounter::InboundSequence,
                SaCounter::OutboundSequence,
            ];
            assert_eq!(rows.map(|row| counters[row]), [2; 4]);
            assert!(counters.drops.is_empty());
            assert_eq!(second.engine.read_counters(None)[0].handle, theirs);
        }
    }
}

#[test]
fn batches_of_64_and_more_arrive_whole_and_in_order() {
    let (first, second) = gateways();
    connect(&first, &second, &Options::default());
    let packets: Vec<Vec<u8>> = (0..1_000_u16)
        .map(|n| udp(n % 2 == 0, n, &vec![7; usize::from(n)]))
        .collect();
    first.tun.send(
        packets
            .iter()
            .map(|packet| (VnetHeader::default(), packet.clone())),
    );
    for packet in &packets {
        assert_eq!(&second.expect(), packet);
    }
}

#[test]
fn super_packets_are_cut_at_their_own_size_and_never_smaller() {
    for is_v6 in [false, true] {
        let (first, second) = gateways();
        second.tun.refuse_super_packets();
        connect(&first, &second, &Options::default());
        let (headers, payload) = (if is_v6 { 72 } else { 52 }, 60_000);
        let (vnet, octets) = tcp_super_packet(is_v6, 1_300, payload);
        first.send_super(vnet, &octets);
        let mut sum: Vec<u8> = Vec::new();
        let segments = payload.div_ceil(1_300);
        for index in 0..segments {
            let segment = second.expect();
            assert!(is_checksummed(&segment));
            assert!(
                segment.len() == headers + 1_300 || index + 1 == segments,
                "segment {index}"
            );
            sum.extend(&segment[headers..]);
        }
        assert_eq!(sum, octets[headers..]);

        let (vnet, octets) = udp_super_packet(is_v6, 900, 10_000);
        first.send_super(vnet, &octets);
        assert!((0..12).all(|_| is_checksummed(&second.expect())));
    }
}

#[test]
fn a_super_packet_comes_out_as_one_with_the_same_segments() {
    for is_v6 in [false, true] {
        let (first, second) = gateways();
        connect(&first, &second, &Options::default());
        let (vnet, mut octets) = tcp_super_packet(is_v6, 1_300, 30_000);
        octets[if is_v6 { 53 } else { 33 }] &= !0x80; // without CWR, which stands alone
        first.send_super(vnet, &octets);
        if !offloads().tun_tso {
            for segment in oracle::cut(&vnet, &octets) {
                assert_eq!(second.expect(), segment);
            }
            continue;
        }
        let (got, super_packet) = second.receive().unwrap();
        assert_eq!(
            (got.gso_size, got.gso_type, got.needs_checksum),
            (1_300, vnet.gso_type, true)
        );
        assert_eq!(super_packet, octets);
        let (vnet, octets) = udp_super_packet(is_v6, 1_200, 11_000);
        first.send_super(vnet, &octets);
        let (got, super_packet) = second.receive().unwrap();
        assert_eq!((got.gso_size, got.gso_type), (1_200, GsoType::Udp));
        assert_eq!(super_packet, octets);
    }
}

#[test]
fn neighbours_of_one_size_travel_as_one_datagram() {
    let (first, second) = gateways();
    let (handle, _) = connect(&first, &second, &Options::default());
    let (vnet, octets) = tcp_super_packet(false, 1_300, 60_000);
    let taken = {
        // The far engine must not read what is looked at here.
        second.engine.stop();
        first.send_super(vnet, &octets);
        first.sent().unwrap()
    };
    let size = if taken.segment == 0 {
        taken.octets.len()
    } else {
        taken.segment
    };
    let datagrams = taken.octets.len().div_ceil(size);
    if offloads().udp_gso {
        assert_eq!(datagrams, 60_000_usize.div_ceil(1_300));
    } else {
        assert_eq!((datagrams, taken.segment), (1, 0));
        (1..47).for_each(|_| assert_eq!(first.sent().unwrap().segment, 0));
    }
    assert_eq!(
        first.engine.read_counters(Some(&[handle]))[0][SaCounter::OutboundSequence],
        47
    );
}

#[test]
fn packets_of_no_policy_and_outside_an_sa_are_dropped_by_name() {
    let (first, second) = gateways();
    connect(&first, &second, &Options::default());
    first.send(back(udp(false, 53, b"wrong way")));
    first.send(vec![0x45; 10]);
    let mut report = udp(true, 53, b"I am here");
    report[24..40].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16]);
    first.send(report);
    send_last(&first, &second);
    assert_eq!(
        ["no-policy", "malformed-inner", "not-unicast"].map(|name| first.drops(name)),
        [1, 1, 1]
    );
    // A peer whose selectors are wider than ours.
    let (ours, theirs) = (
        first.engine.reserve_spis(1)[0],
        second.engine.reserve_spis(1)[0],
    );
    let options = Options::default();
    second.apply(vec![
        second.add_inbound(theirs, &options),
        second.add_outbound(theirs, ours, &options),
    ]);
    assert_eq!(second.drops("outside-selectors"), 0);
}

#[test]
fn a_silent_path_is_kept_open_once_for_all_its_pairs() {
    let options = Options {
        keepalive: 1_000_000,
        ..Options::default()
    };
    let (gateway, _) = gateways();
    for spi in gateway.engine.reserve_spis(3) {
        gateway.apply(vec![
            gateway.add_inbound(spi, &options),
            gateway.add_outbound(spi, spi, &options),
        ]);
    }
    gateway.begin();
    assert_eq!(gateway.sent(), None);
    gateway.advance(Duration::from_secs(1));
    let sent = gateway.sent().unwrap();
    assert_eq!(
        (sent.octets, sent.destination),
        (vec![0xff], "192.0.2.2:4500".parse().unwrap())
    );
    assert_eq!(gateway.sent(), None);
}

#[test]
fn a_stopped_engine_has_no_pairs_and_takes_no_commands() {
    let (first, second) = gateways();
    connect(&first, &second, &Options::default());
    first.engine.stop();
    assert!(first.engine.read_counters(None).is_empty());
    assert!(matches!(
        first.engine.apply(vec![]),
        Err(EngineError::IsStopped)
    ));
    assert!(matches!(first.engine.start(), Err(EngineError::IsStopped)));
}

#[cfg(feature = "unsealed")]
#[test]
fn packets_in_clear_are_believed_only_by_an_engine_that_seals_nothing() {
    for seals in [false, true] {
        let (first, second) = crate::lab::gateways_of(Config {
            seals,
            ..Config::default()
        });
        let (_, theirs) = connect(&first, &second, &Options::default());
        let packet = udp(false, 53, b"in clear");
        let mut octets = vec![0; 16];
        octets[..4].copy_from_slice(&theirs.to_be_bytes());
        octets[7] = 9;
        octets.extend(&packet);
        octets.extend([1, 2, 2, 4]);
        octets.resize(octets.len() + 16, 0);
        second.udp.deliver(Datagram {
            octets,
            segment: 0,
            source: first.outer(4500),
            destination: second.outer(4500),
            tos: 0,
            df: false,
        });
        if !seals {
            assert_eq!(second.expect(), packet);
        }
        send_last(&first, &second);
        assert_eq!(second.drops("bad-icv"), u64::from(seals));
    }
}

#[test]
fn each_offload_is_told_with_the_reason_why_it_is_off() {
    let off = "off: by configuration";
    for (way, wanted) in crate::lab::WAYS.iter().zip([
        ["on", "on", "on", "on"],
        [off; 4],
        ["on", "on", off, off],
        [off, off, "on", "on"],
    ]) {
        crate::lab::with_offloads(*way, || {
            let (gateway, _) = gateways();
            assert!(gateway.engine.read_offloads().is_empty(), "not asked yet");
            gateway.begin();
            let told = gateway.engine.read_offloads();
            let names = ["tun-tso", "tun-uso", "udp-gso", "udp-gro"];
            assert_eq!(names.map(|name| told[name].as_str()), wanted);
        });
    }
    crate::lab::with_offloads(Offloads::ALL, || {
        let (gateway, _) = gateways();
        gateway.tun.refuse_super_packets();
        gateway.begin();
        let told = gateway.engine.read_offloads();
        let wanted = "off: the kernel refuses it: a kernel without it";
        assert_eq!(told["tun-uso"], wanted);
    });
}

/// Tests once more with fewer offloads: whatever is off, the packets are the same.
macro_rules! again {
    ($($test:ident),+ $(,)?) => {
        again!(@ without_offloads 1 $($test)+);
        again!(@ with_those_of_the_device 2 $($test)+);
        again!(@ with_those_of_the_sockets 3 $($test)+);
    };
    (@ $way:ident $number:literal $($test:ident)+) => {
        mod $way { $(
            #[test]
            fn $test() {
                crate::lab::with_offloads(crate::lab::WAYS[$number], super::$test);
            }
        )+ }
    };
}

again!(
    packets_go_both_ways_in_every_carriage_family_and_suite,
    batches_of_64_and_more_arrive_whole_and_in_order,
    super_packets_are_cut_at_their_own_size_and_never_smaller,
    a_super_packet_comes_out_as_one_with_the_same_segments,
    neighbours_of_one_size_travel_as_one_datagram,
    packets_of_no_policy_and_outside_an_sa_are_dropped_by_name,
    a_silent_path_is_kept_open_once_for_all_its_pairs,
    a_stopped_engine_has_no_pairs_and_takes_no_commands,
);

#[path = "engine_command_tests.rs"]
mod commands;
