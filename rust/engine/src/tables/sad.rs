//! The security association database (RFC 4301 4.4.2): a slot per pair, each one atomic pointer. Python's thread writes, packet
//! threads read; nothing waits.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::tables::pair::Pair;

/// What a packet thread holds of a slot for the length of a turn.
pub type Found = arc_swap::Guard<Option<Arc<Pair>>>;

/// The security association database: a slot per pair, found by the low bits of the SPI.
pub struct Sad {
    slots: Box<[ArcSwapOption<Pair>]>,
}

impl Sad {
    /// Empty, for a power of two of slots.
    pub fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| ArcSwapOption::empty()).collect(),
        }
    }

    /// The slot an SPI belongs to.
    pub fn slot(&self, spi: u32) -> usize {
        spi as usize & (self.slots.len() - 1)
    }

    /// The pair with this inbound SPI.
    pub fn find(&self, spi: u32) -> Option<Arc<Pair>> {
        self.slots[self.slot(spi)]
            .load_full()
            .filter(|pair| pair.handle == spi)
    }

    /// The same for a packet: no count of references is touched, which many threads might share.
    pub fn look_up(&self, spi: u32) -> Found {
        self.slots[self.slot(spi)].load()
    }

    /// The pair in a slot.
    pub fn at(&self, slot: usize) -> Option<Arc<Pair>> {
        self.slots[slot].load_full()
    }

    /// Put a pair into its slot.
    pub fn insert(&self, pair: Arc<Pair>) {
        self.slots[self.slot(pair.handle)].store(Some(pair));
    }

    /// Take the pair with this SPI out.
    pub fn remove(&self, spi: u32) -> Option<Arc<Pair>> {
        self.find(spi)?;
        self.slots[self.slot(spi)].swap(None)
    }

    /// All pairs.
    pub fn pairs(&self) -> impl Iterator<Item = Arc<Pair>> + '_ {
        self.slots.iter().filter_map(ArcSwapOption::load_full)
    }
}
