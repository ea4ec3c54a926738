//! Inner packets out of AGGFRAG payloads (RFC 9347 2.5): where they lie, in the order in which they are to leave.
//!
//! Payloads of one pair that follow each other in a batch are taken together. What lies whole in one stays there, what
//! lies in two that follow each other is joined there; all else is put together in the annex of the batch, and has to be
//! written to the host before that is used anew. Pieces that wait are looked after once a second, by the worker that saw
//! them first.

use std::ops::Range;
use std::sync::atomic::Ordering;

use openmoat_esp::aggfrag::Congestion;
use openmoat_esp::reassembly::{AssemblyBuffer, Delivery, SILENCE};
use openmoat_io::{BATCH, ReceiveBatch};

use crate::lock::locked;
use crate::tables::pair::{Assembly, Pair};
use crate::tables::sa_counters::SaCounter;
use crate::tables::sad::Sad;

/// Payloads that are taken together at most: a batch of them, which the nearer caches hold.
pub const MAX_WAITING: usize = BATCH;

/// Packets that are unpacked before they are written. There is memory for them from the start; one jumbo payload of tiny
/// packets may have more.
const MAX_READY: usize = 512;

/// Where payloads come from.
pub struct Origin<'a> {
    /// The pair it came by.
    pub pair: &'a Pair,
    /// What that has of AGGFRAG.
    pub assembly: &'a Assembly,
    /// The engine's clock.
    pub now: u64,
}

/// What one inbound worker knows of AGGFRAG.
pub struct Unpacking {
    /// Payloads of one pair that wait to be unpacked: their numbers, and their places in the batch, in the order of those.
    waiting: Vec<(u64, Range<usize>)>,
    /// How many of them have been.
    unpacked: usize,
    /// Packets that are to leave, as places in the batch, and which of them is next.
    ready: Vec<Range<usize>>,
    next: usize,
    /// Octets of the annex in which nothing lies; more than there are where all is free.
    free: usize,
    /// Handles of pairs with pieces that wait.
    held: Vec<u32>,
    next_look: u64,
}

impl Default for Unpacking {
    fn default() -> Self {
        Self {
            waiting: Vec::with_capacity(MAX_WAITING),
            unpacked: 0,
            ready: Vec::with_capacity(MAX_READY),
            next: 0,
            free: usize::MAX,
            held: Vec::new(),
            next_look: 0,
        }
    }
}

impl Unpacking {
    /// Whether any payload can be unpacked before the annex is cleared.
    pub fn has_room(&self, batch: &mut ReceiveBatch) -> bool {
        self.free.min(batch.parts().1.len()) >= AssemblyBuffer::NEEDED
    }

    /// All that was unpacked has been written.
    pub fn clear(&mut self) {
        self.free = usize::MAX;
    }

    /// Let a payload wait for those that follow. The caller has asked `is_full`.
    pub fn wait(&mut self, sequence: u64, payload: Range<usize>) {
        self.waiting.push((sequence, payload));
    }

    /// Whether as many wait as are taken together.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Whether any payload waits; if not, there is room for others.
    pub fn is_waiting(&mut self) -> bool {
        let is_waiting = self.unpacked < self.waiting.len();
        if !is_waiting {
            self.forget();
        }
        is_waiting
    }

    /// Forget payloads that wait.
    pub fn forget(&mut self) {
        self.waiting.clear();
        self.unpacked = 0;
    }

    /// Unpack payloads that wait, all of this pair, or as many as there is room for. What they complete is ready after
    /// that; `report` is told what they say of the path.
    pub fn unpack(
        &mut self,
        batch: &mut ReceiveBatch,
        origin: &Origin<'_>,
        mut report: impl FnMut(Congestion),
    ) {
        let (pair, assembly, now) = (&origin.pair, &origin.assembly, &origin.now);
        let (datagrams, annex) = batch.parts();
        let (base, bench) = (datagrams.len(), AssemblyBuffer::new(annex, self.free));
        let (drops, mut assembled) = (pair.inbound.drops(), 0);
        self.next = 0;
        self.ready.clear();
        let ready = &mut self.ready;
        let mut reassembler = locked(&assembly.reassembler);
        let mut payloads = reassembler.begin(datagrams, drops, bench);
        for (sequence, payload) in &self.waiting[self.unpacked..] {
            if !payloads.has_room() || ready.len() >= MAX_READY {
                break;
            }
            self.unpacked += 1;
            let accepted = payloads.accept((*sequence, *now), payload.clone(), |delivery| {
                assembled += u64::from(!matches!(delivery, Delivery::Whole(_)));
                ready.push(match delivery {
                    Delivery::Whole(at) | Delivery::Joined(at) => at,
                    Delivery::Assembled(at) => base + at.start..base + at.end,
                });
            });
            match accepted {
                Ok(Some(said)) => report(said),
                Ok(None) => {}
                Err(reason) => drops.count(reason),
            }
        }
        self.free = payloads.finish();
        let holds = reassembler.held() > 0;
        drop(reassembler);
        if assembled > 0 {
            let counters = &assembly.counters;
            counters.count_many(SaCounter::InboundAssembled, assembled);
        }
        if holds {
            self.look_after_later(origin);
        }
    }

    /// The next packet that is ready, as its place in the batch.
    pub fn next(&mut self) -> Option<Range<usize>> {
        let next = self.ready.get(self.next).cloned();
        self.next += 1;
        next
    }

    fn look_after_later(&mut self, origin: &Origin<'_>) {
        let flag = &origin.assembly.is_looked_after;
        // The common case, that somebody does, costs no exclusive access.
        if flag.load(Ordering::Relaxed) || flag.swap(true, Ordering::Relaxed) {
            return;
        }
        if self.held.is_empty() {
            self.next_look = origin.now + SILENCE;
        }
        self.held.push(origin.pair.handle);
    }

    /// When to look next, if anything waits.
    pub fn deadline(&self) -> Option<u64> {
        (!self.held.is_empty()).then_some(self.next_look)
    }

    /// Let all pairs that have been silent too long drop what they hold.
    pub fn look_after(&mut self, sad: &Sad, now: u64) {
        self.next_look = now + SILENCE;
        self.held.retain(|handle| {
            let found = sad.look_up(*handle);
            let Some(pair) = found.as_ref().filter(|pair| pair.handle == *handle) else {
                return false;
            };
            let Some(assembly) = &pair.assembly else {
                return false;
            };
            let mut reassembler = locked(&assembly.reassembler);
            reassembler.expire(now, pair.inbound.drops());
            let holds = reassembler.held() > 0;
            assembly.is_looked_after.store(holds, Ordering::Relaxed);
            holds
        });
    }
}
