//! Marks from one engine to the other, between which the test is the network: it loses what is too large for it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use openmoat_esp::aggfrag::{Congestion, Header};
use openmoat_esp::meter::Limits;
use openmoat_esp::sa::{InboundSa, SaConfig};
use openmoat_io::VnetHeader;

use crate::command::{Command, Update};
use crate::events::{Event, flag};
use crate::lab::{Gateway, Options, PATIENCE, connect, gateways, keys};
use crate::samples::ip;
use crate::sizes::plan::{Framing, MtuPlan, OuterDf};

/// What outer paths of 1500 and 1280 octets leave.
const ROOM: usize = 1434;
const BASE_ROOM: usize = 1214;

/// Octets of a datagram that the smaller path carries.
const SMALL: usize = BASE_ROOM + 40;

fn plan(room: usize, echoes: bool) -> MtuPlan {
    MtuPlan {
        framing: Framing::Aggfrag,
        slices: true,
        outer_size: room + 66,
        inner_room: room,
        outer_df: OuterDf::Set,
        oversize: vec![],
        watch_above: (room > BASE_ROOM).then_some(BASE_ROOM),
        echoes,
        ..MtuPlan::default()
    }
}

fn options(echoes: bool) -> Options {
    Options {
        plan: plan(ROOM, echoes),
        ..Options::default()
    }
}

/// Two engines and the way between them.
struct Way {
    first: Gateway,
    second: Gateway,
    handles: (u32, u32),
    /// Kept, as the sockets of the others end in them.
    far: (Gateway, Gateway),
    carries: AtomicUsize,
    is_over: AtomicBool,
}

/// Ends the way when the test ends, however it does.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Way {
    fn new(first: &Options, second: &Options) -> Self {
        let ((one, far), (near, other)) = (gateways(), gateways());
        let handles = connect(&one, &other, first);
        if first.plan.echoes != second.plan.echoes {
            // Nothing is sent by the pairs that there are already; these are newer.
            return Self::apart(one, other, (far, near), [first, second]);
        }
        Self::of(one, other, (far, near), handles)
    }

    fn apart(one: Gateway, other: Gateway, far: (Gateway, Gateway), each: [&Options; 2]) -> Self {
        let (ours, theirs) = (
            one.engine.reserve_spis(1)[0],
            other.engine.reserve_spis(1)[0],
        );
        for (gateway, inbound, outbound, options) in [
            (&one, ours, theirs, each[0]),
            (&other, theirs, ours, each[1]),
        ] {
            gateway.apply(vec![
                gateway.add_inbound(inbound, options),
                gateway.add_outbound(inbound, outbound, options),
                Command::Activate(inbound),
            ]);
        }
        Self::of(one, other, far, (ours, theirs))
    }

    fn of(first: Gateway, second: Gateway, far: (Gateway, Gateway), handles: (u32, u32)) -> Self {
        Self {
            first,
            second,
            handles,
            far,
            carries: AtomicUsize::new(usize::MAX),
            is_over: AtomicBool::new(false),
        }
    }

    /// Carry what both send, but for what is too large, while `test` runs.
    fn while_open<T>(&self, test: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            for (from, to) in [(&self.first, &self.second), (&self.second, &self.first)] {
                scope.spawn(move || {
                    while !self.is_over.load(Ordering::SeqCst) {
                        let Some(mut sent) = from.udp.take_sent(Duration::from_millis(20)) else {
                            continue;
                        };
                        let size = if sent.segment == 0 {
                            sent.octets.len()
                        } else {
                            sent.segment
                        };
                        if size > self.carries.load(Ordering::SeqCst) {
                            // The last segment may be a small packet.
                            let whole = sent.octets.len() / size * size;
                            sent.octets.drain(..whole);
                            sent.segment = 0;
                        }
                        if !sent.octets.is_empty() {
                            to.udp.deliver(sent);
                        }
                    }
                });
            }
            let _over = Over(&self.is_over);
            test()
        })
    }

    /// Send large packets until it is so.
    fn send_until(&self, size: usize, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "it never happened");
            self.first
                .tun
                .send((0..4).map(|_| (VnetHeader::default(), ip(false, 253, &vec![7; size - 20]))));
            // What came in goes nowhere.
            while self
                .second
                .tun
                .receive_within(Duration::from_millis(2))
                .is_some()
            {}
        }
    }

    fn proved(&self) -> u64 {
        self.first.engine.read_counters(Some(&[self.handles.0]))[0].outbound_proved
    }

    /// What the first engine tells of its pair.
    fn told(&self) -> u32 {
        let flags = self
            .first
            .engine
            .drain(10)
            .into_iter()
            .map(|event| match event {
                Event::State { handle, flags, .. } if handle == self.handles.0 => flags,
                _ => 0,
            });
        flags.fold(0, |all, flags| all | flags)
    }
}

#[test]
fn the_peer_tells_of_large_packets_that_come_and_of_their_loss() {
    let way = Way::new(&options(true), &options(true));
    way.while_open(|| {
        way.send_until(9_000, || way.proved() > 0);
        way.carries.store(SMALL, Ordering::SeqCst);
        way.send_until(9_000, || way.told() & flag::BLACK_HOLE != 0);
        // Told once.
        assert_eq!(way.told() & flag::TOLD_ONCE, 0);
        let smaller = Update {
            handle: way.handles.0,
            plan: Some(plan(BASE_ROOM, true)),
            ..Update::default()
        };
        way.first.apply(vec![Command::Update(Box::new(smaller))]);
        let sequence =
            || way.first.engine.read_counters(Some(&[way.handles.0]))[0].outbound_sequence;
        let before = (way.proved(), sequence());
        way.send_until(9_000, || sequence() > before.1 + 100);
        // Nobody is asked about packets that every way carries.
        assert_eq!((way.proved(), way.told() & flag::TOLD_ONCE), (before.0, 0));
    });
    assert!(way.first.engine.read_drops().is_empty());
}

#[test]
fn packets_that_are_large_but_never_full_are_asked_about_with_pad() {
    let way = Way::new(&options(true), &options(true));
    way.while_open(|| {
        way.send_until(1_300, || way.proved() > 0);
        way.carries.store(SMALL, Ordering::SeqCst);
        way.send_until(1_300, || way.told() & flag::BLACK_HOLE != 0);
    });
}

#[test]
fn a_peer_that_sends_nothing_back_says_nothing() {
    let way = Way::new(&options(true), &options(false));
    way.while_open(|| {
        let reports = || way.second.engine.read_counters(Some(&[way.handles.1]))[0].inbound_reports;
        way.send_until(9_000, || reports() >= 2);
        assert_eq!(way.proved(), 0);
    });
    let second = &way.second.engine.read_counters(Some(&[way.handles.1]))[0];
    assert_eq!(
        second.outbound_sequence, 0,
        "who is not to send marks back does not"
    );
    drop(way.far);
}

#[test]
fn whoever_is_not_known_to_send_marks_back_meets_none() {
    let way = Way::new(&options(false), &options(true));
    way.while_open(|| {
        let sequence =
            || way.first.engine.read_counters(Some(&[way.handles.0]))[0].outbound_sequence;
        way.send_until(9_000, || sequence() > 500);
    });
    assert_eq!(
        way.second.engine.read_counters(Some(&[way.handles.1]))[0].inbound_reports,
        0
    );
}

#[test]
fn marks_are_sent_back_as_they_came_in_packets_of_pad() {
    let options = options(true);
    let (first, far) = gateways();
    let (near, second) = gateways();
    let (ours, theirs) = connect(&first, &second, &options);
    let sender =
        openmoat_esp::sa::OutboundSa::new(config(theirs, &keys(&options, theirs), &first), false)
            .unwrap();
    let receiver = InboundSa::new(config(ours, &keys(&options, ours), &second), 1024).unwrap();
    let suite = sender.suite();
    let asked = Congestion {
        value: 0xc0ff_ee01,
        is_probing: true,
        ..Congestion::default()
    };
    let size = 100;
    let mut packet = vec![0; suite.sealed_size(size)];
    asked.write_pad(&mut packet[suite.headroom()..], size);
    sender.seal_payload(&mut packet, size).unwrap();
    deliver(&first, &second, packet);
    let mut answer = second.udp.take_sent(PATIENCE).unwrap();
    assert!(answer.df);
    let payload = receiver
        .open_payload(&mut answer.octets)
        .unwrap()
        .inner
        .unwrap();
    let payload = &answer.octets[payload];
    let header = Header::parse(payload).unwrap();
    let said = header.congestion.unwrap();
    assert_eq!(
        (said.echo, said.value, said.is_probing, header.block_offset),
        (asked.value, 0, false, 0)
    );
    assert!(payload[header.size..].iter().all(|octet| *octet == 0) && payload.len() > header.size);
    drop((far, near));
}

fn deliver(from: &Gateway, to: &Gateway, octets: Vec<u8>) {
    let path = from.path(true);
    to.udp.deliver(openmoat_io::memory::Datagram {
        octets,
        segment: 0,
        source: path.local,
        destination: path.remote,
        tos: 0,
        df: true,
    });
}

fn config<'a>(spi: u32, keys: &'a crate::command::Keys, gateway: &Gateway) -> SaConfig<'a> {
    SaConfig {
        spi,
        suite: keys.suite,
        has_esn: false,
        key: &keys.key,
        integrity_key: &keys.integrity_key,
        selectors: gateway.selectors(),
        limits: Limits::default(),
        last_sequence: 0,
        seals: true,
    }
}
