//! Packets that wait for an SA of a trapping policy: the first few, for a short time (RFC 4301 5.1, step 3b).

use openmoat_io::VnetHeader;

/// Packets held per policy.
pub const MAX_HELD: usize = 16;
/// Nanoseconds they wait.
pub const HOLD_TIME: u64 = 2_000_000_000;
/// Policies for which packets are held at a time.
pub const MAX_HOLDING: usize = 64;
/// Octets held in all.
pub const MAX_HELD_OCTETS: usize = 4 << 20;

/// A packet as it came from the TUN device.
pub type Held = (VnetHeader, Box<[u8]>);

struct Hold {
    policy: u32,
    deadline: u64,
    packets: Vec<Held>,
    is_over: bool,
}

/// What became of a packet that asked to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits.
    Held,
    /// There is no room for it.
    Full,
    /// The time to wait is over: answer with an error.
    Over,
}

/// Everything that waits.
#[derive(Default)]
pub struct Holds {
    holds: Vec<Hold>,
    octets: usize,
}

impl Holds {
    /// Hold a packet of a policy. This allocates, a bounded number of times and only while no SA is there.
    pub fn hold(&mut self, policy: u32, vnet: VnetHeader, octets: &[u8], now: u64) -> Outcome {
        let index = self.holds.iter().position(|hold| hold.policy == policy);
        let Some(index) = index.or_else(|| self.open(policy, now)) else {
            return Outcome::Full;
        };
        let hold = &mut self.holds[index];
        if hold.is_over {
            return Outcome::Over;
        }
        if hold.packets.len() == MAX_HELD {
            return Outcome::Over;
        }
        if self.octets + octets.len() > MAX_HELD_OCTETS {
            return Outcome::Full;
        }
        self.octets += octets.len();
        hold.packets.push((vnet, octets.into()));
        Outcome::Held
    }

    fn open(&mut self, policy: u32, now: u64) -> Option<usize> {
        if self.holds.len() == MAX_HOLDING {
            // One whose packets are gone makes room: it only remembers to reject.
            let over = self.holds.iter().position(|hold| hold.is_over)?;
            self.holds.swap_remove(over);
        }
        self.holds.push(Hold {
            policy,
            deadline: now + HOLD_TIME,
            packets: Vec::new(),
            is_over: false,
        });
        Some(self.holds.len() - 1)
    }

    /// When the next packets have waited long enough.
    pub fn deadline(&self) -> Option<u64> {
        self.holds
            .iter()
            .filter(|hold| !hold.is_over)
            .map(|hold| hold.deadline)
            .min()
    }

    /// Drop what has waited too long; answers how many packets that are.
    pub fn expire(&mut self, now: u64) -> usize {
        let mut expired = 0;
        for hold in self
            .holds
            .iter_mut()
            .filter(|hold| !hold.is_over && hold.deadline <= now)
        {
            hold.is_over = true;
            for (_, octets) in std::mem::take(&mut hold.packets) {
                self.octets -= octets.len();
                expired += 1;
            }
        }
        expired
    }

    /// Take out the packets of all policies for which `is_served` says that they need wait no more.
    pub fn release(&mut self, is_served: impl Fn(u32) -> bool) -> Vec<Held> {
        let mut released = Vec::new();
        self.holds.retain_mut(|hold| {
            let is_served = is_served(hold.policy);
            if is_served {
                released.append(&mut hold.packets);
            }
            !is_served
        });
        self.octets -= released
            .iter()
            .map(|(_, octets)| octets.len())
            .sum::<usize>();
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(holds: &mut Holds, policy: u32, now: u64) -> Outcome {
        holds.hold(policy, VnetHeader::default(), &[0; 100], now)
    }

    #[test]
    fn sixteen_packets_wait_and_are_released_in_order() {
        let mut holds = Holds::default();
        for number in 0..16 {
            assert_eq!(
                holds.hold(1, VnetHeader::default(), &[number], 0),
                Outcome::Held
            );
        }
        assert_eq!(hold(&mut holds, 1, 0), Outcome::Over);
        assert_eq!(hold(&mut holds, 2, 0), Outcome::Held);
        let released = holds.release(|policy| policy == 1);
        assert_eq!(
            released
                .iter()
                .map(|(_, octets)| octets[0])
                .collect::<Vec<_>>(),
            (0..16).collect::<Vec<_>>()
        );
        assert_eq!(holds.deadline(), Some(HOLD_TIME));
    }

    #[test]
    fn after_two_seconds_packets_are_rejected_until_an_sa_comes() {
        let mut holds = Holds::default();
        hold(&mut holds, 1, 0);
        assert_eq!(holds.expire(HOLD_TIME - 1), 0);
        assert_eq!(holds.expire(HOLD_TIME), 1);
        assert_eq!(hold(&mut holds, 1, HOLD_TIME), Outcome::Over);
        assert!(holds.release(|_| true).is_empty());
        assert_eq!(hold(&mut holds, 1, HOLD_TIME), Outcome::Held);
    }

    #[test]
    fn policies_and_octets_are_bounded() {
        let mut holds = Holds::default();
        let held = (0..100)
            .filter(|policy| hold(&mut holds, *policy, 0) == Outcome::Held)
            .count();
        assert_eq!(held, MAX_HOLDING);
        let mut holds = Holds::default();
        let large = vec![0; 65_535];
        let all = (0..1_000).map(|n| holds.hold(n % 50, VnetHeader::default(), &large, 0));
        let held = all.filter(|outcome| *outcome == Outcome::Held).count();
        assert_eq!(held, MAX_HELD_OCTETS / 65_535);
    }
}
