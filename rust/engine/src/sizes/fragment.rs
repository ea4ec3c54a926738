//! Inner IPv4 packets without DF into fragments before ESP (RFC 791 2.3, RFC 4301 8.2.1), in place of larger ESP packets.

use std::sync::atomic::{AtomicU32, Ordering};

use openmoat_esp::wire::{IPV4_HEADER, IpPacket};

use crate::sizes::segment::mend_ipv4_checksum;

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Identifications for packets that are fragmented before ESP although their own tells nothing.
pub struct Identifications(AtomicU32);

impl Identifications {
    /// From `first` on.
    pub fn new(first: u32) -> Self {
        Self(AtomicU32::new(first))
    }

    /// For so many packets; answers the first.
    pub fn take(&self, packets: usize) -> u16 {
        self.0.fetch_add(packets as u32, Ordering::Relaxed) as u16
    }
}

/// How a packet is fragmented.
#[derive(Clone, Copy, Debug)]
pub struct Fragmentation {
    header: usize,
    end: usize,
    step: usize,
    /// Identification of all fragments; None: that of the packet.
    identification: Option<u16>,
}

impl Fragmentation {
    /// None where the packet must not or cannot be fragmented so that pieces of `room` octets hold it.
    pub fn of(packet: &IpPacket, room: usize) -> Option<Self> {
        (!packet.is_df).then(|| Self::in_spite_of_df(packet, room))?
    }

    /// The same, whether or not its sender forbids it.
    pub fn in_spite_of_df(packet: &IpPacket, room: usize) -> Option<Self> {
        if packet.flow.source.is_ipv6() {
            return None;
        }
        let step = room.checked_sub(packet.next_layer)? & !7;
        (step >= 8).then_some(Self {
            header: packet.next_layer,
            end: packet.length,
            step,
            identification: None,
        })
    }

    /// With an identification of its own: a packet with DF may bear any, and many bear the same (RFC 6864 4.1).
    pub fn identified(self, identification: u16) -> Self {
        Self {
            identification: Some(identification),
            ..self
        }
    }

    /// The same for segment `index` of a super-packet, of so many octets.
    pub fn of_segment(self, index: usize, length: usize) -> Self {
        Self {
            end: length,
            identification: self
                .identification
                .map(|first| first.wrapping_add(index as u16)),
            ..self
        }
    }

    /// How many fragments there are.
    pub fn count(&self) -> usize {
        (self.end - self.header).div_ceil(self.step).max(1)
    }

    /// Octets of fragment `index`.
    pub fn length(&self, index: usize) -> usize {
        let from = self.header + index * self.step;
        self.header + self.step.min(self.end.saturating_sub(from))
    }

    /// Write fragment `index` to the front of `out`, which has room for `length(index)` octets.
    pub fn write(&self, octets: &[u8], index: usize, out: &mut [u8]) {
        let length = self.length(index);
        let from = self.header + index * self.step;
        out[..self.header].copy_from_slice(&octets[..self.header]);
        out[self.header..length].copy_from_slice(&octets[from..from + length - self.header]);
        self.mend(index, &mut out[..length]);
    }

    /// Turn the packet at the front of `out` into fragment `index` of it.
    pub fn keep(&self, index: usize, out: &mut [u8]) {
        let length = self.length(index);
        let from = self.header + index * self.step;
        out.copy_within(from..from + length - self.header, self.header);
        self.mend(index, &mut out[..length]);
    }

    /// Make the header of the packet that of its fragment `index`.
    fn mend(&self, index: usize, out: &mut [u8]) {
        let field = u16::from_be_bytes([out[6], out[7]]);
        let offset = (field & OFFSET) + (index * self.step / 8) as u16;
        let more = if index + 1 < self.count() {
            MORE_FRAGMENTS
        } else {
            field & MORE_FRAGMENTS
        };
        let length = out.len() as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        if let Some(identification) = self.identification {
            out[4..6].copy_from_slice(&identification.to_be_bytes());
        }
        out[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        if index > 0 {
            blank_uncopied_options(&mut out[IPV4_HEADER..self.header]);
        }
        mend_ipv4_checksum(&mut out[..self.header]);
    }
}

/// Options without the copied flag stand in the first fragment only (RFC 791 3.1); here they become no-operations.
fn blank_uncopied_options(options: &mut [u8]) {
    let mut at = 0;
    while at < options.len() {
        let size = match options[at] {
            0 => return,
            1 => 1,
            _ => options.get(at + 1).copied().map_or(0, usize::from),
        };
        if size == 0 || at + size > options.len() {
            return;
        }
        if options[at] & 0x80 == 0 {
            options[at..at + size].fill(1);
        }
        at += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn fragments_fit_and_make_up_the_packet() {
        let octets = samples::udp(false, 53, &(0..3_000).map(|n| n as u8).collect::<Vec<_>>());
        let packet = IpPacket::parse(&octets).unwrap();
        let plan = Fragmentation::of(&packet, 1_427).unwrap();
        let mut payload: Vec<u8> = Vec::new();
        for index in 0..plan.count() {
            let mut out = vec![0; 2_000];
            plan.write(&octets, index, &mut out);
            out.truncate(plan.length(index));
            assert!(out.len() <= 1_427);
            let fragment = IpPacket::parse(&out).unwrap();
            assert_eq!(openmoat_esp::wire::checksum(0, &out[..20]), 0);
            assert_eq!(
                usize::from(u16::from_be_bytes([out[6], out[7]]) & OFFSET) * 8,
                payload.len()
            );
            assert_eq!(out[6] & 0x20 != 0, index + 1 < plan.count());
            payload.extend(&out[fragment.next_layer..]);
        }
        assert_eq!(payload, octets[20..]);
    }

    #[test]
    fn df_and_ipv6_are_kept_whole() {
        let mut octets = samples::udp(false, 53, &[0; 2_000]);
        octets[6] = 0x40;
        assert!(Fragmentation::of(&IpPacket::parse(&octets).unwrap(), 1_400).is_none());
        let octets = samples::udp(true, 53, &[0; 2_000]);
        assert!(Fragmentation::of(&IpPacket::parse(&octets).unwrap(), 1_400).is_none());
    }

    #[test]
    fn options_without_the_copied_flag_stand_only_in_the_first() {
        let mut options = [0x07, 3, 4, 0x82, 3, 9, 0, 0];
        blank_uncopied_options(&mut options);
        assert_eq!(options, [1, 1, 1, 0x82, 3, 9, 0, 0]);
        let mut broken = [0x07, 200, 4, 0];
        blank_uncopied_options(&mut broken);
        assert_eq!(broken, [0x07, 200, 4, 0]);
    }
}
