//! ICMP errors about packets out of the tunnel whose hops end here, bounded per source.

use openmoat_esp::wire::IpPacket;

use crate::icmp::{IcmpError, MAX_ERROR_V6, RateLimit, write_error};
use crate::sizes::plan::MtuPlan;

/// Errors per second and source about packets whose hops end here, and how many of them at once: a traceroute sends three
/// for each hop.
pub const HOPS_EXCEEDED_PER_SECOND: f64 = 10.0;
/// See [`HOPS_EXCEEDED_PER_SECOND`].
pub const HOPS_EXCEEDED_BURST: f64 = 20.0;

/// Makes the errors of one inbound worker.
#[derive(Default)]
pub struct HopErrors {
    hops: RateLimit,
}

/// What became of an error that was due.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The error, to be sent.
    Error(Vec<u8>),
    /// None is due: there are too many, or none may answer such a packet.
    NotDue,
    /// We have no address to send it from.
    NoSource,
}

impl HopErrors {
    /// An error about a packet whose hops end here, bounded per source.
    pub fn hops_exceeded(
        &mut self,
        plan: &MtuPlan,
        packet: &IpPacket,
        octets: &[u8],
        now: u64,
    ) -> Outcome {
        let Some(source) = plan.icmp_source(packet.flow.destination) else {
            return Outcome::NoSource;
        };
        let (rate, burst) = (HOPS_EXCEEDED_PER_SECOND, HOPS_EXCEEDED_BURST);
        if !self.hops.permits(packet.flow.source, now, rate, burst) {
            return Outcome::NotDue;
        }
        let mut error = vec![0; MAX_ERROR_V6];
        match write_error(
            IcmpError::HopsExceeded,
            packet,
            octets,
            Some(source),
            &mut error,
        ) {
            Some(size) => {
                error.truncate(size);
                Outcome::Error(error)
            }
            None => Outcome::NotDue,
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
        let mut errors = HopErrors::default();
        for (third, source) in [(0, [10, 2, 0, 254]), (1, [10, 2, 9, 1])] {
            let mut octets = udp(false, 53, b"x");
            octets[18] = third;
            let packet = IpPacket::parse(&octets).unwrap();
            let Outcome::Error(error) = errors.hops_exceeded(&plan(), &packet, &octets, 1) else {
                panic!("no error");
            };
            assert!(is_checksummed(&error));
            assert_eq!(error[12..16], source);
            assert_eq!(error[20..22], [11, 0]);
        }
        let octets = udp(true, 53, b"x");
        let packet = IpPacket::parse(&octets).unwrap();
        let answer = errors.hops_exceeded(&plan(), &packet, &octets, 1);
        assert_eq!(answer, Outcome::NoSource);
    }

    #[test]
    fn a_storm_of_traceroutes_is_answered_within_bounds() {
        let mut errors = HopErrors::default();
        let octets = udp(false, 53, b"x");
        let packet = IpPacket::parse(&octets).unwrap();
        let mut answered = |now: u64| {
            (0..100)
                .filter(|_| errors.hops_exceeded(&plan(), &packet, &octets, now) != Outcome::NotDue)
                .count()
        };
        assert_eq!(answered(1_000_000_000), HOPS_EXCEEDED_BURST as usize);
        assert_eq!(answered(2_000_000_000), HOPS_EXCEEDED_PER_SECOND as usize);
    }
}
