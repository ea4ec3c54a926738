//! What of an AGGFRAG payload waits for others, and where it lies. Part of `crate::reassembly`.

use std::ops::Range;

use crate::aggfrag::{Block, Header};
use crate::drops::DropReason;

/// How much of a packet follows after a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Open {
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

/// The pieces of one payload. They lie where the payload does until the batch that brought it is finished, then in
/// `octets`.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// 0 is no number of a packet (RFC 4303 3.3.3).
    pub(crate) sequence: u64,
    pub(crate) is_all_pad: bool,
    pub(crate) block_offset: usize,
    /// What continues a packet.
    pub(crate) lead: Range<usize>,
    /// What begins one.
    pub(crate) head: Range<usize>,
    /// The place of the payload in its batch; none where the pieces lie in `octets`.
    pub(crate) turn: Option<usize>,
    pub(crate) open: Open,
    pub(crate) octets: Vec<u8>,
}

impl Slot {
    /// Of the payload that lies at `start`, in that turn.
    pub(crate) fn new(sequence: u64, header: &Header, layout: &Layout, at: (usize, usize)) -> Self {
        let is_empty = layout.lead.is_empty() && layout.whole.is_empty() && layout.head.is_empty();
        let (start, turn) = at;
        let placed = |range: &Range<usize>| start + range.start..start + range.end;
        Self {
            sequence,
            is_all_pad: is_empty && layout.fault.is_none(),
            block_offset: header.block_offset,
            lead: placed(&layout.lead),
            head: placed(&layout.head),
            turn: (layout.pieces() > 0).then_some(turn),
            open: layout.open,
            octets: Vec::new(),
        }
    }

    /// Where its pieces lie: here, or there.
    pub(crate) fn store<'a>(&'a self, source: &'a [u8]) -> &'a [u8] {
        if self.turn.is_some() {
            source
        } else {
            &self.octets
        }
    }

    /// Take the pieces over from where the payload lies.
    pub(crate) fn fill(&mut self, mut octets: Vec<u8>, source: &[u8]) {
        octets.extend_from_slice(&source[self.lead.clone()]);
        octets.extend_from_slice(&source[self.head.clone()]);
        self.lead = 0..self.lead.len();
        self.head = self.lead.end..octets.len();
        (self.octets, self.turn) = (octets, None);
    }

    /// There is no memory for the pieces: what goes on behind them counts as lost.
    pub(crate) fn lose(&mut self) {
        (self.lead, self.head, self.turn) = (0..0, 0..0, None);
        if self.open != Open::Closed {
            self.open = Open::Lost;
        }
    }

    pub(crate) fn has_head(&self) -> bool {
        !self.head.is_empty()
    }

    pub(crate) fn is_middle(&self) -> bool {
        !self.lead.is_empty() && self.block_offset > self.lead.len()
    }

    pub(crate) fn pieces(&self) -> u64 {
        u64::from(!self.lead.is_empty()) + u64::from(self.has_head())
    }
}

/// Where what lies in a payload, as places in it.
pub(crate) struct Layout {
    pub(crate) lead: Range<usize>,
    pub(crate) whole: Range<usize>,
    pub(crate) head: Range<usize>,
    pub(crate) open: Open,
    pub(crate) fault: Option<DropReason>,
}

impl Layout {
    pub(crate) fn of(payload: &[u8], header: &Header) -> Self {
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

    pub(crate) fn pieces(&self) -> u64 {
        u64::from(!self.lead.is_empty()) + u64::from(!self.head.is_empty())
    }

    /// The packets that are whole, in their order.
    pub(crate) fn packets(&self, payload: &[u8]) -> impl Iterator<Item = Range<usize>> {
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
