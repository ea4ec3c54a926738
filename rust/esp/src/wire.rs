//! Where the fields of ESP, IPv4 and IPv6 stand, and what a packet says of itself. Lengths are checked before use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::drops::DropReason;

/// Octets of SPI and sequence number (RFC 4303 2).
pub const ESP_HEADER: usize = 8;
/// Octets of pad length and next header.
pub const ESP_TRAILER: usize = 2;
/// Octets of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Octets of an IPv6 header.
pub const IPV6_HEADER: usize = 40;
/// Extension headers of one IPv6 packet that are walked through before it is dropped.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// IP protocol numbers that mean something here.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in something; also ESP's next header.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 in something; also ESP's next header.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ESP.
    pub const ESP: u8 = 50;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing: a dummy packet of ESP.
    pub const NONE: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// SPI of an ESP packet, None if it is too short to have one.
pub fn spi(packet: &[u8]) -> Option<u32> {
    packet
        .first_chunk()
        .map(|octets| u32::from_be_bytes(*octets))
}

/// Low 32 bits of the sequence number of an ESP packet.
pub fn sequence_low(packet: &[u8]) -> Option<u32> {
    packet
        .get(4..)?
        .first_chunk()
        .map(|octets| u32::from_be_bytes(*octets))
}

/// Ports of a packet, as selectors see them (RFC 4301 4.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Source and destination; for ICMP both are type * 256 + code (RFC 7296 3.13.1).
    Known(u16, u16),
    /// Not there: a later fragment, a protocol without ports, a header that is cut off.
    Opaque,
}

/// What a policy lookup asks of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address, of the same family as `destination`.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Next layer protocol, behind the extension headers of IPv6; `FRAGMENT` where a fragment hides it.
    pub protocol: u8,
    /// Ports or ICMP type and code.
    pub ports: Ports,
}

/// An IPv4 or IPv6 packet whose lengths hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// For the policy lookup.
    pub flow: Flow,
    /// Octets of the packet by its own header; what follows is padding.
    pub length: usize,
    /// TOS or traffic class.
    pub tos: u8,
    /// Offset of the next layer, at most `length`.
    pub next_layer: usize,
    /// IPv4: Don't Fragment is set. IPv6: always true.
    pub is_df: bool,
    /// Whether it is a fragment, the first included.
    pub is_fragment: bool,
    /// Whether it is a fragment other than the first: no next layer header.
    pub is_later_fragment: bool,
    /// Time to live or hop limit.
    pub hops: u8,
}

impl IpPacket {
    /// Read the headers. Octets behind the packet's own length are allowed, fewer are not.
    pub fn parse(octets: &[u8]) -> Result<Self, DropReason> {
        match octets.first().map(|first| first >> 4) {
            Some(4) => parse_v4(octets),
            Some(6) => parse_v6(octets),
            _ => None,
        }
        .ok_or(DropReason::MalformedInner)
    }

    /// ESP's next header for it: 4 or 41.
    pub fn next_header(&self) -> u8 {
        if self.flow.source.is_ipv4() {
            protocol::IPV4
        } else {
            protocol::IPV6
        }
    }
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    octets
        .get(at..)?
        .first_chunk()
        .map(|two| u16::from_be_bytes(*two))
}

fn parse_v4(octets: &[u8]) -> Option<IpPacket> {
    let header: &[u8; IPV4_HEADER] = octets.first_chunk()?;
    let next_layer = usize::from(header[0] & 0x0f) * 4;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if next_layer < IPV4_HEADER || length < next_layer || length > octets.len() {
        return None;
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let is_later_fragment = fragment & 0x1fff != 0;
    let next = header[9];
    let flow = Flow {
        source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        protocol: next,
        ports: if is_later_fragment {
            Ports::Opaque
        } else {
            ports(next, &octets[next_layer..length])
        },
    };
    let is_fragment = fragment & 0x3fff != 0;
    Some(IpPacket {
        flow,
        length,
        tos: header[1],
        next_layer,
        is_df: fragment & 0x4000 != 0,
        is_fragment,
        is_later_fragment,
        hops: header[8],
    })
}

fn parse_v6(octets: &[u8]) -> Option<IpPacket> {
    let header: &[u8; IPV6_HEADER] = octets.first_chunk()?;
    let length = IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let packet = octets.get(..length)?;
    let chain = walk_extension_headers(packet, header[6])?;
    let address = |at: usize| {
        octets
            .get(at..)?
            .first_chunk::<16>()
            .map(|a| Ipv6Addr::from(*a).into())
    };
    let hidden = chain.is_later_fragment;
    let flow = Flow {
        source: address(8)?,
        destination: address(24)?,
        protocol: chain.protocol,
        ports: if hidden {
            Ports::Opaque
        } else {
            ports(chain.protocol, &packet[chain.end..])
        },
    };
    Some(IpPacket {
        flow,
        length,
        tos: (header[0] << 4) | (header[1] >> 4),
        next_layer: chain.end,
        is_df: true,
        is_fragment: chain.is_fragment,
        is_later_fragment: hidden,
        hops: header[7],
    })
}

/// The flow of a packet that an ICMP error quotes, perhaps cut off at its end. None where its header does not hold.
pub fn quoted_flow(octets: &[u8]) -> Option<Flow> {
    match octets.first()? >> 4 {
        4 => quoted_v4(octets),
        6 => quoted_v6(octets),
        _ => None,
    }
}

fn quoted_v4(octets: &[u8]) -> Option<Flow> {
    let header = octets.get(..usize::from(octets[0] & 0x0f) * 4)?;
    let fixed: &[u8; IPV4_HEADER] = header.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if length < header.len() || checksum(0, header) != 0 {
        return None;
    }
    let is_later = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0;
    let next_layer = if is_later {
        &[]
    } else {
        &octets[header.len()..]
    };
    Some(Flow {
        source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
        destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
        protocol: fixed[9],
        ports: ports(fixed[9], next_layer),
    })
}

fn quoted_v6(octets: &[u8]) -> Option<Flow> {
    // Read as a packet of as many octets as there are: its own length may be that of much more.
    let fixed: &[u8; IPV6_HEADER] = octets.first_chunk()?;
    let chain = walk_extension_headers(octets, fixed[6])?;
    let address = |at: usize| {
        let octets = fixed.get(at..)?.first_chunk::<16>();
        octets.map(|octets| Ipv6Addr::from(*octets).into())
    };
    let next_layer = if chain.is_later_fragment {
        &[]
    } else {
        &octets[chain.end..]
    };
    Some(Flow {
        source: address(8)?,
        destination: address(24)?,
        protocol: chain.protocol,
        ports: ports(chain.protocol, next_layer),
    })
}

struct Chain {
    protocol: u8,
    end: usize,
    is_fragment: bool,
    is_later_fragment: bool,
}

const fn is_extension(next: u8) -> bool {
    // The headers that RFC 4301 4.4.1.1 wants skipped.
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::DESTINATION_OPTIONS
    )
}

fn walk_extension_headers(packet: &[u8], first: u8) -> Option<Chain> {
    let mut chain = Chain {
        protocol: first,
        end: IPV6_HEADER,
        is_fragment: false,
        is_later_fragment: false,
    };
    for _ in 0..=MAX_EXTENSION_HEADERS {
        if !is_extension(chain.protocol) {
            return Some(chain);
        }
        let header: &[u8; 8] = packet.get(chain.end..)?.first_chunk()?;
        if chain.protocol == protocol::FRAGMENT {
            let offset = u16::from_be_bytes([header[2], header[3]]);
            chain.end += 8;
            // An atomic fragment (RFC 6946) is a whole packet.
            chain.is_fragment |= offset & 0xfff9 != 0;
            if offset & 0xfff8 != 0 {
                chain.is_later_fragment = true;
                // More extension headers may lie in the first fragment: the next layer is then unknown here.
                chain.protocol = if is_extension(header[0]) {
                    protocol::FRAGMENT
                } else {
                    header[0]
                };
                return Some(chain);
            }
        } else {
            chain.end += (usize::from(header[1]) + 1) * 8;
        }
        chain.protocol = header[0];
        if chain.end > packet.len() {
            return None;
        }
    }
    None
}

fn ports(next: u8, next_layer: &[u8]) -> Ports {
    let known = match next {
        protocol::TCP | protocol::UDP | protocol::DCCP | protocol::SCTP | protocol::UDP_LITE => {
            u16_at(next_layer, 0).zip(u16_at(next_layer, 2))
        }
        protocol::ICMP | protocol::ICMPV6 => u16_at(next_layer, 0).map(|both| (both, both)),
        _ => None,
    };
    known.map_or(Ports::Opaque, |(source, destination)| {
        Ports::Known(source, destination)
    })
}

/// Write another TOS or traffic class into a packet that `IpPacket::parse` took, and mend the IPv4 checksum.
pub fn set_tos(packet: &mut [u8], tos: u8) {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= IPV4_HEADER => {
            let old = u16::from_be_bytes([packet[0], packet[1]]);
            packet[1] = tos;
            let new = u16::from_be_bytes([packet[0], tos]);
            let sum = update_checksum(u16::from_be_bytes([packet[10], packet[11]]), old, new);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Some(6) if packet.len() >= IPV6_HEADER => {
            packet[0] = 0x60 | (tos >> 4);
            packet[1] = (tos << 4) | (packet[1] & 0x0f);
        }
        _ => {}
    }
}

/// The checksum after one 16-bit word has changed (RFC 1624 equation 3).
pub const fn update_checksum(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = (!checksum) as u32 + (!old) as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// The Internet checksum of octets on top of a folded or unfolded sum (RFC 1071); 0 starts one.
///
/// Sums words of 32 bits in the machine's own order and turns the result once (RFC 1071 2, B): several times faster
/// than 16 bits at a time, and it is computed for every segment cut from a super-packet.
pub fn checksum(sum: u32, octets: &[u8]) -> u16 {
    let (words, rest) = octets.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    // 65 535 octets of 32-bit words are far from filling 64 bits.
    let total = words
        .iter()
        .chain([&last])
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    let total = u64::from(fold(total).to_be()) + u64::from(sum);
    !fold(total)
}

const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
#[path = "wire_tests.rs"]
pub(crate) mod tests;
