//! The header that goes before each packet of a TUN with `IFF_VNET_HDR` (`struct virtio_net_hdr`).

/// Octets of the header.
pub const VNET_HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;

/// What kind of super-packet it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GsoType {
    /// One packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP of either family (USO).
    Udp,
    /// Anything we did not ask for.
    Unknown,
}

/// The header, as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum from `checksum_start` to the end is still to be made; its field holds the sum of the pseudo-header.
    pub needs_checksum: bool,
    /// Kind of super-packet.
    pub gso_type: GsoType,
    /// Octets of all headers before the payload; a hint of the kernel, not to be trusted.
    pub header_length: u16,
    /// Octets of payload per segment; 0 for one packet.
    pub gso_size: u16,
    /// Where the checksum begins: the transport header.
    pub checksum_start: u16,
    /// Where the checksum field is, from `checksum_start`.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Read from the octets before a packet.
    pub fn parse(octets: &[u8; VNET_HEADER]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([octets[at], octets[at + 1]]);
        Self {
            needs_checksum: octets[0] & NEEDS_CHECKSUM != 0,
            gso_type: match octets[1] & !libc_gso::ECN {
                libc_gso::NONE => GsoType::None,
                libc_gso::TCP_V4 => GsoType::TcpV4,
                libc_gso::TCP_V6 => GsoType::TcpV6,
                libc_gso::UDP_L4 => GsoType::Udp,
                _ => GsoType::Unknown,
            },
            header_length: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// The octets to write before a packet.
    pub fn emit(&self) -> [u8; VNET_HEADER] {
        let mut octets = [0; VNET_HEADER];
        octets[0] = if self.needs_checksum {
            NEEDS_CHECKSUM
        } else {
            0
        };
        octets[1] = match self.gso_type {
            GsoType::None | GsoType::Unknown => libc_gso::NONE,
            GsoType::TcpV4 => libc_gso::TCP_V4,
            GsoType::TcpV6 => libc_gso::TCP_V6,
            GsoType::Udp => libc_gso::UDP_L4,
        };
        octets[2..4].copy_from_slice(&self.header_length.to_ne_bytes());
        octets[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        octets[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        octets[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        octets
    }
}

/// Numbers of `<linux/virtio_net.h>`.
mod libc_gso {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCP_V4: u8 = 1;
    pub(super) const TCP_V6: u8 = 4;
    pub(super) const UDP_L4: u8 = 5;
    pub(super) const ECN: u8 = 0x80;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_octets() {
        for gso_type in [GsoType::None, GsoType::TcpV4, GsoType::TcpV6, GsoType::Udp] {
            let header = VnetHeader {
                needs_checksum: true,
                gso_type,
                header_length: 40,
                gso_size: 1360,
                checksum_start: 20,
                checksum_offset: 16,
            };
            assert_eq!(VnetHeader::parse(&header.emit()), header);
        }
    }

    #[test]
    fn a_super_packet_marked_for_ecn_keeps_its_kind() {
        let mut octets = VnetHeader {
            gso_type: GsoType::TcpV6,
            ..VnetHeader::default()
        }
        .emit();
        octets[1] |= 0x80;
        assert_eq!(VnetHeader::parse(&octets).gso_type, GsoType::TcpV6);
    }
}
