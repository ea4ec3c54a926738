//! Descriptors in batches: TUN with vnet headers, UDP, raw IP, and devices in memory. The only crate with `unsafe`.
//!
//! Everything here is non-blocking. A device takes and gives batches of up to [`BATCH`] packets, any of which may be a
//! super-packet: many segments under one header, cut by the last sender (`VnetHeader::gso_size`, UDP GSO).
//! Nothing here knows what is in a packet.

mod address;
mod batch;
mod bounds;
mod clock;
mod control;
mod entropy;
mod error;
mod fragments;
pub mod memory;
mod messages;
mod offloads;
mod options;
mod outer;
mod poll;
mod socket;
mod stamps;
mod tun;
mod vnet;

pub use address::{Path, any_address};
pub use batch::{Outgoing, Packet, PacketBatch, PacketList, ReceiveBatch, Received};
pub use bounds::{BATCH, MAX_PACKET, MAX_UDP_PAYLOAD, MAX_UDP_SEGMENTS};
pub use clock::{boottime, thread_time};
pub use entropy::fill_random;
pub use error::DeviceError;
pub use offloads::{OffloadState, Offloads, SocketOffloads, TunOffloads};
pub use outer::Socket;
pub use poll::{EventFd, Readiness};
pub use socket::{OuterSocket, SocketKind};
pub use stamps::{Stamp, stamps};
pub use tun::{Tun, TunDevice};
pub use vnet::{GsoType, VNET_HEADER, VnetHeader};
