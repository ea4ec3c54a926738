//! What super-packets mean, written plainly from the RFCs, one octet after the other, and with nothing of the engine in
//! it: the host's own segmentation, for tests to compare with.

use std::net::IpAddr;

use openmoat_io::{GsoType, VnetHeader};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn word(octets: &[u8], at: usize) -> u16 {
    u16::from(octets[at]) << 8 | u16::from(octets[at + 1])
}

fn put(octets: &mut [u8], at: usize, value: u16) {
    octets[at] = (value >> 8) as u8;
    octets[at + 1] = value as u8;
}

/// RFC 1071: the ones' complement of the ones' complement sum of all words; an odd octet stands before a zero.
pub fn internet_checksum(octets: &[u8]) -> u16 {
    let mut sum: u16 = 0;
    for at in (0..octets.len()).step_by(2) {
        let next = u16::from(octets[at]) << 8 | u16::from(*octets.get(at + 1).unwrap_or(&0));
        let (added, carries) = sum.overflowing_add(next);
        sum = added + u16::from(carries);
    }
    !sum
}

/// Octets of the IP header; extension headers are none of ours.
fn ip_header(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 6 {
        40
    } else {
        usize::from(packet[0] & 15) * 4
    }
}

/// The checksum that the transport header of a packet should hold (RFC 9293 3.1, RFC 768, RFC 8200 8.1).
pub fn transport_checksum(packet: &[u8]) -> u16 {
    let (ip, is_v6) = (ip_header(packet), packet[0] >> 4 == 6);
    let next = packet[if is_v6 { 6 } else { 9 }];
    let mut sum = if is_v6 {
        packet[8..40].to_vec()
    } else {
        packet[12..20].to_vec()
    };
    sum.extend([0, next]);
    sum.extend(((packet.len() - ip) as u16).to_be_bytes());
    let from = sum.len();
    sum.extend(&packet[ip..]);
    let at = from + if next == TCP { 16 } else { 6 };
    put(&mut sum, at, 0);
    match internet_checksum(&sum) {
        0 if next == UDP => 0xffff,
        made => made,
    }
}

/// Write lengths and checksums of an IP packet with TCP or UDP anew, by the octets it has.
pub fn finish(packet: &mut [u8]) {
    let (ip, length) = (ip_header(packet), packet.len());
    if packet[0] >> 4 == 6 {
        put(packet, 4, (length - 40) as u16);
    } else {
        put(packet, 2, length as u16);
        put(packet, 10, 0);
        let made = internet_checksum(&packet[..ip]);
        put(packet, 10, made);
    }
    let is_udp = packet[if packet[0] >> 4 == 6 { 6 } else { 9 }] == UDP;
    if is_udp {
        put(packet, ip + 4, (length - ip) as u16);
    }
    let made = transport_checksum(packet);
    put(packet, ip + if is_udp { 6 } else { 16 }, made);
}

/// The packets that a host makes of what stands in its queue.
pub fn cut(vnet: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let ip = ip_header(packet);
    let headers = match vnet.gso_type {
        GsoType::None if vnet.needs_checksum => {
            let mut whole = packet.to_vec();
            let at = usize::from(vnet.checksum_start + vnet.checksum_offset);
            put(&mut whole, at, transport_checksum(packet));
            return vec![whole];
        }
        GsoType::None | GsoType::Unknown => return vec![packet.to_vec()],
        GsoType::TcpV4 | GsoType::TcpV6 => ip + usize::from(packet[ip + 12] >> 4) * 4,
        GsoType::Udp => ip + 8,
    };
    let size = usize::from(vnet.gso_size);
    let count = (packet.len() - headers).div_ceil(size);
    let one = |index: usize| {
        let from = headers + index * size;
        let to = packet.len().min(from + size);
        let mut segment = [&packet[..headers], &packet[from..to]].concat();
        if segment[0] >> 4 == 4 {
            let identification = word(packet, 4).wrapping_add(index as u16);
            put(&mut segment, 4, identification);
        }
        if vnet.gso_type != GsoType::Udp {
            let sequence: [u8; 4] = packet[ip + 4..ip + 8].try_into().unwrap();
            let sequence = u32::from_be_bytes(sequence).wrapping_add((index * size) as u32);
            segment[ip + 4..ip + 8].copy_from_slice(&sequence.to_be_bytes());
            if index + 1 < count {
                segment[ip + 13] &= !(0x01 | 0x08); // FIN and PSH are of the last octet
            }
            if index > 0 {
                segment[ip + 13] &= !0x80; // RFC 3168 6.1.2: CWR is said once
            }
        }
        finish(&mut segment);
        segment
    };
    (0..count).map(one).collect()
}

/// Addresses, protocol and ports of a packet, as far as it shows them: what keeps its order.
pub fn flow(packet: &[u8]) -> (IpAddr, IpAddr, u8, Option<u32>) {
    let ip = ip_header(packet);
    let (source, destination, next, is_fragment) = if packet[0] >> 4 == 6 {
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        (address(8), address(24), packet[6], packet[6] == 44)
    } else {
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        let is_fragment = word(packet, 6) & 0x3fff != 0;
        (address(12), address(16), packet[9], is_fragment)
    };
    let ports = packet.get(ip..ip + 4).filter(|_| !is_fragment);
    let ports = ports.map(|ports| u32::from_be_bytes(ports.try_into().unwrap()));
    (source, destination, next, ports)
}
