//! ICMP errors that the tunnel provokes (RFC 792, RFC 4443, RFC 1191): made here, limited per source, never in clear outside.

use std::net::IpAddr;

use openmoat_esp::wire::{IPV4_HEADER, IPV6_HEADER, IpPacket, checksum, protocol};

use openmoat_esp::icmp_error;

use crate::sizes::segment::{mend_ipv4_checksum, pseudo_header};

/// Octets of the largest error: RFC 1812 4.3.2.3 quotes up to 576, RFC 4443 2.4 up to the least MTU.
pub const MAX_ERROR_V4: usize = 576;
/// The same for IPv6.
pub const MAX_ERROR_V6: usize = 1280;

const HEADER: usize = 8;
const TTL: u8 = 64;

/// What the error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// A policy, or the want of an SA, forbids it.
    Prohibited,
    /// It is larger than so many octets.
    TooBig(usize),
    /// Its hops end here.
    HopsExceeded,
}

impl IcmpError {
    fn type_and_code(self, is_v6: bool) -> [u8; 2] {
        match (self, is_v6) {
            (Self::Prohibited, false) => [3, 13],
            (Self::Prohibited, true) => [1, 1],
            (Self::TooBig(_), false) => [3, 4],
            (Self::TooBig(_), true) => [2, 0],
            (Self::HopsExceeded, false) => [11, 0],
            (Self::HopsExceeded, true) => [3, 0],
        }
    }

    fn rest(self, is_v6: bool) -> [u8; 4] {
        match self {
            Self::Prohibited | Self::HopsExceeded => [0; 4],
            Self::TooBig(size) if is_v6 => (size as u32).to_be_bytes(),
            Self::TooBig(size) => (size.min(usize::from(u16::MAX)) as u32).to_be_bytes(),
        }
    }
}

/// Write an error about `packet` into `out`; answers its size. None where none may be sent (RFC 1122 3.2.2, RFC 4443 2.4).
///
/// Without a `source` it comes from where the packet was to go, which is inside the selectors and routed to the tunnel.
pub fn write_error(
    error: IcmpError,
    packet: &IpPacket,
    octets: &[u8],
    source: Option<IpAddr>,
    out: &mut [u8],
) -> Option<usize> {
    let is_v6 = packet.flow.source.is_ipv6();
    let source = source
        .filter(|source| source.is_ipv6() == is_v6)
        .unwrap_or(packet.flow.destination);
    if packet.is_later_fragment
        || icmp_error::is_error(packet)
        || !is_single(packet.flow.source)
        || !is_single(packet.flow.destination)
        || !is_single(source)
    {
        return None;
    }
    let (ip, most) = if is_v6 {
        (IPV6_HEADER, MAX_ERROR_V6)
    } else {
        (IPV4_HEADER, MAX_ERROR_V4)
    };
    let quoted = packet.length.min(octets.len()).min(most - ip - HEADER);
    let size = ip + HEADER + quoted;
    let out = out.get_mut(..size)?;
    out[ip..ip + 2].copy_from_slice(&error.type_and_code(is_v6));
    out[ip + 2..ip + 4].fill(0);
    out[ip + 4..ip + HEADER].copy_from_slice(&error.rest(is_v6));
    out[ip + HEADER..].copy_from_slice(&octets[..quoted]);
    write_ip(out, source, packet.flow.source);
    let pseudo = if is_v6 {
        pseudo_header(out, true, protocol::ICMPV6, size - ip)
    } else {
        0
    };
    let sum = checksum(pseudo, &out[ip..]);
    out[ip + 2..ip + 4].copy_from_slice(&sum.to_be_bytes());
    Some(size)
}

fn write_ip(out: &mut [u8], source: IpAddr, destination: IpAddr) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (out.len() as u16).to_be_bytes();
            out[..12].copy_from_slice(&[
                0x45,
                0xc0,
                length[0],
                length[1],
                0,
                0,
                0,
                0,
                TTL,
                protocol::ICMP,
                0,
                0,
            ]);
            out[12..16].copy_from_slice(&source.octets());
            out[16..20].copy_from_slice(&destination.octets());
            mend_ipv4_checksum(&mut out[..IPV4_HEADER]);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = ((out.len() - IPV6_HEADER) as u16).to_be_bytes();
            out[..8].copy_from_slice(&[0x60, 0, 0, 0, length[0], length[1], protocol::ICMPV6, TTL]);
            out[8..24].copy_from_slice(&source.octets());
            out[24..40].copy_from_slice(&destination.octets());
        }
        _ => {}
    }
}

/// Whether an address is that of one host, as far as it can be told.
fn is_single(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}

/// A bound on errors per second and source, with a fixed number of buckets shared by hash.
pub struct RateLimit {
    buckets: Box<[Bucket]>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: u64,
}

const BUCKETS: usize = 256;
const SECOND: f64 = 1e9;

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            buckets: vec![
                Bucket {
                    tokens: 0.0,
                    filled: 0
                };
                BUCKETS
            ]
            .into(),
        }
    }
}

impl RateLimit {
    /// Whether one more may be sent to `source` at `now` nanoseconds; so many of them at once.
    pub fn permits(&mut self, source: IpAddr, now: u64, per_second: f64, burst: f64) -> bool {
        let hash = match source {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6) as u64 ^ (u128::from(v6) >> 64) as u64,
        };
        let bucket =
            &mut self.buckets[(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % BUCKETS];
        let seconds = now.saturating_sub(bucket.filled) as f64 / SECOND;
        // A bucket that was never used is full.
        let tokens = if bucket.filled == 0 {
            burst
        } else {
            bucket.tokens + seconds * per_second
        };
        bucket.tokens = tokens.min(burst.max(1.0));
        bucket.filled = now.max(1);
        let permitted = bucket.tokens >= 1.0;
        if permitted {
            bucket.tokens -= 1.0;
        }
        permitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn error(error: IcmpError, octets: &[u8], source: Option<&str>) -> Option<Vec<u8>> {
        let packet = IpPacket::parse(octets).unwrap();
        let mut out = vec![0; 2_000];
        let source = source.map(|text| text.parse().unwrap());
        let size = write_error(error, &packet, octets, source, &mut out)?;
        out.truncate(size);
        Some(out)
    }

    #[test]
    fn an_error_quotes_the_packet_and_goes_to_its_source() {
        for is_v6 in [false, true] {
            let octets = samples::udp(is_v6, 53, &[7; 1_400]);
            let icmp = error(IcmpError::TooBig(1_280), &octets, None).unwrap();
            assert!(samples::is_checksummed(&icmp));
            let parsed = IpPacket::parse(&icmp).unwrap();
            let sent = IpPacket::parse(&octets).unwrap();
            assert_eq!(
                (parsed.flow.source, parsed.flow.destination),
                (sent.flow.destination, sent.flow.source)
            );
            let (ip, most) = if is_v6 {
                (40, MAX_ERROR_V6)
            } else {
                (20, MAX_ERROR_V4)
            };
            assert_eq!(icmp.len(), most);
            assert_eq!(icmp[ip + 8..], octets[..most - ip - 8]);
            assert_eq!(icmp[ip + 6..ip + 8], 1_280_u16.to_be_bytes());
        }
    }

    #[test]
    fn an_error_comes_from_our_own_address_where_there_is_one() {
        let octets = samples::udp(false, 53, b"x");
        let icmp = error(IcmpError::Prohibited, &octets, Some("10.9.0.1")).unwrap();
        assert_eq!(icmp[12..16], [10, 9, 0, 1]);
        assert_eq!(icmp[20..22], [3, 13]);
    }

    #[test]
    fn no_error_answers_an_error_a_later_fragment_or_a_group() {
        let octets = samples::udp(false, 53, b"x");
        let icmp = error(IcmpError::Prohibited, &octets, None).unwrap();
        assert_eq!(error(IcmpError::Prohibited, &icmp, None), None);
        let mut fragment = octets.clone();
        fragment[7] = 1;
        assert_eq!(error(IcmpError::Prohibited, &fragment, None), None);
        let mut group = octets;
        group[12] = 224;
        assert_eq!(error(IcmpError::Prohibited, &group, None), None);
    }

    #[test]
    fn errors_are_limited_per_source_and_second() {
        let mut limit = RateLimit::default();
        let source = "10.0.0.1".parse().unwrap();
        let at = |limit: &mut RateLimit, now| {
            (0..100)
                .filter(|_| limit.permits(source, now, 10.0, 10.0))
                .count()
        };
        assert_eq!(at(&mut limit, 1_000_000_000), 10);
        assert_eq!(at(&mut limit, 1_500_000_000), 5);
        assert_eq!(at(&mut limit, 9_000_000_000), 10);
        assert!(limit.permits("10.0.0.2".parse().unwrap(), 9_000_000_000, 10.0, 10.0));
    }
}
