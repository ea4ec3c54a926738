//! Whether large packets of one pair seem to be lost while it is in use: a path that shrinks tells nobody (RFC 8899 4.3).
//!
//! Looked at only when a large packet leaves, so that it costs nothing for pairs that send none, however many there are,
//! and needs no timer: without further large packets nobody would notice. What comes of a suspicion is up to the daemon.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// In a second.
const NANOSECONDS: u64 = 1_000_000_000;

/// So long after the first large packet that nothing answered it is suspicious that nothing has come in at all. TCP sends
/// again after a fifth of a second at the earliest, so that this is seen at its first repeat.
pub const SILENCE: u64 = NANOSECONDS * 3 / 20;

/// Large packets are counted over so long: less than from the first to the second time that TCP sends again.
pub const PERIOD: u64 = NANOSECONDS / 5;

/// What a busy period has at least.
pub const BUSY: u32 = 32;

/// A period after a busy one with some large packets, but not a part of that size, looks like one of repeats alone.
pub const COLLAPSE: u32 = 16;

/// No suspicion again for so long.
pub const AGAIN: u64 = 2 * NANOSECONDS;

/// What is remembered of one pair. One thread at a time tells of packets sent (see `SendLock`), any of those received.
#[derive(Default)]
pub struct Suspicion {
    /// Clock of the last authenticated packet.
    heard: AtomicU64,
    /// Clock of the first large packet after it.
    since: AtomicU64,
    /// Clock of the last suspicion.
    told: AtomicU64,
    /// Clock of the first large packet of the period.
    period: AtomicU64,
    /// Large packets in it.
    count: AtomicU32,
    /// Large packets of the busiest period lately.
    peak: AtomicU32,
}

impl Suspicion {
    /// An authenticated packet came in.
    pub fn receive(&self, now: u64) {
        // All packets of a turn have one time, and only the first of them costs exclusive access.
        if self.heard.load(Ordering::Relaxed) != now {
            self.heard.store(now, Ordering::Relaxed);
        }
    }

    /// A large packet goes out. True: tell the daemon that such packets seem to be lost.
    pub fn send(&self, now: u64) -> bool {
        let is_suspicious = self.is_silent(now) | self.has_collapsed(now);
        let told = self.told.load(Ordering::Relaxed);
        if !is_suspicious || (told != 0 && now.saturating_sub(told) < AGAIN) {
            return false;
        }
        self.told.store(now, Ordering::Relaxed);
        true
    }

    fn is_silent(&self, now: u64) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        if self.heard.load(Ordering::Relaxed) >= since {
            self.since.store(now, Ordering::Relaxed);
            return false;
        }
        now.saturating_sub(since) >= SILENCE
    }

    /// Others may be heard while large packets are lost; then those that are left are the repeats of a few connections.
    fn has_collapsed(&self, now: u64) -> bool {
        if now.saturating_sub(self.period.load(Ordering::Relaxed)) < PERIOD {
            self.count.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let count = self.count.swap(1, Ordering::Relaxed);
        let peak = self.peak.load(Ordering::Relaxed);
        self.period.store(now, Ordering::Relaxed);
        let has_collapsed = count > 0 && peak >= BUSY && count < peak / COLLAPSE;
        let left = if has_collapsed { 0 } else { peak / 2 };
        self.peak.store(count.max(left), Ordering::Relaxed);
        has_collapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = NANOSECONDS / 1_000;

    /// When a suspicion arises as large packets go out at `sent` and others come in at `heard`; milliseconds.
    fn suspicions(sent: &[u64], heard: &[u64]) -> Vec<u64> {
        let suspicion = Suspicion::default();
        let mut moments: Vec<(u64, bool)> = sent.iter().map(|at| (*at, true)).collect();
        moments.extend(heard.iter().map(|at| (*at, false)));
        moments.sort_unstable();
        let mut told = Vec::new();
        for (at, is_sent) in moments {
            let now = (at + 1_000) * MILLISECOND;
            if !is_sent {
                suspicion.receive(now);
            } else if suspicion.send(now) {
                told.push(at);
            }
        }
        told
    }

    /// A busy second, and then what TCP sends again of it.
    fn stalled() -> Vec<u64> {
        (0..1_000).chain([1_200, 1_600, 2_400, 4_000]).collect()
    }

    #[test]
    fn a_flow_that_is_answered_is_never_suspicious() {
        let sent: Vec<u64> = (0..20_000).collect();
        let heard: Vec<u64> = (0..20_000).step_by(100).collect();
        assert_eq!(suspicions(&sent, &heard), []);
    }

    #[test]
    fn a_flow_that_ends_or_becomes_slower_is_not_suspicious() {
        let heard: Vec<u64> = (0..20_000).step_by(50).collect();
        let ended: Vec<u64> = (0..1_000).collect();
        assert_eq!(suspicions(&ended, &heard), []);
        let slower: Vec<u64> = (0..1_000).chain((1_000..9_000).step_by(10)).collect();
        assert_eq!(suspicions(&slower, &heard), []);
        let slow: Vec<u64> = (0..20_000).step_by(300).collect();
        assert_eq!(suspicions(&slow, &heard), []);
    }

    #[test]
    fn silence_is_suspicious_at_the_first_repeat() {
        let heard: Vec<u64> = (0..1_000).step_by(10).collect();
        assert_eq!(suspicions(&stalled(), &heard), [1_200, 4_000]);
    }

    #[test]
    fn a_busy_flow_that_only_repeats_is_so_at_the_second_while_others_are_heard() {
        let heard: Vec<u64> = (0..9_000).step_by(10).collect();
        assert_eq!(suspicions(&stalled(), &heard), [1_600]);
    }

    #[test]
    fn a_flow_nobody_ever_answers_is_asked_about_every_two_seconds() {
        let sent: Vec<u64> = (0..10_000).collect();
        assert_eq!(suspicions(&sent, &[]), [150, 2_150, 4_150, 6_150, 8_150]);
    }
}
