//! Packets for tests.

use openmoat_esp::wire::{IpPacket, checksum, protocol};
use openmoat_io::{GsoType, VnetHeader};

use crate::sizes::segment::{mend_ipv4_checksum, pseudo_header};

pub const SEQUENCE: u32 = 0xffff_fe00;

/// An IP packet from 10.1.0.1 (fd01::1) to 10.2.0.1 (fd02::1).
pub fn ip(is_v6: bool, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut octets;
    if is_v6 {
        octets = vec![0x60, 0, 0, 0];
        octets.extend((payload.len() as u16).to_be_bytes());
        octets.extend([next, 64]);
        for net in [1, 2] {
            octets.extend([0xfd, net]);
            octets.extend([0; 13]);
            octets.push(1);
        }
    } else {
        octets = vec![0x45, 0];
        octets.extend((payload.len() as u16 + 20).to_be_bytes());
        octets.extend([0xab, 0xcd, 0, 0, 64, next, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1]);
        mend_ipv4_checksum(&mut octets);
    }
    octets.extend(payload);
    octets
}

/// A UDP datagram with a good checksum, port 1000 to `port`.
pub fn udp(is_v6: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let (vnet, mut octets) = udp_without_checksum(is_v6, payload);
    let at = if is_v6 { 40 } else { 20 };
    octets[at + 2..at + 4].copy_from_slice(&port.to_be_bytes());
    let packet = IpPacket::parse(&octets).unwrap();
    assert!(crate::sizes::segment::complete_checksum(
        &vnet,
        &packet,
        &mut octets
    ));
    octets
}

pub fn udp_without_checksum(is_v6: bool, payload: &[u8]) -> (VnetHeader, Vec<u8>) {
    let mut datagram = vec![0x03, 0xe8, 0x07, 0xd0];
    datagram.extend((payload.len() as u16 + 8).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let mut octets = ip(is_v6, protocol::UDP, &datagram);
    let vnet = partial(&mut octets, is_v6, protocol::UDP, 6);
    (vnet, octets)
}

/// Leave the checksum to the next one on the way, as the kernel does.
fn partial(octets: &mut [u8], is_v6: bool, next: u8, offset: usize) -> VnetHeader {
    let start = if is_v6 { 40 } else { 20 };
    let pseudo = !checksum(
        pseudo_header(octets, is_v6, next, octets.len() - start),
        &[],
    );
    octets[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
    VnetHeader {
        needs_checksum: true,
        checksum_start: start as u16,
        checksum_offset: offset as u16,
        ..VnetHeader::default()
    }
}

/// TCP from port 1000 to 2000 with all of the flags that a cut must treat apart.
pub fn tcp(is_v6: bool, flags: u8, options: &[u8], payload: &[u8]) -> (VnetHeader, Vec<u8>) {
    let mut segment = vec![0x03, 0xe8, 0x07, 0xd0];
    segment.extend(SEQUENCE.to_be_bytes());
    segment.extend([
        0,
        0,
        0,
        9,
        ((20 + options.len()) * 4) as u8,
        flags,
        1,
        0,
        0,
        0,
        0,
        0,
    ]);
    segment.extend(options);
    segment.extend(payload);
    let mut octets = ip(is_v6, protocol::TCP, &segment);
    let vnet = partial(&mut octets, is_v6, protocol::TCP, 16);
    (vnet, octets)
}

pub fn tcp_super_packet(is_v6: bool, size: u16, payload: usize) -> (VnetHeader, Vec<u8>) {
    let payload: Vec<u8> = (0..payload).map(|n| (n * 7 % 251) as u8).collect();
    let (vnet, octets) = tcp(is_v6, 0x98, &[1; 12], &payload);
    let gso_type = if is_v6 {
        GsoType::TcpV6
    } else {
        GsoType::TcpV4
    };
    (
        VnetHeader {
            gso_type,
            gso_size: size,
            ..vnet
        },
        octets,
    )
}

pub fn udp_super_packet(is_v6: bool, size: u16, payload: usize) -> (VnetHeader, Vec<u8>) {
    let payload: Vec<u8> = (0..payload).map(|n| (n * 5 % 253) as u8).collect();
    let (vnet, octets) = udp_without_checksum(is_v6, &payload);
    (
        VnetHeader {
            gso_type: GsoType::Udp,
            gso_size: size,
            ..vnet
        },
        octets,
    )
}

/// Whether lengths and all checksums of a UDP, TCP or ICMP packet are right.
pub fn is_checksummed(octets: &[u8]) -> bool {
    let is_v6 = octets[0] >> 4 == 6;
    let (start, next, length) = if is_v6 {
        (
            40,
            octets[6],
            40 + usize::from(u16::from_be_bytes([octets[4], octets[5]])),
        )
    } else {
        (
            20,
            octets[9],
            usize::from(u16::from_be_bytes([octets[2], octets[3]])),
        )
    };
    let header = is_v6 || checksum(0, &octets[..20]) == 0;
    let pseudo = if next == protocol::ICMP {
        0
    } else {
        pseudo_header(octets, is_v6, next, octets.len() - start)
    };
    header && length == octets.len() && checksum(pseudo, &octets[start..]) == 0
}

/// A packet of the second network to the first, as the others make them the other way.
pub fn back(mut packet: Vec<u8>) -> Vec<u8> {
    let (source, destination, size) = if packet[0] >> 4 == 6 {
        (8, 24, 16)
    } else {
        (12, 16, 4)
    };
    for offset in 0..size {
        packet.swap(source + offset, destination + offset);
    }
    packet
}
