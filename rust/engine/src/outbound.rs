//! From the host to the outside. The stages, in order:
//!
//! 1. `InnerPacket::read`: a batch from the TUN device, super-packets among it
//! 2. `select`: the policy of the flow, and the pair that serves it (RFC 4301 5.1)
//! 3. `Refusals::treat_missing`: hold, reject or drop where there is none
//! 4. `divide`: the pair's `MtuPlan`: whole, cut at its own size, fragmented, or refused
//! 5. `Encapsulator::seal`: each piece is written into the bundle and encrypted in place; or `Encapsulator::pack`: into
//!    AGGFRAG payloads (`packing`), each of which is encrypted when it is full, or nothing more has come
//! 6. `Bundle::send`: neighbours of one size as one datagram, all in one system call per socket
//!
//! 1 and 2 are here, 3 is in `refusals.rs`, 4 in `sizes/divide.rs`, 5 in `encapsulator.rs`, 6 in `bundle.rs`.
//! Before the batch the outbox is emptied: ICMP errors that the inbound worker has made, and path probes (`probes.rs`).
//! Nothing per packet allocates, locks or logs, but for packets that are held. Once per batch and pair a lock is taken where
//! there are several workers (`tables/send_lock.rs`).

pub mod batch_order;
pub mod bundle;
pub mod encapsulator;
pub mod flows;
pub mod hold;
pub mod icmp_answers;
pub mod ike;
pub mod keepalive;
pub mod packing;
pub mod probes;
pub mod refusals;
pub mod sink;

use std::sync::Arc;

use openmoat_esp::drops::{DropCounters, DropReason};
use openmoat_esp::icmp_error;
use openmoat_esp::spd::Action;
use openmoat_esp::wire::IpPacket;
use openmoat_io::{PacketBatch, VnetHeader};

use crate::outbound::batch_order::BatchOrder;
use crate::outbound::encapsulator::Encapsulator;
use crate::outbound::flows::{Choice, FlowCache, Route};
use crate::outbound::refusals::Refusals;
use crate::outbox::{MAX_ERRORS, MAX_PAIRS, Outbox};
use crate::outer_sockets::OuterSockets;
use crate::sizes::inner_packet::InnerPacket;
use crate::tables::policies::Policies;
use crate::tables::sad::Sad;

/// The state of an outbound thread.
pub struct OutboundWorker {
    /// Where to look things up.
    pub lookups: Lookups,
    /// What is remembered of flows.
    pub flows: FlowCache,
    /// What leaves.
    pub encapsulator: Encapsulator,
    /// What does not.
    pub refusals: Refusals,
    /// What the inbound worker leaves for this one.
    pub outbox: Arc<Outbox>,
    /// The order in which a batch is carried.
    pub order: BatchOrder,
}

/// What an outbound worker looks up beside flows, and where it counts what belongs to no pair.
pub struct Lookups {
    /// Policies.
    pub policies: Arc<Policies>,
    /// Pairs.
    pub sad: Arc<Sad>,
    /// Sockets.
    pub sockets: Arc<OuterSockets>,
    /// Drops of no pair.
    pub drops: Arc<DropCounters>,
}

impl OutboundWorker {
    /// Carry one batch, at `now` nanoseconds of the engine's clock, and see to the packets that are held.
    pub fn turn(&mut self, batch: &mut PacketBatch, now: u64) {
        self.encapsulator.begin(now);
        if self.flows.refresh() {
            self.release_held(now);
        }
        self.send_errors(now);
        self.send_probes();
        // A turn without packets tells nothing of how they are mixed.
        let is_ordered = !batch.is_empty() && self.order.is_wanted();
        if is_ordered {
            self.put_in_order(batch);
        }
        for place in 0..batch.len() {
            let index = if is_ordered {
                self.order.at(place)
            } else {
                place
            };
            let (vnet, octets) = batch.packet(index);
            self.carry(vnet, octets, now);
        }
        self.order.learn(self.encapsulator.take_changes());
        self.encapsulator.finish();
        self.refusals.finish(now);
    }

    /// Let packets of one SA follow each other.
    fn put_in_order(&mut self, batch: &mut PacketBatch) {
        let Self { flows, order, .. } = self;
        order.arrange(batch.len(), |index| {
            let flow = IpPacket::parse(batch.packet(index).1).map(|packet| packet.flow);
            let choice = flow.ok().map(|flow| flows.choose(&flow));
            let route = choice.and_then(|choice| choice.route.as_ref());
            route.map_or(0, |route| route.pair.handle)
        });
    }

    /// Let go of everything of a turn that ended in a panic.
    pub fn abandon(&mut self) {
        self.encapsulator.abandon();
    }

    /// When a held packet has waited long enough.
    pub fn deadline(&self) -> Option<u64> {
        self.refusals.holds.deadline()
    }

    fn carry(&mut self, vnet: VnetHeader, octets: &mut [u8], now: u64) {
        let mut inner = match InnerPacket::read(vnet, octets) {
            Ok(inner) => inner,
            Err(reason) => return self.lookups.drops.count(reason),
        };
        let reason = match select(self.flows.choose(&inner.packet.flow)) {
            Ok(route) => {
                let sent = self.encapsulator.protect(route, &mut inner);
                return self.refusals.refuse(sent, route, &inner, now);
            }
            Err(reason) => reason,
        };
        // RFC 4301 6.2: an ICMP error that no policy selects goes the way of the answers to what it quotes.
        if reason == DropReason::NoPolicy
            && let Some(flow) = icmp_error::return_flow(&inner.packet, inner.octets)
            && let Ok(route) = select(self.flows.choose(&flow))
        {
            let sent = self.encapsulator.protect(route, &mut inner);
            return self.refusals.refuse(sent, route, &inner, now);
        }
        let choice = self.flows.choose(&inner.packet.flow);
        self.refusals.treat_missing(now, reason, choice, &inner);
    }

    /// Send the ICMP errors that the inbound worker has made.
    fn send_errors(&mut self, now: u64) {
        for _ in 0..MAX_ERRORS {
            let Some(mut octets) = self.outbox.take_error() else {
                return;
            };
            self.carry(VnetHeader::default(), &mut octets, now);
        }
    }

    /// Send the path probes that the inbound worker wants sent.
    fn send_probes(&mut self) {
        for _ in 0..MAX_PAIRS {
            let Some(handle) = self.outbox.take_pair() else {
                return;
            };
            let Some(pair) = self.lookups.sad.find(handle) else {
                continue;
            };
            let Some(probe) = pair.probe() else {
                continue;
            };
            probe.leave_queue();
            if let Some(route) = Route::of(&pair, &self.lookups.sockets) {
                self.encapsulator.send_probes(&route, probe);
            }
        }
    }

    /// Send what waited for policies that now have a pair, and forget about policies that are gone.
    fn release_held(&mut self, now: u64) {
        let spd = self.lookups.policies.spd.load_full();
        let released = self.refusals.holds.release(|policy| {
            spd.find(policy)
                .is_none_or(|served| !served.service.pairs.load().is_empty())
        });
        for (vnet, mut octets) in released {
            self.carry(vnet, &mut octets, now);
        }
    }
}

/// The pair that protects a packet, or why there is none.
fn select(choice: &Choice) -> Result<&Route, DropReason> {
    let Some(served) = &choice.served else {
        return Err(DropReason::NoPolicy);
    };
    match served.policy.action {
        Action::Protect => choice.route.as_ref().ok_or(DropReason::NoSa),
        Action::Pass => Err(DropReason::PolicyPass),
        Action::Drop => Err(DropReason::PolicyDrop),
        Action::Reject => Err(DropReason::PolicyReject),
    }
}
