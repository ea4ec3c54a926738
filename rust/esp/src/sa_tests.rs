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
