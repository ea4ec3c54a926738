//! Inbound SPIs: a slot of the SAD in the low bits, chance above it (RFC 4303 2.1).

use std::collections::{HashMap, VecDeque};

use openmoat_io::fill_random;

/// The lowest SPI that may be used; those below are reserved (RFC 4303 2.1).
pub const FIRST_SPI: u32 = 256;

/// Most slots there may be: so many bits of chance are left.
pub const MAX_SLOTS: usize = 1 << 20;

/// Which slots are free, and which SPIs have been handed out.
///
/// Freed slots queue behind all others, and a slot never has the same SPI twice in a row: so an SPI comes back only
/// after all other slots have been used, and then only at random.
pub struct SpiBook {
    slots: usize,
    free: VecDeque<u32>,
    last: Vec<u32>,
    reserved: HashMap<u32, ()>,
}

impl SpiBook {
    /// For a power of two of slots.
    pub fn new(slots: usize) -> Self {
        Self {
            slots,
            free: (0..slots as u32).collect(),
            last: vec![0; slots],
            reserved: HashMap::new(),
        }
    }

    /// The slot that an SPI names.
    pub fn slot(&self, spi: u32) -> usize {
        spi as usize & (self.slots - 1)
    }

    /// Up to `count` fresh SPIs.
    pub fn reserve(&mut self, count: usize) -> Vec<u32> {
        let mut spis = Vec::with_capacity(count.min(self.free.len()));
        while spis.len() < count {
            let Some(slot) = self.free.pop_front() else {
                break;
            };
            let Some(spi) = self.fresh(slot) else {
                self.free.push_front(slot); // no chance to be had: better none than a number that can be guessed
                break;
            };
            self.last[slot as usize] = spi;
            self.reserved.insert(spi, ());
            spis.push(spi);
        }
        spis
    }

    fn fresh(&self, slot: u32) -> Option<u32> {
        loop {
            let mut octets = [0; 4];
            fill_random(&mut octets).ok()?;
            let mask = self.slots as u32 - 1;
            let spi = (u32::from_ne_bytes(octets) & !mask) | slot;
            if spi >= FIRST_SPI && spi != self.last[slot as usize] {
                return Some(spi);
            }
        }
    }

    /// Whether an SPI is reserved and not yet installed; if so it no longer is.
    pub fn install(&mut self, spi: u32) -> bool {
        self.reserved.remove(&spi).is_some()
    }

    /// Give back a reserved SPI; others are left alone.
    pub fn release(&mut self, spi: u32) {
        if self.install(spi) {
            self.retire(spi);
        }
    }

    /// Give back the slot of an SPI that was installed.
    pub fn retire(&mut self, spi: u32) {
        let slot = self.slot(spi) as u32;
        self.free.push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn spis_are_unique_above_255_and_end_with_the_table() {
        let mut book = SpiBook::new(1024);
        let spis = book.reserve(2_000);
        assert_eq!(spis.len(), 1024);
        assert!(spis.iter().all(|spi| *spi >= FIRST_SPI));
        assert_eq!(
            spis.iter()
                .map(|spi| book.slot(*spi))
                .collect::<HashSet<_>>()
                .len(),
            1024
        );
        assert!(book.reserve(1).is_empty());
    }

    #[test]
    fn a_freed_slot_comes_last_and_with_another_spi() {
        let mut book = SpiBook::new(64);
        let first = book.reserve(1)[0];
        assert!(book.install(first));
        assert!(!book.install(first));
        book.retire(first);
        let next = book.reserve(64);
        assert_eq!(book.slot(next[63]), book.slot(first));
        assert!(!next.contains(&first));
    }

    #[test]
    fn what_was_not_reserved_cannot_be_released() {
        let mut book = SpiBook::new(64);
        book.release(0x1234_5678);
        assert_eq!(book.reserve(100).len(), 64);
    }
}
