//! AGGFRAG payloads (RFC 9347): their header, the data blocks in them, and how inner packets are packed into them.
//!
//! Packing is on demand: a packet that fits into a payload is never sliced, one that does not begins in what is left of
//! the open payload. What comes in is put together again by `crate::reassembly`.

use crate::drops::DropReason;

/// AGGFRAG_PAYLOAD in the next header field of ESP (RFC 9347 6.1).
pub const NEXT_HEADER: u8 = 144;

/// Octets of the header without congestion control, sub-type 0 (RFC 9347 6.1.1): the usual one.
pub const HEADER: usize = 4;

/// Octets of the header with congestion control, sub-type 1 (RFC 9347 6.1.2).
pub const CONGESTION_HEADER: usize = 24;

/// Octets of the largest inner packet that can come: IPv6 counts its payload without its header.
pub const MAX_INNER: usize = 65_575;

/// Octets of the largest inner packet that is packed: what is left of it must fit into BlockOffset.
pub const MAX_PACKED: usize = 65_535;

/// Octets of a head that show the length of an IPv6 packet, and so of any. No shorter head is sent.
pub const SHORTEST_HEAD: usize = 6;

/// Octets of data blocks that a payload must have room for: below this, headers outweigh what they carry.
pub const MIN_ROOM: usize = 64;

/// What the header of sub-type 1 has more.
const MORE: usize = CONGESTION_HEADER - HEADER;

/// The largest `echo_delay` and `transmit_delay`.
pub const MAX_DELAY: u32 = (1 << 21) - 1;

/// What sub-type 1 says of the path (RFC 9347 6.1.2). Times are microseconds, the largest value means that or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Congestion {
    /// The sender is probing for the path MTU: loss is no sign of congestion (P).
    pub is_probing: bool,
    /// Marks of congestion count in `loss_event_rate` (E).
    pub counts_marks: bool,
    /// Inverse of the loss event rate, 0 for none.
    pub loss_event_rate: u32,
    /// Round trip time as the sender estimates it, 22 bits.
    pub rtt: u32,
    /// How long the sender had `echo` before it sent it back, 21 bits.
    pub echo_delay: u32,
    /// Between two packets of the sender, 21 bits.
    pub transmit_delay: u32,
    /// To be sent back.
    pub value: u32,
    /// What came from us and is sent back.
    pub echo: u32,
}

impl Congestion {
    /// Write the header of a payload with this offset to the front of it.
    fn write(&self, payload: &mut [u8], block_offset: u16) {
        let rtt = u64::from(self.rtt.min((1 << 22) - 1));
        let [echo, transmit] =
            [self.echo_delay, self.transmit_delay].map(|delay| u64::from(delay.min(MAX_DELAY)));
        let flags = u8::from(self.is_probing) << 1 | u8::from(self.counts_marks);
        let words = [
            u32::from_be_bytes([1, flags, 0, 0]) | u32::from(block_offset),
            self.loss_event_rate,
            ((rtt << 42 | echo << 21 | transmit) >> 32) as u32,
            (rtt << 42 | echo << 21 | transmit) as u32,
            self.value,
            self.echo,
        ];
        for (place, word) in payload.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }

    /// Make the first `size` octets of `payload` one that says this and is pad from there on, and so belongs to no packet,
    /// whatever stands before or behind it (RFC 9347 2.2.3). `size` is more than `CONGESTION_HEADER`.
    pub fn write_pad(&self, payload: &mut [u8], size: usize) {
        payload[..size].fill(0);
        self.write(payload, 0);
    }
}

/// The header of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Octets of data blocks before the first new block, counted on into later payloads.
    pub block_offset: usize,
    /// Of sub-type 1.
    pub congestion: Option<Congestion>,
    /// Its own octets.
    pub size: usize,
}

impl Header {
    /// Read the header at the start of a payload. Reserved bits are ignored (RFC 9347 6.1.1).
    pub fn parse(payload: &[u8]) -> Result<Self, DropReason> {
        let (start, rest) = payload
            .split_first_chunk::<HEADER>()
            .ok_or(DropReason::AggfragTooShort)?;
        let [sub_type, flags, high, low] = *start;
        let block_offset = usize::from(u16::from_be_bytes([high, low]));
        let (congestion, size) = match sub_type {
            0 => (None, HEADER),
            1 => {
                let fields = rest.first_chunk().ok_or(DropReason::AggfragTooShort)?;
                (Some(congestion(flags, fields)), CONGESTION_HEADER)
            }
            _ => return Err(DropReason::AggfragSubType),
        };
        Ok(Self {
            block_offset,
            congestion,
            size,
        })
    }
}

fn congestion(flags: u8, fields: &[u8; CONGESTION_HEADER - HEADER]) -> Congestion {
    let word = |at: usize| {
        u32::from_be_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]])
    };
    let times = u64::from(word(4)) << 32 | u64::from(word(8));
    Congestion {
        is_probing: flags & 2 != 0,
        counts_marks: flags & 1 != 0,
        loss_event_rate: word(0),
        rtt: (times >> 42) as u32,
        echo_delay: (times >> 21) as u32 & 0x1f_ffff,
        transmit_delay: times as u32 & 0x1f_ffff,
        value: word(12),
        echo: word(16),
    }
}

/// What the first octets of a data block say (RFC 9347 2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// An IP packet of so many octets.
    Packet(usize),
    /// An IP packet whose length does not show yet.
    Runt,
    /// Nothing up to the end of the payload.
    Pad,
}

impl Block {
    /// Read the start of a data block, of which there is at least one octet.
    pub fn of(octets: &[u8]) -> Result<Self, DropReason> {
        match *octets {
            [first, ..] if first >> 4 == 0 => Ok(Self::Pad),
            [first, _, high, low, ..] if first >> 4 == 4 => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                let header = usize::from(first & 15) * 4;
                if header < 20 || length < header {
                    return Err(DropReason::AggfragBadLength);
                }
                Ok(Self::Packet(length))
            }
            [first, _, _, _, high, low, ..] if first >> 4 == 6 => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                Ok(Self::Packet(40 + length))
            }
            [first, ..] if matches!(first >> 4, 4 | 6) => Ok(Self::Runt),
            _ => Err(DropReason::AggfragUnknownBlock),
        }
    }
}

/// The payload that is being filled on one SA. Its octets are the caller's, who seals them in the order of `finish`.
#[derive(Debug)]
pub struct Packer {
    room: usize,
    filled: usize,
    block_offset: usize,
    is_inside: bool,
    /// What the open payload says of the path, which its header then has room for.
    says: Option<Congestion>,
}

impl Packer {
    /// Fill payloads with up to `room` octets of data blocks; None below `MIN_ROOM`.
    pub fn new(room: usize) -> Option<Self> {
        (room >= MIN_ROOM).then_some(Self {
            room: room.min(MAX_PACKED),
            filled: 0,
            block_offset: 0,
            is_inside: false,
            says: None,
        })
    }

    /// Whether what is left of a packet would fill the open payload, in which there is nothing, to the last octet, even if
    /// that says something of the path.
    pub fn would_fill(&self, rest: usize) -> bool {
        self.filled == 0 && rest > self.room
    }

    /// Let the open payload, in which there is nothing, say this of the path. It has room for less then.
    pub fn say(&mut self, congestion: Congestion) {
        debug_assert_eq!(self.filled, 0);
        self.says = Some(congestion);
    }

    /// Octets of the header of the open payload.
    fn header(&self) -> usize {
        self.says.map_or(HEADER, |_| CONGESTION_HEADER)
    }

    /// Octets of data blocks that still fit into the open payload.
    fn hole(&self) -> usize {
        HEADER + self.room - self.header() - self.filled
    }

    /// Put a packet, or what is left of it, into the open payload; the answer is how many octets of it are now there.
    ///
    /// If some are left, `finish` the payload and put the rest into the next one, before any other packet: once begun, a
    /// packet cannot be given up (RFC 9347 2.2.3). A packet has 1 to `MAX_PACKED` octets; `payload` has room for
    /// `HEADER` and `room`. One that `would_fill` a payload which says something is sliced at what is left there.
    pub fn put(&mut self, payload: &mut [u8], rest: &[u8]) -> usize {
        let hole = self.hole();
        let taken = if self.is_inside {
            self.block_offset = rest.len();
            rest.len().min(hole)
        } else if rest.len() <= hole {
            rest.len()
        } else if rest.len() <= self.room || hole < SHORTEST_HEAD {
            0
        } else {
            hole
        };
        let start = self.header() + self.filled;
        payload[start..start + taken].copy_from_slice(&rest[..taken]);
        self.filled += taken;
        self.is_inside = taken < rest.len() && (taken > 0 || self.is_inside);
        taken
    }

    /// Where in the payload a packet of `length` octets goes, whole, that the caller then writes there; None if there is no
    /// room for it, which `put` deals with. No other packet is begun and not ended.
    pub fn place(&mut self, length: usize) -> Option<usize> {
        if self.is_inside || length > self.hole() {
            return None;
        }
        let at = self.header() + self.filled;
        self.filled += length;
        Some(at)
    }

    /// Payloads, and octets of them, that are needed at most until a packet of `length` octets more has left, with what is
    /// in the open one, and one between them that is pad.
    pub fn with(&self, length: usize) -> (u64, usize) {
        let payloads = (self.filled + length).div_ceil(self.room - MORE) + 2;
        (
            payloads as u64,
            self.filled + length + payloads * (CONGESTION_HEADER + MORE),
        )
    }

    /// Write the header of the open payload; the answer is its octets, header among them, or None if nothing is in it.
    pub fn finish(&mut self, payload: &mut [u8]) -> Option<usize> {
        if self.filled == 0 {
            return None;
        }
        let (offset, header) = (self.block_offset as u16, self.header()); // it fits: `MAX_PACKED`
        match self.says.take() {
            Some(congestion) => congestion.write(payload, offset),
            None => {
                // Sub-type 0, and zero in the reserved octet, which some peers insist on.
                let [high, low] = offset.to_be_bytes();
                payload[..HEADER].copy_from_slice(&[0, 0, high, low]);
            }
        }
        self.block_offset = 0;
        Some(header + std::mem::take(&mut self.filled))
    }
}

#[cfg(test)]
#[path = "aggfrag_tests.rs"]
mod tests;
