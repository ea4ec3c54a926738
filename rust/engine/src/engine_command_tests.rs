//! What commands change while packets pass: policies, pairs, limits.

use super::*;
use std::time::Duration;

use openmoat_io::PacketBatch;

use crate::command::Update;
use crate::lab::install;
use crate::outbound::OutboundWorker;

#[test]
fn reject_answers_and_drop_does_not() {
    for (action, name) in [
        (Action::Reject, "policy-reject"),
        (Action::Drop, "policy-drop"),
        (Action::Pass, "policy-pass"),
    ] {
        let (first, _second) = gateways();
        first.apply(vec![first.policy(action, Missing::Drop)]);
        first.engine.start().unwrap();
        first.send(udp(false, 53, b"please"));
        match action {
            Action::Reject => assert_eq!(first.expect()[20..22], [3, 13]),
            _ => assert!(first.tun.receive_within(A_MOMENT).is_none()),
        }
        assert_eq!(first.drops(name), 1);
    }
}

fn expect_acquire(engine: &Engine) {
    let events = wait_for_events(engine);
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
    expect_acquire(&first.engine);
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
    settle(&first, &second);
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
    settle(&first, &second);
    first.apply(vec![Command::Activate(new)]);
    settle(&first, &second);
    let carried = |handle| second.engine.read_counters(Some(&[handle]))[0].inbound.0;
    assert_eq!((carried(old_far), carried(new_far)), (2, 1));
    let finals = first.apply(vec![Command::Remove(old)]);
    assert_eq!((finals[0].handle, finals[0].outbound.0), (old, 2));
    assert!(matches!(
        first.engine.apply(vec![Command::Remove(old)]),
        Err(EngineError::UnknownSpi(_))
    ));
    settle(&first, &second);
    assert_eq!(carried(new_far), 2);
}

#[test]
fn final_counters_are_exact_under_load() {
    let (first, second) = gateways();
    let options = Options::default();
    let (mut handle, mut far) = connect(&first, &second, &options);
    let (mut sent, mut received) = (0, 0);
    for _ in 0..20 {
        first
            .tun
            .send((0..500).map(|n| (VnetHeader::default(), udp(false, n, b"load"))));
        let (new, new_far) = (
            first.engine.reserve_spis(1)[0],
            second.engine.reserve_spis(1)[0],
        );
        second.apply(vec![
            second.add_inbound(new_far, &options),
            second.add_outbound(new_far, new, &options),
        ]);
        let finals = first.apply(vec![
            first.add_inbound(new, &options),
            first.add_outbound(new, new_far, &options),
            Command::Activate(new),
            Command::Remove(handle),
        ]);
        sent += finals[0].outbound.0;
        for _ in 0..500 {
            second.expect();
        }
        received += second.apply(vec![Command::Remove(far)])[0].inbound.0;
        (handle, far) = (new, new_far);
    }
    sent += first.engine.read_counters(Some(&[handle]))[0].outbound.0;
    received += second.engine.read_counters(Some(&[far]))[0].inbound.0;
    assert_eq!((sent, received), (10_000, 10_000));
    assert_eq!(second.engine.read_drops(), BTreeMap::new());
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
    assert!(second.tun.receive_within(A_MOMENT).is_none());
    let flags = |engine: &Engine| {
        wait_for_events(engine)
            .iter()
            .map(|event| match event {
                Event::State { flags, .. } => *flags,
                _ => 0,
            })
            .fold(0, |sum, flags| sum | flags)
    };
    assert_eq!(flags(&first.engine), flag::SOFT_LIMIT | flag::HARD_LIMIT);
    assert_eq!(flags(&second.engine), flag::SOFT_LIMIT | flag::FIRST_PACKET);
    assert_eq!(first.drops("hard-limit"), 2);
    for (gateway, handle) in [(&first, handle), (&second, far)] {
        gateway.apply(vec![Command::Update(Box::new(Update {
            handle,
            limits: Some(Limits::default()),
            ..Update::default()
        }))]);
    }
    settle(&first, &second);
}

/// Carry what the host has sent, at `now`, without any thread.
fn carry(gateway: &Gateway, now: u64) {
    let mut worker = OutboundWorker::new(Arc::clone(&gateway.engine.shared), 0);
    let mut batch = PacketBatch::new();
    gateway.tun.read_batch(&mut batch).unwrap();
    worker.turn(&mut batch, now);
}

#[test]
fn at_the_end_of_its_hard_lifetime_an_sa_sends_nothing_more() {
    const END: u64 = 1_000_000_000_000;
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
        let (handle, _) = install(&first, &second, &options);
        let sent_at = |now: u64| {
            first.send(udp(false, 53, b"until the end"));
            carry(&first, now);
            first.udp.take_sent(Duration::ZERO).is_some()
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
    const END: u64 = u64::MAX / 2;
    let (first, second) = gateways();
    let options = Options {
        keepalive: 1,
        hard_at: END,
        ..Options::default()
    };
    install(&first, &second, &options);
    let is_kept_open = |now| {
        crate::outbound::keepalive::tick(&first.engine.shared, now);
        first.udp.take_sent(Duration::ZERO).is_some()
    };
    assert!(is_kept_open(END - 1));
    assert!(!is_kept_open(END));
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
    wait_for_events(&first.engine);
    // The turn that raised the flag is over once the next packet has been looked at.
    first.send(back(udp(false, 53, b"of no policy")));
    while first.drops("no-policy") == 0 {
        std::thread::yield_now();
    }
    assert_eq!(first.drops("hard-limit"), 7);
}

again!(
    reject_answers_and_drop_does_not,
    a_trap_holds_the_first_packets_until_an_sa_comes,
    the_newest_active_pair_wins_and_removal_gives_final_counters,
    final_counters_are_exact_under_load,
    limits_are_told_and_kept,
    each_segment_that_a_spent_pair_cannot_carry_is_counted,
);
