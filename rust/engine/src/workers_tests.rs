//! Several workers, and what a flood of data does to IKE.

use openmoat_io::memory::{Datagram, MemorySocket, MemoryTun};
use openmoat_io::{BATCH, SocketKind, TunDevice, VnetHeader};

use openmoat_esp::drops::DropReason;

use super::*;
use crate::command::Command;
use crate::config::Config;
use crate::intake::RESTLESS;
use crate::lab::{Gateway, Options, gateways_with, install};
use crate::samples::udp;
use crate::stepper::Stepper;
use crate::tables::sa_counters::SaCounter;

/// Longer than threads need: a test that waits so long fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Install a tunnel and start the threads of both ends.
fn start_both(first: &Gateway, second: &Gateway) -> (u32, u32) {
    let handles = install(first, second, &Options::default());
    first.engine.start().unwrap();
    second.engine.start().unwrap();
    handles
}

/// The same of the first end: nobody takes what it sends.
fn start_first(first: &Gateway, second: &Gateway) {
    install(first, second, &Options::default());
    first.engine.start().unwrap();
}

const WORKERS: usize = 3;

/// The sequence numbers of the ESP packets in a datagram.
fn numbers(datagram: &Datagram) -> Vec<u32> {
    let segment = match datagram.segment {
        0 => datagram.octets.len(),
        segment => segment,
    };
    datagram
        .octets
        .chunks(segment)
        .map(|packet| u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]))
        .collect()
}

#[test]
fn numbers_of_an_sa_that_workers_share_leave_in_order() {
    let (first, second) = gateways_with(Config::default(), WORKERS);
    start_first(&first, &second);
    let each = 40 * BATCH;
    for tun in &first.queues {
        let packets = (0..each).map(|_| (VnetHeader::default(), udp(false, 53, b"in order")));
        tun.send(packets);
    }
    let mut last = 0;
    while last < (WORKERS * each) as u32 {
        let datagram = first.udp.take_sent(PATIENCE).unwrap();
        for number in numbers(&datagram) {
            assert_eq!(number, last + 1, "the number after it left before it");
            last = number;
        }
    }
}

#[test]
fn every_worker_writes_what_it_receives_to_its_own_queue() {
    let (first, second) = gateways_with(Config::default(), WORKERS);
    start_both(&first, &second);
    let packet = udp(false, 53, b"to the first");
    first.queues[WORKERS - 1].send([(VnetHeader::default(), packet.clone())]);
    let arrived = second.queues[0].receive_within(PATIENCE).unwrap();
    assert_eq!(
        arrived.1, packet,
        "there is one UDP socket: it is the first worker's"
    );
}

#[test]
fn ike_waits_for_no_more_than_a_batch_of_a_flood() {
    let natt = || {
        MemorySocket::pair(SocketKind::Udp { port: 4500 }, false)
            .unwrap()
            .0
    };
    let (data, ike) = (Arc::new(natt()), Arc::new(natt()));
    let sockets: Vec<Arc<dyn OuterSocket>> = vec![data.clone(), ike.clone()];
    let tun: Arc<dyn TunDevice> = Arc::new(MemoryTun::new().unwrap());
    let (parts, _) = Parts::new(vec![tun], sockets, Config::default()).unwrap();
    let mut stepper = Stepper::new(&parts);
    let datagram = |octets: Vec<u8>| Datagram {
        octets,
        segment: 0,
        source: ([192, 0, 2, 9], 4500).into(),
        destination: ([192, 0, 2, 1], 4500).into(),
        tos: 0,
        df: false,
    };
    for _ in 0..100 * BATCH {
        data.deliver(datagram(vec![0xaa; 100]));
    }
    let flood = || parts.drops.read(DropReason::UnknownSpi);
    for rounds in 1..=10 {
        // It comes in the midst of the flood, and is there after the very next round.
        ike.deliver(datagram(vec![0; 4 + 28]));
        stepper.step(rounds);
        assert_eq!(parts.ike.receive(10).len(), 1);
        assert_eq!(flood(), rounds * BATCH as u64);
    }
}

#[test]
fn a_thread_without_rest_lets_the_other_read() {
    let mut load = Load::default();
    let rounds = |load: &mut Load, rests: &[bool]| {
        rests
            .iter()
            .map(|has_rested| load.is_too_much(*has_rested, true))
            .collect::<Vec<_>>()
    };
    let restless = vec![false; RESTLESS as usize];
    let (last, before) = restless.split_last().unwrap();
    assert!(!rounds(&mut load, before).contains(&true));
    assert!(!load.is_too_much(false, false), "nothing to hand over");
    assert!(load.is_too_much(*last, true));
    assert!(!rounds(&mut load, before).contains(&true), "counted anew");
    assert!(!rounds(&mut load, &[true, false]).contains(&true));
}

#[test]
fn packets_leave_in_order_whoever_reads_them() {
    let (first, second) = gateways_with(Config::default(), 1);
    start_first(&first, &second);
    let (mut sent, mut last) = (0, 0);
    // Floods make the outbound thread take over; single packets that are waited for make it give back.
    for count in [1, 200 * BATCH, 1, 200 * BATCH, 1, 1] {
        let packets =
            (0..count).map(|_| (VnetHeader::default(), udp(false, 53, b"one after another")));
        first.queues[0].send(packets);
        sent += count as u32;
        while last < sent {
            for number in numbers(&first.udp.take_sent(PATIENCE).unwrap()) {
                assert_eq!(number, last + 1);
                last = number;
            }
        }
    }
}

#[test]
fn final_counters_are_exact_under_load() {
    let (first, second) = gateways_with(Config::default(), 1);
    let options = Options::default();
    let (mut handle, mut far) = start_both(&first, &second);
    let (mut sent, mut received) = (0, 0);
    for _ in 0..20 {
        first
            .tun
            .send((0..500).map(|n| (VnetHeader::default(), udp(false, n, b"load"))));
        let (new, new_far) = (
            first.engine.reserve_spis(1)[0],
            second.engine.reserve_spis(1)[0],
        );
        second.apply(vec![
            second.add_inbound(new_far, &options),
            second.add_outbound(new_far, new, &options),
        ]);
        let finals = first.apply(vec![
            first.add_inbound(new, &options),
            first.add_outbound(new, new_far, &options),
            Command::Activate(new),
            Command::Remove(handle),
        ]);
        sent += finals[0][SaCounter::OutboundPackets];
        for _ in 0..500 {
            second.tun.receive_within(PATIENCE).unwrap();
        }
        received += second.apply(vec![Command::Remove(far)])[0][SaCounter::InboundPackets];
        (handle, far) = (new, new_far);
    }
    sent += first.engine.read_counters(Some(&[handle]))[0][SaCounter::OutboundPackets];
    received += second.engine.read_counters(Some(&[far]))[0][SaCounter::InboundPackets];
    assert_eq!((sent, received), (10_000, 10_000));
    assert_eq!(second.engine.read_drops(), Default::default());
}
