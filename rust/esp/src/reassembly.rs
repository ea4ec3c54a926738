//! Inner packets out of AGGFRAG payloads (RFC 9347 2.5, first method): whole ones leave at once, pieces wait in a window.
//!
//! A piece lies in the slot of its sequence number until its neighbours have come, from either side: the packet is put
//! together backwards from its tail, since BlockOffset says how far from its end each piece lies. Payloads come in
//! sittings: as long as one lasts, pieces stay where their payload does, and only what still waits at its end is copied
//! into the slot. Payloads come here after the replay window and the ICV; what leaves has still to pass the selectors. In
//! steady state nothing allocates.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::aggfrag::{Block, Congestion, Header, MAX_INNER};
use crate::drops::{DropCounters, DropReason};
use crate::slots::{Layout, Open, Slot};

/// Payloads in which the pieces of a packet may lie: the 139 of 65 535 octets over a path of 576, and 64 and more of
/// reordering beside them.
pub const WINDOW: usize = 256;

/// Octets of buffers of one SA: a window of payloads of 9 KiB.
pub const MAX_HELD: usize = WINDOW * 9_216;

/// Octets of buffers of all SAs of an engine.
pub const MAX_HELD_BY_ALL: usize = 64 << 20;

/// An SA may hold at most this part of what is left for all: those that hold nothing yet always find something left,
/// however many others take what they can get.
pub const SHARE: usize = 8;

/// Nanoseconds without a payload after which an SA gives its buffers back. Nothing that is whole ever waits for it.
pub const SILENCE: u64 = 1_000_000_000;

/// Buffers grow in steps, so that payloads of slightly different size share them.
const STEP: usize = 512;

/// Octets that all reassemblers may hold together.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// So many octets.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    /// Octets that are held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Octets that one SA may hold as things stand.
    fn share(&self) -> usize {
        self.limit.saturating_sub(self.used()) / SHARE
    }

    /// For an SA that holds `held` octets already.
    fn take(&self, octets: usize, held: usize) -> bool {
        let grown = |used: usize| {
            let left = self.limit.checked_sub(used)?;
            (held + octets <= left / SHARE).then_some(used + octets)
        };
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
            .is_ok()
    }

    fn give(&self, octets: usize) {
        self.used.fetch_sub(octets, Ordering::Relaxed);
    }
}

/// Where packets are put together, one before the other from the end on: what is there stays until somebody says otherwise.
pub struct AssemblyBuffer<'a> {
    octets: &'a mut [u8],
    free: usize,
}

impl<'a> AssemblyBuffer<'a> {
    /// Octets that one payload may need: a packet ends in it, and another may go on behind it that was complete but for it.
    pub const NEEDED: usize = 2 * MAX_INNER;

    /// On the first `free` of these octets.
    pub fn new(octets: &'a mut [u8], free: usize) -> Self {
        let free = free.min(octets.len());
        Self { octets, free }
    }

    /// Octets at the front on which nothing lies yet.
    pub fn free(&self) -> usize {
        self.free
    }
}

/// An inner packet that leaves, byte for byte as its sender had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// At this place among the payloads, as it came.
    Whole(Range<usize>),
    /// At this place among the payloads, put together from two that lie side by side.
    Joined(Range<usize>),
    /// Put together from several payloads, at this place of the assembly buffer.
    Assembled(Range<usize>),
}

/// The pieces of one inbound SA.
#[derive(Debug)]
pub struct Reassembler {
    budget: Arc<Budget>,
    /// None until a first piece comes, `WINDOW` from then on.
    slots: Vec<Slot>,
    spare: Vec<Vec<u8>>,
    /// Slots whose pieces lie among the payloads of this sitting, or did.
    lent: Vec<usize>,
    held: usize,
    heard: u64,
}

impl Reassembler {
    /// Hold nothing yet.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            slots: Vec::new(),
            spare: Vec::new(),
            lent: Vec::new(),
            held: 0,
            heard: 0,
        }
    }

    /// Octets of buffers, in use or kept for use.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Begin to take payloads that lie in `source`, one behind the other in the order in which they are taken. What lies
    /// between one and the next is nobody's and is overwritten.
    pub fn begin<'a>(
        &'a mut self,
        source: &'a mut [u8],
        drops: &'a DropCounters,
        bench: AssemblyBuffer<'a>,
    ) -> PayloadBatch<'a> {
        self.forget_lent(drops);
        PayloadBatch {
            reassembler: self,
            source,
            drops,
            bench,
            turn: 0,
        }
    }

    /// Give all buffers back if nothing has come for `SILENCE`, or those beyond the share of one SA; pieces in them are
    /// dropped.
    pub fn expire(&mut self, now: u64, drops: &DropCounters) {
        if now.saturating_sub(self.heard) < SILENCE {
            self.shed(drops);
            return;
        }
        let pieces = self.slots.iter().map(Slot::pieces).sum();
        drops.count_many(DropReason::AggfragIncomplete, pieces);
        self.clear();
    }

    /// Others have come since there was this much for each: give what is beyond the share back, the oldest pieces first.
    fn shed(&mut self, drops: &DropCounters) {
        let newest = self.slots.iter().map(|slot| slot.sequence).max();
        let mut back = WINDOW as u64;
        while self.held > self.budget.share() {
            if let Some(buffer) = self.spare.pop() {
                self.shrink(buffer.capacity());
                continue;
            }
            let (Some(newest), Some(left)) = (newest, back.checked_sub(1)) else {
                return;
            };
            back = left;
            let sequence = newest.saturating_sub(back);
            if self.slot(sequence).is_some_and(|slot| slot.pieces() > 0) {
                let index = index_of(sequence);
                drops.count_many(DropReason::AggfragMemory, self.slots[index].pieces());
                self.slots[index].open = Open::Lost;
                self.empty(index);
            }
        }
    }

    /// A batch that was not finished ended in a panic: the pieces that lay in it are lost.
    fn forget_lent(&mut self, drops: &DropCounters) {
        while let Some(index) = self.lent.pop() {
            if let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.turn.is_some()) {
                drops.count_many(DropReason::AggfragIncomplete, slot.pieces());
                slot.lose();
            }
        }
    }

    fn clear(&mut self) {
        self.lent.clear();
        self.slots = Vec::new();
        self.spare = Vec::new();
        self.budget.give(std::mem::take(&mut self.held));
    }

    /// Put the pieces of a payload down in its slot. False: there is none to keep, or no slot for it.
    fn keep(&mut self, slot: Slot, drops: &DropCounters) -> Result<bool, DropReason> {
        let (sequence, pieces) = (slot.sequence, slot.pieces());
        if self.slots.is_empty() {
            // A payload that is all pad may have come before the pieces between which it lies.
            if pieces == 0 && !slot.is_all_pad {
                return Ok(false);
            }
            if !self.grow(WINDOW * size_of::<Slot>()) {
                drops.count_many(DropReason::AggfragMemory, pieces);
                return Ok(false);
            }
            self.slots.resize_with(WINDOW, Slot::default);
        }
        let index = index_of(sequence);
        let old = &self.slots[index];
        if old.sequence == sequence {
            return Err(DropReason::Replayed);
        }
        if old.sequence > sequence {
            drops.count_many(DropReason::AggfragLate, pieces);
            return Ok(false);
        }
        drops.count_many(DropReason::AggfragIncomplete, old.pieces());
        self.empty(index);
        if slot.turn.is_some() {
            self.lent.push(index);
        }
        self.slots[index] = slot;
        Ok(true)
    }

    /// Keep the pieces that still wait at the end of a batch.
    fn keep_lent(&mut self, source: &[u8], drops: &DropCounters) {
        while let Some(index) = self.lent.pop() {
            let slot = &self.slots[index];
            if slot.turn.is_none() {
                continue;
            }
            let buffer = self.buffer(slot.lead.len() + slot.head.len());
            let slot = &mut self.slots[index];
            match buffer {
                Some(octets) => slot.fill(octets, source),
                None => {
                    drops.count_many(DropReason::AggfragMemory, slot.pieces());
                    slot.lose();
                }
            }
        }
    }

    /// An empty buffer for so many octets, if the bounds allow it.
    fn buffer(&mut self, octets: usize) -> Option<Vec<u8>> {
        let wanted = octets.next_multiple_of(STEP);
        let spare = self.spare.pop();
        if let Some(buffer) = spare {
            if buffer.capacity() >= wanted {
                return Some(buffer);
            }
            self.shrink(buffer.capacity());
        }
        if !self.grow(wanted) {
            // Those kept for use are too small or too few: they make room for one that fits.
            let spare = self.spare.drain(..).map(|buffer| buffer.capacity()).sum();
            self.shrink(spare);
            if !self.grow(wanted) {
                return None;
            }
        }
        Some(Vec::with_capacity(wanted))
    }

    fn grow(&mut self, octets: usize) -> bool {
        let is_granted = self.held + octets <= MAX_HELD && self.budget.take(octets, self.held);
        if is_granted {
            self.held += octets;
        }
        is_granted
    }

    fn shrink(&mut self, octets: usize) {
        self.held -= octets;
        self.budget.give(octets);
    }

    /// Take everything out of a slot, and keep its buffer for another.
    fn empty(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let mut buffer = std::mem::take(&mut slot.octets);
        (slot.lead, slot.head, slot.turn) = (0..0, 0..0, None);
        if buffer.capacity() > 0 {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    fn slot(&self, sequence: u64) -> Option<&Slot> {
        let slot = self.slots.get(index_of(sequence))?;
        (slot.sequence == sequence && sequence > 0).then_some(slot)
    }

    /// The payload before this one that is not all pad, if all between have come (RFC 9347 2.2.3).
    fn before(&self, sequence: u64) -> Option<u64> {
        (1..WINDOW as u64)
            .map_while(|back| self.slot(sequence.checked_sub(back)?))
            .find(|slot| !slot.is_all_pad)
            .map(|slot| slot.sequence)
    }

    /// The payload after this one that is not all pad, if all between have come.
    fn after(&self, sequence: u64) -> Option<u64> {
        (1..WINDOW as u64)
            .map_while(|ahead| self.slot(sequence.checked_add(ahead)?))
            .find(|slot| !slot.is_all_pad)
            .map(|slot| slot.sequence)
    }

    fn agree_with_last(&mut self, sequence: u64, drops: &DropCounters) {
        if self.slot(sequence).is_some_and(|slot| !slot.is_all_pad)
            && let Some(last) = self.before(sequence)
        {
            self.agree(last, sequence, drops);
        }
    }

    fn agree_with_next(&mut self, sequence: u64, drops: &DropCounters) {
        let first = match self.slot(sequence) {
            Some(slot) if slot.is_all_pad => self.before(sequence),
            _ => Some(sequence),
        };
        if let (Some(first), Some(next)) = (first, self.after(sequence)) {
            self.agree(first, next, drops);
        }
    }

    /// Drop the pieces of two neighbours that contradict each other (RFC 9347 2.5, last paragraph).
    fn agree(&mut self, first: u64, second: u64, drops: &DropCounters) {
        let (first, second) = (index_of(first), index_of(second));
        let offset = self.slots[second].block_offset;
        let agrees = match self.slots[first].open {
            Open::Closed => offset == 0,
            Open::Left(left) => offset == left,
            Open::Some => offset > 0,
            Open::Lost => true,
        };
        if agrees {
            return;
        }
        let pieces = self.drop_open(first) + self.drop_lead(second);
        drops.count_many(DropReason::AggfragBadOffset, pieces);
    }

    /// Drop the piece that a packet leaves behind at the end of a payload; how many these were.
    fn drop_open(&mut self, index: usize) -> u64 {
        let slot = &mut self.slots[index];
        if slot.has_head() {
            slot.head = 0..0;
            self.release(index);
            return 1;
        }
        if slot.is_middle() {
            return self.drop_lead(index);
        }
        0
    }

    fn drop_lead(&mut self, index: usize) -> u64 {
        let lead = std::mem::take(&mut self.slots[index].lead);
        self.release(index);
        u64::from(!lead.is_empty())
    }

    /// Free the buffer of a slot in which no piece is left.
    fn release(&mut self, index: usize) {
        if self.slots[index].pieces() == 0 {
            self.empty(index);
        }
    }

    /// Where the packet ends that goes on behind this payload, if everything up to there has come.
    fn tail_after(&self, sequence: u64) -> Option<u64> {
        let mut at = self.after(sequence)?;
        for _ in 0..WINDOW {
            let slot = self.slot(at).filter(|slot| !slot.lead.is_empty())?;
            if !slot.is_middle() {
                return Some(at);
            }
            at = self.after(at)?;
        }
        None
    }

    /// Where the packet begins that ends at `tail`, if everything from there on has come.
    fn head_before(&self, tail: u64) -> Option<u64> {
        let mut at = self.before(tail)?;
        for _ in 0..WINDOW {
            let slot = self.slot(at)?;
            if slot.has_head() {
                return Some(at);
            }
            if !slot.is_middle() {
                return None;
            }
            at = self.before(at)?;
        }
        None
    }
}

impl Drop for Reassembler {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Payloads that are taken together. They and their pieces stay where they were received until `finish`.
pub struct PayloadBatch<'a> {
    reassembler: &'a mut Reassembler,
    source: &'a mut [u8],
    drops: &'a DropCounters,
    bench: AssemblyBuffer<'a>,
    turn: usize,
}

impl PayloadBatch<'_> {
    /// Whether the assembly buffer has room for whatever a payload completes.
    pub fn has_room(&self) -> bool {
        self.bench.free >= AssemblyBuffer::NEEDED
    }

    /// Copy the pieces that still wait, and answer how many octets of the assembly buffer are free.
    pub fn finish(self) -> usize {
        self.reassembler.keep_lent(self.source, self.drops);
        self.bench.free
    }

    /// Take the payload of one ESP packet, at `now` nanoseconds of any steady clock, and deliver what is complete: the
    /// packet that ends here first, then whole ones in their order, then the one that begins here. The caller has asked
    /// `has_room`.
    ///
    /// An error is for a payload of which nothing was used. Every other fault is counted: once for each piece, once for
    /// what remains of a payload behind a block that makes no sense.
    pub fn accept(
        &mut self,
        (sequence, now): (u64, u64),
        place: Range<usize>,
        mut deliver: impl FnMut(Delivery),
    ) -> Result<Option<Congestion>, DropReason> {
        self.turn += 1;
        let payload = &self.source[place.clone()];
        let header = Header::parse(payload)?;
        if header.block_offset > 0 && payload.len() == header.size {
            return Err(DropReason::AggfragBadOffset);
        }
        self.reassembler.heard = now;
        let layout = Layout::of(payload, &header);
        let slot = Slot::new(sequence, &header, &layout, (place.start, self.turn));
        let is_kept = self.reassembler.keep(slot, self.drops)?;
        if let Some(fault) = layout.fault {
            self.drops.count(fault);
        }
        if is_kept {
            self.reassembler.agree_with_last(sequence, self.drops);
            self.complete(sequence, &mut deliver);
        }
        for packet in layout.packets(&self.source[place.clone()]) {
            let (start, end) = (place.start + packet.start, place.start + packet.end);
            deliver(Delivery::Whole(start..end));
        }
        if is_kept {
            self.reassembler.agree_with_next(sequence, self.drops);
            if let Some(tail) = self.reassembler.tail_after(sequence) {
                self.complete(tail, &mut deliver);
            }
        }
        Ok(header.congestion)
    }

    /// Deliver the packet that ends at `tail`, if all its pieces are there.
    fn complete(&mut self, tail: u64, deliver: &mut impl FnMut(Delivery)) {
        let has_tail = |slot: &Slot| !slot.lead.is_empty() && !slot.is_middle();
        if !self.reassembler.slot(tail).is_some_and(has_tail) {
            return;
        }
        let Some(head) = self.reassembler.head_before(tail) else {
            return;
        };
        let made = match self.join(head, tail) {
            Some(place) => check(&self.source[place.clone()]).map(|()| Delivery::Joined(place)),
            None => self.assemble(head, tail).map(Delivery::Assembled),
        };
        match made {
            Ok(packet) => deliver(packet),
            Err(reason) => self.drops.count(reason),
        }
    }

    /// Move the smaller of two pieces to the larger one, where they are all there is of a packet and lie in payloads that
    /// were taken one after the other: then there is nothing between them that anybody wants.
    fn join(&mut self, head: u64, tail: u64) -> Option<Range<usize>> {
        if self.reassembler.before(tail) != Some(head) {
            return None;
        }
        let (first, second) = (index_of(head), index_of(tail));
        let (head, tail) = (
            &self.reassembler.slots[first],
            &self.reassembler.slots[second],
        );
        let is_next = head.turn.is_some_and(|turn| tail.turn == Some(turn + 1));
        let (head, tail) = (head.head.clone(), tail.lead.clone());
        if !is_next || head.end > tail.start {
            return None;
        }
        let place = if head.len() <= tail.len() {
            let start = tail.start - head.len();
            self.source.copy_within(head, start);
            start..tail.end
        } else {
            let end = head.end + tail.len();
            self.source.copy_within(tail, head.end);
            head.start..end
        };
        self.reassembler.drop_open(first);
        self.reassembler.drop_lead(second);
        Some(place)
    }

    /// Copy all pieces from `head` to `tail` to the end of what is free of the assembly buffer: each says how far from the end it
    /// belongs.
    fn assemble(&mut self, head: u64, tail: u64) -> Result<Range<usize>, DropReason> {
        let (end, mut first) = (self.bench.free, 0);
        let octets = self.bench.octets.get_mut(..end);
        let bench = octets
            .filter(|_| end >= MAX_INNER)
            .ok_or(DropReason::NoRoom)?;
        for sequence in (head + 1..=tail).rev() {
            let index = index_of(sequence);
            let slot = &self.reassembler.slots[index];
            if !slot.lead.is_empty() {
                let piece = &slot.store(self.source)[slot.lead.clone()];
                // `agree` has seen that these offsets follow each other; an offset is smaller than a packet can be.
                first = end - slot.block_offset;
                bench[first..first + piece.len()].copy_from_slice(piece);
                self.reassembler.drop_lead(index);
            }
        }
        let index = index_of(head);
        let slot = &self.reassembler.slots[index];
        let piece = &slot.store(self.source)[slot.head.clone()];
        let start = first.checked_sub(piece.len());
        if let Some(start) = start {
            bench[start..first].copy_from_slice(piece);
        }
        self.reassembler.drop_open(index);
        let start = start.ok_or(DropReason::AggfragBadLength)?;
        check(&bench[start..end])?;
        self.bench.free = start;
        Ok(start..end)
    }
}

/// Whether what was put together is a packet of just its length.
fn check(packet: &[u8]) -> Result<(), DropReason> {
    match Block::of(packet)? {
        Block::Packet(length) if length == packet.len() => Ok(()),
        _ => Err(DropReason::AggfragBadOffset),
    }
}

fn index_of(sequence: u64) -> usize {
    (sequence % WINDOW as u64) as usize
}

#[cfg(test)]
#[path = "reassembly_tests.rs"]
mod tests;
