//! Encrypted packets on their way out: neighbours of one size to one place become one datagram with segments (UDP GSO).

use std::net::SocketAddr;
use std::sync::Arc;

use openmoat_esp::drops::{DropCounters, DropReason};
use openmoat_io::{BATCH, MAX_PACKET, MAX_UDP_SEGMENTS, OuterSocket, Outgoing};

use crate::tables::sad::Sad;

/// Octets of ESP packets that wait at most before they are sent.
const ARENA: usize = 8 * 65_536;

/// Datagrams that a bundle has memory for from the start; a batch of nothing but segments that may not be joined has more.
const MAX_DATAGRAMS: usize = 4 * BATCH;

/// Octets of ESP around the largest inner packet, with room to spare.
const MAX_SEALED: usize = MAX_PACKET + 256;

/// Octets of one datagram with segments; less than any family allows.
const MAX_SUPER_DATAGRAM: usize = 65_000;

/// Milliseconds to wait for room in the buffers of the kernel, per batch.
const PATIENCE: i32 = 20;

/// Where an ESP packet goes and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Which socket.
    pub socket: usize,
    /// Source address.
    pub local: SocketAddr,
    /// Where to.
    pub remote: SocketAddr,
    /// Type of service.
    pub tos: u8,
    /// Don't Fragment.
    pub df: bool,
    /// See `Outgoing::fragment_size`.
    pub fragment_size: u16,
    /// Handle of the pair, for the drops.
    pub handle: u32,
    /// Whether it may be a segment: it fits the path in one piece, and the socket can.
    pub may_join: bool,
}

/// Packets of one batch, encrypted one behind the other.
pub struct Bundle {
    sad: Arc<Sad>,
    drops: Arc<DropCounters>,
    sockets: Vec<Arc<dyn OuterSocket>>,
    arena: Vec<u8>,
    end: usize,
    queues: Vec<Vec<Outgoing>>,
    last: Option<Address>,
    lost: Vec<usize>,
}

impl Bundle {
    /// For the sockets that one worker sends by. What is lost is counted at its pair, or at `drops` where that is gone.
    pub fn new(
        sockets: Vec<Arc<dyn OuterSocket>>,
        sad: Arc<Sad>,
        drops: Arc<DropCounters>,
    ) -> Self {
        Self {
            sad,
            drops,
            arena: vec![0; ARENA],
            end: 0,
            queues: sockets
                .iter()
                .map(|_| Vec::with_capacity(MAX_DATAGRAMS))
                .collect(),
            sockets,
            last: None,
            lost: Vec::with_capacity(MAX_DATAGRAMS),
        }
    }

    /// Whether this socket takes datagrams with segments.
    pub fn joins(&self, socket: usize) -> bool {
        self.sockets[socket].segments()
    }

    /// Forget what waits.
    pub fn discard(&mut self) {
        self.queues.iter_mut().for_each(Vec::clear);
        self.end = 0;
        self.last = None;
    }

    /// Room to encrypt the next packet in. What waits is sent first where there is none.
    pub fn room(&mut self) -> &mut [u8] {
        if self.end + MAX_SEALED > self.arena.len() {
            self.send();
        }
        &mut self.arena[self.end..self.end + MAX_SEALED]
    }

    /// The packet of `size` octets that was just encrypted in `room` goes to `address`.
    pub fn push(&mut self, size: usize, address: Address) {
        let octets = self.end..self.end + size;
        self.end += size;
        let queue = &mut self.queues[address.socket];
        if self.last == Some(address)
            && address.may_join
            && let Some(open) = queue.last_mut().filter(|open| takes(open, &octets))
        {
            open.octets.end = octets.end;
            return;
        }
        queue.push(Outgoing {
            segment: if address.may_join { size as u16 } else { 0 },
            octets,
            local: address.local,
            remote: address.remote,
            tos: address.tos,
            df: address.df,
            fragment_size: address.fragment_size,
            tag: address.handle,
        });
        self.last = Some(address);
    }

    /// Send all that waits, in order. What the network does not take is counted at its pair.
    pub fn send(&mut self) {
        for (queue, socket) in self.queues.iter_mut().zip(&self.sockets) {
            if queue.is_empty() {
                continue;
            }
            socket.send_batch(&self.arena[..self.end], queue, PATIENCE, &mut self.lost);
            for index in &self.lost {
                let Some(lost) = queue.get(*index) else {
                    continue;
                };
                let packets = if lost.segment == 0 {
                    1
                } else {
                    lost.octets.len().div_ceil(lost.segment.into())
                };
                let pair = self.sad.find(lost.tag);
                let drops = pair.as_ref().map_or(&*self.drops, |pair| &pair.drops);
                drops.count_many(DropReason::SendFailed, packets as u64);
            }
        }
        self.discard();
    }
}

/// Whether a packet can be the next segment: the same size, or smaller and so the last one.
fn takes(open: &Outgoing, octets: &std::ops::Range<usize>) -> bool {
    let segment = usize::from(open.segment);
    let length = open.octets.len();
    segment > 0
        && open.octets.end == octets.start
        && length.is_multiple_of(segment)
        && octets.len() <= segment
        && length / segment < MAX_UDP_SEGMENTS
        && length + octets.len() <= MAX_SUPER_DATAGRAM
}
