//! Descriptors in batches: TUN with vnet headers, UDP, raw IP, and devices in memory. The only crate with `unsafe`.
//!
//! Everything here is non-blocking. A device takes and gives batches of up to [`BATCH`] packets, any of which may be a
//! super-packet: many segments under one header, cut by whoever sends them last (`VnetHeader::gso_size`, UDP GSO).
//! Nothing here knows what is in a packet.

mod address;
mod batch;
mod clock;
mod control;
mod entropy;
mod fragments;
pub mod memory;
mod messages;
mod offloads;
mod options;
mod outer;
mod poll;
mod tun;
mod vnet;

pub use address::{Path, any_address};
pub use batch::{Outgoing, Packet, PacketBatch, PacketList, ReceiveBatch, Received};
pub use clock::{boottime, thread_time};
pub use entropy::fill_random;
pub use offloads::{OffloadState, Offloads, SocketOffloads, TunOffloads};
pub use outer::{OuterSocket, Socket, SocketKind};
pub use poll::{EventFd, Readiness};
pub use tun::{Tun, TunDevice};
pub use vnet::{GsoType, VNET_HEADER, VnetHeader};

/// Packets that one call of a device moves at most.
pub const BATCH: usize = 64;

/// Octets of the largest IP packet.
pub const MAX_PACKET: usize = 65_535;

/// Segments that one UDP datagram with `UDP_SEGMENT` may carry (`UDP_MAX_SEGMENTS` of Linux before 6.9).
pub const MAX_UDP_SEGMENTS: usize = 64;

/// Octets of the largest UDP payload over IPv4, and so of a super-datagram.
pub const MAX_UDP_PAYLOAD: usize = 65_507;

/// A descriptor is not what it was said to be, or the kernel refused a setting.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It is another kind of descriptor.
    #[error("descriptor {fd}: must be {wanted}, {found}")]
    WrongKind {
        /// Number as given.
        fd: i32,
        /// What it must be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it could not be.
        source: std::io::Error,
    },
}

impl DeviceError {
    /// The last error of this thread, as the failure of `what`.
    pub(crate) fn last(what: &'static str) -> Self {
        Self::System {
            what,
            source: std::io::Error::last_os_error(),
        }
    }
}
