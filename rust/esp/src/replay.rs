//! Anti-replay window (RFC 4303 3.4.3, ring of blocks after RFC 6479) with ESN inference (RFC 4303 A2), without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Packets of the smallest window that is not off.
pub const MIN_WINDOW: u32 = 64;
/// Packets of the largest window.
pub const MAX_WINDOW: u32 = 4096;
const BLOCK_BITS: u64 = 32;

/// A window size that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Neither off nor a size we keep.
    #[error("replay window: 0 or a multiple of 64 from {MIN_WINDOW} to {MAX_WINDOW}, got {0}")]
    Size(u32),
    /// RFC 4303 A2: the high half is inferred from the window.
    #[error("replay window: must not be off with extended sequence numbers")]
    OffWithEsn,
}

/// Which sequence numbers of one inbound SA have been authenticated.
///
/// Each slot of the ring holds the number of a block (high half) and one bit per packet of it (low half), and only ever
/// moves on to newer blocks, by compare-and-swap. So no number is accepted twice, whatever threads race.
#[derive(Debug)]
pub struct ReplayWindow {
    size: u64,
    has_esn: bool,
    highest: AtomicU64,
    ring: Box<[AtomicU64]>,
}

impl ReplayWindow {
    /// A window of `size` packets, 0 for none, on an SA whose highest authenticated number is `highest` (0 when new).
    pub fn new(size: u32, has_esn: bool, highest: u64) -> Result<Self, WindowError> {
        if size == 0 && has_esn {
            return Err(WindowError::OffWithEsn);
        }
        if size != 0 && (!size.is_multiple_of(64) || !(MIN_WINDOW..=MAX_WINDOW).contains(&size)) {
            return Err(WindowError::Size(size));
        }
        // A window touches one block more than it fills; a power of two makes the slot a mask.
        let slots = if size == 0 {
            0
        } else {
            (size as usize / BLOCK_BITS as usize + 1).next_power_of_two()
        };
        // Everything up to `highest` counts as seen: all blocks below are older than their slot, its own is full up to it.
        let seen = |slot: usize| {
            let block = highest / BLOCK_BITS;
            let back = (block.wrapping_sub(slot as u64)) & (slots as u64 - 1);
            let number = block.saturating_sub(back);
            let bits = if back == 0 {
                u64::MAX >> (63 - highest % BLOCK_BITS)
            } else {
                u64::from(u32::MAX)
            };
            AtomicU64::new((number << BLOCK_BITS) | if highest == 0 { 0 } else { bits })
        };
        Ok(Self {
            size: size.into(),
            has_esn,
            highest: AtomicU64::new(highest),
            ring: (0..slots).map(seen).collect(),
        })
    }

    /// Highest number authenticated so far.
    pub fn highest(&self) -> u64 {
        self.highest.load(Ordering::Relaxed)
    }

    /// The full sequence number behind the 32 bits on the wire, if it may still be accepted; None for a replay.
    ///
    /// Changes nothing: RFC 4303 3.4.3, the window moves only after the ICV is good.
    pub fn candidate(&self, low: u32) -> Option<u64> {
        let highest = self.highest();
        let sequence = if self.has_esn {
            infer(highest, low, self.size as u32)?
        } else {
            low.into()
        };
        let slot = match self.slot(sequence, highest) {
            Verdict::Stale => return None,
            Verdict::Unchecked => return Some(sequence),
            Verdict::Slot(slot) => slot.load(Ordering::Relaxed),
        };
        admit(slot, sequence).map(|_| sequence)
    }

    /// Mark an authenticated number as seen. None if another packet with it was first; else whether it is the newest.
    pub fn accept(&self, sequence: u64) -> Option<bool> {
        match self.slot(sequence, self.highest()) {
            Verdict::Stale => return None,
            Verdict::Unchecked => {}
            Verdict::Slot(slot) => {
                slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                    admit(held, sequence)
                })
                .ok()?;
            }
        }
        Some(self.highest.fetch_max(sequence, Ordering::Relaxed) < sequence)
    }

    fn slot(&self, sequence: u64, highest: u64) -> Verdict<'_> {
        if self.size == 0 {
            return Verdict::Unchecked;
        }
        // Number 0 is never sent (RFC 4303 2.2).
        if sequence == 0 || (sequence <= highest && highest - sequence >= self.size) {
            return Verdict::Stale;
        }
        let mask = self.ring.len() - 1;
        Verdict::Slot(&self.ring[(sequence / BLOCK_BITS) as usize & mask])
    }
}

enum Verdict<'a> {
    Stale,
    Unchecked,
    Slot(&'a AtomicU64),
}

/// What a slot holds after `sequence`, None if it has the number already or has moved past it.
fn admit(held: u64, sequence: u64) -> Option<u64> {
    let block = (sequence / BLOCK_BITS) as u32;
    let bit = 1 << (sequence % BLOCK_BITS);
    let ahead = block.wrapping_sub((held >> BLOCK_BITS) as u32) as i32;
    match ahead {
        0 if held & bit == 0 => Some(held | bit),
        1.. => Some((u64::from(block) << BLOCK_BITS) | bit),
        _ => None,
    }
}

/// The 64-bit number whose low half is `low`, nearest to the window below `highest` (RFC 4303 A2.2).
fn infer(highest: u64, low: u32, size: u32) -> Option<u64> {
    let (top_high, top_low) = (highest >> 32, highest as u32);
    let bottom = top_low.wrapping_sub(size - 1);
    let high = if top_low >= size - 1 {
        // Case A: the window lies within one cycle; what is left of it belongs to the next.
        if low >= bottom {
            top_high
        } else {
            top_high.checked_add(1).filter(|high| high >> 32 == 0)?
        }
    } else if low >= bottom {
        // Case B: the window reaches back into the cycle before.
        top_high.checked_sub(1)?
    } else {
        top_high
    };
    Some((high << 32) | u64::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn receive(window: &ReplayWindow, sequence: u64) -> bool {
        window.candidate(sequence as u32) == Some(sequence) && window.accept(sequence).is_some()
    }

    #[test]
    fn a_number_is_accepted_once_and_the_left_edge_is_exact() {
        let window = ReplayWindow::new(64, false, 0).unwrap();
        assert!(!receive(&window, 0));
        assert!(receive(&window, 1) && !receive(&window, 1));
        assert!(receive(&window, 100) && receive(&window, 37) && !receive(&window, 37));
        assert!(!receive(&window, 36), "100 - 64 is left of the window");
        assert!(receive(&window, 99) && receive(&window, 101) && !receive(&window, 100));
    }

    #[test]
    fn looking_at_a_packet_moves_nothing() {
        let window = ReplayWindow::new(64, false, 0).unwrap();
        assert_eq!(window.candidate(5000), Some(5000));
        assert_eq!(window.highest(), 0);
        assert!(receive(&window, 1));
    }

    #[test]
    fn newest_is_told_from_late() {
        let window = ReplayWindow::new(64, false, 0).unwrap();
        assert_eq!(window.accept(10), Some(true));
        assert_eq!(window.accept(9), Some(false));
        assert_eq!(window.accept(11), Some(true));
    }

    #[test]
    fn a_window_that_is_off_takes_everything() {
        let window = ReplayWindow::new(0, false, 0).unwrap();
        assert!(receive(&window, 7) && receive(&window, 7) && receive(&window, 0));
        assert_eq!(window.highest(), 7);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        assert_eq!(
            ReplayWindow::new(0, true, 0).unwrap_err(),
            WindowError::OffWithEsn
        );
        for size in [1, 63, 65, 4160] {
            assert_eq!(
                ReplayWindow::new(size, false, 0).unwrap_err(),
                WindowError::Size(size)
            );
        }
    }

    #[test]
    fn esn_infers_the_high_half_across_the_wrap() {
        let wrap = 1_u64 << 32;
        let window = ReplayWindow::new(64, true, wrap - 10).unwrap();
        assert!(
            !receive(&window, wrap - 10),
            "what was seen before stays seen"
        );
        assert!(receive(&window, wrap - 1));
        assert!(
            receive(&window, wrap),
            "low half 0 is a number like others once the high half is not 0"
        );
        assert!(receive(&window, wrap + 5));
        assert!(
            receive(&window, wrap - 2),
            "behind the wrap, inside the window"
        );
        assert!(
            !receive(&window, wrap - 2) && !receive(&window, wrap - 1) && !receive(&window, wrap)
        );
        assert_eq!(
            window.candidate((wrap - 59) as u32).unwrap(),
            2 * wrap - 59,
            "left of the window means the next cycle"
        );
    }

    #[test]
    fn esn_never_goes_below_zero_or_over_the_top() {
        let window = ReplayWindow::new(64, true, 0).unwrap();
        assert_eq!(window.candidate(u32::MAX), None);
        let window = ReplayWindow::new(64, true, u64::MAX - 1).unwrap();
        assert_eq!(window.accept(u64::MAX), Some(true));
        assert_eq!(window.candidate(5), None);
    }

    #[test]
    fn threads_that_race_with_the_same_numbers_accept_each_once() {
        let window = ReplayWindow::new(1024, false, 0).unwrap();
        let accepted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for sequence in 1..=1000 {
                        accepted
                            .fetch_add(window.accept(sequence).is_some().into(), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(accepted.into_inner(), 1000);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_numbers_seen(
            blocks in 1_u32..=8, has_esn: bool, start in prop_oneof![Just(0_u64), Just((1 << 32) - 300), any::<u32>().prop_map(u64::from)],
            steps in prop::collection::vec(prop_oneof![8 => -600_i64..400, 1 => -40_000_i64..100_000], 1..300),
        ) {
            let size = blocks * 64;
            let window = ReplayWindow::new(size, has_esn, start).unwrap();
            let (mut seen, mut highest) = (HashSet::new(), start);
            for step in steps {
                let sequence = highest.saturating_add_signed(step);
                if !has_esn && sequence > u64::from(u32::MAX) { continue; }
                let in_window = sequence > highest || highest - sequence < u64::from(size);
                let before_start = sequence <= start && start > 0;
                let expected = sequence > 0 && in_window && !before_start && !seen.contains(&sequence);
                prop_assert_eq!(receive(&window, sequence), expected, "sequence {} highest {}", sequence, highest);
                if expected {
                    seen.insert(sequence);
                    highest = highest.max(sequence);
                }
                prop_assert_eq!(window.highest(), highest);
            }
        }
    }
}
