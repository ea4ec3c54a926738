//! Path probes from one engine to the other, between which the test is the network: it loses what is too large for it.

use std::time::Duration;

use openmoat_esp::aggfrag::{Congestion, Header};
use openmoat_esp::meter::Limits;
use openmoat_esp::sa::{InboundSa, SaConfig};
use openmoat_esp::spd::{Action, Missing};
use openmoat_io::VnetHeader;
use openmoat_io::memory::Datagram;

use crate::command::{Command, Update};
use crate::events::{Event, flag};
use crate::lab::{Gateway, Options, connect, gateways, keys};
use crate::samples::ip;
use crate::sizes::plan::{Framing, MtuPlan, OuterDf};
use crate::tables::sa_counters::SaCounter;

/// What must happen has happened after so many rounds of packets.
const MOST_ROUNDS: usize = 5_000;

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

/// Two engines and the network between them, which is the test.
struct Network {
    first: Gateway,
    second: Gateway,
    handles: (u32, u32),
    /// Kept, as the sockets of the others end in them.
    _far: (Gateway, Gateway),
    carries: usize,
}

impl Network {
    fn new(first: &Options, second: &Options) -> Self {
        let ((one, far), (near, other)) = (gateways(), gateways());
        let (ours, theirs) = (
            one.engine.reserve_spis(1)[0],
            other.engine.reserve_spis(1)[0],
        );
        for (gateway, inbound, outbound, options) in
            [(&one, ours, theirs, first), (&other, theirs, ours, second)]
        {
            gateway.apply(vec![
                gateway.policy(Action::Protect, Missing::Drop),
                gateway.add_inbound(inbound, options),
                gateway.add_outbound(inbound, outbound, options),
                Command::Activate(inbound),
            ]);
            gateway.begin();
        }
        Self {
            first: one,
            second: other,
            handles: (ours, theirs),
            _far: (far, near),
            carries: usize::MAX,
        }
    }

    /// Carry what both send, but for what is too large, until they send nothing more.
    fn carry(&self) {
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            for (from, to) in [(&self.first, &self.second), (&self.second, &self.first)] {
                while let Some(sent) = from.sent() {
                    is_quiet = false;
                    self.pass(sent, to);
                }
            }
        }
    }

    fn pass(&self, mut sent: Datagram, to: &Gateway) {
        let size = match sent.segment {
            0 => sent.octets.len(),
            segment => segment,
        };
        if size > self.carries {
            // The last segment may be a small packet.
            let whole = sent.octets.len() / size * size;
            sent.octets.drain(..whole);
            sent.segment = 0;
        }
        if !sent.octets.is_empty() {
            to.udp.deliver(sent);
        }
    }

    /// Send large packets, four every two milliseconds, until it is so.
    fn send_until(&self, size: usize, is_so: impl Fn() -> bool) {
        for _ in 0..MOST_ROUNDS {
            if is_so() {
                return;
            }
            for gateway in [&self.first, &self.second] {
                gateway.advance(Duration::from_millis(2));
            }
            self.first
                .tun
                .send((0..4).map(|_| (VnetHeader::default(), ip(false, 253, &vec![7; size - 20]))));
            self.carry();
            while self.second.tun.receive().is_some() {}
        }
        panic!("it never happened");
    }

    fn proved(&self) -> u64 {
        self.first.engine.read_counters(Some(&[self.handles.0]))[0][SaCounter::OutboundProved]
    }

    fn sequence(&self) -> u64 {
        self.first.engine.read_counters(Some(&[self.handles.0]))[0][SaCounter::OutboundSequence]
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
    let mut network = Network::new(&options(true), &options(true));
    network.send_until(9_000, || network.proved() > 0);
    network.carries = SMALL;
    network.send_until(9_000, || network.told() & flag::BLACK_HOLE != 0);
    // Told once.
    assert_eq!(network.told() & flag::TOLD_ONCE, 0);
    let smaller = Update {
        handle: network.handles.0,
        plan: Some(plan(BASE_ROOM, true)),
        ..Update::default()
    };
    network
        .first
        .apply(vec![Command::Update(Box::new(smaller))]);
    let before = (network.proved(), network.sequence());
    network.send_until(9_000, || network.sequence() > before.1 + 100);
    // Packets that every path carries are not probed.
    assert_eq!(
        (network.proved(), network.told() & flag::TOLD_ONCE),
        (before.0, 0)
    );
    assert!(network.first.engine.read_drops().is_empty());
}

#[test]
fn packets_that_are_large_but_never_full_are_probed_with_pad() {
    let mut network = Network::new(&options(true), &options(true));
    network.send_until(1_300, || network.proved() > 0);
    network.carries = SMALL;
    network.send_until(1_300, || network.told() & flag::BLACK_HOLE != 0);
}

#[test]
fn a_peer_that_answers_no_probe_says_nothing() {
    let network = Network::new(&options(true), &options(false));
    let theirs = || {
        network
            .second
            .engine
            .read_counters(Some(&[network.handles.1]))[0]
            .clone()
    };
    network.send_until(9_000, || theirs()[SaCounter::InboundReports] >= 2);
    assert_eq!(network.proved(), 0);
    assert_eq!(theirs()[SaCounter::OutboundSequence], 0, "its plan says so");
}

#[test]
fn a_peer_that_answers_no_probes_meets_none() {
    let network = Network::new(&options(false), &options(true));
    network.send_until(9_000, || network.sequence() > 500);
    assert_eq!(
        network
            .second
            .engine
            .read_counters(Some(&[network.handles.1]))[0][SaCounter::InboundReports],
        0
    );
}

#[test]
fn probes_are_answered_with_the_value_that_came_in_packets_of_pad() {
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
    let mut answer = second.sent().unwrap();
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
    }
}
