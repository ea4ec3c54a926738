//! The SPD (RFC 4301 4.4.1) as the packet threads see it, and the active pairs of each policy: snapshots behind one pointer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use openmoat_esp::spd::{Policy, Spd};

use crate::tables::pair::Pair;

/// The active pairs of one policy, the newest first.
#[derive(Default)]
pub struct ActivePairs(ArcSwap<Vec<Arc<Pair>>>);

impl ActivePairs {
    /// All of them, as they are now.
    pub fn load(&self) -> Arc<Vec<Arc<Pair>>> {
        self.0.load_full()
    }

    /// Put `pair` before all others.
    pub fn prefer(&self, pair: &Arc<Pair>) {
        self.0.rcu(|pairs| {
            let others = pairs.iter().filter(|other| other.handle != pair.handle);
            std::iter::once(pair)
                .chain(others)
                .map(Arc::clone)
                .collect::<Vec<_>>()
        });
    }

    /// Take the pair of this handle out.
    pub fn remove(&self, handle: u32) {
        self.0.rcu(|pairs| {
            pairs
                .iter()
                .filter(|pair| pair.handle != handle)
                .map(Arc::clone)
                .collect::<Vec<_>>()
        });
    }
}

/// What serves a policy. Lives on when its policy is replaced by one of the same id.
#[derive(Default)]
pub struct Service {
    /// Active pairs.
    pub pairs: ActivePairs,
    /// Clock before which no further `Acquire` is reported.
    pub quiet_until: AtomicU64,
}

/// A policy and what serves it.
pub struct Served {
    /// What it selects and what happens.
    pub policy: Policy,
    /// Its pairs.
    pub service: Arc<Service>,
}

impl AsRef<Policy> for Served {
    fn as_ref(&self) -> &Policy {
        &self.policy
    }
}

/// The policies now, and a number that changes with every applied batch.
#[derive(Default)]
pub struct Policies {
    /// Replaced whole; what did not change is shared with the one before.
    pub spd: ArcSwap<Spd<Served>>,
    generation: AtomicU64,
}

impl Policies {
    /// Changes with every applied batch: what was looked up before must be looked up again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// A batch is complete.
    pub fn advance(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}
