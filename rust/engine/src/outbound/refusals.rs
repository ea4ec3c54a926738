//! What becomes of a packet that does not leave: it is held for an SA, answered with an ICMP error, or dropped; and counted.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openmoat_esp::drops::{DropCounters, DropReason};
use openmoat_esp::spd::{Action, Missing, Policy};
use openmoat_esp::wire::{IpPacket, Ports};

use crate::events::{Event, Events};
use crate::icmp::IcmpError;
use crate::outbound::flows::{Choice, Route};
use crate::outbound::hold::{Holds, Outcome};
use crate::outbound::icmp_answers::IcmpAnswers;
use crate::sizes::divide::MIN_MTU_V6;
use crate::sizes::inner_packet::InnerPacket;
use crate::sizes::ladder::SizeAction;
use crate::tables::policies::{Served, Service};

/// Nanoseconds between two `Acquire` of one policy.
const ACQUIRE_INTERVAL: u64 = 1_000_000_000;

/// Errors per second and inner source for packets that a policy rejects.
const REJECTS_PER_SECOND: f64 = 10.0;

/// Packets of one worker that wait or are answered.
pub struct Refusals {
    /// Packets that wait for an SA.
    pub holds: Holds,
    answers: IcmpAnswers,
    events: Arc<Events>,
    drops: Arc<DropCounters>,
}

impl Refusals {
    /// None yet. The daemon hears by `events` what SAs are wanted.
    pub fn new(answers: IcmpAnswers, events: Arc<Events>, drops: Arc<DropCounters>) -> Self {
        Self {
            holds: Holds::default(),
            answers,
            events,
            drops,
        }
    }

    /// Drop what has waited too long, at `now`, and hand the errors to the host.
    pub fn finish(&mut self, now: u64) {
        let expired = self.holds.expire(now);
        self.drops
            .count_many(DropReason::HoldExpired, expired as u64);
        self.answers.send();
    }

    /// Hold, reject or drop a packet that no pair serves.
    pub fn treat_missing(
        &mut self,
        now: u64,
        reason: DropReason,
        choice: &Choice,
        inner: &InnerPacket<'_>,
    ) {
        let Some(Served { policy, service }) = choice.served.as_deref() else {
            let reason = if is_local_chatter(&inner.packet) {
                DropReason::NotUnicast
            } else {
                reason
            };
            return self.drops.count(reason);
        };
        match (policy.action, policy.missing) {
            (Action::Reject, _) | (Action::Protect, Missing::Reject) => {
                self.reject(now, reason, inner)
            }
            (Action::Protect, Missing::Trap) => {
                acquire(&self.events, now, policy, service, &inner.packet);
                match self.holds.hold(policy.id, inner.vnet, inner.octets, now) {
                    Outcome::Held => {}
                    Outcome::Full => self.drops.count(DropReason::HoldFull),
                    Outcome::Over => self.reject(now, DropReason::NoSa, inner),
                }
            }
            _ => self.drops.count(reason),
        }
    }

    fn reject(&mut self, now: u64, reason: DropReason, inner: &InnerPacket<'_>) {
        self.drops.count(reason);
        self.answers
            .answer(now, IcmpError::Prohibited, inner, REJECTS_PER_SECOND);
    }

    /// Count a packet that its pair could not carry, and tell its sender where its size is the reason.
    #[inline]
    pub fn refuse(
        &mut self,
        sent: Result<(), DropReason>,
        route: &Route,
        inner: &InnerPacket<'_>,
        now: u64,
    ) {
        if let Err(reason) = sent {
            self.count_refused(reason, route, inner, now);
        }
    }

    fn count_refused(
        &mut self,
        reason: DropReason,
        route: &Route,
        inner: &InnerPacket<'_>,
        now: u64,
    ) {
        let (pair, plan) = (&route.pair, &route.settings.plan);
        pair.drops.count(reason);
        if reason != DropReason::TooBig {
            return;
        }
        pair.size_counters.count(SizeAction::Refuse);
        // RFC 2473 7.1: no host of IPv6 is told less than what every link of it carries.
        let least = if inner.packet.flow.source.is_ipv6() {
            MIN_MTU_V6
        } else {
            0
        };
        let error = IcmpError::TooBig(plan.inner_room.max(least));
        // The error goes to the host itself, which would not believe a packet from one of its own addresses: so it comes
        // from where the packet was to go. Where its sender is behind another SA, the host routes it back into that.
        self.answers
            .answer(now, error, inner, plan.too_big_per_second);
    }
}

/// Ask for an SA that serves this policy, not too often.
fn acquire(events: &Events, now: u64, policy: &Policy, service: &Service, packet: &IpPacket) {
    if now < service.quiet_until.load(Ordering::Relaxed) {
        return;
    }
    service
        .quiet_until
        .store(now + ACQUIRE_INTERVAL, Ordering::Relaxed);
    let (source_port, destination_port) = match packet.flow.ports {
        Ports::Known(source, destination) => (source, destination),
        Ports::Opaque => (0, 0),
    };
    events.tell_noise(Event::Acquire {
        policy: policy.id,
        source: packet.flow.source,
        destination: packet.flow.destination,
        protocol: packet.flow.protocol,
        source_port,
        destination_port,
    });
}

/// Whether a packet belongs on its own link: the host tells its neighbours of itself on every device, this one too.
fn is_local_chatter(packet: &IpPacket) -> bool {
    match packet.flow.destination {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
    }
}
