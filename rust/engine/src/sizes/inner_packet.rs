//! An inner packet on its way out, and the pieces it leaves as.

use openmoat_esp::drops::DropReason;
use openmoat_esp::wire::IpPacket;
use openmoat_io::{MAX_PACKET, VnetHeader};

use crate::sizes::fragment::Fragmentation;
use crate::sizes::segment::Cut;

/// An inner packet: what the kernel and its own headers say of it, and its octets.
pub struct InnerPacket<'a> {
    /// What the kernel left to do.
    pub vnet: VnetHeader,
    /// Its headers.
    pub packet: IpPacket,
    /// All of it.
    pub octets: &'a mut [u8],
}

impl<'a> InnerPacket<'a> {
    /// Read the headers of a packet from the TUN device.
    pub fn read(vnet: VnetHeader, octets: &'a mut [u8]) -> Result<Self, DropReason> {
        let packet = IpPacket::parse(octets)?;
        if packet.length > MAX_PACKET {
            return Err(DropReason::MalformedInner);
        }
        Ok(Self {
            vnet,
            packet,
            octets,
        })
    }
}

/// The packets that an inner packet is made of.
pub enum Pieces {
    /// Itself, of so many octets.
    Whole(usize),
    /// Its segments.
    Segments(Cut),
    /// Its fragments.
    Fragments(Fragmentation),
    /// Fragments of segments, those of the first segment first.
    SegmentFragments(Cut, Fragmentation),
}

impl Pieces {
    /// How many.
    pub fn count(&self) -> usize {
        match self {
            Self::Whole(_) => 1,
            Self::Segments(cut) => cut.count(),
            Self::Fragments(fragments) => fragments.count(),
            Self::SegmentFragments(cut, fragments) => {
                let last = cut.count() - 1;
                let of_last = fragments.of_segment(last, cut.length(last));
                last * fragments.of_segment(0, cut.length(0)).count() + of_last.count()
            }
        }
    }

    /// Octets of one.
    fn length(&self, index: usize) -> usize {
        match self {
            Self::Whole(length) => *length,
            Self::Segments(cut) => cut.length(index),
            Self::Fragments(fragments) => fragments.length(index),
            Self::SegmentFragments(cut, fragments) => {
                let (_, fragments, index) = segment_fragment(cut, fragments, index);
                fragments.length(index)
            }
        }
    }

    /// Write one to the front of `out`.
    fn write(&self, octets: &[u8], index: usize, out: &mut [u8]) {
        match self {
            Self::Whole(length) => out[..*length].copy_from_slice(&octets[..*length]),
            Self::Segments(cut) => cut.write(octets, index, out),
            Self::Fragments(fragments) => fragments.write(octets, index, out),
            Self::SegmentFragments(cut, fragments) => {
                let (segment, fragments, index) = segment_fragment(cut, fragments, index);
                cut.write(octets, segment, out);
                fragments.keep(index, out);
            }
        }
    }
}

/// One of the pieces that an inner packet leaves as: a packet of its own.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pieces: &'a Pieces,
    index: usize,
    octets: &'a [u8],
}

impl<'a> Piece<'a> {
    /// Piece `index` of the packet with these octets.
    #[inline(always)]
    pub fn of(pieces: &'a Pieces, index: usize, octets: &'a [u8]) -> Self {
        Self {
            pieces,
            index,
            octets,
        }
    }

    /// Octets of it.
    #[inline(always)]
    pub fn length(&self) -> usize {
        self.pieces.length(self.index)
    }

    /// Write it to the front of `out`.
    #[inline(always)]
    pub fn write(&self, out: &mut [u8]) {
        self.pieces.write(self.octets, self.index, out);
    }

    /// Its octets, where they stand as they leave.
    pub fn as_it_stands(&self) -> Option<&'a [u8]> {
        match self.pieces {
            Pieces::Whole(length) => Some(&self.octets[..*length]),
            _ => None,
        }
    }
}

/// Which segment shred `index` is of, how that is fragmented, and which fragment of it this is.
fn segment_fragment(
    cut: &Cut,
    fragments: &Fragmentation,
    index: usize,
) -> (usize, Fragmentation, usize) {
    let each = fragments.of_segment(0, cut.length(0)).count();
    let segment = (index / each).min(cut.count() - 1);
    let fragments = fragments.of_segment(segment, cut.length(segment));
    (segment, fragments, index - segment * each)
}
