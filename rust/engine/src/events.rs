//! What the daemon learns of: states that are never lost, and noise that is bounded.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use openmoat_io::{EventFd, Path};

/// State of a pair that the daemon must learn of, each flag declared once; its twin in Python
/// (`openmoat.dataplane.declared.SaFlag`) is generated from this.
pub mod flag {
    macro_rules! flags {
        ($($(#[doc = $doc:literal])+ $name:ident = $bit:literal,)*) => {
            $($(#[doc = $doc])+ pub const $name: u32 = $bit;)*

            /// Name, bit and sentence of each.
            pub const ALL: &[(&str, u32, &str)] =
                &[$((stringify!($name), $bit, concat!($($doc, "\n",)+)),)*];
        };
    }

    flags! {
        /// An authenticated packet has come in.
        FIRST_PACKET = 1,
        /// A soft limit is reached: a replacement is due.
        SOFT_LIMIT = 2,
        /// The pair carries nothing any more.
        HARD_LIMIT = 4,
        /// Authenticated packets, newest by sequence number, come from elsewhere than `path` says; see `SaState.path`.
        NEW_PATH = 8,
        /// `Rung.FRAGMENT_ANYWAY` was used.
        DF_IGNORED = 32,
        /// Packets that `MtuPlan.watch_above` counts as large seem to be lost. Told again, after two seconds at the earliest,
        /// while it looks so; unlike those above it is not kept once it is told. The silence of a peer that answers probes
        /// (`MtuPlan.echoes`) proves nothing, once it has answered one.
        SUSPECT = 64,
        /// The peer has answered small path probes, and those in a row of packets of the largest size were lost. Told again
        /// after two seconds unless `MtuPlan.outer_size` has changed; not kept either.
        BLACK_HOLE = 128,
    }

    /// Those that are told once each time.
    pub const TOLD_ONCE: u32 = SUSPECT | BLACK_HOLE;
}

/// One report to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All flags of a pair whose flags changed.
    State {
        /// Which pair.
        handle: u32,
        /// Bits of [`flag`].
        flags: u32,
        /// With NEW_PATH: where from.
        path: Option<Path>,
    },
    /// A packet met a trapping policy that no SA serves.
    Acquire {
        /// Which policy.
        policy: u32,
        /// Inner source.
        source: IpAddr,
        /// Inner destination.
        destination: IpAddr,
        /// Next layer protocol.
        protocol: u8,
        /// Source port, or ICMP type and code.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
}

/// One bit per slot of the SAD whose pair has something to tell, with a summary above. Setting never fails.
pub struct DirtySlots {
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
}

impl DirtySlots {
    /// For so many slots.
    pub fn new(slots: usize) -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let words = slots.div_ceil(64);
        Self {
            words: zeros(words),
            summary: zeros(words.div_ceil(64)),
        }
    }

    /// Set the bit of `slot`.
    pub fn set(&self, slot: usize) {
        let word = slot / 64;
        self.words[word].fetch_or(1 << (slot % 64), Ordering::SeqCst);
        self.summary[word / 64].fetch_or(1 << (word % 64), Ordering::SeqCst);
    }

    /// Clear the lowest bit that is set and answer its slot.
    pub fn take(&self) -> Option<usize> {
        for (index, summary) in self.summary.iter().enumerate() {
            while let Some(bit) = lowest(summary.load(Ordering::SeqCst)) {
                let word = index * 64 + bit;
                if let Some(slot) = lowest(self.words[word].load(Ordering::SeqCst)) {
                    self.words[word].fetch_and(!(1 << slot), Ordering::SeqCst);
                    return Some(word * 64 + slot);
                }
                // Cleared before the word is looked at again: a thread that sets a bit now sets the summary after it.
                summary.fetch_and(!(1 << bit), Ordering::SeqCst);
                if self.words[word].load(Ordering::SeqCst) != 0 {
                    summary.fetch_or(1 << bit, Ordering::SeqCst);
                }
            }
        }
        None
    }
}

fn lowest(word: u64) -> Option<usize> {
    (word != 0).then(|| word.trailing_zeros() as usize)
}

/// What waits for the daemon, and the descriptor that says so.
pub struct Events {
    /// Slots of pairs with news; a pair has the slot that the SAD gives it.
    pub dirty: DirtySlots,
    slots: usize,
    noise: ArrayQueue<Event>,
    overflown: AtomicU64,
    /// Readable while something waits.
    pub readable: EventFd,
}

impl Events {
    /// For a power of two of slots, with room for so much noise.
    pub fn new(slots: usize, noise: usize) -> Result<Self, openmoat_io::DeviceError> {
        Ok(Self {
            dirty: DirtySlots::new(slots),
            slots,
            noise: ArrayQueue::new(noise.max(1)),
            overflown: AtomicU64::new(0),
            readable: EventFd::new()?,
        })
    }

    /// The pair of this handle has news.
    pub fn tell_state(&self, handle: u32) {
        self.dirty.set(handle as usize & (self.slots - 1));
        self.readable.signal();
    }

    /// Report noise, or count it where there is no room.
    pub fn tell_noise(&self, event: Event) {
        if self.noise.push(event).is_err() {
            self.overflown.fetch_add(1, Ordering::Relaxed);
        } else {
            self.readable.signal();
        }
    }

    /// The oldest noise.
    pub fn take_noise(&self) -> Option<Event> {
        self.noise.pop()
    }

    /// How much noise had no room.
    pub fn overflown(&self) -> u64 {
        self.overflown.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dirty_slot_is_taken_once() {
        let dirty = DirtySlots::new(10_000);
        for slot in [9_999, 0, 63, 64, 5_000, 63] {
            dirty.set(slot);
        }
        let mut taken = Vec::new();
        while let Some(slot) = dirty.take() {
            taken.push(slot);
        }
        assert_eq!(taken, [0, 63, 64, 5_000, 9_999]);
        dirty.set(64);
        assert_eq!((dirty.take(), dirty.take()), (Some(64), None));
    }

    #[test]
    fn slots_set_while_others_are_taken_are_not_lost() {
        let dirty = DirtySlots::new(4_096);
        let taken = std::thread::scope(|scope| {
            let setter = scope.spawn(|| (0..4_096).for_each(|slot| dirty.set(slot)));
            let mut taken = 0;
            while !setter.is_finished() {
                taken += std::iter::from_fn(|| dirty.take()).count();
            }
            taken
        });
        assert_eq!(taken + std::iter::from_fn(|| dirty.take()).count(), 4_096);
    }

    fn acquire() -> Event {
        let anywhere = IpAddr::from([0; 4]);
        Event::Acquire {
            policy: 1,
            source: anywhere,
            destination: anywhere,
            protocol: 17,
            source_port: 0,
            destination_port: 0,
        }
    }

    #[test]
    fn noise_beyond_its_bound_is_counted() -> Result<(), openmoat_io::DeviceError> {
        let events = Events::new(64, 2)?;
        for _ in 0..5 {
            events.tell_noise(acquire());
        }
        assert_eq!(std::iter::from_fn(|| events.take_noise()).count(), 2);
        assert_eq!(events.overflown(), 3);
        Ok(())
    }
}
