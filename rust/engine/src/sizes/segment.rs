//! Super-packets into segments, each with headers and checksums of its own, cut at their own size and never smaller.

use openmoat_esp::drops::DropReason;
use openmoat_esp::wire::{IPV4_HEADER, IpPacket, checksum, protocol};
use openmoat_io::{GsoType, VnetHeader};

const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// How a super-packet is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    next_layer: usize,
    headers: usize,
    end: usize,
    size: usize,
    is_tcp: bool,
    is_v6: bool,
}

impl Cut {
    /// None for an ordinary packet; an error where the header of the kernel does not fit the packet.
    pub fn of(
        vnet: &VnetHeader,
        packet: &IpPacket,
        octets: &[u8],
    ) -> Result<Option<Self>, DropReason> {
        let is_tcp = match vnet.gso_type {
            GsoType::None => return Ok(None),
            GsoType::TcpV4 | GsoType::TcpV6 => true,
            GsoType::Udp => false,
            GsoType::Unknown => return Err(DropReason::MalformedInner),
        };
        let wanted = if is_tcp { protocol::TCP } else { protocol::UDP };
        if packet.flow.protocol != wanted || packet.is_fragment || vnet.gso_size == 0 {
            return Err(DropReason::MalformedInner);
        }
        let transport = octets
            .get(packet.next_layer..packet.length)
            .ok_or(DropReason::MalformedInner)?;
        let header = match transport.get(12) {
            _ if !is_tcp => UDP_HEADER,
            Some(offset) => usize::from(offset >> 4) * 4,
            None => return Err(DropReason::MalformedInner),
        };
        let least = if is_tcp { TCP_HEADER } else { UDP_HEADER };
        if header < least || header > transport.len() {
            return Err(DropReason::MalformedInner);
        }
        Ok(Some(Self {
            next_layer: packet.next_layer,
            headers: packet.next_layer + header,
            end: packet.length,
            size: vnet.gso_size.into(),
            is_tcp,
            is_v6: packet.flow.source.is_ipv6(),
        }))
    }

    /// How many segments there are; one at least, which may be without payload.
    pub fn count(&self) -> usize {
        (self.end - self.headers).div_ceil(self.size).max(1)
    }

    /// Octets of the largest segment, its headers included.
    pub fn largest(&self) -> usize {
        self.headers + self.size.min(self.end - self.headers)
    }

    /// Octets of segment `index`.
    pub fn length(&self, index: usize) -> usize {
        let from = self.headers + index * self.size;
        self.headers + self.size.min(self.end.saturating_sub(from))
    }

    /// Write segment `index` of the super-packet to the front of `out`, which has room for `length(index)` octets.
    pub fn write(&self, octets: &[u8], index: usize, out: &mut [u8]) {
        let length = self.length(index);
        let from = self.headers + index * self.size;
        let out = &mut out[..length];
        out[..self.headers].copy_from_slice(&octets[..self.headers]);
        out[self.headers..].copy_from_slice(&octets[from..from + length - self.headers]);
        self.mend_ip(out, index);
        if self.is_tcp {
            self.mend_tcp(out, index);
        } else {
            let udp = (length - self.next_layer) as u16;
            out[self.next_layer + 4..self.next_layer + 6].copy_from_slice(&udp.to_be_bytes());
        }
        self.mend_checksum(out);
    }

    fn mend_ip(&self, out: &mut [u8], index: usize) {
        if self.is_v6 {
            let payload = (out.len() - 40) as u16;
            out[4..6].copy_from_slice(&payload.to_be_bytes());
            return;
        }
        let length = out.len() as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        // Segments of one super-packet count up, as those of the kernel's own GSO do (RFC 6864 wants non-DF ones apart).
        let identification = u16::from_be_bytes([out[4], out[5]]).wrapping_add(index as u16);
        out[4..6].copy_from_slice(&identification.to_be_bytes());
        mend_ipv4_checksum(&mut out[..self.next_layer]);
    }

    fn mend_tcp(&self, out: &mut [u8], index: usize) {
        let tcp = &mut out[self.next_layer..];
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])
            .wrapping_add((index * self.size) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if index + 1 < self.count() {
            tcp[13] &= !TCP_FIN_PSH;
        }
        if index > 0 {
            tcp[13] &= !TCP_CWR; // RFC 3168 6.1.2: once per window
        }
    }

    fn mend_checksum(&self, out: &mut [u8]) {
        let at = self.next_layer + if self.is_tcp { 16 } else { 6 };
        out[at..at + 2].fill(0);
        let protocol = if self.is_tcp {
            protocol::TCP
        } else {
            protocol::UDP
        };
        let sum = checksum(
            pseudo_header(out, self.is_v6, protocol, out.len() - self.next_layer),
            &out[self.next_layer..],
        );
        // RFC 768: 0 would say that there is none.
        let sum = if sum == 0 && !self.is_tcp {
            u16::MAX
        } else {
            sum
        };
        out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Write the checksum of an IPv4 header anew.
pub fn mend_ipv4_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum(0, header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The sum of the pseudo-header of a packet whose addresses stand in `octets` (RFC 9293 3.1, RFC 8200 8.1).
pub fn pseudo_header(octets: &[u8], is_v6: bool, protocol: u8, length: usize) -> u32 {
    let addresses = if is_v6 {
        &octets[8..40]
    } else {
        &octets[12..IPV4_HEADER]
    };
    let words = addresses
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    words.sum::<u32>() + u32::from(protocol) + length as u32
}

/// Octets of the next layer that the policy has looked at: ports. No checksum stands there.
const LOOKED_AT: usize = 4;

/// Make the checksum that the kernel left to us. Answers false where the header points outside the packet, or at what its
/// policy was chosen by, which must not change any more.
#[must_use]
pub fn complete_checksum(vnet: &VnetHeader, packet: &IpPacket, octets: &mut [u8]) -> bool {
    if !vnet.needs_checksum {
        return true;
    }
    let start = usize::from(vnet.checksum_start);
    let at = start + usize::from(vnet.checksum_offset);
    let is_inside = start >= packet.next_layer && at >= packet.next_layer + LOOKED_AT;
    if !is_inside || at + 2 > packet.length || packet.length > octets.len() {
        return false;
    }
    // The field holds the sum of the pseudo-header, which is so taken into the sum of all.
    let sum = checksum(0, &octets[start..packet.length]);
    let is_udp = vnet.checksum_offset == 6;
    let sum = if sum == 0 && is_udp { u16::MAX } else { sum };
    octets[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
