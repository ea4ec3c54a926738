//! Bounds of batches and packets, from the kernel and the formats.

/// Packets that one call of a device moves at most.
pub const BATCH: usize = 64;

/// Octets of the largest IP packet.
pub const MAX_PACKET: usize = 65_535;

/// Segments that one UDP datagram with `UDP_SEGMENT` may carry (`UDP_MAX_SEGMENTS` of Linux before 6.9).
pub const MAX_UDP_SEGMENTS: usize = 64;

/// Octets of the largest UDP payload over IPv4, and so of a super-datagram.
pub const MAX_UDP_PAYLOAD: usize = 65_507;
