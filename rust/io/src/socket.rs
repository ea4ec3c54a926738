//! What the engine asks of a socket of the outside, whether it is the kernel's or in memory.

use std::io;
use std::os::fd::BorrowedFd;

use crate::batch::{Outgoing, ReceiveBatch};
use crate::offloads::{Offloads, SocketOffloads};

/// What a socket of the outside carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// UDP, bound to this port.
    Udp {
        /// Local port.
        port: u16,
    },
    /// ESP as an IP protocol of its own.
    Raw,
}

/// The outside of the engine. Datagrams are given without IP and UDP headers.
pub trait OuterSocket: Send + Sync {
    /// What it carries.
    fn kind(&self) -> SocketKind;

    /// Whether it is of IPv6.
    fn is_v6(&self) -> bool;

    /// Send and receive many datagrams as one, as far as it is wanted and the kernel can. Answers with what it does.
    fn enable_offloads(&self, wanted: Offloads) -> SocketOffloads;

    /// Whether `Outgoing::segment` may be other than 0; a way out that cannot ends it at any time.
    fn segments(&self) -> bool;

    /// Readable while `receive_batch` would give something.
    fn readable(&self) -> BorrowedFd<'_>;

    /// Replace the content of `batch` by what waits, up to its size.
    fn receive_batch(&self, batch: &mut ReceiveBatch) -> io::Result<usize>;

    /// Send in order; waits at most `patience` milliseconds in all for room in the buffers of the kernel.
    ///
    /// `lost` is replaced by the indices of datagrams that were not sent whole.
    fn send_batch(
        &self,
        arena: &[u8],
        datagrams: &[Outgoing],
        patience: i32,
        lost: &mut Vec<usize>,
    );
}
