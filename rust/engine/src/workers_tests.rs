//! Several workers, and what a flood of data does to IKE.

use openmoat_io::memory::{Datagram, MemorySocket, MemoryTun};
use openmoat_io::{BATCH, SocketKind, TunDevice, VnetHeader};

use super::*;
use crate::intake::RESTLESS;
use crate::lab::{Options, PATIENCE, connect, gateways_with};
use crate::samples::udp;
use crate::shared::Config;

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
    connect(&first, &second, &Options::default());
    second.engine.stop();
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
    connect(&first, &second, &Options::default());
    let packet = udp(false, 53, b"to the first");
    first.queues[WORKERS - 1].send([(VnetHeader::default(), packet.clone())]);
    let arrived = second.queues[0].receive_within(PATIENCE).unwrap();
    assert_eq!(
        arrived.1, packet,
        "there is one UDP socket: it is the first worker's"
    );
}

#[test]
fn workers_share_out_replicas_and_keep_places_alike() {
    let socket = |port| -> Arc<dyn OuterSocket> {
        Arc::new(
            MemorySocket::pair(SocketKind::Udp { port }, false)
                .unwrap()
                .0,
        )
    };
    let sockets = [socket(500), socket(4500), socket(4500), socket(4500)];
    let tun = |_| -> Arc<dyn TunDevice> { Arc::new(MemoryTun::new().unwrap()) };
    let shared = Shared::new(
        (0..2).map(tun).collect(),
        sockets.to_vec(),
        Config::default(),
    );
    let shared = shared.unwrap();
    let is = |one: &Arc<dyn OuterSocket>, other: usize| Arc::ptr_eq(one, &sockets[other]);
    assert!(is(&shared.senders(0)[0], 0) && is(&shared.senders(1)[0], 0));
    assert!(is(&shared.senders(0)[1], 1) && is(&shared.senders(1)[1], 2));
    let [first, second] = &shared.outside.receivers[..] else {
        panic!("two workers")
    };
    assert_eq!((first.len(), second.len()), (3, 1));
    assert!(is(&second[0], 2) && is(&first[2], 1), "data comes last");
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
    let shared = Arc::new(Shared::new(vec![tun], sockets, Config::default()).unwrap());
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
    let mut worker = InboundWorker::new(Arc::clone(&shared), 0);
    let round = |worker: &mut InboundWorker| {
        let sockets = shared.outside.receivers[0].iter().map(Arc::as_ref);
        receive(&shared, shared.inbound_bell(0), worker, sockets);
    };
    let flood = || {
        shared
            .drops
            .read(openmoat_esp::drops::DropReason::UnknownSpi)
    };
    for rounds in 1..=10 {
        // It comes in the midst of the flood, and is there after the very next round.
        ike.deliver(datagram(vec![0; 4 + 28]));
        round(&mut worker);
        assert_eq!(shared.ike.receive(10).len(), 1);
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
    connect(&first, &second, &Options::default());
    second.engine.stop();
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
