//! Limits and sequence numbers of an SA, up to where they end.

use super::*;
use crate::meter::MAX_SHORT_SEQUENCE;

#[test]
fn room_for_a_packet_is_promised_only_where_all_of_it_can_leave() {
    let limits = Limits {
        hard_octets: 1_000,
        hard_packets: 10,
        ..Limits::default()
    };
    let config = SaConfig {
        limits,
        last_sequence: MAX_SHORT_SEQUENCE - 5,
        ..config(gcm(), false)
    };
    let sa = OutboundSa::new(config, false).unwrap();
    assert_eq!(sa.has_room_for(5, 1_000), Ok(()));
    assert_eq!(sa.has_room_for(5, 1_001), Err(DropReason::HardLimit));
    assert_eq!(sa.has_room_for(6, 1), Err(DropReason::SequenceExhausted));
    assert_eq!(sa.has_room_for(11, 1), Err(DropReason::HardLimit));
    assert_eq!(
        sa.has_room_for(u64::MAX, u64::MAX),
        Err(DropReason::HardLimit)
    );
}

#[test]
fn a_short_sequence_ends_and_never_wraps() {
    let nearly = SaConfig {
        last_sequence: MAX_SHORT_SEQUENCE - 1,
        ..config(gcm(), false)
    };
    let outbound = OutboundSa::new(nearly, true).unwrap();
    seal(&outbound, &small());
    let mut buffer = seal_buffer(&outbound);
    for _ in 0..3 {
        assert_eq!(
            outbound.seal(&mut buffer, 28),
            Err(DropReason::SequenceExhausted)
        );
    }
    assert_eq!(
        (
            outbound.last_sequence(),
            outbound.drops().read(DropReason::SequenceExhausted)
        ),
        (MAX_SHORT_SEQUENCE, 3)
    );
}

#[test]
fn soft_limits_ask_and_hard_limits_stop_in_both_directions() {
    let limits = Limits {
        soft_packets: 2,
        hard_packets: 3,
        ..Limits::default()
    };
    let outbound = OutboundSa::new(
        SaConfig {
            limits,
            ..config(gcm(), false)
        },
        true,
    )
    .unwrap();
    let inbound = InboundSa::new(
        SaConfig {
            limits,
            ..config(gcm(), false)
        },
        64,
    )
    .unwrap();
    for expected in [Usage::Fresh, Usage::Soft, Usage::Soft] {
        let mut buffer = seal_buffer(&outbound);
        let sealed = outbound.seal(&mut buffer, 28).unwrap();
        let opened = inbound.open(&mut buffer[..sealed.size], 0).unwrap();
        assert_eq!((sealed.usage, opened.usage), (expected, expected));
    }
    assert_eq!(
        outbound.seal(&mut seal_buffer(&outbound), 28),
        Err(DropReason::HardLimit)
    );
    let fourth = forge(gcm(), false, 4, &with_trailer(&small(), &[1, 2, 2, 4]));
    assert_eq!(
        inbound.open(&mut fourth.clone(), 0),
        Err(DropReason::HardLimit)
    );
    inbound.set_limits(Limits::default());
    assert!(inbound.open(&mut fourth.clone(), 0).is_ok());
}

#[test]
fn limits_in_octets_count_inner_packets() {
    let limits = Limits {
        soft_octets: 56,
        hard_octets: 84,
        ..Limits::default()
    };
    let outbound = OutboundSa::new(
        SaConfig {
            limits,
            ..config(gcm(), false)
        },
        true,
    )
    .unwrap();
    let usage = |_| {
        outbound
            .seal(&mut seal_buffer(&outbound), 28)
            .map(|sealed| sealed.usage)
    };
    let seen: Vec<_> = (0..4).map(usage).collect();
    assert_eq!(
        seen,
        [
            Ok(Usage::Fresh),
            Ok(Usage::Soft),
            Ok(Usage::Soft),
            Err(DropReason::HardLimit)
        ]
    );
    assert_eq!(outbound.carried(), (3, 84));
}

#[test]
fn threads_that_seal_together_never_share_a_number() {
    let (outbound, inbound) = pair(Suite::by_name("aes128gcm16").unwrap(), false);
    let inbound = InboundSa {
        window: ReplayWindow::new(4096, false, 0).unwrap(),
        ..inbound
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..500)
                    .for_each(|_| assert!(inbound.open(&mut seal(&outbound, &small()), 0).is_ok()))
            });
        }
    });
    assert_eq!(
        (outbound.last_sequence(), inbound.carried().0),
        (2000, 2000)
    );
}
