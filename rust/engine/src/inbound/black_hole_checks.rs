//! Pairs that the peer's answers raise a suspicion about (see `sizes::probe`): when their next round of probes is due.

use std::sync::Arc;

use openmoat_esp::aggfrag::Congestion;

use crate::events::{Events, flag};
use crate::outbox::Outbox;
use crate::sizes::probe::{ROUND_INTERVAL, Reaction};
use crate::tables::pair::Pair;
use crate::tables::sad::Sad;

/// What one inbound worker knows of pairs that are checked.
pub struct BlackHoleChecks {
    outbox: Arc<Outbox>,
    events: Arc<Events>,
    handles: Vec<u32>,
    next: u64,
}

impl BlackHoleChecks {
    /// None yet. Probes leave by `outbox`; the daemon hears by `events` of a path that is too small.
    pub fn new(outbox: Arc<Outbox>, events: Arc<Events>) -> Self {
        Self {
            outbox,
            events,
            handles: Vec::new(),
            next: 0,
        }
    }

    /// An authentic packet of the peer says something of the path.
    pub fn receive(&mut self, pair: &Pair, said: &Congestion, now: u64) {
        let Some(probe) = pair.probe() else {
            return;
        };
        let Reaction {
            must_answer,
            begins_check,
            is_lost,
        } = probe.receive(said, now);
        if is_lost {
            pair.raise(flag::BLACK_HOLE, &self.events);
        }
        let has_round = begins_check && probe.next_round();
        if has_round && !self.handles.contains(&pair.handle) {
            if self.handles.is_empty() {
                self.next = now + ROUND_INTERVAL;
            }
            self.handles.push(pair.handle);
        }
        if must_answer || has_round {
            self.outbox.leave_pair(pair.handle, probe);
        }
    }

    /// When the next round is due.
    pub fn deadline(&self) -> Option<u64> {
        (!self.handles.is_empty()).then_some(self.next)
    }

    /// Let all pairs that are still checked make their next round.
    pub fn look_after(&mut self, sad: &Sad, now: u64) {
        if self.deadline().is_none_or(|due| now < due) {
            return;
        }
        self.next = now + ROUND_INTERVAL;
        let outbox = &self.outbox;
        self.handles.retain(|handle| {
            let found = sad.look_up(*handle);
            let pair = found.as_ref().filter(|pair| pair.handle == *handle);
            let Some(probe) = pair.and_then(|pair| pair.probe()) else {
                return false;
            };
            let goes_on = probe.next_round();
            if goes_on {
                outbox.leave_pair(*handle, probe);
            }
            goes_on
        });
    }
}
