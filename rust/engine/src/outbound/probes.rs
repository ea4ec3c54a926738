//! Path probes on their way out (see `sizes::probe`): answers to those of the peer, and our own, in payloads of pad.

use openmoat_esp::aggfrag::{CONGESTION_HEADER, Congestion, HEADER, MAX_DELAY};

use crate::outbound::bundle::Address;
use crate::outbound::sink::Sink;
use crate::sizes::plan::MtuPlan;
use crate::sizes::probe::PathProbe;
use crate::tables::pair::{Outbound, Pair};

/// Octets of a payload that only says something: its pad begins behind the header, and ends where none of ESP is needed.
const SMALL: usize = CONGESTION_HEADER + 2;

const NANOSECONDS_IN_MICROSECOND: u64 = 1_000;

/// The pair that is probed, and how its packets leave.
pub struct Target<'a> {
    /// Which pair.
    pub pair: &'a Pair,
    /// Its outbound half.
    pub outbound: &'a Outbound,
    /// Its sizes.
    pub plan: &'a MtuPlan,
    /// Where to.
    pub address: Address,
}

/// Send what a pair has to send. Nothing else is open in the bundle, and nobody else numbers packets of the pair.
pub fn send(sink: &mut Sink<'_>, target: &Target<'_>, probe: &PathProbe) {
    let now = sink.now;
    while let Some((value, since)) = probe.take_answer() {
        let held = now.saturating_sub(since) / NANOSECONDS_IN_MICROSECOND;
        let answer = Congestion {
            echo: value,
            echo_delay: held.min(MAX_DELAY.into()) as u32,
            ..Congestion::default()
        };
        send_pad(sink, target, &answer, SMALL);
    }
    if let Some((large, small)) = probe.take_round()
        && target.plan.asks()
    {
        for value in large {
            send_probe(sink, target, value, target.plan.inner_room + HEADER);
        }
        send_small(sink, target, small);
    }
}

/// A large packet has left that could not be a probe: send one of pad, as none was sent for long.
pub fn send_overdue(sink: &mut Sink<'_>, target: &Target<'_>, probe: &PathProbe) {
    let values = probe.issue(sink.now);
    send_probe(sink, target, values.large, target.plan.inner_room + HEADER);
    if let Some(small) = values.small {
        send_small(sink, target, small);
    }
}

/// The small probe that follows a large one.
pub fn send_small(sink: &mut Sink<'_>, target: &Target<'_>, value: u32) {
    send_probe(sink, target, value, SMALL);
}

fn send_probe(sink: &mut Sink<'_>, target: &Target<'_>, value: u32, size: usize) {
    let probe = Congestion {
        is_probing: true,
        value,
        ..Congestion::default()
    };
    send_pad(sink, target, &probe, size);
}

fn send_pad(sink: &mut Sink<'_>, target: &Target<'_>, says: &Congestion, size: usize) {
    let sa = &target.outbound.sa;
    if sa.has_room_for(1, size as u64).is_err() {
        return;
    }
    let room = sink.bundle.room();
    says.write_pad(&mut room[sa.suite().headroom()..], size);
    sink.seal(target.pair, target.outbound, size, target.address);
}
