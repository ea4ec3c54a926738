use super::*;
use crate::selectors::Selector;
use crate::suite::SUITES;
use crate::wire::tests::{ipv4, ipv6};

pub fn any_selectors() -> SelectorPair {
    let v4 = Selector::new([0, 0, 0, 0].into(), [255; 4].into(), 0, 0, 65535).unwrap();
    let v6 = Selector::new([0; 16].into(), [255; 16].into(), 0, 0, 65535).unwrap();
    SelectorPair {
        local: [v4, v6].into(),
        remote: [v4, v6].into(),
    }
}

#[path = "sa_limits_tests.rs"]
mod limits;
#[path = "sa_properties.rs"]
mod properties;

const KEY: [u8; 64] = [0x5a; 64];

fn config(suite: Suite, has_esn: bool) -> SaConfig<'static> {
    SaConfig {
        spi: 0xc0ff_ee01,
        suite,
        has_esn,
        key: &KEY[..suite.key_material()],
        integrity_key: &KEY[..suite.integrity_key()],
        selectors: any_selectors(),
        limits: Limits::default(),
        last_sequence: 0,
    }
}

fn pair(suite: Suite, has_esn: bool) -> (OutboundSa, InboundSa) {
    (
        OutboundSa::new(config(suite, has_esn), true).unwrap(),
        InboundSa::new(config(suite, has_esn), 64).unwrap(),
    )
}

fn gcm() -> Suite {
    Suite::by_name("aes256gcm16").unwrap()
}

fn seal(sa: &OutboundSa, inner: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xee; sa.suite().sealed_size(inner.len())];
    let headroom = sa.suite().headroom();
    buffer[headroom..headroom + inner.len()].copy_from_slice(inner);
    assert_eq!(
        sa.seal(&mut buffer, inner.len()).unwrap().size,
        buffer.len()
    );
    buffer
}

fn small() -> Vec<u8> {
    ipv4(
        [10, 0, 0, 1],
        [10, 9, 0, 2],
        17,
        &[0xc0, 0, 0, 53, 0, 8, 0, 0],
    )
}

#[test]
fn every_suite_opens_what_it_sealed() {
    for suite in SUITES {
        for has_esn in [false, true] {
            let (outbound, inbound) = pair(suite, has_esn);
            for (number, size) in [0, 1, 2, 13, 14, 15, 16, 64, 1400, 9000, 65_000]
                .into_iter()
                .enumerate()
            {
                for inner in [
                    ipv4([1, 2, 3, 4], [5, 6, 7, 8], 17, &vec![7; size]),
                    ipv6(17, &vec![8; size]),
                ] {
                    let mut packet = seal(&outbound, &inner);
                    let opened = inbound.open(&mut packet, 0).unwrap();
                    let range = opened.inner.unwrap().range;
                    assert_eq!(
                        packet[range],
                        inner[..],
                        "{} esn {has_esn} packet {number}",
                        suite.name
                    );
                    assert!(opened.is_newest);
                }
            }
        }
    }
}

#[test]
fn a_packet_comes_in_once() {
    let (outbound, inbound) = pair(gcm(), false);
    let packet = seal(&outbound, &small());
    assert!(inbound.open(&mut packet.clone(), 0).is_ok());
    assert_eq!(
        inbound.open(&mut packet.clone(), 0),
        Err(DropReason::Replayed)
    );
    assert_eq!(inbound.drops().read(DropReason::Replayed), 1);
}

#[test]
fn a_packet_with_a_bad_icv_moves_neither_window_nor_counters() {
    let (outbound, inbound) = pair(gcm(), false);
    let good = seal(&outbound, &small());
    let mut far = good.clone();
    far[4..8].copy_from_slice(&5000_u32.to_be_bytes());
    assert_eq!(inbound.open(&mut far, 0), Err(DropReason::BadIcv));
    assert_eq!((inbound.highest_sequence(), inbound.carried()), (0, (0, 0)));
    assert!(inbound.open(&mut good.clone(), 0).is_ok());
    assert_eq!(
        (inbound.highest_sequence(), inbound.carried()),
        (1, (1, 28))
    );
}

/// An authentic packet with this number and decrypted text, pad length and next header included.
fn forge(suite: Suite, has_esn: bool, sequence: u64, text: &[u8]) -> Vec<u8> {
    let key = PacketKey::new(
        suite,
        has_esn,
        &KEY[..suite.key_material()],
        &KEY[..suite.integrity_key()],
    )
    .unwrap();
    let mut packet = 0xc0ff_ee01_u32.to_be_bytes().to_vec();
    packet.extend_from_slice(&(sequence as u32).to_be_bytes());
    packet.resize(suite.headroom(), 0);
    packet.extend_from_slice(text);
    packet.resize(packet.len() + suite.icv(), 0);
    key.seal(&mut packet, sequence).unwrap();
    packet
}

/// What becomes of an authentic packet with this text.
fn fate(text: &[u8]) -> Result<Inner, DropReason> {
    let (_, inbound) = pair(gcm(), false);
    let opened = inbound.open(&mut forge(gcm(), false, 1, text), 0).unwrap();
    assert!(opened.is_newest, "authentic whatever it carries");
    if let Err(reason) = opened.inner {
        assert_eq!((inbound.drops().read(reason), inbound.carried().0), (1, 0));
    }
    opened.inner
}

fn with_trailer(inner: &[u8], trailer: &[u8]) -> Vec<u8> {
    [inner, trailer].concat()
}

#[test]
fn padding_that_reaches_before_the_payload_is_dropped() {
    assert_eq!(fate(&[1, 4]), Err(DropReason::BadPadding));
    assert_eq!(
        fate(&with_trailer(&small(), &[255, 4])),
        Err(DropReason::BadPadding)
    );
}

#[test]
fn pad_octets_that_do_not_count_up_are_dropped() {
    assert!(fate(&with_trailer(&small(), &[1, 2, 2, 4])).is_ok());
    assert_eq!(
        fate(&with_trailer(&small(), &[1, 1, 2, 4])),
        Err(DropReason::BadPadding)
    );
    assert_eq!(
        fate(&with_trailer(&small(), &[0, 0, 2, 4])),
        Err(DropReason::BadPadding)
    );
}

#[test]
fn the_longest_padding_is_taken() {
    let pad: Vec<u8> = (1..=255).collect();
    assert!(fate(&[&small()[..], &pad, &[255, 4]].concat()).is_ok());
}

#[test]
fn dummies_and_strange_next_headers_are_told_apart() {
    assert_eq!(
        fate(&with_trailer(&[9; 40], &[0, 59])),
        Err(DropReason::Dummy)
    );
    assert_eq!(fate(&[0, 59]), Err(DropReason::Dummy));
    for next_header in [0, 6, 17, 50, 255] {
        assert_eq!(
            fate(&with_trailer(&small(), &[0, next_header])),
            Err(DropReason::BadNextHeader)
        );
    }
    assert_eq!(
        fate(&with_trailer(&small(), &[0, 144])),
        Err(DropReason::AggfragUnexpected)
    );
}

#[test]
fn an_sa_for_aggfrag_takes_nothing_else() {
    let (outbound, inbound) = pair(gcm(), false);
    let payload = [&[0, 0, 0, 0][..], &small()].concat();
    let headroom = outbound.suite().headroom();
    let mut packet = vec![0; outbound.suite().sealed_size(payload.len())];
    packet[headroom..][..payload.len()].copy_from_slice(&payload);
    let sealed = outbound.seal_payload(&mut packet, payload.len()).unwrap();
    assert_eq!((sealed.size, sealed.outer_tos), (packet.len(), 0));
    let opened = inbound.open_payload(&mut packet).unwrap();
    assert_eq!(packet[opened.inner.unwrap()], payload);
    let opened = inbound
        .open_payload(&mut seal(&outbound, &small()))
        .unwrap();
    assert_eq!(opened.inner, Err(DropReason::BadNextHeader));
    assert_eq!(inbound.drops().read(DropReason::BadNextHeader), 1);
}

#[test]
fn an_inner_packet_must_be_what_the_next_header_says_and_hold_together() {
    assert_eq!(
        fate(&with_trailer(&small(), &[0, 41])),
        Err(DropReason::MalformedInner)
    );
    assert_eq!(
        fate(&[0, 4]),
        Err(DropReason::MalformedInner),
        "no inner packet at all"
    );
    for (at, octet) in [(0, 0x05), (0, 0xf5), (3, 200), (3, 19)] {
        let mut inner = small();
        inner[at] = octet;
        assert_eq!(
            fate(&with_trailer(&inner, &[0, 4])),
            Err(DropReason::MalformedInner)
        );
    }
}

#[test]
fn padding_for_traffic_flow_confidentiality_is_cut_off() {
    let inner = fate(&[&small()[..], &[0x45; 500], &[0, 4]].concat()).unwrap();
    assert_eq!(inner.range.len(), 28);
}

#[test]
fn an_inner_source_outside_the_selectors_is_dropped() {
    let remote = Selector::new([10, 0, 0, 0].into(), [10, 0, 0, 255].into(), 0, 0, 65535).unwrap();
    let selectors = SelectorPair {
        local: any_selectors().local,
        remote: [remote].into(),
    };
    let inbound = InboundSa::new(
        SaConfig {
            selectors,
            ..config(gcm(), false)
        },
        64,
    )
    .unwrap();
    let open = |sequence, source| {
        let text = with_trailer(&ipv4(source, [10, 9, 0, 2], 17, &[0; 8]), &[0, 4]);
        inbound
            .open(&mut forge(gcm(), false, sequence, &text), 0)
            .unwrap()
            .inner
    };
    assert!(open(1, [10, 0, 0, 7]).is_ok());
    assert_eq!(open(2, [10, 0, 1, 7]), Err(DropReason::OutsideSelectors));
}

#[test]
fn sizes_that_cannot_be_are_dropped_before_the_cipher() {
    for suite in SUITES {
        let (_, inbound) = pair(suite, false);
        let least = suite.headroom() + suite.icv() + ESP_TRAILER;
        for size in (0..least).chain(if suite.align() == 16 {
            least..least + 14
        } else {
            0..0
        }) {
            assert_eq!(
                inbound.open(&mut vec![1; size], 0),
                Err(DropReason::TooShort),
                "{} {size}",
                suite.name
            );
        }
    }
}

#[test]
fn every_octet_of_a_packet_is_authenticated() {
    for suite in SUITES {
        for has_esn in [false, true] {
            let (outbound, _) = pair(suite, has_esn);
            let packet = seal(&outbound, &small());
            for at in 4..packet.len() {
                let (_, inbound) = pair(suite, has_esn);
                let mut bad = packet.clone();
                bad[at] ^= 0x80;
                assert!(
                    inbound.open(&mut bad, 0).is_err(),
                    "{} esn {has_esn} octet {at}",
                    suite.name
                );
                assert_eq!(inbound.highest_sequence(), 0);
            }
            // The SPI itself: the SA was found by it, so it is only seen by the ICV.
            let mut bad = packet.clone();
            bad[0] ^= 1;
            assert_eq!(
                pair(suite, has_esn).1.open(&mut bad, 0),
                Err(DropReason::BadIcv)
            );
        }
    }
}

#[test]
fn esn_is_part_of_what_is_authenticated() {
    for suite in SUITES {
        let text = with_trailer(&small(), &[1, 2, 2, 4]);
        let inbound = InboundSa::new(
            SaConfig {
                last_sequence: 1 << 32,
                ..config(suite, true)
            },
            64,
        )
        .unwrap();
        let mut old = forge(suite, true, 20, &text);
        assert_eq!(
            inbound.open(&mut old, 0),
            Err(DropReason::BadIcv),
            "{}",
            suite.name
        );
        let mut new = forge(suite, true, (1 << 32) + 20, &text);
        assert_eq!(
            inbound.open(&mut new, 0).unwrap().sequence,
            (1 << 32) + 20,
            "{}",
            suite.name
        );
    }
}

#[test]
fn esn_goes_on_across_the_wrap_of_the_low_half() {
    for suite in SUITES {
        let start = SaConfig {
            last_sequence: u64::from(u32::MAX) - 3,
            ..config(suite, true)
        };
        let outbound = OutboundSa::new(start, true).unwrap();
        let start = SaConfig {
            last_sequence: u64::from(u32::MAX) - 3,
            ..config(suite, true)
        };
        let inbound = InboundSa::new(start, 64).unwrap();
        let mut packets: Vec<_> = (0..8).map(|_| seal(&outbound, &small())).collect();
        packets.swap(2, 5);
        for packet in &packets {
            assert!(inbound.open(&mut packet.clone(), 0).is_ok());
            assert_eq!(
                inbound.open(&mut packet.clone(), 0),
                Err(DropReason::Replayed)
            );
        }
        assert_eq!(inbound.highest_sequence(), u64::from(u32::MAX) + 5);
    }
}

fn seal_buffer(sa: &OutboundSa) -> Vec<u8> {
    let headroom = sa.suite().headroom();
    let mut buffer = vec![0; 200];
    buffer[headroom..headroom + 28].copy_from_slice(&small());
    buffer
}

#[test]
fn ten_thousand_packets_in_any_order_come_in_at_most_once() {
    let (_, inbound) = pair(gcm(), false);
    let text = with_trailer(&small(), &[1, 2, 2, 4]);
    let mut accepted = 0;
    // 7919 has no factor in common with 10 000: a permutation, far beyond the window.
    for number in 0..20_000_u64 {
        let sequence = number * 7919 % 10_000 + 1;
        accepted += u32::from(
            inbound
                .open(&mut forge(gcm(), false, sequence, &text), 0)
                .is_ok(),
        );
    }
    let (packets, _) = inbound.carried();
    assert_eq!(u64::from(accepted), packets);
    assert!(packets <= 10_000 && inbound.highest_sequence() == 10_000);
}

#[test]
fn congestion_outside_marks_the_inner_packet_or_drops_it() {
    let (outbound, inbound) = pair(gcm(), false);
    let mut capable = small();
    wire::set_tos(&mut capable, 0xb8 | ecn::ECT_0);
    let mut packet = seal(&outbound, &capable);
    let range = inbound
        .open(&mut packet, ecn::CE)
        .unwrap()
        .inner
        .unwrap()
        .range;
    assert_eq!(
        (
            packet[range.start + 1],
            wire::checksum(0, &packet[range.start..range.start + 20])
        ),
        (0xb8 | ecn::CE, 0)
    );
    let mut packet = seal(&outbound, &small());
    assert_eq!(
        inbound.open(&mut packet, ecn::CE).unwrap().inner,
        Err(DropReason::Congested)
    );
}

#[test]
fn outer_tos_and_df_come_from_the_inner_packet() {
    let mut inner = small();
    wire::set_tos(&mut inner, 0xba);
    inner[6] |= 0x40;
    for (copies_dscp, expected) in [(true, 0xba), (false, 0x02)] {
        let outbound = OutboundSa::new(config(gcm(), false), copies_dscp).unwrap();
        let mut buffer = seal_buffer(&outbound);
        buffer[16..44].copy_from_slice(&inner);
        let sealed = outbound.seal(&mut buffer, 28).unwrap();
        assert_eq!((sealed.outer_tos, sealed.is_inner_df), (expected, true));
    }
}

#[test]
fn a_buffer_without_room_or_an_inner_packet_of_no_family_takes_no_number() {
    let (outbound, _) = pair(gcm(), false);
    let mut buffer = seal_buffer(&outbound);
    let need = outbound.suite().sealed_size(28);
    assert_eq!(
        outbound.seal(&mut buffer[..need - 1], 28),
        Err(DropReason::NoRoom)
    );
    buffer[16] = 0x55;
    assert_eq!(
        outbound.seal(&mut buffer, 28),
        Err(DropReason::MalformedInner)
    );
    assert_eq!(
        outbound.seal(&mut buffer, 0),
        Err(DropReason::MalformedInner)
    );
    assert_eq!(outbound.last_sequence(), 0);
}

#[test]
fn keys_are_never_shown() {
    let (outbound, inbound) = pair(gcm(), false);
    assert!(format!("{outbound:?}{inbound:?}").contains("PacketKey(aes256gcm16)"));
    assert!(!format!("{outbound:?}{inbound:?}").contains("90, 90"));
}
