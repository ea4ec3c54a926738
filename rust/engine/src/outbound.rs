//! From the host to the outside. The stages, in order:
//!
//! 1. `InnerPacket::read`: a batch from the TUN device, super-packets among it
//! 2. `select`: the policy of the flow, and the pair that serves it (RFC 4301 5.1)
//! 3. `Refusals::treat_missing`: hold, reject or drop where there is none
//! 4. `divide`: the pair's `MtuPlan`: whole, cut at its own size, fragmented, or refused
//! 5. `Press::seal`: each piece is written into the bundle and sealed in place; or `Press::pack`: into AGGFRAG payloads
//!    (`packing`), each of which is sealed when it is full, or nothing more has come
//! 6. `Bundle::send`: neighbours of one size as one datagram, all in one system call per socket
//!
//! 1 and 2 are here, 3 is in `refusals.rs`, 4 in `divide.rs`, 5 in `press.rs`, 6 in `bundle.rs`.
//! Before the batch, ICMP errors that the inbound worker has made are sealed (`run_errands`), and marks (`echoes`).
//! Nothing per packet allocates, locks or logs, but for packets that are held.

pub mod batch_order;
pub mod bundle;
pub mod echoes;
pub mod encapsulator;
pub mod flows;
pub mod hold;
pub mod icmp_answers;
pub mod ike;
pub mod keepalive;
pub mod packing;
pub mod refusals;

use std::sync::Arc;

use openmoat_esp::drops::DropReason;
use openmoat_esp::icmp_error;
use openmoat_esp::spd::Action;
use openmoat_esp::wire::IpPacket;
use openmoat_io::{PacketBatch, VnetHeader};

use crate::errands::MAX_ERRANDS;
use crate::outbound::batch_order::Arrangement;
use crate::outbound::encapsulator::Press;
use crate::outbound::flows::{Choice, FlowCache, Lane};
use crate::shared::Shared;
use crate::sizes::inner_packet::InnerPacket;

/// The state of an outbound thread.
pub struct OutboundWorker {
    flows: FlowCache,
    arrangement: Arrangement,
    /// All but what is remembered of flows, so that a choice can be borrowed while it is carried out.
    press: Press,
}

impl OutboundWorker {
    /// Worker number `worker` of an engine.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            flows: FlowCache::default(),
            arrangement: Arrangement::default(),
            press: Press::new(shared, worker),
        }
    }

    /// Carry one batch, at `now` nanoseconds of the engine's clock, and see to the packets that are held.
    pub fn turn(&mut self, batch: &mut PacketBatch, now: u64) {
        self.press.now = now;
        if self.flows.refresh(&self.press.shared.tables) {
            self.release_held();
        }
        self.run_errands();
        self.press.send_echoes();
        let is_arranged = self.arrangement.is_wanted();
        if is_arranged {
            self.arrange(batch);
        }
        for place in 0..batch.len() {
            let index = if is_arranged {
                self.arrangement.at(place)
            } else {
                place
            };
            let (vnet, octets) = batch.packet(index);
            self.carry(vnet, octets);
        }
        self.arrangement.learn(self.press.take_changes());
        self.press.finish();
    }

    /// Let packets of one SA follow each other.
    fn arrange(&mut self, batch: &mut PacketBatch) {
        let Self {
            flows,
            arrangement,
            press,
        } = self;
        arrangement.arrange(batch.len(), |index| {
            let flow = IpPacket::parse(batch.packet(index).1).map(|packet| packet.flow);
            let choice = flow.ok().map(|flow| flows.choose(&flow, &press.shared));
            let lane = choice.and_then(|choice| choice.lane.as_ref());
            lane.map_or(0, |lane| lane.pair.handle)
        });
    }

    /// Let go of everything of a turn that ended in a panic.
    pub fn abandon(&mut self) {
        self.press.abandon();
    }

    /// When a held packet has waited long enough.
    pub fn deadline(&self) -> Option<u64> {
        self.press.refusals.holds.deadline()
    }

    fn carry(&mut self, vnet: VnetHeader, octets: &mut [u8]) {
        let mut inner = match InnerPacket::read(vnet, octets) {
            Ok(inner) => inner,
            Err(reason) => return self.press.shared.drops.count(reason),
        };
        let choice = self.flows.choose(&inner.packet.flow, &self.press.shared);
        let reason = match select(choice) {
            Ok(lane) => return self.press.protect(lane, &mut inner),
            Err(reason) => reason,
        };
        // RFC 4301 6.2: an ICMP error that no policy selects goes the way of the answers to what it quotes.
        if reason == DropReason::NoPolicy
            && let Some(flow) = icmp_error::return_flow(&inner.packet, inner.octets)
            && let Ok(lane) = select(self.flows.choose(&flow, &self.press.shared))
        {
            return self.press.protect(lane, &mut inner);
        }
        let choice = self.flows.choose(&inner.packet.flow, &self.press.shared);
        self.press.treat_missing(reason, choice, &inner);
    }

    /// Seal the ICMP errors that the inbound worker has made.
    fn run_errands(&mut self) {
        for _ in 0..MAX_ERRANDS {
            let Some(mut octets) = self.press.shared.errands[self.press.worker].take() else {
                return;
            };
            self.carry(VnetHeader::default(), &mut octets);
        }
    }

    /// Send what waited for policies that now have a pair, and forget about policies that are gone.
    fn release_held(&mut self) {
        let policies = self.press.shared.tables.policies.load_full();
        let released = self.press.refusals.holds.release(|policy| {
            policies
                .find(policy)
                .is_none_or(|served| !served.service.pairs.load().is_empty())
        });
        for (vnet, mut octets) in released {
            self.carry(vnet, &mut octets);
        }
    }
}

/// The pair that protects a packet, or why there is none.
fn select(choice: &Choice) -> Result<&Lane, DropReason> {
    let Some(served) = &choice.served else {
        return Err(DropReason::NoPolicy);
    };
    match served.policy.action {
        Action::Protect => choice.lane.as_ref().ok_or(DropReason::NoSa),
        Action::Pass => Err(DropReason::PolicyPass),
        Action::Drop => Err(DropReason::PolicyDrop),
        Action::Reject => Err(DropReason::PolicyReject),
    }
}
