//! One engine, and a peer in the hands of the test: what it makes of good, bad, old and strange datagrams.

use std::time::Duration;

use openmoat_esp::drops::DropReason;
use openmoat_esp::meter::Limits;
use openmoat_esp::sa::{OutboundSa, SaConfig};
use openmoat_io::memory::Datagram;
use openmoat_io::{GsoType, Path, VnetHeader};

use crate::command::{Command, Update};
use crate::events::Event;
use crate::lab::{Gateway, Options, gateways};
use crate::samples::{back, is_checksummed, udp};
use crate::{IkeDatagram, IkeOutgoing};

/// One gateway, its only pair, and the peer's sending half in the hands of the test.
fn gateway_and_peer(options: &Options) -> (Gateway, u32, OutboundSa) {
    let (gateway, _) = gateways();
    let handle = gateway.engine.reserve_spis(1)[0];
    gateway.apply(vec![
        gateway.add_inbound(handle, options),
        gateway.add_outbound(handle, 0x1000, options),
    ]);
    gateway.begin();
    let keys = crate::lab::keys(options, handle);
    let config = SaConfig {
        spi: handle,
        suite: keys.suite,
        has_esn: options.has_esn,
        key: &keys.key,
        integrity_key: &keys.integrity_key,
        selectors: gateway.selectors(),
        limits: Limits::default(),
        last_sequence: 0,
    };
    (gateway, handle, OutboundSa::new(config, true).unwrap())
}

fn seal(sa: &OutboundSa, packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; sa.suite().sealed_size(packet.len())];
    let headroom = sa.suite().headroom();
    buffer[headroom..headroom + packet.len()].copy_from_slice(packet);
    sa.seal(&mut buffer, packet.len()).unwrap();
    buffer
}

fn from(gateway: &Gateway, source: &str, octets: Vec<u8>) -> Datagram {
    let source = source.parse().unwrap();
    Datagram {
        octets,
        segment: 0,
        source,
        destination: gateway.outer(4500),
        tos: 0,
        df: false,
    }
}

const EXPECTED: &str = "192.0.2.2:4500";
const ELSEWHERE: &str = "198.51.100.9:7777";

/// Where a packet is told to have come from, if there is news of its pair.
fn path_after(gateway: &Gateway, source: &str, octets: &[u8]) -> Option<Option<String>> {
    gateway.udp.deliver(from(gateway, source, octets.to_vec()));
    gateway.expect();
    let events = gateway.engine.drain(100);
    events.into_iter().find_map(|event| match event {
        Event::State { path, .. } => Some(path.map(|path| path.remote.to_string())),
        _ => None,
    })
}

/// As the daemon does: send to where the peer is now.
fn follow(gateway: &Gateway, handle: u32, remote: &str) {
    let path = Path {
        local: gateway.outer(4500),
        remote: remote.parse().unwrap(),
    };
    gateway.apply(vec![Command::Update(Box::new(Update {
        handle,
        path: Some(path),
        ..Update::default()
    }))]);
}

#[test]
fn only_a_newest_authentic_packet_tells_of_a_new_path() {
    let (gateway, handle, peer) = gateway_and_peer(&Options::default());
    let packet = back(udp(false, 53, b"moving"));
    let sealed: Vec<Vec<u8>> = (0..6).map(|_| seal(&peer, &packet)).collect();
    let path_after = |source, octets| path_after(&gateway, source, octets);
    assert_eq!(
        path_after(EXPECTED, &sealed[1]),
        Some(None),
        "the first packet is told"
    );
    assert_eq!(
        path_after(ELSEWHERE, &sealed[0]),
        None,
        "an older one proves nothing"
    );
    let mut forged = sealed[3].clone();
    forged[30] ^= 1;
    gateway.udp.deliver(from(&gateway, ELSEWHERE, forged));
    assert_eq!(
        path_after(EXPECTED, &sealed[2]),
        None,
        "a forged one neither"
    );
    let moved = Some(Some(ELSEWHERE.to_owned()));
    assert_eq!(path_after(ELSEWHERE, &sealed[3]), moved);
    assert_eq!(
        path_after(EXPECTED, &sealed[4]),
        Some(None),
        "it came back by itself"
    );
    assert_eq!(path_after(ELSEWHERE, &sealed[5]), moved);
    follow(&gateway, handle, ELSEWHERE);
    assert_eq!(
        path_after(ELSEWHERE, &seal(&peer, &packet)),
        None,
        "the daemon has followed"
    );
    assert_eq!(gateway.drops("bad-icv"), 1);
}

#[test]
fn replayed_strange_and_outside_packets_are_dropped_by_name() {
    let (gateway, handle, peer) = gateway_and_peer(&Options::default());
    let packet = back(udp(false, 53, b"once"));
    let sealed = seal(&peer, &packet);
    let outside = seal(&peer, &udp(false, 53, b"from the wrong side"));
    let strange = [&(handle ^ 0x8000_0000).to_be_bytes(), &sealed[4..]].concat();
    for octets in [
        sealed.clone(),
        sealed,
        outside,
        strange,
        vec![1, 2, 3],
        vec![0xff],
        vec![],
    ] {
        gateway.udp.deliver(from(&gateway, EXPECTED, octets));
    }
    gateway
        .udp
        .deliver(from(&gateway, EXPECTED, seal(&peer, &packet)));
    assert_eq!(
        (gateway.expect(), gateway.expect()),
        (packet.clone(), packet)
    );
    let names = ["replayed", "outside-selectors", "unknown-spi", "too-short"];
    assert_eq!(names.map(|name| gateway.drops(name)), [1, 1, 1, 2]);
    let drops = &gateway.engine.read_counters(Some(&[handle]))[0].drops;
    assert_eq!(
        drops[..],
        [(DropReason::Replayed, 1), (DropReason::OutsideSelectors, 1)]
    );
}

fn any_header(chance: &mut impl FnMut() -> usize) -> VnetHeader {
    VnetHeader {
        needs_checksum: chance().is_multiple_of(2),
        gso_type: [
            GsoType::None,
            GsoType::TcpV4,
            GsoType::Udp,
            GsoType::Unknown,
        ][chance() % 4],
        gso_size: (chance() % 70) as u16,
        checksum_start: (chance() % 100) as u16,
        checksum_offset: (chance() % 100) as u16,
        header_length: 0,
    }
}

#[test]
fn any_octets_are_a_counted_drop() {
    let (gateway, handle, peer) = gateway_and_peer(&Options::default());
    let mut state = 1_u64;
    let mut chance = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for number in 0..20_000 {
        let mut octets: Vec<u8> = (0..chance() % 200).map(|_| chance() as u8).collect();
        if number % 2 == 0 && octets.len() >= 4 {
            octets[..4].copy_from_slice(&handle.to_be_bytes());
        }
        gateway.udp.deliver(Datagram {
            segment: chance() % 40,
            ..from(&gateway, EXPECTED, octets.clone())
        });
        gateway
            .raw
            .deliver(from(&gateway, EXPECTED, octets.clone()));
        gateway
            .ike
            .deliver(from(&gateway, EXPECTED, octets.clone()));
        gateway.tun.send([(any_header(&mut chance), octets)]);
    }
    let packet = back(udp(false, 53, b"alive"));
    gateway
        .udp
        .deliver(from(&gateway, EXPECTED, seal(&peer, &packet)));
    assert_eq!(gateway.expect(), packet);
    assert_eq!(gateway.drops("engine-fault"), 0);
    assert!(gateway.drops("bad-icv") > 1_000);
}

/// The next two IKE datagrams.
fn receive_two(gateway: &Gateway) -> Vec<IkeDatagram> {
    gateway.work();
    gateway.engine.receive_ike(8)
}

#[test]
fn ike_passes_with_its_marker_taken_and_given() {
    let (gateway, _, _) = gateway_and_peer(&Options::default());
    let message = vec![9; 40];
    gateway
        .udp
        .deliver(from(&gateway, ELSEWHERE, [&[0; 4], &message[..]].concat()));
    let plain = Datagram {
        destination: gateway.outer(500),
        ..from(&gateway, ELSEWHERE, message.clone())
    };
    gateway.ike.deliver(plain);
    let got = receive_two(&gateway);
    assert!(got.iter().all(|datagram| *datagram.octets == message[..]));
    let mut ports: Vec<u16> = got.iter().map(|one| one.path.local.port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [500, 4500]);
    let reply = |port| IkeOutgoing {
        octets: &message,
        path: Path {
            local: gateway.outer(port),
            remote: ELSEWHERE.parse().unwrap(),
        },
        df: true,
        dscp: 46,
    };
    let replies = [reply(4500), reply(500), reply(501)];
    assert_eq!(gateway.engine.send_ike(&replies), 1);
    let sent = gateway.sent().unwrap();
    assert_eq!(
        (sent.octets, sent.df, sent.tos),
        ([&[0; 4], &message[..]].concat(), true, 46 << 2)
    );
    assert_eq!(
        gateway.ike.take_sent(Duration::ZERO).unwrap().octets,
        message
    );
}

#[test]
fn ecn_and_dscp_go_out_and_come_back_as_rfc_6040_says() {
    let (gateway, _, peer) = gateway_and_peer(&Options::default());
    let mut packet = back(udp(false, 53, b"ecn"));
    openmoat_esp::wire::set_tos(&mut packet, 0xb9);
    gateway.udp.deliver(Datagram {
        tos: 0x03,
        ..from(&gateway, EXPECTED, seal(&peer, &packet))
    });
    let got = gateway.expect();
    assert_eq!(got[1], 0xbb);
    assert!(is_checksummed(&got));
}
