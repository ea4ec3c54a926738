//! Inner packets out of AGGFRAG payloads (RFC 9347 2.5): where they lie, in the order in which they are to leave.
//!
//! What lies whole in a payload stays there; what is put together lies in the annex of the batch, and has to be written to
//! the host before that is used anew. Pieces that wait are looked after once a second, by the worker that saw them first.

use std::ops::Range;
use std::sync::atomic::Ordering;

use openmoat_esp::aggfrag::Congestion;
use openmoat_esp::drops::DropReason;
use openmoat_esp::reassembly::{Delivery, SILENCE, Workbench};
use openmoat_io::ReceiveBatch;

use crate::shared::locked;
use crate::tables::{Assembly, Pair, Sad};

/// Packets of one payload that there is memory for from the start; only jumbo payloads of tiny packets have more.
const USUAL_PACKETS: usize = 512;

/// Which payload it is.
pub struct Whence<'a> {
    /// The pair it came by.
    pub pair: &'a Pair,
    /// What that has of AGGFRAG.
    pub assembly: &'a Assembly,
    /// Its number.
    pub sequence: u64,
    /// The engine's clock.
    pub now: u64,
}

/// What one inbound worker knows of AGGFRAG.
pub struct Unpacking {
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
            ready: Vec::with_capacity(USUAL_PACKETS),
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
        self.free.min(batch.parts().1.len()) >= Workbench::NEEDED
    }

    /// All that was unpacked has been written.
    pub fn clear(&mut self) {
        self.free = usize::MAX;
    }

    /// Take the payload that stands at this place of the batch. What it completes is ready after that; the answer is what
    /// it says of the path.
    pub fn unpack(
        &mut self,
        batch: &mut ReceiveBatch,
        payload: Range<usize>,
        whence: &Whence<'_>,
    ) -> Result<Option<Congestion>, DropReason> {
        let Whence { pair, assembly, .. } = whence;
        let (datagrams, annex) = batch.parts();
        let (base, mut bench) = (datagrams.len(), Workbench::new(annex, self.free));
        let mut assembled = 0;
        self.next = 0;
        self.ready.clear();
        let (ready, start) = (&mut self.ready, payload.start);
        let mut reassembler = locked(&assembly.reassembler);
        let accepted = reassembler.accept(
            (whence.sequence, whence.now),
            &datagrams[payload],
            pair.inbound.drops(),
            &mut bench,
            |delivery| match delivery {
                Delivery::Whole(at) => ready.push(start + at.start..start + at.end),
                Delivery::Assembled(at) => {
                    assembled += 1;
                    ready.push(base + at.start..base + at.end);
                }
            },
        );
        let holds = reassembler.held() > 0;
        drop(reassembler);
        self.free = bench.free();
        if assembled > 0 {
            assembly.assembled.fetch_add(assembled, Ordering::Relaxed);
        }
        if holds {
            self.look_after_later(whence);
        }
        accepted.inspect_err(|&reason| pair.inbound.drops().count(reason))
    }

    /// The next packet that is ready, as its place in the batch.
    pub fn next(&mut self) -> Option<Range<usize>> {
        let next = self.ready.get(self.next).cloned();
        self.next += 1;
        next
    }

    fn look_after_later(&mut self, whence: &Whence<'_>) {
        let flag = &whence.assembly.is_looked_after;
        // The common case, that somebody does, costs no exclusive access.
        if flag.load(Ordering::Relaxed) || flag.swap(true, Ordering::Relaxed) {
            return;
        }
        if self.held.is_empty() {
            self.next_look = whence.now + SILENCE;
        }
        self.held.push(whence.pair.handle);
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
