//! What holds of any octets, from strangers and from the peer.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn any_octets_open_to_a_drop_reason(mut octets in prop::collection::vec(any::<u8>(), 0..300), row in 0..SUITES.len(), has_esn: bool) {
        let (_, inbound) = pair(SUITES[row], has_esn);
        let reason = inbound.open(&mut octets, 0).unwrap_err();
        prop_assert_eq!(inbound.drops().happened().collect::<Vec<_>>(), [(reason, 1)]);
        prop_assert_eq!((inbound.highest_sequence(), inbound.carried()), (0, (0, 0)));
    }

    #[test]
    fn any_authentic_text_is_an_inner_packet_or_a_drop(
        body in prop::collection::vec(any::<u8>(), 0..200), head in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        pad in prop_oneof![Just(0_u8), any::<u8>()], next_header in prop_oneof![Just(4_u8), Just(41), Just(59), any::<u8>()], row in 0..SUITES.len(), has_esn: bool,
    ) {
        let suite = SUITES[row];
        let mut text = [&[head][..], &body].concat();
        text.resize((text.len() + 2).next_multiple_of(suite.align()) - 2, 0);
        text.extend_from_slice(&[pad, next_header]);
        let (_, inbound) = pair(suite, has_esn);
        let mut packet = forge(suite, has_esn, 7, &text);
        let opened = inbound.open(&mut packet, 0).unwrap();
        if let Ok(inner) = opened.inner {
            prop_assert!(inner.range.len() <= packet.len() - suite.headroom() - suite.icv());
            prop_assert_eq!(IpPacket::parse(&packet[inner.range]), Ok(inner.packet));
        }
    }

    #[test]
    fn mutations_of_real_packets_never_pass(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6), cut in 0_usize..60, row in 0..SUITES.len()) {
        let (outbound, inbound) = pair(SUITES[row], false);
        let good = seal(&outbound, &small());
        let mut bad = good.clone();
        for (at, octet) in changes {
            let at = at % bad.len();
            bad[at] = octet;
        }
        bad.truncate(good.len() - cut.min(good.len()));
        prop_assert!(bad == good || inbound.open(&mut bad, 0).is_err());
        prop_assert!(inbound.open(&mut good.clone(), 0).is_ok(), "the good one still comes in");
    }

    #[test]
    fn sizes_agree_with_each_other(row in 0..SUITES.len(), size in 60_usize..3000) {
        let suite = SUITES[row];
        let inner = suite.inner_room(size);
        prop_assert!(inner == 0 || suite.sealed_size(inner) <= size);
        prop_assert!(suite.sealed_size(inner + 1) > size);
    }
}
