//! ICMP errors about tunnel traffic, through two engines: who answers, by which way, and what is believed.

use openmoat_esp::icmp_error::IcmpCheck;
use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_esp::spd::{Action, Missing};
use openmoat_esp::wire::{IpPacket, protocol};

use crate::command::Command;
use crate::lab::{Gateway, Options, connect, gateways};
use crate::samples::{back, ip, is_checksummed, udp};
use crate::sizes::plan::{IcmpSource, MtuPlan};

fn source(first: &str, last: &str, address: &str) -> IcmpSource {
    IcmpSource {
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
        address: address.parse().unwrap(),
    }
}

/// Gateways whose addresses for errors are these, and the handles.
fn answering(v4: &str, v6: &str, icmp_check: IcmpCheck) -> (Gateway, Gateway, [u32; 2]) {
    let (first, second) = gateways();
    let options = Options {
        plan: MtuPlan {
            icmp_sources: vec![
                source("0.0.0.0", "255.255.255.255", v4),
                source("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", v6),
            ],
            ..MtuPlan::default()
        },
        icmp_check,
        ..Options::default()
    };
    let (ours, theirs) = connect(&first, &second, &options);
    (first, second, [ours, theirs])
}

fn with_hops(mut packet: Vec<u8>, hops: u8) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] = hops;
    } else {
        packet[8] = hops;
        crate::sizes::segment::mend_ipv4_checksum(&mut packet[..20]);
    }
    packet
}

fn drops(gateway: &Gateway, handle: u32, name: &str) -> u64 {
    let counters = &gateway.engine.read_counters(Some(&[handle]))[0];
    let row = counters.drops.iter().find(|row| row.0.name() == name);
    row.map_or(0, |row| row.1)
}

#[test]
fn a_packet_whose_hops_end_behind_the_tunnel_is_answered_by_the_engine_through_the_sa() {
    let (first, second, [_, theirs]) = answering("10.2.255.1", "fd02::ff", IcmpCheck::Outside);
    for is_v6 in [false, true] {
        for hops in [0, 1] {
            let packet = with_hops(udp(is_v6, 33_434, b"probe"), hops);
            first.send(packet.clone());
            let error = first.expect();
            assert!(is_checksummed(&error));
            let parsed = IpPacket::parse(&error).unwrap();
            let ours = if is_v6 { "fd02::ff" } else { "10.2.255.1" };
            assert_eq!(parsed.flow.source.to_string(), ours);
            let sent = IpPacket::parse(&packet).unwrap();
            assert_eq!(parsed.flow.destination, sent.flow.source);
            let expected = if is_v6 { [3, 0] } else { [11, 0] };
            assert_eq!(error[parsed.next_layer..parsed.next_layer + 2], expected);
            assert_eq!(error[parsed.next_layer + 8..], packet);
        }
        let goes_on = with_hops(udp(is_v6, 33_434, b"probe"), 2);
        first.send(goes_on.clone());
        assert_eq!(second.expect(), goes_on);
    }
    assert_eq!(drops(&second, theirs, "hops-exceeded"), 4);
    assert_eq!(second.receive(), None);
}

#[test]
fn a_packet_to_our_own_address_needs_no_further_hop() {
    let (first, second, _) = answering("10.2.0.1", "fd02::1", IcmpCheck::Outside);
    for is_v6 in [false, true] {
        let packet = with_hops(udp(is_v6, 179, b"a neighbour"), 1);
        first.send(packet.clone());
        assert_eq!(second.expect(), packet);
    }
}

#[test]
fn without_an_address_of_ours_nothing_is_said_and_that_is_counted() {
    let (first, second) = gateways();
    let (_, theirs) = connect(&first, &second, &Options::default());
    first.send(with_hops(udp(false, 33_434, b"probe"), 1));
    let last = udp(false, 53, b"last");
    first.send(last.clone());
    assert_eq!(second.expect(), last);
    assert_eq!(drops(&second, theirs, "hops-exceeded"), 1);
    assert_eq!(drops(&second, theirs, "icmp-unsent"), 1);
}

#[test]
fn an_error_from_outside_the_selectors_goes_and_comes_by_the_sa_of_what_it_quotes() {
    let (first, _second, [ours, _]) = answering("192.0.2.2", "2001:db8::2", IcmpCheck::Outside);
    for is_v6 in [false, true] {
        first.send(with_hops(udp(is_v6, 33_434, b"probe"), 1));
        let error = first.expect();
        let parsed = IpPacket::parse(&error).unwrap();
        let wild = if is_v6 { "2001:db8::2" } else { "192.0.2.2" };
        assert_eq!(parsed.flow.source.to_string(), wild);
    }
    assert_eq!(drops(&first, ours, "outside-selectors"), 0);
}

/// A first gateway that minds no selectors, as a hostile peer would not, and a second that does; and its handle.
fn careless(icmp_check: IcmpCheck) -> (Gateway, Gateway, u32) {
    let (first, second) = gateways();
    let options = Options {
        icmp_check,
        ..Options::default()
    };
    let (ours, theirs) = (
        first.engine.reserve_spis(1)[0],
        second.engine.reserve_spis(1)[0],
    );
    let any = |first: [u8; 4], last: [u8; 4]| {
        Selector::new(first.into(), last.into(), 0, 0, u16::MAX).unwrap()
    };
    let everything = || SelectorPair {
        local: [any([0; 4], [255; 4])].into(),
        remote: [any([0; 4], [255; 4])].into(),
    };
    let Command::PutPolicy(mut policy) = first.policy(Action::Protect, Missing::Drop) else {
        unreachable!()
    };
    policy.selectors = everything();
    let Command::AddOutbound(mut outbound) = first.add_outbound(ours, theirs, &options) else {
        unreachable!()
    };
    outbound.selectors = everything();
    first.apply(vec![
        Command::PutPolicy(policy),
        first.add_inbound(ours, &options),
        Command::AddOutbound(outbound),
        Command::Activate(ours),
    ]);
    second.apply(vec![
        second.policy(Action::Protect, Missing::Drop),
        second.add_inbound(theirs, &options),
        second.add_outbound(theirs, ours, &options),
        Command::Activate(theirs),
    ]);
    first.begin();
    second.begin();
    (first, second, theirs)
}

/// Send a packet, and wait until the second gateway is done with it.
fn settle(first: &Gateway, second: &Gateway, packet: Vec<u8>) {
    first.send(packet);
    let last = udp(false, 53, b"last");
    first.send(last.clone());
    assert_eq!(second.expect(), last);
}

/// An error that a host at the far end says `quoted` has provoked.
fn error_about(source: [u8; 4], kind: u8, quoted: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    body.extend(quoted);
    let sum = openmoat_esp::wire::checksum(0, &body).to_be_bytes();
    body[2..4].copy_from_slice(&sum);
    let mut error = ip(false, protocol::ICMP, &body);
    error[12..16].copy_from_slice(&source);
    crate::sizes::segment::mend_ipv4_checksum(&mut error[..20]);
    error
}

#[test]
fn the_hosts_own_error_from_outside_the_selectors_goes_by_the_sa_of_what_it_quotes() {
    let (first, second, _) = answering("10.2.0.9", "fd02::9", IcmpCheck::Outside);
    let quoted = back(udp(false, 53, b"x")); // from 10.2.0.1 to 10.1.0.1
    let mut error = error_about([198, 51, 100, 7], 3, &quoted);
    error[16..20].copy_from_slice(&[10, 2, 0, 1]);
    crate::sizes::segment::mend_ipv4_checksum(&mut error[..20]);
    first.send(error.clone());
    assert_eq!(second.expect(), error);
}

#[test]
fn an_error_that_quotes_no_packet_of_the_sa_is_dropped_and_counted() {
    let (first, second, theirs) = careless(IcmpCheck::Outside);
    let wild = [198, 51, 100, 7];
    let ours = back(udp(false, 53, b"x"));
    let changed = |at: usize, address: [u8; 4]| {
        let mut packet = ours.clone();
        packet[at..at + 4].copy_from_slice(&address);
        crate::sizes::segment::mend_ipv4_checksum(&mut packet[..20]);
        packet
    };
    // What it quotes went to somebody else; and what it quotes did not come from the host that the error goes to.
    settle(
        &first,
        &second,
        error_about(wild, 11, &changed(16, [10, 3, 0, 1])),
    );
    settle(
        &first,
        &second,
        error_about(wild, 11, &changed(12, [10, 2, 0, 2])),
    );
    assert_eq!(drops(&second, theirs, "icmp-mismatch"), 2);
    // A redirect never passes for what it quotes.
    settle(&first, &second, error_about(wild, 5, &ours));
    assert_eq!(drops(&second, theirs, "outside-selectors"), 1);
    let good = error_about(wild, 11, &ours);
    first.send(good.clone());
    assert_eq!(second.expect(), good);
}

#[test]
fn inside_the_selectors_errors_are_looked_into_where_that_is_wanted() {
    for (icmp_check, dropped) in [(IcmpCheck::Outside, 0), (IcmpCheck::Strict, 1)] {
        let (first, second, theirs) = careless(icmp_check);
        let mut elsewhere = back(udp(false, 53, b"x"));
        elsewhere[16..20].copy_from_slice(&[10, 3, 0, 1]);
        crate::sizes::segment::mend_ipv4_checksum(&mut elsewhere[..20]);
        let error = error_about([10, 1, 0, 7], 3, &elsewhere);
        let good = error_about([10, 1, 0, 7], 3, &back(udp(false, 53, b"x")));
        first.send(error.clone());
        first.send(good.clone());
        if dropped == 0 {
            assert_eq!(second.expect(), error);
        }
        assert_eq!(second.expect(), good);
        assert_eq!(drops(&second, theirs, "icmp-mismatch"), dropped);
    }
}
