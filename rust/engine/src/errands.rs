//! ICMP errors about packets out of the tunnel, from the inbound worker that makes them to the outbound worker that
//! seals them: an error that tunnel traffic provokes goes into an SA or nowhere, and never through the host.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use openmoat_esp::wire::IpPacket;

use crate::icmp::{Complaint, MAX_ERROR_V6, RateLimit, complain};
use crate::shared::locked;
use crate::sizes::plan::MtuPlan;

/// Errors of one worker that wait to be sealed.
pub const MAX_ERRANDS: usize = 64;

/// Errors per second and source about packets whose hops end here, and how many of them at once: a traceroute sends three
/// for each hop.
pub const HOPS_EXCEEDED_PER_SECOND: f64 = 10.0;
/// See [`HOPS_EXCEEDED_PER_SECOND`].
pub const HOPS_EXCEEDED_BURST: f64 = 20.0;

/// What waits for one outbound worker.
#[derive(Default)]
pub struct Errands {
    count: AtomicUsize,
    waiting: Mutex<VecDeque<Vec<u8>>>,
}

impl Errands {
    /// Leave a packet; false where there is no room.
    pub fn leave(&self, octets: Vec<u8>) -> bool {
        let mut waiting = locked(&self.waiting);
        let has_room = waiting.len() < MAX_ERRANDS;
        if has_room {
            waiting.push_back(octets);
            self.count.store(waiting.len(), Ordering::Release);
        }
        has_room
    }

    /// Take the oldest. Costs one look at a number while there is none.
    pub fn take(&self) -> Option<Vec<u8>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut waiting = locked(&self.waiting);
        let octets = waiting.pop_front();
        self.count.store(waiting.len(), Ordering::Release);
        octets
    }
}

/// Makes the errors of one inbound worker.
#[derive(Default)]
pub struct Complaints {
    hops: RateLimit,
}

/// What became of a complaint.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// The error, to be sent.
    Error(Vec<u8>),
    /// None is due: there are too many, or none may answer such a packet.
    NotDue,
    /// We have no address to say it from.
    NoSource,
}

impl Complaints {
    /// An error about a packet whose hops end here, bounded per source.
    pub fn hops_exceeded(
        &mut self,
        plan: &MtuPlan,
        packet: &IpPacket,
        octets: &[u8],
        now: u64,
    ) -> Written {
        let Some(source) = plan.icmp_source(packet.flow.destination) else {
            return Written::NoSource;
        };
        let (rate, burst) = (HOPS_EXCEEDED_PER_SECOND, HOPS_EXCEEDED_BURST);
        if !self.hops.permits(packet.flow.source, now, rate, burst) {
            return Written::NotDue;
        }
        let mut error = vec![0; MAX_ERROR_V6];
        let complaint = Complaint::HopsExceeded;
        match complain(complaint, packet, octets, Some(source), &mut error) {
            Some(size) => {
                error.truncate(size);
                Written::Error(error)
            }
            None => Written::NotDue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{is_checksummed, udp};
    use crate::sizes::plan::IcmpSource;

    fn plan() -> MtuPlan {
        let row = |first: &str, last: &str, address: &str| IcmpSource {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
            address: address.parse().unwrap(),
        };
        MtuPlan {
            icmp_sources: vec![
                row("10.2.0.0", "10.2.0.255", "10.2.0.254"),
                row("0.0.0.0", "255.255.255.255", "10.2.9.1"),
            ],
            ..MtuPlan::default()
        }
    }

    #[test]
    fn errors_come_from_the_address_nearest_to_where_the_packet_went() {
        let mut complaints = Complaints::default();
        for (third, source) in [(0, [10, 2, 0, 254]), (1, [10, 2, 9, 1])] {
            let mut octets = udp(false, 53, b"x");
            octets[18] = third;
            let packet = IpPacket::parse(&octets).unwrap();
            let Written::Error(error) = complaints.hops_exceeded(&plan(), &packet, &octets, 1)
            else {
                panic!("no error");
            };
            assert!(is_checksummed(&error));
            assert_eq!(error[12..16], source);
            assert_eq!(error[20..22], [11, 0]);
        }
        let octets = udp(true, 53, b"x");
        let packet = IpPacket::parse(&octets).unwrap();
        let answer = complaints.hops_exceeded(&plan(), &packet, &octets, 1);
        assert_eq!(answer, Written::NoSource);
    }

    #[test]
    fn a_storm_of_traceroutes_is_answered_within_bounds() {
        let mut complaints = Complaints::default();
        let octets = udp(false, 53, b"x");
        let packet = IpPacket::parse(&octets).unwrap();
        let mut answered = |now: u64| {
            (0..100)
                .filter(|_| {
                    complaints.hops_exceeded(&plan(), &packet, &octets, now) != Written::NotDue
                })
                .count()
        };
        assert_eq!(answered(1_000_000_000), HOPS_EXCEEDED_BURST as usize);
        assert_eq!(answered(2_000_000_000), HOPS_EXCEEDED_PER_SECOND as usize);
    }

    #[test]
    fn a_full_queue_takes_nothing_and_keeps_its_order() {
        let errands = Errands::default();
        assert!((0..MAX_ERRANDS).all(|number| errands.leave(vec![number as u8])));
        assert!(!errands.leave(vec![255]));
        assert_eq!(errands.take(), Some(vec![0]));
        assert!(errands.leave(vec![64]));
        let rest: Vec<u8> = std::iter::from_fn(|| errands.take()).flatten().collect();
        assert_eq!(rest, (1..=64).collect::<Vec<u8>>());
        assert_eq!(errands.take(), None);
    }
}
