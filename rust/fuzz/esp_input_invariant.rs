//! Invariant: any octets that come for an SA are dropped under a name and change nothing but its counter; any text that
//! the peer itself sealed becomes an inner packet within its bounds, or a named drop. Nothing panics.

use openmoat_esp::meter::Limits;
use openmoat_esp::mss::{Checksum, MssBounds, clamp};
use openmoat_esp::sa::{InboundSa, SaConfig, SaError};
use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_esp::suite::{PacketKey, SUITES, Suite};
use openmoat_esp::wire::IpPacket;

const KEY: [u8; 64] = [0x5a; 64];
const SPI: u32 = 0xc0ff_ee01;

/// The first octet chooses suite and ESN, the rest is what came.
pub fn hold(octets: &[u8]) {
    let Some((&choice, octets)) = octets.split_first() else {
        return;
    };
    let (suite, has_esn) = (SUITES[usize::from(choice & 15)], choice & 16 != 0);
    hold_for_strangers(suite, has_esn, octets);
    hold_for_the_peer(suite, has_esn, octets);
    hold_for_inner_packets(octets);
}

fn hold_for_strangers(suite: Suite, has_esn: bool, octets: &[u8]) {
    let Ok(sa) = inbound(suite, has_esn) else {
        unreachable!("keys of the right size")
    };
    let reason = sa.open(&mut octets.to_vec(), 0).err();
    assert_eq!(
        sa.drops().happened().map(|(reason, _)| reason).next(),
        reason
    );
    assert!(reason.is_some() && sa.highest_sequence() == 0 && sa.carried() == (0, 0));
}

fn hold_for_the_peer(suite: Suite, has_esn: bool, octets: &[u8]) {
    let size = octets
        .len()
        .next_multiple_of(suite.align())
        .max(suite.align());
    let mut packet = [&SPI.to_be_bytes()[..], &7_u32.to_be_bytes()].concat();
    packet.resize(suite.headroom() + size - octets.len(), 0);
    packet.extend_from_slice(octets);
    packet.resize(packet.len() + suite.icv(), 0);
    let key = PacketKey::new(
        suite,
        has_esn,
        &KEY[..suite.key_material()],
        &KEY[..suite.integrity_key()],
    );
    let sealed = key.is_ok_and(|key| key.seal(&mut packet, 7).is_ok());
    let Ok(sa) = inbound(suite, has_esn) else {
        unreachable!("keys of the right size")
    };
    let opened = sa.open(&mut packet, octets.first().copied().unwrap_or(0));
    assert!(sealed && sa.highest_sequence() == 7);
    match opened.map(|opened| opened.inner) {
        Ok(Ok(inner)) => {
            // With GMAC and ESN the text stands four octets further, in the room of the ICV.
            let text = packet.len() - suite.headroom() - suite.icv();
            assert!(inner.range.start >= suite.headroom() && inner.range.len() <= text);
            assert!(
                IpPacket::parse(&packet[inner.range])
                    .is_ok_and(|parsed| parsed.flow == inner.packet.flow)
            );
        }
        Ok(Err(reason)) => assert_eq!(sa.drops().read(reason), 1),
        Err(reason) => unreachable!("sealed by the peer, dropped as {}", reason.name()),
    }
}

fn hold_for_inner_packets(octets: &[u8]) {
    let Ok(parsed) = IpPacket::parse(octets) else {
        return;
    };
    let mut packet = octets.to_vec();
    let bounds = MssBounds {
        v4: Some(536),
        v6: Some(1220),
    };
    let changed = clamp(&mut packet, &parsed, bounds, Checksum::Whole).is_some();
    let differing = packet
        .iter()
        .zip(octets)
        .filter(|(after, before)| after != before)
        .count();
    assert!(
        differing <= 4 && (differing > 0) == changed,
        "an MSS and a checksum at most"
    );
}

fn inbound(suite: Suite, has_esn: bool) -> Result<InboundSa, SaError> {
    let everything =
        |start: std::net::IpAddr, end| Selector::new(start, end, 0, 0, u16::MAX).into_iter();
    let all: Box<[Selector]> = everything([0; 4].into(), [255; 4].into())
        .chain(everything([0; 16].into(), [255; 16].into()))
        .collect();
    let config = SaConfig {
        spi: SPI,
        suite,
        has_esn,
        key: &KEY[..suite.key_material()],
        integrity_key: &KEY[..suite.integrity_key()],
        selectors: SelectorPair {
            local: all.clone(),
            remote: all,
        },
        limits: Limits::default(),
        last_sequence: 0,
    };
    InboundSa::new(config, 1024)
}
