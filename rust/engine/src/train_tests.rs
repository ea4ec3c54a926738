//! Any packet train in, the same octets out, in order in each flow: the cut and the join against the plain oracle.

use openmoat_esp::wire::IpPacket;
use openmoat_io::{GsoType, MAX_PACKET, PacketList, VnetHeader};
use proptest::prelude::*;

use crate::inbound::join::{Joiner, Joins};
use crate::lab::{Options, connect, gateways, with_offloads};
use crate::oracle;
use crate::samples;
use crate::sizes::segment::Cut;

/// How a packet differs from the one that its flow would have sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twist {
    Nothing,
    Gap(u16),
    Flags(u8),
    ReservedBits,
    Tos(u8),
    HopLimit,
    FlowLabel,
    Identification(u16),
    SameIdentification,
    NoDf,
    Window,
    Acknowledgement,
    Urgent,
    Options(u8),
    BadChecksum,
    NoChecksum,
    /// All octets such that the sum is 0, which can be written as all zeros or all ones.
    SumOfZero(u8),
    BadHeaderChecksum,
    UdpLength,
    IpOptions,
    FirstFragment,
    LaterFragment,
}

#[derive(Clone, Debug)]
struct Spec {
    flow: usize,
    handle: u32,
    size: usize,
    options: u8,
    twist: Twist,
}

fn twists() -> impl Strategy<Value = Twist> {
    use Twist::*;
    prop_oneof![
        40 => Just(Nothing),
        1 => any::<u16>().prop_map(Gap),
        3 => any::<u8>().prop_map(Flags),
        1 => Just(ReservedBits),
        1 => any::<u8>().prop_map(Tos),
        1 => Just(HopLimit),
        1 => Just(FlowLabel),
        1 => any::<u16>().prop_map(Identification),
        1 => Just(SameIdentification),
        1 => Just(NoDf),
        1 => Just(Window),
        1 => Just(Acknowledgement),
        1 => Just(Urgent),
        1 => any::<u8>().prop_map(Options),
        1 => Just(BadChecksum),
        1 => Just(NoChecksum),
        2 => Just(SumOfZero(0)),
        2 => Just(SumOfZero(0xff)),
        1 => Just(BadHeaderChecksum),
        1 => Just(UdpLength),
        1 => Just(IpOptions),
        1 => Just(FirstFragment),
        1 => Just(LaterFragment),
    ]
}

fn trains() -> impl Strategy<Value = Vec<Spec>> {
    // Sizes and options are those of most of a train, so that there is something to join.
    let size = prop_oneof![20 => Just(900_usize), 2 => 0..1_200_usize, 1 => Just(901_usize)];
    let handle = prop_oneof![20 => Just(1_u32), 1 => Just(2_u32)];
    let spec = (0..FLOWS, handle, size, Just(12), twists());
    let one = spec.prop_map(|(flow, handle, size, options, twist)| Spec {
        flow,
        handle,
        size,
        options,
        twist,
    });
    prop::collection::vec(one, 1..90)
}

/// TCP and UDP over both families, and one more of TCP/IPv4 between the same hosts.
const FLOWS: usize = 5;

/// What each flow has sent so far.
#[derive(Clone, Copy)]
struct Sender {
    sequence: u32,
    identification: u16,
}

/// The packets of a train, with the SAs they come by.
fn build(train: &[Spec]) -> Vec<(u32, Vec<u8>)> {
    let mut senders = [Sender {
        sequence: 0xffff_f000,
        identification: 0xfff0,
    }; FLOWS];
    let made = train.iter().map(|spec| {
        let packet = packet(spec, &mut senders[spec.flow]);
        (spec.handle, packet)
    });
    made.filter(|(_, packet)| IpPacket::parse(packet).is_ok_and(|p| p.length == packet.len()))
        .collect()
}

fn packet(spec: &Spec, sender: &mut Sender) -> Vec<u8> {
    let (is_v6, is_udp) = (spec.flow % 2 == 1, matches!(spec.flow, 2 | 3));
    let ip = if is_v6 { 40 } else { 20 };
    let payload: Vec<u8> = (0..spec.size)
        .map(|n| (n as u32 ^ sender.sequence) as u8)
        .collect();
    if let Twist::Gap(gap) = spec.twist {
        sender.sequence = sender.sequence.wrapping_add(gap.into());
    }
    let mut packet = if is_udp {
        samples::udp_without_checksum(is_v6, &payload).1
    } else {
        let options = match spec.twist {
            Twist::Options(kind) => vec![kind; usize::from(spec.options)],
            _ => vec![1; spec.options.into()],
        };
        let mut tcp = samples::tcp(is_v6, 0x10, &options, &payload).1;
        tcp[ip + 4..ip + 8].copy_from_slice(&sender.sequence.to_be_bytes());
        tcp
    };
    packet[ip + 1] = spec.flow as u8; // source port
    if !is_v6 {
        packet[6] |= 0x40;
        packet[4..6].copy_from_slice(&sender.identification.to_be_bytes());
    }
    let before = (sender.sequence, sender.identification);
    sender.sequence = sender.sequence.wrapping_add(spec.size as u32);
    sender.identification = sender.identification.wrapping_add(1);
    if spec.twist == Twist::SameIdentification {
        sender.identification = before.1;
    }
    twist(spec.twist, &mut packet, ip, is_udp);
    packet
}

/// Change a packet, and give it the checksums that belong to it unless these are the change.
fn twist(twist: Twist, packet: &mut Vec<u8>, ip: usize, is_udp: bool) {
    twist_headers(twist, packet, ip, is_udp);
    let is_fragment = matches!(twist, Twist::FirstFragment | Twist::LaterFragment);
    if !(is_fragment && ip == 40) {
        oracle::finish(packet);
        twist_sums(twist, packet, ip, is_udp);
    }
}

fn twist_headers(twist: Twist, packet: &mut Vec<u8>, ip: usize, is_udp: bool) {
    let is_v6 = ip == 40;
    match twist {
        Twist::Flags(flags) if !is_udp => packet[ip + 13] = flags,
        Twist::ReservedBits if !is_udp => packet[ip + 12] |= 1,
        Twist::Tos(tos) if !is_v6 => packet[1] = tos,
        Twist::Tos(tos) => packet[1] = tos & 0xf0,
        Twist::HopLimit => packet[if is_v6 { 7 } else { 8 }] = 9,
        Twist::FlowLabel if is_v6 => packet[3] = 7,
        Twist::Identification(value) if !is_v6 => {
            packet[4..6].copy_from_slice(&value.to_be_bytes());
        }
        Twist::NoDf if !is_v6 => packet[6] &= !0x40,
        Twist::Window if !is_udp => packet[ip + 14] ^= 1,
        Twist::Acknowledgement if !is_udp => packet[ip + 11] ^= 1,
        Twist::Urgent if !is_udp => packet[ip + 19] = 5,
        Twist::IpOptions if !is_v6 => {
            packet[0] = 0x46;
            packet.splice(20..20, [1, 1, 1, 0]);
        }
        Twist::FirstFragment if !is_v6 => packet[6] = 0x20,
        Twist::LaterFragment if !is_v6 => packet[6..8].copy_from_slice(&[0x00, 0x50]),
        Twist::FirstFragment | Twist::LaterFragment => {
            let offset = if twist == Twist::FirstFragment { 1 } else { 80 };
            let next = std::mem::replace(&mut packet[6], 44);
            packet.splice(40..40, [next, 0, 0, offset, 0, 0, 0, 1]);
            let length = (packet.len() - 40) as u16;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
        }
        _ => {}
    }
}

fn twist_sums(twist: Twist, packet: &mut [u8], ip: usize, is_udp: bool) {
    let is_v6 = ip == 40;
    let at = ip + if is_udp { 6 } else { 16 };
    match twist {
        Twist::BadChecksum => packet[at] ^= 0x10,
        Twist::NoChecksum => packet[at..at + 2].fill(0),
        Twist::SumOfZero(written) => {
            let header = if is_udp {
                8
            } else {
                usize::from(packet[ip + 12] >> 4) * 4
            };
            let made = u16::from_be_bytes([packet[at], packet[at + 1]]);
            // All headers have an even number of octets, so that these two are a word of the sum.
            if let Some(word) = packet[ip..].get_mut(header..header + 2) {
                let (sum, carries) = u16::from_be_bytes([word[0], word[1]]).overflowing_add(made);
                word.copy_from_slice(&(sum + u16::from(carries)).to_be_bytes());
                packet[at..at + 2].fill(written);
            }
        }
        Twist::BadHeaderChecksum if !is_v6 => packet[10] ^= 1,
        // With a checksum that is right for it, so that only the length is wrong.
        Twist::UdpLength if is_udp => {
            packet[ip + 5] ^= 1;
            let made = oracle::transport_checksum(packet);
            packet[at..at + 2].copy_from_slice(&made.to_be_bytes());
        }
        _ => {}
    }
}

/// What the host gets of packets that lie one behind the other.
fn join(packets: &[(u32, Vec<u8>)], joins: Joins) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut out = Vec::new();
    let mut arena: Vec<u8> = packets
        .iter()
        .flat_map(|(_, octets)| octets.clone())
        .collect();
    let (mut list, mut joiner) = (PacketList::new(), Joiner::new(joins));
    let mut start = 0;
    let flush = |arena: &mut [u8], list: &mut PacketList, joiner: &mut Joiner, out: &mut Vec<_>| {
        joiner.finish(arena, list);
        for (vnet, pieces) in list.iter() {
            let octets: Vec<u8> = pieces.flat_map(|piece| arena[piece].to_vec()).collect();
            out.push((vnet, octets));
        }
        list.clear();
    };
    for (handle, octets) in packets {
        if !list.has_room() {
            flush(&mut arena, &mut list, &mut joiner, &mut out);
        }
        let range = start..start + octets.len();
        start = range.end;
        let parsed = IpPacket::parse(octets).unwrap();
        joiner.add(&arena, range, &parsed, *handle, &mut list);
    }
    flush(&mut arena, &mut list, &mut joiner, &mut out);
    out
}

/// The same packets, and each flow, with the fragments between its hosts, in its order.
fn assert_same(wanted: &[Vec<u8>], got: &[Vec<u8>]) {
    for packet in wanted {
        let flow = oracle::flow(packet);
        let of_flow = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
            let belongs = |other: &&Vec<u8>| {
                let other = oracle::flow(other);
                other == flow || ((other.0, other.1) == (flow.0, flow.1) && other.3.is_none())
            };
            packets.iter().filter(belongs).cloned().collect()
        };
        assert_eq!(of_flow(wanted), of_flow(got), "{flow:?}");
    }
    assert_eq!(wanted.len(), got.len());
}

fn octets_of(packets: &[(u32, Vec<u8>)]) -> Vec<Vec<u8>> {
    packets.iter().map(|(_, octets)| octets.clone()).collect()
}

fn cut_by_the_host(joined: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    joined
        .iter()
        .flat_map(|(vnet, octets)| oracle::cut(vnet, octets))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_is_joined_means_the_same_octets_in_order(train in trains(), tcp: bool, udp: bool) {
        let packets = build(&train);
        let joined = join(&packets, Joins { tcp, udp });
        assert_same(&octets_of(&packets), &cut_by_the_host(&joined));
        for (vnet, octets) in &joined {
            prop_assert!(octets.len() <= MAX_PACKET);
            let is_allowed = match vnet.gso_type {
                GsoType::None => !vnet.needs_checksum,
                GsoType::Udp => udp,
                _ => tcp,
            };
            prop_assert!(is_allowed);
        }
    }

    #[test]
    fn a_super_packet_is_cut_as_the_host_would_have_cut_it(
        is_v6: bool, is_udp: bool, flags: u8, size in 1..9_000_u16, payload in 1..64_000_usize,
        options in 0..10_usize, identification: u16,
    ) {
        let payload = payload.min(usize::from(size) * 700);
        let (vnet, mut octets) = if is_udp {
            samples::udp_super_packet(is_v6, size, payload)
        } else {
            let bytes: Vec<u8> = (0..payload).map(|n| (n % 249) as u8).collect();
            let (vnet, octets) = samples::tcp(is_v6, flags, &vec![1; options * 4], &bytes);
            let gso_type = if is_v6 { GsoType::TcpV6 } else { GsoType::TcpV4 };
            (VnetHeader { gso_type, gso_size: size, ..vnet }, octets)
        };
        if !is_v6 {
            octets[4..6].copy_from_slice(&identification.to_be_bytes());
        }
        let parsed = IpPacket::parse(&octets).unwrap();
        let cut = Cut::of(&vnet, &parsed, &octets).unwrap().unwrap();
        let made: Vec<Vec<u8>> = (0..cut.count())
            .map(|index| {
                let mut out = vec![0xee; cut.length(index)];
                cut.write(&octets, index, &mut out);
                out
            })
            .collect();
        prop_assert_eq!(made, oracle::cut(&vnet, &octets));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_train_passes_two_engines_whole_and_in_order(train in trains(), way in 0..crate::lab::WAYS.len()) {
        with_offloads(crate::lab::WAYS[way], || {
            let packets = octets_of(&build(&train));
            let (first, second) = gateways();
            let plan = crate::sizes::plan::MtuPlan { inner_room: 1_420, ..Default::default() };
            connect(&first, &second, &Options { plan, ..Options::default() });
            first.tun.send(packets.iter().map(|octets| (VnetHeader::default(), octets.clone())));
            let mut got = Vec::new();
            while got.len() < packets.len() {
                let (vnet, octets) = second.receive().unwrap();
                got.extend(oracle::cut(&vnet, &octets));
            }
            assert_same(&packets, &got);
        });
    }
}

/// A train without a twist: everything is joined, so that the properties above are not about nothing.
#[test]
fn a_train_without_a_twist_becomes_one_super_packet_of_each_flow() {
    let train: Vec<Spec> = (0..100)
        .map(|n| Spec {
            flow: n % FLOWS,
            handle: 1,
            size: 900,
            options: 12,
            twist: Twist::Nothing,
        })
        .collect();
    let both = Joins {
        tcp: true,
        udp: true,
    };
    let joined = join(&build(&train), both);
    assert_eq!(joined.len(), FLOWS);
    assert!(joined.iter().all(|(vnet, _)| vnet.gso_size == 900));
    let none = join(&build(&train), Joins::default());
    assert_eq!(none.len(), 100);
}

#[test]
fn packets_of_two_sas_are_not_joined() {
    for flow in 0..FLOWS {
        let train: Vec<Spec> = (0..9)
            .map(|n| Spec {
                flow,
                handle: 1 + n / 3 % 2,
                size: 900,
                options: 12,
                twist: Twist::Nothing,
            })
            .collect();
        let both = Joins {
            tcp: true,
            udp: true,
        };
        assert_eq!(join(&build(&train), both).len(), 3, "flow {flow}");
    }
}

/// What keeps a packet apart, by what it is.
mod twists {
    use super::Twist::{self, *};

    pub const TCP_V4: &[Twist] = &[
        Gap(1),
        Flags(0x11),
        Flags(0x12),
        Flags(0x14),
        Flags(0x30),
        Flags(0x50),
        Flags(0x90),
        Flags(0),
        ReservedBits,
        Tos(1),
        Tos(4),
        HopLimit,
        Identification(7),
        NoDf,
        Window,
        Acknowledgement,
        Urgent,
        Options(2),
        BadChecksum,
        SumOfZero(0xff),
        BadHeaderChecksum,
        IpOptions,
        FirstFragment,
        LaterFragment,
    ];

    pub const TCP_V6: &[Twist] = &[
        Gap(1),
        Tos(0x10),
        HopLimit,
        FlowLabel,
        BadChecksum,
        FirstFragment,
    ];

    pub const UDP_V4: &[Twist] = &[
        Tos(1),
        HopLimit,
        Identification(7),
        NoDf,
        BadChecksum,
        NoChecksum,
        SumOfZero(0),
        BadHeaderChecksum,
        UdpLength,
        IpOptions,
        FirstFragment,
        LaterFragment,
    ];

    pub const UDP_V6: &[Twist] = &[
        Tos(0x10),
        HopLimit,
        FlowLabel,
        BadChecksum,
        NoChecksum,
        UdpLength,
        LaterFragment,
    ];
}

/// The twist of the second of three packets keeps it apart, and what comes after it from what came before.
#[test]
fn each_twist_keeps_a_packet_apart() {
    use Twist::Nothing;
    let cases = [
        twists::TCP_V4,
        twists::TCP_V6,
        twists::UDP_V4,
        twists::UDP_V6,
    ];
    for (flow, twists) in cases.into_iter().enumerate() {
        for twist in twists {
            let train = [Nothing, Nothing, *twist, Nothing].map(|twist| Spec {
                flow,
                handle: 1,
                size: 900,
                options: 12,
                twist,
            });
            let both = Joins {
                tcp: true,
                udp: true,
            };
            let count = join(&build(&train), both).len();
            assert!(count > 1, "flow {flow} {twist:?}");
        }
    }
}
