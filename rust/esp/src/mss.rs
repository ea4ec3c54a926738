//! MSS clamping on TCP SYNs (RFC 6691): lower only, both directions alike, never under TCP-AO.

use crate::wire::{IpPacket, protocol, update_checksum};

const TCP_HEADER: usize = 20;
const FLAGS: usize = 13;
const SYN: u8 = 0x02;
const CHECKSUM: usize = 16;
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
/// TCP-AO (RFC 5925 2.2) authenticates the options: a changed one would be refused by the far end.
const TCP_AO: u8 = 29;

/// What the TCP checksum field of a packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum.
    Whole,
    /// The sum of the pseudo header alone; hardware, or the device's reader, adds the rest later (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial,
}

/// Upper bounds of the MSS option, by family of the inner packet; None leaves it alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MssBounds {
    /// Over IPv4.
    pub v4: Option<u16>,
    /// Over IPv6.
    pub v6: Option<u16>,
}

/// Whether a packet begins a TCP connection: no other has an MSS to lower.
pub fn is_syn(packet: &[u8], parsed: &IpPacket) -> bool {
    parsed.flow.protocol == protocol::TCP
        && !parsed.is_later_fragment
        && packet
            .get(parsed.next_layer + FLAGS)
            .is_some_and(|flags| flags & SYN != 0)
}

/// Lower the MSS option of a SYN to the bound of its family; answers what stood there if it was changed.
///
/// `parsed` is what `IpPacket::parse` said of `packet`. A SYN without the option, or with options that do not hold
/// together, stays as it is.
pub fn clamp(
    packet: &mut [u8],
    parsed: &IpPacket,
    bounds: MssBounds,
    checksum: Checksum,
) -> Option<u16> {
    let bound = if parsed.flow.source.is_ipv4() {
        bounds.v4
    } else {
        bounds.v6
    }?;
    if !is_syn(packet, parsed) {
        return None;
    }
    let tcp = packet.get_mut(parsed.next_layer..parsed.length)?;
    // Its length is that of the IP header, which may be less than the octets that were looked at.
    tcp.get(FLAGS)?;
    let header = usize::from(tcp[12] >> 4) * 4;
    let at = mss_value_at(tcp.get(..header)?)?;
    let old = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if old <= bound {
        return None;
    }
    tcp[at..at + 2].copy_from_slice(&bound.to_be_bytes());
    if checksum == Checksum::Whole {
        let sum = u16::from_be_bytes([tcp[CHECKSUM], tcp[CHECKSUM + 1]]);
        // At an odd offset the two octets lie in two words, and count the other way round.
        let swap = |value: u16| {
            if at % 2 == 0 {
                value
            } else {
                value.swap_bytes()
            }
        };
        tcp[CHECKSUM..CHECKSUM + 2]
            .copy_from_slice(&update_checksum(sum, swap(old), swap(bound)).to_be_bytes());
    }
    Some(old)
}

/// Offset of the MSS in a TCP header, None without it or where it must not be touched. Each turn of the walk moves on
/// by at least one octet, and a header has at most 40 octets of options.
fn mss_value_at(header: &[u8]) -> Option<usize> {
    let (mut at, mut found) = (TCP_HEADER, None);
    while at < header.len() {
        let size = match header[at] {
            END => break,
            NOP => 1,
            TCP_AO => return None,
            kind => {
                let size = usize::from(*header.get(at + 1)?);
                if size < 2 || at + size > header.len() || (kind == MSS && size != 4) {
                    return None;
                }
                if kind == MSS && found.is_none() {
                    found = Some(at + 2);
                }
                size
            }
        };
        at += size;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::{ipv4, ipv6};
    use proptest::prelude::*;

    const BOUNDS: MssBounds = MssBounds {
        v4: Some(1382),
        v6: Some(1362),
    };

    fn tcp(flags: u8, options: &[u8]) -> Vec<u8> {
        let mut header = vec![
            0xc0, 0, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 0, flags, 0xff, 0xff, 0, 0, 0, 0,
        ];
        header.extend_from_slice(options);
        header.resize(header.len().next_multiple_of(4), 0);
        header[12] = (header.len() as u8 / 4) << 4;
        header
    }

    /// The checksum of the TCP part of a packet, computed from the start: 0 where it is right.
    fn verify(packet: &[u8]) -> u16 {
        let parsed = IpPacket::parse(packet).unwrap();
        let segment = &packet[parsed.next_layer..parsed.length];
        let addresses = if packet[0] >> 4 == 4 {
            &packet[12..20]
        } else {
            &packet[8..40]
        };
        let pseudo = !crate::wire::checksum(6 + segment.len() as u32, addresses);
        crate::wire::checksum(pseudo.into(), segment)
    }

    fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
        let at = IpPacket::parse(&packet).unwrap().next_layer + CHECKSUM;
        packet[at..at + 2].fill(0);
        let sum = verify(&packet);
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(verify(&packet), 0);
        packet
    }

    fn v4(segment: &[u8]) -> Vec<u8> {
        with_checksum(ipv4([10, 0, 0, 1], [10, 9, 0, 2], 6, segment))
    }

    fn run(packet: &mut [u8]) -> Option<u16> {
        let parsed = IpPacket::parse(packet).unwrap();
        clamp(packet, &parsed, BOUNDS, Checksum::Whole)
    }

    #[test]
    fn syn_and_syn_ack_are_lowered_in_both_families() {
        for flags in [0x02, 0x12] {
            let mut four = v4(&tcp(flags, &[2, 4, 0x05, 0xb4]));
            assert_eq!(
                (run(&mut four), &four[40..44], verify(&four)),
                (Some(1460), &[2, 4, 0x05, 0x66][..], 0)
            );
            let mut six = with_checksum(ipv6(6, &tcp(flags, &[2, 4, 0x05, 0xa0])));
            assert_eq!(
                (run(&mut six), &six[60..64], verify(&six)),
                (Some(1440), &[2, 4, 0x05, 0x52][..], 0)
            );
        }
    }

    #[test]
    fn the_mss_is_never_raised_and_other_segments_are_left_alone() {
        for segment in [
            tcp(0x02, &[2, 4, 0x02, 0x18]),
            tcp(0x10, &[2, 4, 0x05, 0xb4]),
            tcp(0x02, &[]),
        ] {
            let packet = v4(&segment);
            let mut after = packet.clone();
            assert_eq!((run(&mut after), &after), (None, &packet));
        }
    }

    #[test]
    fn tcp_ao_before_or_after_the_option_forbids_the_change() {
        let ao = [29, 16, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for options in [
            [&ao[..], &[2, 4, 5, 0xb4]].concat(),
            [&[2, 4, 5, 0xb4], &ao[..]].concat(),
        ] {
            assert_eq!(run(&mut v4(&tcp(0x02, &options))), None);
        }
    }

    #[test]
    fn an_option_at_an_odd_offset_keeps_the_checksum_right() {
        let mut packet = v4(&tcp(0x02, &[1, 2, 4, 0x05, 0xb4]));
        assert_eq!((run(&mut packet), verify(&packet)), (Some(1460), 0));
    }

    #[test]
    fn a_partial_checksum_is_left_to_whoever_completes_it() {
        let mut packet = v4(&tcp(0x02, &[2, 4, 0x05, 0xb4]));
        let sum = packet[36..38].to_vec();
        let parsed = IpPacket::parse(&packet).unwrap();
        assert_eq!(
            clamp(&mut packet, &parsed, BOUNDS, Checksum::Partial),
            Some(1460)
        );
        assert_eq!(packet[36..38], sum[..]);
    }

    #[test]
    fn a_family_without_bound_and_options_that_do_not_hold_are_left_alone() {
        let mut packet = v4(&tcp(0x02, &[2, 4, 0x05, 0xb4]));
        let parsed = IpPacket::parse(&packet).unwrap();
        assert_eq!(
            clamp(
                &mut packet,
                &parsed,
                MssBounds {
                    v4: None,
                    v6: Some(500)
                },
                Checksum::Whole
            ),
            None
        );
        for options in [
            &[2_u8, 3, 5, 0xb4][..],
            &[3, 0, 2, 4, 5, 0xb4],
            &[3, 1],
            &[8, 200, 2, 4, 5, 0xb4],
            &[1, 1, 1, 2],
        ] {
            assert_eq!(run(&mut v4(&tcp(0x02, options))), None, "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn any_segment_keeps_a_right_checksum_and_is_never_raised(
            mut segment in prop::collection::vec(any::<u8>(), 20..80), options in prop::collection::vec(
                prop_oneof![Just(vec![1]), Just(vec![2, 4, 5, 0xb4]), Just(vec![3, 3, 7]), prop::collection::vec(any::<u8>(), 1..5)], 0..6),
            is_v6: bool, bound: u16,
        ) {
            let options = options.concat();
            let room = segment.len() - 20;
            segment[20..20 + options.len().min(room)].copy_from_slice(&options[..options.len().min(room)]);
            segment[FLAGS] |= SYN;
            segment[12] |= 0x50;
            let before = with_checksum(if is_v6 { ipv6(6, &segment) } else { ipv4([10, 0, 0, 1], [10, 9, 0, 2], 6, &segment) });
            let mut after = before.clone();
            let parsed = IpPacket::parse(&after).unwrap();
            let old = clamp(&mut after, &parsed, MssBounds { v4: Some(bound), v6: Some(bound) }, Checksum::Whole);
            prop_assert_eq!(verify(&after), 0);
            prop_assert_eq!(old.is_some(), after != before);
            prop_assert!(old.is_none_or(|old| old > bound));
        }
    }
}
