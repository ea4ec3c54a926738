//! What is done with packets that do not fit (`openmoat.mtu.plan`): the rungs, what each of them did, and the bound on
//! outer fragments.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// What may be done to an inner packet larger than `MtuPlan::inner_room`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Fragment before ESP: IPv4 without DF only.
    FragmentInner,
    /// Send it whole in a fragmented outer packet: IPv6 of up to 1280 octets only, which must pass (RFC 8200 5).
    MinimumOuter,
    /// Send it whole in a fragmented outer packet.
    FragmentOuter,
    /// Fragment before ESP, although its sender forbids it: IPv4 only.
    FragmentAnyway,
    /// Drop it and say how much fits.
    Refuse,
}

openmoat_esp::counted! {
    /// What was done about sizes.
    pub enum SizeAction;
    /// Inner packets of one pair, by what was done to them; a super-packet counts as its segments.
    pub struct SizeCounters;

    /// The MSS of a SYN was lowered, in either direction.
    Clamp = "clamp",
    /// See [`Rung::FragmentInner`].
    FragmentInner = "fragment-inner",
    /// See [`Rung::MinimumOuter`].
    MinimumOuter = "minimum-outer",
    /// See [`Rung::FragmentOuter`].
    FragmentOuter = "fragment-outer",
    /// See [`Rung::FragmentAnyway`].
    FragmentAnyway = "fragment-anyway",
    /// [`Rung::FragmentOuter`] was due, but its identifiers were used up; the next rung had its turn.
    Guard = "guard",
    /// See [`Rung::Refuse`].
    Refuse = "refuse",
}

impl From<Rung> for SizeAction {
    fn from(rung: Rung) -> Self {
        match rung {
            Rung::FragmentInner => Self::FragmentInner,
            Rung::MinimumOuter => Self::MinimumOuter,
            Rung::FragmentOuter => Self::FragmentOuter,
            Rung::FragmentAnyway => Self::FragmentAnyway,
            Rung::Refuse => Self::Refuse,
        }
    }
}

/// Outer IPv4 packets to one peer that may leave in fragments, per second. Identifiers have 16 bits, and fragments are
/// waited for up to 30 seconds: with more than 2184 a second those of two packets could be taken for one (RFC 4963, RFC 6864).
pub const MAX_FRAGMENTED_PER_SECOND: u64 = 2_000;

/// How many of them at once.
pub const MAX_FRAGMENTED_BURST: u64 = 200;

const INTERVAL: u64 = 1_000_000_000 / MAX_FRAGMENTED_PER_SECOND;
const PLACES: usize = 1_024;

/// The bound on outer fragments, for all workers together. Peers share places by hash.
pub struct IdentifierGuard {
    /// When the bound will have recovered from all that was permitted, in nanoseconds.
    recovered: Box<[AtomicU64]>,
}

impl Default for IdentifierGuard {
    fn default() -> Self {
        Self {
            recovered: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl IdentifierGuard {
    /// Whether so many packets more may leave for `peer` in fragments, at `now` nanoseconds.
    pub fn permits(&self, peer: IpAddr, packets: usize, now: u64) -> bool {
        let IpAddr::V4(peer) = peer else {
            return true; // identifiers of IPv6 have 32 bits
        };
        let hash = u64::from(u32::from(peer)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let take = |recovered: u64| {
            let then = recovered.max(now) + packets as u64 * INTERVAL;
            (then <= now + MAX_FRAGMENTED_BURST * INTERVAL).then_some(then)
        };
        self.recovered[hash as usize % PLACES]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn outer_fragments_are_bounded_per_peer_and_second() {
        let guard = IdentifierGuard::default();
        let peer = "198.51.100.1".parse().unwrap();
        let permitted = (0..10 * SECOND)
            .step_by(100_000)
            .filter(|now| guard.permits(peer, 1, SECOND + now))
            .count() as u64;
        let most = 10 * MAX_FRAGMENTED_PER_SECOND + MAX_FRAGMENTED_BURST;
        assert!((most - 2..=most).contains(&permitted), "{permitted}");
        assert!(guard.permits("198.51.100.2".parse().unwrap(), 1, 11 * SECOND));
    }

    #[test]
    fn the_segments_of_a_super_packet_pass_together_or_not_at_all() {
        let guard = IdentifierGuard::default();
        let peer = "198.51.100.1".parse().unwrap();
        assert!(guard.permits(peer, MAX_FRAGMENTED_BURST as usize - 20, SECOND));
        assert!(!guard.permits(peer, 45, SECOND));
        assert!(guard.permits(peer, 20, SECOND));
        assert!(!guard.permits(peer, 1, SECOND));
        assert!(guard.permits("2001:db8::1".parse().unwrap(), 1 << 20, SECOND));
    }
}
