//! Inner packets out of AGGFRAG payloads (RFC 9347 2.5, first method): whole ones leave at once, pieces wait in a window.
//!
//! A piece lies in the slot of its sequence number until its neighbours have come, from either side: the packet is put
//! together backwards from its tail, since BlockOffset says how far from its end each piece lies. Payloads come here
//! after the replay window and the ICV; what leaves has still to pass the selectors. In steady state nothing allocates.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::aggfrag::{Block, Congestion, Header, MAX_INNER};
use crate::drops::{DropCounters, DropReason};

/// Payloads in which the pieces of a packet may lie: the 139 of 65 535 octets over a path of 576, and 64 and more of
/// reordering beside them.
pub const WINDOW: usize = 256;

/// Octets of buffers of one SA: a window of payloads of 9 KiB.
pub const MAX_HELD: usize = WINDOW * 9_216;

/// Octets of buffers of all SAs of an engine.
pub const MAX_HELD_BY_ALL: usize = 64 << 20;

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

    fn take(&self, octets: usize) -> bool {
        let grown = |used: usize| {
            used.checked_add(octets)
                .filter(|&grown| grown <= self.limit)
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
pub struct Workbench<'a> {
    octets: &'a mut [u8],
    free: usize,
}

impl<'a> Workbench<'a> {
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
    /// At this place of the payload.
    Whole(Range<usize>),
    /// Put together from several payloads, at this place of the workbench.
    Assembled(Range<usize>),
}

/// How much of a packet follows after a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Open {
    /// None: it ends with a whole block or a pad.
    #[default]
    Closed,
    /// So many octets.
    Left(usize),
    /// Some: its length does not show yet.
    Some,
    /// Unknown, since the piece here was not kept.
    Lost,
}

/// The pieces of one payload: `octets[..lead]` continue a packet, `octets[head..]` begin one.
#[derive(Debug, Default)]
struct Slot {
    /// 0 is no number of a packet (RFC 4303 3.3.3).
    sequence: u64,
    is_all_pad: bool,
    block_offset: usize,
    lead: usize,
    head: usize,
    open: Open,
    octets: Vec<u8>,
}

impl Slot {
    /// Without its pieces: what goes on behind it counts as lost until they are here.
    fn new(sequence: u64, header: &Header, layout: &Layout) -> Self {
        let is_empty = layout.lead.is_empty() && layout.whole.is_empty() && layout.head.is_empty();
        Self {
            sequence,
            is_all_pad: is_empty && layout.fault.is_none(),
            block_offset: header.block_offset,
            lead: 0,
            head: 0,
            open: match layout.open {
                Open::Closed => Open::Closed,
                _ => Open::Lost,
            },
            octets: Vec::new(),
        }
    }

    fn fill(&mut self, mut octets: Vec<u8>, payload: &[u8], layout: &Layout) {
        octets.extend_from_slice(&payload[layout.lead.clone()]);
        octets.extend_from_slice(&payload[layout.head.clone()]);
        (self.lead, self.head) = (layout.lead.len(), layout.lead.len());
        (self.octets, self.open) = (octets, layout.open);
    }

    fn has_head(&self) -> bool {
        self.octets.len() > self.head
    }

    fn is_middle(&self) -> bool {
        self.lead > 0 && self.block_offset > self.lead
    }

    fn pieces(&self) -> u64 {
        u64::from(self.lead > 0) + u64::from(self.has_head())
    }
}

/// The pieces of one inbound SA.
#[derive(Debug)]
pub struct Reassembler {
    budget: Arc<Budget>,
    /// None until a first piece comes, `WINDOW` from then on.
    slots: Vec<Slot>,
    spare: Vec<Vec<u8>>,
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
            held: 0,
            heard: 0,
        }
    }

    /// Octets of buffers, in use or kept for use.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Take the payload of one ESP packet, at `now` nanoseconds of any steady clock, and deliver what is complete: the
    /// packet that ends here first, then whole ones in their order, then the one that begins here. The bench has room for
    /// `Workbench::NEEDED`.
    ///
    /// An error is for a payload of which nothing was used. Every other fault is counted in `drops`: once for each
    /// piece, once for what remains of a payload behind a block that makes no sense.
    pub fn accept(
        &mut self,
        (sequence, now): (u64, u64),
        payload: &[u8],
        drops: &DropCounters,
        bench: &mut Workbench<'_>,
        mut deliver: impl FnMut(Delivery),
    ) -> Result<Option<Congestion>, DropReason> {
        let header = Header::parse(payload)?;
        if header.block_offset > 0 && payload.len() == header.size {
            return Err(DropReason::AggfragBadOffset);
        }
        self.heard = now;
        let layout = Layout::of(payload, &header);
        let is_kept = self.keep(sequence, payload, &header, &layout, drops)?;
        if let Some(fault) = layout.fault {
            drops.count(fault);
        }
        if is_kept {
            self.agree_with_last(sequence, drops);
            self.complete(sequence, drops, bench, &mut deliver);
        }
        layout
            .packets(payload)
            .for_each(|packet| deliver(Delivery::Whole(packet)));
        if is_kept {
            self.agree_with_next(sequence, drops);
            if let Some(tail) = self.tail_after(sequence) {
                self.complete(tail, drops, bench, &mut deliver);
            }
        }
        Ok(header.congestion)
    }

    /// Give all buffers back if nothing has come for `SILENCE`; pieces in them are dropped.
    pub fn expire(&mut self, now: u64, drops: &DropCounters) {
        if now.saturating_sub(self.heard) < SILENCE {
            return;
        }
        let pieces = self.slots.iter().map(Slot::pieces).sum();
        drops.count_many(DropReason::AggfragIncomplete, pieces);
        self.clear();
    }

    fn clear(&mut self) {
        self.slots = Vec::new();
        self.spare = Vec::new();
        self.budget.give(std::mem::take(&mut self.held));
    }

    /// Keep the pieces of a payload in its slot. False: there is none to keep, or no slot for it.
    fn keep(
        &mut self,
        sequence: u64,
        payload: &[u8],
        header: &Header,
        layout: &Layout,
        drops: &DropCounters,
    ) -> Result<bool, DropReason> {
        let pieces = u64::from(!layout.lead.is_empty()) + u64::from(!layout.head.is_empty());
        let mut slot = Slot::new(sequence, header, layout);
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
        if pieces > 0 {
            match self.buffer(layout.lead.len() + layout.head.len()) {
                Some(octets) => slot.fill(octets, payload, layout),
                None => drops.count_many(DropReason::AggfragMemory, pieces),
            }
        }
        self.slots[index] = slot;
        Ok(true)
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
        let is_granted = self.held + octets <= MAX_HELD && self.budget.take(octets);
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
        (slot.lead, slot.head) = (0, 0);
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
            slot.octets.truncate(slot.head);
            self.release(index);
            return 1;
        }
        if slot.is_middle() {
            return self.drop_lead(index);
        }
        0
    }

    fn drop_lead(&mut self, index: usize) -> u64 {
        let had_lead = std::mem::take(&mut self.slots[index].lead) > 0;
        self.release(index);
        u64::from(had_lead)
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
            let slot = self.slot(at).filter(|slot| slot.lead > 0)?;
            if !slot.is_middle() {
                return Some(at);
            }
            at = self.after(at)?;
        }
        None
    }

    /// Deliver the packet that ends at `tail`, if all its pieces are there.
    fn complete(
        &mut self,
        tail: u64,
        drops: &DropCounters,
        bench: &mut Workbench<'_>,
        deliver: &mut impl FnMut(Delivery),
    ) {
        let has_tail = |slot: &Slot| slot.lead > 0 && !slot.is_middle();
        if !self.slot(tail).is_some_and(has_tail) {
            return;
        }
        let Some(head) = self.head_before(tail) else {
            return;
        };
        match self.assemble(head, tail, bench) {
            Ok(packet) => deliver(Delivery::Assembled(packet)),
            Err(reason) => drops.count(reason),
        }
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

    /// Move all pieces from `head` to `tail` to the end of what is free of the workbench: each says how far from the end it
    /// belongs.
    fn assemble(
        &mut self,
        head: u64,
        tail: u64,
        bench: &mut Workbench<'_>,
    ) -> Result<Range<usize>, DropReason> {
        let (end, mut first) = (bench.free, 0);
        let octets = bench.octets.get_mut(..end).filter(|_| end >= MAX_INNER);
        let bench_octets = octets.ok_or(DropReason::NoRoom)?;
        for sequence in (head + 1..=tail).rev() {
            let index = index_of(sequence);
            let slot = &self.slots[index];
            if slot.lead > 0 {
                // `agree` has seen that these offsets follow each other; an offset is smaller than a packet can be.
                first = end - slot.block_offset;
                bench_octets[first..first + slot.lead].copy_from_slice(&slot.octets[..slot.lead]);
                self.drop_lead(index);
            }
        }
        let index = index_of(head);
        let slot = &self.slots[index];
        let octets = &slot.octets[slot.head..];
        let start = first.checked_sub(octets.len());
        if let Some(start) = start {
            bench_octets[start..first].copy_from_slice(octets);
        }
        self.drop_open(index);
        let start = start.ok_or(DropReason::AggfragBadLength)?;
        match Block::of(&bench_octets[start..])? {
            Block::Packet(length) if length == end - start => {
                bench.free = start;
                Ok(start..end)
            }
            _ => Err(DropReason::AggfragBadOffset),
        }
    }
}

impl Drop for Reassembler {
    fn drop(&mut self) {
        self.clear();
    }
}

fn index_of(sequence: u64) -> usize {
    (sequence % WINDOW as u64) as usize
}

/// Where what lies in a payload, as places in it.
struct Layout {
    lead: Range<usize>,
    whole: Range<usize>,
    head: Range<usize>,
    open: Open,
    fault: Option<DropReason>,
}

impl Layout {
    fn of(payload: &[u8], header: &Header) -> Self {
        let blocks = payload.len() - header.size;
        let start = header.size + header.block_offset.min(blocks);
        let mut layout = Self {
            lead: header.size..start,
            whole: start..start,
            head: start..start,
            open: Open::Closed,
            fault: None,
        };
        if header.block_offset > blocks {
            layout.open = Open::Left(header.block_offset - blocks);
        }
        layout.walk(payload);
        layout
    }

    /// Go from block to block, up to the end, a pad, a packet that is not all here, or one that makes no sense.
    fn walk(&mut self, payload: &[u8]) {
        while self.whole.end < payload.len() {
            let rest = payload.len() - self.whole.end;
            self.open = match Block::of(&payload[self.whole.end..]) {
                Ok(Block::Packet(length)) if length <= rest => {
                    self.whole.end += length;
                    continue;
                }
                Ok(Block::Packet(length)) => Open::Left(length - rest),
                Ok(Block::Runt) => Open::Some,
                Ok(Block::Pad) => return,
                Err(fault) => {
                    (self.fault, self.open) = (Some(fault), Open::Lost);
                    return;
                }
            };
            self.head = self.whole.end..payload.len();
            return;
        }
    }

    /// The packets that are whole, in their order.
    fn packets(&self, payload: &[u8]) -> impl Iterator<Item = Range<usize>> {
        let (mut at, end) = (self.whole.start, self.whole.end);
        std::iter::from_fn(move || {
            let Ok(Block::Packet(length)) = Block::of(payload.get(at..end)?) else {
                return None;
            };
            let packet = at..at + length;
            at = packet.end;
            Some(packet)
        })
    }
}

#[cfg(test)]
#[path = "reassembly_tests.rs"]
mod tests;
