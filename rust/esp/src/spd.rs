//! The security policy database (RFC 4301 4.4.1): which policy of lowest rank selects a packet. Immutable once built.

use std::sync::Arc;

use crate::selectors::{Ends, SelectorPair};
use crate::wire::Flow;

/// What happens to outbound packets a policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Through an SA.
    Protect,
    /// In clear, past the TUN device.
    Pass,
    /// Nowhere.
    Drop,
    /// Nowhere, with an answer.
    Reject,
}

/// What happens to a packet of a `Protect` policy while no SA serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missing {
    /// Nothing.
    Drop,
    /// The daemon is told, the first packets are held.
    Trap,
    /// An answer.
    Reject,
}

/// One entry of the SPD, in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Number the daemon gave it.
    pub id: u32,
    /// Place in the total order, unique, lowest wins.
    pub rank: u32,
    /// What happens.
    pub action: Action,
    /// What happens without an SA.
    pub missing: Missing,
    /// Which packets.
    pub selectors: SelectorPair,
}

/// All policies of one moment.
#[derive(Clone, Debug, Default)]
pub struct Spd {
    by_rank: Vec<Arc<Policy>>,
}

impl Spd {
    /// Build the database.
    pub fn build(policies: impl IntoIterator<Item = Arc<Policy>>) -> Self {
        let mut by_rank: Vec<_> = policies.into_iter().collect();
        by_rank.sort_by_key(|policy| policy.rank);
        Self { by_rank }
    }

    /// The policy of an outbound packet.
    pub fn outbound(&self, flow: &Flow) -> Option<&Arc<Policy>> {
        self.lookup(&Ends::outbound(flow))
    }

    /// The policy of an inbound packet.
    pub fn inbound(&self, flow: &Flow) -> Option<&Arc<Policy>> {
        self.lookup(&Ends::inbound(flow))
    }

    fn lookup(&self, ends: &Ends) -> Option<&Arc<Policy>> {
        self.by_rank
            .iter()
            .find(|policy| policy.selectors.takes(ends))
    }
}
