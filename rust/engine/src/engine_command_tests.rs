//! What commands change while packets pass: policies, pairs, limits.

use super::*;
use std::time::Duration;

use crate::command::Update;
use crate::lab::BEGIN;

#[test]
fn reject_answers_and_drop_does_not() {
    for (action, name) in [
        (Action::Reject, "policy-reject"),
        (Action::Drop, "policy-drop"),
        (Action::Pass, "policy-pass"),
    ] {
        let (first, _second) = gateways();
        first.apply(vec![first.policy(action, Missing::Drop)]);
        first.begin();
        first.send(udp(false, 53, b"please"));
        match action {
            Action::Reject => assert_eq!(first.expect()[20..22], [3, 13]),
            _ => assert!(first.receive().is_none()),
        }
        assert_eq!(first.drops(name), 1);
    }
}

fn expect_acquire(gateway: &Gateway) {
    let events = gateway.events();
    assert!(
        matches!(
            events[..],
            [Event::Acquire {
                policy: POLICY,
                protocol: 17,
                destination_port: 0,
                ..
            }]
        ),
        "{events:?}"
    );
}

#[test]
fn a_trap_holds_the_first_packets_until_an_sa_comes() {
    let (first, second) = gateways();
    let options = Options::default();
    connect(&second, &first, &options);
    let (ours, theirs) = (
        first.engine.reserve_spis(1)[0],
        second.engine.reserve_spis(1)[0],
    );
    first
        .engine
        .apply(
            first
                .engine
                .read_counters(None)
                .iter()
                .map(|c| Command::Remove(c.handle))
                .collect(),
        )
        .unwrap();
    first.apply(vec![first.policy(Action::Protect, Missing::Trap)]);
    first
        .tun
        .send((0..20).map(|n| (VnetHeader::default(), udp(false, n, b"early"))));
    // The first sixteen wait; the rest is answered.
    assert_eq!(first.expect()[20..22], [3, 13]);
    expect_acquire(&first);
    second.apply(vec![
        second.add_inbound(theirs, &options),
        second.add_outbound(theirs, ours, &options),
    ]);
    first.apply(vec![
        first.add_inbound(ours, &options),
        first.add_outbound(ours, theirs, &options),
        Command::Activate(ours),
    ]);
    for port in 0..16 {
        assert_eq!(second.expect(), udp(false, port, b"early"));
    }
    assert_eq!(first.drops("no-sa"), 4);
}

#[test]
fn the_newest_active_pair_wins_and_removal_gives_final_counters() {
    let (first, second) = gateways();
    let options = Options::default();
    let (old, old_far) = connect(&first, &second, &options);
    send_last(&first, &second);
    let (new, new_far) = (
        first.engine.reserve_spis(1)[0],
        second.engine.reserve_spis(1)[0],
    );
    second.apply(vec![
        second.add_inbound(new_far, &options),
        second.add_outbound(new_far, new, &options),
    ]);
    first.apply(vec![
        first.add_inbound(new, &options),
        first.add_outbound(new, new_far, &options),
    ]);
    send_last(&first, &second);
    first.apply(vec![Command::Activate(new)]);
    send_last(&first, &second);
    let carried =
        |handle| second.engine.read_counters(Some(&[handle]))[0][SaCounter::InboundPackets];
    assert_eq!((carried(old_far), carried(new_far)), (2, 1));
    let finals = first.apply(vec![Command::Remove(old)]);
    assert_eq!(
        (finals[0].handle, finals[0][SaCounter::OutboundPackets]),
        (old, 2)
    );
    assert!(matches!(
        first.engine.apply(vec![Command::Remove(old)]),
        Err(EngineError::UnknownSpi(_))
    ));
    send_last(&first, &second);
    assert_eq!(carried(new_far), 2);
}

#[test]
fn limits_are_told_and_kept() {
    let limits = Limits {
        soft_packets: 2,
        hard_packets: 3,
        ..Limits::default()
    };
    let (first, second) = gateways();
    let (handle, far) = connect(
        &first,
        &second,
        &Options {
            limits,
            ..Options::default()
        },
    );
    for port in 0..5 {
        first.send(udp(false, port, b"x"));
    }
    (0..3).for_each(|port| assert_eq!(second.expect(), udp(false, port, b"x")));
    assert!(second.receive().is_none());
    let flags = |gateway: &Gateway| {
        gateway
            .events()
            .iter()
            .map(|event| match event {
                Event::State { flags, .. } => *flags,
                _ => 0,
            })
            .fold(0, |sum, flags| sum | flags)
    };
    assert_eq!(flags(&first), flag::SOFT_LIMIT | flag::HARD_LIMIT);
    assert_eq!(flags(&second), flag::SOFT_LIMIT | flag::FIRST_PACKET);
    assert_eq!(first.drops("hard-limit"), 2);
    for (gateway, handle) in [(&first, handle), (&second, far)] {
        gateway.apply(vec![Command::Update(Box::new(Update {
            handle,
            limits: Some(Limits::default()),
            ..Update::default()
        }))]);
    }
    send_last(&first, &second);
}

#[test]
fn at_the_end_of_its_hard_lifetime_an_sa_sends_nothing_more() {
    const END: u64 = BEGIN + 1_000;
    for framing in [Framing::Whole, Framing::Aggfrag] {
        let (first, second) = gateways();
        let plan = MtuPlan {
            framing,
            ..MtuPlan::default()
        };
        let options = Options {
            plan,
            hard_at: END,
            ..Options::default()
        };
        let (handle, _) = connect(&first, &second, &options);
        let sent_at = |now: u64| {
            first.advance(Duration::from_nanos(now - first.now()));
            first.send(udp(false, 53, b"until the end"));
            first.sent().is_some()
        };
        assert!(sent_at(END - 1));
        assert!(!sent_at(END) && !sent_at(END + 1));
        assert_eq!(first.drops("sa-expired"), 2);
        assert!(
            first.engine.drain(10).is_empty(),
            "the daemon knows the time"
        );
        let put_off = Update {
            handle,
            hard_at: Some(END + 2),
            ..Update::default()
        };
        first.apply(vec![Command::Update(Box::new(put_off))]);
        assert!(sent_at(END + 1) && !sent_at(END + 2));
    }
}

#[test]
fn an_sa_that_has_expired_keeps_no_path_open() {
    const END: u64 = BEGIN + 2_000_000_000;
    let (first, second) = gateways();
    let options = Options {
        keepalive: 1,
        hard_at: END,
        ..Options::default()
    };
    connect(&first, &second, &options);
    let is_kept_open = || first.sent().is_some();
    assert!(!is_kept_open(), "nothing has been sent yet");
    first.advance(Duration::from_secs(1));
    assert!(is_kept_open());
    first.advance(Duration::from_secs(1));
    assert!(first.now() == END && !is_kept_open());
}

#[test]
fn each_segment_that_a_spent_pair_cannot_carry_is_counted() {
    let limits = Limits {
        hard_packets: 3,
        ..Limits::default()
    };
    let (first, second) = gateways();
    second.tun.refuse_super_packets();
    connect(
        &first,
        &second,
        &Options {
            limits,
            ..Options::default()
        },
    );
    let (vnet, octets) = tcp_super_packet(false, 1_000, 10_000);
    first.send_super(vnet, &octets);
    for _ in 0..3 {
        second.expect();
    }
    assert_eq!(first.drops("hard-limit"), 7);
}

again!(
    reject_answers_and_drop_does_not,
    a_trap_holds_the_first_packets_until_an_sa_comes,
    the_newest_active_pair_wins_and_removal_gives_final_counters,
    limits_are_told_and_kept,
    each_segment_that_a_spent_pair_cannot_carry_is_counted,
);
