//! Buffers that batches of packets travel in. Made once per thread; nothing here allocates afterwards.

use std::net::SocketAddr;
use std::ops::Range;

use crate::bounds::{BATCH, MAX_PACKET};
use crate::vnet::VnetHeader;

/// Octets of a [`PacketBatch`]: room for a few super-packets, or for a full batch of ordinary ones.
const ARENA: usize = 4 * 65_536;

/// Each packet begins at a multiple of this, so that headers of neighbours do not share a cache line.
const ALIGN: usize = 64;

/// Octets between the datagrams of a [`ReceiveBatch`]; odd in cache lines, so that headers do not fall into one set.
const STRIDE: usize = 65_536 + 3 * 64;

/// One packet read from a TUN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet {
    /// What the kernel says of it.
    pub vnet: VnetHeader,
    start: u32,
    length: u32,
}

/// Packets read from a TUN: up to [`BATCH`], or fewer where super-packets fill the arena.
pub struct PacketBatch {
    arena: Vec<u8>,
    packets: Vec<Packet>,
    end: usize,
}

impl Default for PacketBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketBatch {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            arena: vec![0; ARENA],
            packets: Vec::with_capacity(BATCH),
            end: 0,
        }
    }

    /// Forget all packets.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.end = 0;
    }

    /// Place for the largest packet, or None when the batch is full.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        if self.packets.len() == BATCH {
            return None;
        }
        self.arena.get_mut(self.end..self.end + MAX_PACKET)
    }

    /// Take in the packet whose octets were just written into [`PacketBatch::room`].
    pub fn push(&mut self, vnet: VnetHeader, length: usize) {
        let length = length.min(MAX_PACKET);
        self.packets.push(Packet {
            vnet,
            start: self.end as u32,
            length: length as u32,
        });
        self.end = (self.end + length).next_multiple_of(ALIGN);
    }

    /// How many packets it holds.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Header and octets of packet `index`, which is below [`PacketBatch::len`].
    pub fn packet(&mut self, index: usize) -> (VnetHeader, &mut [u8]) {
        let packet = self.packets[index];
        let start = packet.start as usize;
        (
            packet.vnet,
            &mut self.arena[start..start + packet.length as usize],
        )
    }
}

/// Packets to be written to a TUN: each a chain of pieces of somebody's arena, so that a super-packet needs no copy.
pub struct PacketList {
    packets: Vec<Chain>,
    pieces: Vec<Piece>,
}

struct Chain {
    vnet: VnetHeader,
    first: u32,
    last: u32,
}

struct Piece {
    octets: Range<u32>,
    next: u32,
}

/// No further piece.
const END: u32 = u32::MAX;

impl Default for PacketList {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketList {
    /// Pieces of all packets of a list.
    pub const MAX_PIECES: usize = 4096;

    /// An empty one.
    pub fn new() -> Self {
        Self {
            packets: Vec::with_capacity(BATCH),
            pieces: Vec::with_capacity(Self::MAX_PIECES),
        }
    }

    /// Forget all packets.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.pieces.clear();
    }

    /// Whether another packet, or another piece of one, fits.
    pub fn has_room(&self) -> bool {
        self.packets.len() < BATCH && self.pieces.len() < Self::MAX_PIECES
    }

    /// Add a packet that begins with this piece of the arena; answers its place. The caller has asked `has_room`.
    pub fn push(&mut self, vnet: VnetHeader, octets: Range<usize>) -> usize {
        let piece = self.piece(octets);
        self.packets.push(Chain {
            vnet,
            first: piece,
            last: piece,
        });
        self.packets.len() - 1
    }

    /// Let packet `index` go on with this piece. The caller has asked `has_room`.
    pub fn extend(&mut self, index: usize, octets: Range<usize>) {
        let piece = self.piece(octets);
        let last = std::mem::replace(&mut self.packets[index].last, piece);
        self.pieces[last as usize].next = piece;
    }

    fn piece(&mut self, octets: Range<usize>) -> u32 {
        self.pieces.push(Piece {
            octets: octets.start as u32..octets.end as u32,
            next: END,
        });
        self.pieces.len() as u32 - 1
    }

    /// Give packet `index` another header.
    pub fn set_vnet(&mut self, index: usize, vnet: VnetHeader) {
        self.packets[index].vnet = vnet;
    }

    /// How many packets it holds.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Header and pieces of each packet.
    pub fn iter(
        &self,
    ) -> impl Iterator<Item = (VnetHeader, impl Iterator<Item = Range<usize>> + '_)> + '_ {
        self.packets.iter().map(|chain| {
            let follow = |piece: &&Piece| self.pieces.get(piece.next as usize);
            let pieces =
                std::iter::successors(self.pieces.get(chain.first as usize), move |piece| {
                    follow(piece)
                });
            (
                chain.vnet,
                pieces.map(|piece| piece.octets.start as usize..piece.octets.end as usize),
            )
        })
    }
}

/// Octets behind the datagrams of a [`ReceiveBatch`], for what is made of them: eight packets of any size at least.
const ANNEX: usize = 8 * 65_536;

/// What is known of one datagram of a [`ReceiveBatch`].
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Where it lies in the arena.
    pub start: usize,
    /// Octets of all its segments.
    pub length: usize,
    /// Octets of each segment but the last; `length` where the kernel joined nothing (UDP GRO).
    pub segment: usize,
    /// Address it was sent to, with the port of the socket.
    pub local: SocketAddr,
    /// Where it came from.
    pub remote: SocketAddr,
    /// Type of service or traffic class of the outer header.
    pub tos: u8,
}

impl Received {
    /// Ranges of its segments in the arena.
    pub fn segments(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let end = self.start + self.length;
        let step = self.segment.max(1);
        (self.start..end)
            .step_by(step)
            .map(move |from| from..(from + step).min(end))
    }
}

/// Datagrams received from a socket.
pub struct ReceiveBatch {
    arena: Vec<u8>,
    /// What lies where.
    pub datagrams: Vec<Received>,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveBatch {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            arena: vec![0; BATCH * STRIDE + ANNEX],
            datagrams: Vec::with_capacity(BATCH),
        }
    }

    /// Place for datagram `index` of a batch: its offset in the arena, and the octets.
    pub fn room(&mut self, index: usize) -> (usize, &mut [u8]) {
        let start = index * STRIDE;
        (start, &mut self.arena[start..start + MAX_PACKET + 1])
    }

    /// All octets, the annex among them; `Received::segments` and `PacketList` name parts of them.
    pub fn arena(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    /// The octets of the datagrams, and behind them the annex, which is the caller's.
    pub fn parts(&mut self) -> (&mut [u8], &mut [u8]) {
        self.arena.split_at_mut(BATCH * STRIDE)
    }
}

/// One datagram, or many of one size (UDP GSO), to be sent from an arena.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Octets of the arena.
    pub octets: Range<usize>,
    /// Source address to use; unspecified: the kernel chooses. Its port is that of the socket.
    pub local: SocketAddr,
    /// Where to.
    pub remote: SocketAddr,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Forbid fragmentation, here and on the way.
    pub df: bool,
    /// IPv6 without `df`: octets of the largest fragment, 1280 at least, whatever the link takes; 0: what the link takes.
    pub fragment_size: u16,
    /// Octets of each datagram but the last; 0: it is one datagram.
    pub segment: u16,
    /// Whatever the sender wants to know when it is lost.
    pub tag: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_64_packets_or_what_fits_of_large_ones() {
        let mut batch = PacketBatch::new();
        while batch.room().is_some() {
            batch.push(VnetHeader::default(), 1_500);
        }
        assert_eq!(batch.len(), BATCH);
        batch.clear();
        while batch.room().is_some() {
            batch.push(VnetHeader::default(), MAX_PACKET);
        }
        assert!(batch.len() >= 3 && batch.len() < BATCH);
        assert_eq!(batch.packet(2).1.len(), MAX_PACKET);
    }

    #[test]
    fn a_list_gives_back_the_pieces_of_each_packet() {
        let mut list = PacketList::new();
        assert_eq!(
            (
                list.push(VnetHeader::default(), 0..10),
                list.push(VnetHeader::default(), 50..51)
            ),
            (0, 1)
        );
        list.extend(0, 30..35);
        list.extend(1, 60..62);
        let pieces: Vec<Vec<Range<usize>>> =
            list.iter().map(|(_, pieces)| pieces.collect()).collect();
        assert_eq!(pieces, [vec![0..10, 30..35], vec![50..51, 60..62]]);
    }

    #[test]
    fn segments_of_a_joined_datagram_are_all_of_one_size_but_the_last() {
        let local = SocketAddr::from(([0, 0, 0, 0], 0));
        let joined = Received {
            start: 100,
            length: 25,
            segment: 10,
            local,
            remote: local,
            tos: 0,
        };
        assert_eq!(
            joined.segments().collect::<Vec<_>>(),
            [100..110, 110..120, 120..125]
        );
        let empty = Received {
            length: 0,
            segment: 0,
            ..joined
        };
        assert_eq!(empty.segments().count(), 0);
    }
}
