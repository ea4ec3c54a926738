//! What an SA has carried, and the limits at which it asks for its replacement or stops.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::suite::Suite;

/// The last sequence number without ESN.
pub const MAX_SHORT_SEQUENCE: u64 = u32::MAX as u64;

/// The last sequence number.
pub const fn max_sequence(has_esn: bool) -> u64 {
    if has_esn {
        u64::MAX
    } else {
        MAX_SHORT_SEQUENCE
    }
}

/// Octets and packets after which an SA asks for its replacement (soft) or stops (hard); 0 is none. They are those of inner
/// packets, or of payloads where these are AGGFRAG's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Ask for a replacement after so many octets.
    pub soft_octets: u64,
    /// Stop after so many octets.
    pub hard_octets: u64,
    /// Ask for a replacement after so many packets.
    pub soft_packets: u64,
    /// Stop after so many packets.
    pub hard_packets: u64,
}

/// Where an SA stands after a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Below all limits.
    Fresh,
    /// A soft limit is reached: a replacement is due.
    Soft,
}

/// Limits and what has been carried so far.
#[derive(Debug)]
pub struct Meter {
    packets: AtomicU64,
    octets: AtomicU64,
    soft_octets: AtomicU64,
    hard_octets: AtomicU64,
    soft_packets: AtomicU64,
    hard_packets: AtomicU64,
    max_octets: u64,
    max_packets: u64,
}

impl Meter {
    /// Nothing carried yet.
    pub fn new(limits: Limits, suite: Suite, has_esn: bool) -> Self {
        let meter = Self {
            packets: AtomicU64::new(0),
            octets: AtomicU64::new(0),
            soft_octets: AtomicU64::new(0),
            hard_octets: AtomicU64::new(0),
            soft_packets: AtomicU64::new(0),
            hard_packets: AtomicU64::new(0),
            max_octets: suite.max_octets(),
            max_packets: max_sequence(has_esn),
        };
        meter.set(limits);
        meter
    }

    /// No limit is kept as the one that cipher and sequence number have of themselves, so that the packet path only
    /// compares. Of those the daemon is told in time, whatever it set: at seven eighths.
    pub fn set(&self, limits: Limits) {
        let bound = |limit: u64, max: u64| if limit == 0 { max } else { limit.min(max) };
        let early = |max: u64| max - max / 8;
        self.soft_octets.store(
            bound(limits.soft_octets, early(self.max_octets)),
            Ordering::Relaxed,
        );
        self.hard_octets.store(
            bound(limits.hard_octets, self.max_octets),
            Ordering::Relaxed,
        );
        self.soft_packets.store(
            bound(limits.soft_packets, early(self.max_packets)),
            Ordering::Relaxed,
        );
        self.hard_packets.store(
            bound(limits.hard_packets, self.max_packets),
            Ordering::Relaxed,
        );
    }

    /// Whether another packet may pass.
    pub fn has_room(&self) -> bool {
        self.octets.load(Ordering::Relaxed) < self.hard_octets.load(Ordering::Relaxed)
            && self.packets.load(Ordering::Relaxed) < self.hard_packets.load(Ordering::Relaxed)
    }

    /// Whether so many packets of so many octets in all may pass.
    pub fn has_room_for(&self, packets: u64, octets: u64) -> bool {
        let fits = |used: &AtomicU64, more: u64, hard: &AtomicU64| {
            let total = used.load(Ordering::Relaxed).checked_add(more);
            total.is_some_and(|total| total <= hard.load(Ordering::Relaxed))
        };
        fits(&self.octets, octets, &self.hard_octets)
            && fits(&self.packets, packets, &self.hard_packets)
    }

    /// Packets and octets carried.
    pub fn carried(&self) -> (u64, u64) {
        (
            self.packets.load(Ordering::Relaxed),
            self.octets.load(Ordering::Relaxed),
        )
    }

    /// Count a packet of so many octets.
    pub fn count(&self, octets: usize) -> Usage {
        let octets = self.octets.fetch_add(octets as u64, Ordering::Relaxed) + octets as u64;
        let packets = self.packets.fetch_add(1, Ordering::Relaxed) + 1;
        let is_soft = octets >= self.soft_octets.load(Ordering::Relaxed)
            || packets >= self.soft_packets.load(Ordering::Relaxed);
        if is_soft { Usage::Soft } else { Usage::Fresh }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_limits_those_of_cipher_and_sequence_number_stand() {
        let suite = Suite::by_name("aes128gcm16").unwrap();
        let meter = Meter::new(Limits::default(), suite, false);
        meter
            .packets
            .store(MAX_SHORT_SEQUENCE / 8 * 7, Ordering::Relaxed);
        assert_eq!((meter.has_room(), meter.count(28)), (true, Usage::Fresh));
        meter
            .packets
            .store(MAX_SHORT_SEQUENCE / 8 * 7 + 7, Ordering::Relaxed);
        assert_eq!((meter.has_room(), meter.count(28)), (true, Usage::Soft));
        meter.packets.store(MAX_SHORT_SEQUENCE, Ordering::Relaxed);
        assert!(!meter.has_room());
        meter.packets.store(0, Ordering::Relaxed);
        meter
            .octets
            .store(crate::suite::MAX_AES_OCTETS, Ordering::Relaxed);
        meter.set(Limits {
            hard_octets: u64::MAX,
            hard_packets: u64::MAX,
            ..Limits::default()
        });
        assert!(
            !meter.has_room(),
            "nobody sets a limit above the cipher's own"
        );
    }
}
