//! Each stage by itself: built from what it uses and nothing else, at times that the test gives.

use std::sync::Arc;

use arc_swap::ArcSwap;
use openmoat_esp::aggfrag::{Congestion, HEADER, Header};
use openmoat_esp::drops::{DropCounters, DropReason};
use openmoat_esp::meter::Limits;
use openmoat_esp::reassembly::{Budget, MAX_HELD_BY_ALL};
use openmoat_esp::sa::{InboundSa, OutboundSa, SaConfig};
use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_esp::spd::{Action, Missing, Policy, Spd};
use openmoat_esp::wire::IpPacket;
use openmoat_io::memory::{Datagram, MemorySocket, MemoryTun};
use openmoat_io::{OuterSocket, Path, SocketKind, TunDevice, VnetHeader};

use crate::command::{Carriage, NEVER};
use crate::doorbell::Doorbell;
use crate::events::Events;
use crate::inbound::black_hole_checks::BlackHoleChecks;
use crate::inbound::ike_queues::IkeQueues;
use crate::inbound::join::Joins;
use crate::inbound::{self, InboundWorker};
use crate::lab::{Options, keys};
use crate::outbound::bundle::Bundle;
use crate::outbound::encapsulator::Encapsulator;
use crate::outbound::flows::{FlowCache, Route};
use crate::outbound::packing::Packing;
use crate::outbound::probes::{self, Target};
use crate::outbound::sink::Sink;
use crate::outbox::Outbox;
use crate::outer_sockets::OuterSockets;
use crate::samples::{ip, udp};
use crate::sizes::inner_packet::{InnerPacket, Piece, Pieces};
use crate::sizes::plan::{Framing, MtuPlan};
use crate::tables::pair::{Assembly, Outbound, Pair, Settings};
use crate::tables::policies::{Policies, Served, Service};
use crate::tables::sa_counters::SaCounters;
use crate::tables::sad::Sad;

const NOW: u64 = 5_000_000_000;
const SPI: u32 = 0x1234;
const SLOTS: usize = 64;

/// One socket, one pair that sends to itself, and the end of the wire.
struct Fixture {
    sockets: Arc<OuterSockets>,
    near: Arc<MemorySocket>,
    far: MemorySocket,
    sad: Arc<Sad>,
    drops: Arc<DropCounters>,
    events: Arc<Events>,
    pair: Arc<Pair>,
    receiver: InboundSa,
}

fn carriage() -> Carriage {
    Carriage {
        path: Path {
            local: ([192, 0, 2, 1], 4500).into(),
            remote: ([192, 0, 2, 2], 4500).into(),
        },
        is_udp: true,
    }
}

fn everything() -> SelectorPair {
    let any = || -> Box<[Selector]> {
        let (first, last) = ([0, 0, 0, 0].into(), [255; 4].into());
        [Selector::new(first, last, 0, 0, u16::MAX).unwrap()].into()
    };
    SelectorPair {
        local: any(),
        remote: any(),
    }
}

fn outbound(sa: OutboundSa, plan: MtuPlan) -> Outbound {
    Outbound {
        sa,
        policy: 1,
        probe: plan.echoes.then(Box::default),
        settings: ArcSwap::from_pointee(Settings {
            carriage: carriage(),
            plan,
            keepalive: 0,
            hard_at: NEVER,
        }),
        last_sent: 0.into(),
        send_lock: Default::default(),
        counters: SaCounters::default(),
    }
}

fn fixture(plan: MtuPlan) -> Fixture {
    let (near, far) = MemorySocket::pair(SocketKind::Udp { port: 4500 }, false).unwrap();
    let near = Arc::new(near);
    let socket: Arc<dyn OuterSocket> = Arc::<MemorySocket>::clone(&near);
    let keys = keys(&Options::default(), SPI);
    let half = || SaConfig {
        spi: SPI,
        suite: keys.suite,
        has_esn: false,
        key: &keys.key,
        integrity_key: &keys.integrity_key,
        selectors: everything(),
        limits: Limits::default(),
        last_sequence: 0,
    };
    let inbound = || InboundSa::new(half(), 64).unwrap();
    let budget = Arc::new(Budget::new(MAX_HELD_BY_ALL));
    let assembly = (plan.framing == Framing::Aggfrag).then(|| Assembly::new(&budget));
    let pair = Arc::new(Pair::new(SPI, inbound(), assembly, false, carriage().path));
    let sa = OutboundSa::new(half(), true).unwrap();
    assert!(pair.outbound.set(outbound(sa, plan)).is_ok());
    let sad = Arc::new(Sad::new(SLOTS));
    sad.insert(Arc::clone(&pair));
    Fixture {
        sockets: Arc::new(OuterSockets::new(vec![socket], 1)),
        near,
        far,
        sad,
        drops: Arc::default(),
        events: Arc::new(Events::new(SLOTS, 4).unwrap()),
        pair,
        receiver: inbound(),
    }
}

fn aggfrag(echoes: bool) -> MtuPlan {
    MtuPlan {
        framing: Framing::Aggfrag,
        slices: true,
        inner_room: 1_400,
        echoes,
        watch_above: Some(1_000),
        ..MtuPlan::default()
    }
}

impl Fixture {
    fn bundle(&self) -> Bundle {
        let senders = self.sockets.senders(0).to_vec();
        Bundle::new(senders, Arc::clone(&self.sad), Arc::clone(&self.drops))
    }

    fn route(&self) -> Route {
        Route::of(&self.pair, &self.sockets).unwrap()
    }

    /// What has left, octets of ESP.
    fn sent(&self) -> Vec<Vec<u8>> {
        let mut batch = openmoat_io::ReceiveBatch::new();
        self.far.receive_batch(&mut batch).unwrap();
        let received = batch.datagrams.clone();
        let mut sent = Vec::new();
        for datagram in received {
            sent.extend(
                datagram
                    .segments()
                    .map(|range| batch.arena()[range].to_vec()),
            );
        }
        sent
    }

    fn opened(&self, sealed: &mut [u8]) -> Vec<u8> {
        let payload = self.receiver.open_payload(sealed).unwrap().inner.unwrap();
        sealed[payload].to_vec()
    }
}

#[test]
fn a_bundle_sends_in_order_and_counts_what_is_lost_at_its_pair() {
    let fixture = fixture(MtuPlan::default());
    let (mut bundle, address) = (fixture.bundle(), fixture.route().address.unwrap());
    for (first, size) in [(1, 100), (2, 100), (3, 60)] {
        bundle.room()[0] = first;
        bundle.push(size, address);
    }
    bundle.send();
    let sent = fixture.sent();
    assert_eq!(
        sent.iter().map(|octets| octets[0]).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    bundle.push(openmoat_io::MAX_UDP_PAYLOAD + 1, address);
    bundle.send();
    assert_eq!(fixture.pair.drops.read(DropReason::SendFailed), 1);
    fixture.sad.remove(SPI);
    bundle.push(openmoat_io::MAX_UDP_PAYLOAD + 1, address);
    bundle.send();
    assert_eq!(fixture.drops.read(DropReason::SendFailed), 1);
}

#[test]
fn a_choice_is_remembered_until_the_tables_change() {
    let fixture = fixture(MtuPlan::default());
    let policies = Arc::new(Policies::default());
    let service = Arc::new(Service::default());
    service.pairs.prefer(&fixture.pair);
    let policy = Policy {
        id: 1,
        rank: 1,
        action: Action::Protect,
        missing: Missing::Drop,
        selectors: everything(),
    };
    let served = Arc::new(Served { policy, service });
    let spd = Spd::default().changed(vec![Arc::clone(&served)], std::iter::empty());
    policies.spd.store(Arc::new(spd));
    policies.advance();
    let mut flows = FlowCache::new(Arc::clone(&policies), Arc::clone(&fixture.sockets));
    assert!(flows.refresh() && !flows.refresh());
    let flow = IpPacket::parse(&udp(false, 53, b"x")).unwrap().flow;
    assert!(flows.choose(&flow).route.is_some());
    served.service.pairs.remove(SPI);
    assert!(flows.choose(&flow).route.is_some(), "remembered");
    policies.advance();
    assert!(flows.refresh());
    let choice = flows.choose(&flow);
    assert!(choice.route.is_none() && choice.served.is_some());
}

#[test]
fn packing_fills_payloads_and_sends_the_last_one_when_it_is_closed() {
    let fixture = fixture(aggfrag(false));
    let (route, mut bundle) = (fixture.route(), fixture.bundle());
    let mut packing = Packing::default();
    let mut sink = Sink {
        bundle: &mut bundle,
        events: &fixture.events,
        now: NOW,
    };
    let packets = [700, 600, 300].map(|size| ip(false, 17, &vec![size as u8; size]));
    let address = route.address.unwrap();
    packing.begin(&mut sink, &route, address).unwrap();
    for packet in &packets {
        let pieces = Pieces::Whole(packet.len());
        let piece = Piece::of(&pieces, 0, packet);
        packing.pack(&mut sink, piece).unwrap();
    }
    let sealed = || fixture.pair.outbound.get().unwrap().sa.last_sequence();
    assert_eq!(sealed(), 1, "the last payload is still open");
    packing.close(&mut sink);
    sink.bundle.send();
    let mut sent = fixture.sent();
    let [first, second] = &mut sent[..] else {
        panic!("two payloads");
    };
    let held = |sealed: &mut Vec<u8>| fixture.opened(sealed)[HEADER..].to_vec();
    assert!(held(first).starts_with(&packets[..2].concat()));
    assert!(held(second).starts_with(&packets[2]));
}

#[test]
fn a_probe_of_the_peer_is_answered_by_the_next_turn_of_the_outbound_worker() {
    let fixture = fixture(aggfrag(true));
    let bell = Arc::new(Doorbell::new().unwrap());
    let outbox = Arc::new(Outbox::new(bell));
    let mut checks = BlackHoleChecks::new(Arc::clone(&outbox), Arc::clone(&fixture.events));
    let asked = Congestion {
        value: 77,
        is_probing: true,
        ..Congestion::default()
    };
    checks.receive(&fixture.pair, &asked, NOW);
    assert_eq!(outbox.take_pair(), Some(SPI));
    let (route, mut bundle) = (fixture.route(), fixture.bundle());
    let target = Target {
        pair: &fixture.pair,
        outbound: fixture.pair.outbound.get().unwrap(),
        plan: &route.settings.plan,
        address: route.address.unwrap(),
    };
    let mut sink = Sink {
        bundle: &mut bundle,
        events: &fixture.events,
        now: NOW + 3_000,
    };
    probes::send(&mut sink, &target, fixture.pair.probe().unwrap());
    bundle.send();
    let [sealed] = &mut fixture.sent()[..] else {
        panic!("one payload");
    };
    let said = Header::parse(&fixture.opened(sealed))
        .unwrap()
        .congestion
        .unwrap();
    assert_eq!((said.echo, said.echo_delay), (77, 3));
}

#[test]
fn an_encapsulator_sends_nothing_before_its_turn_ends() {
    let fixture = fixture(MtuPlan::default());
    let mut encapsulator = Encapsulator::new(
        0,
        true,
        fixture.bundle(),
        Arc::default(),
        Arc::clone(&fixture.events),
    );
    encapsulator.begin(NOW);
    let mut octets = udp(false, 53, b"question");
    let packet = octets.clone();
    let mut inner = InnerPacket::read(VnetHeader::default(), &mut octets).unwrap();
    encapsulator.protect(&fixture.route(), &mut inner).unwrap();
    assert!(fixture.sent().is_empty());
    encapsulator.finish();
    let sealed = &mut fixture.sent()[0];
    let opened = fixture.receiver.open(sealed, 0).unwrap().inner.unwrap();
    assert_eq!(sealed[opened.range], packet);
}

#[test]
fn an_inbound_worker_writes_what_one_batch_of_a_socket_held() {
    let fixture = fixture(MtuPlan::default());
    let tun = Arc::new(MemoryTun::new().unwrap());
    let lookups = inbound::Lookups {
        sad: Arc::clone(&fixture.sad),
        events: Arc::clone(&fixture.events),
        ike: Arc::new(IkeQueues::new(4).unwrap()),
        drops: Arc::clone(&fixture.drops),
    };
    let bell = Arc::new(Doorbell::new().unwrap());
    let device: Arc<dyn TunDevice> = Arc::<MemoryTun>::clone(&tun);
    let outbox = Arc::new(Outbox::new(bell));
    let mut worker = InboundWorker::new(lookups, Some(device), Joins::default(), outbox);
    let packet = udp(false, 53, b"answer");
    let suite = fixture.pair.inbound.suite();
    let mut sealed = vec![0; suite.sealed_size(packet.len())];
    sealed[suite.headroom()..][..packet.len()].copy_from_slice(&packet);
    let sender = &fixture.pair.outbound.get().unwrap().sa;
    sender.seal(&mut sealed, packet.len()).unwrap();
    let path = carriage().path;
    fixture.near.deliver(Datagram {
        octets: sealed,
        segment: 0,
        source: path.remote,
        destination: path.local,
        tos: 0,
        df: false,
    });
    assert_eq!(worker.turn(&*fixture.near, NOW), 1);
    assert_eq!(tun.receive().map(|(_, octets)| octets), Some(packet));
    assert_eq!(worker.turn(&*fixture.near, NOW), 0);
}
