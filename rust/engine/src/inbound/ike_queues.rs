//! IKE datagrams on their way to Python: sorted by their header into three bounded queues, strangers last.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use crossbeam_queue::ArrayQueue;
use openmoat_io::{EventFd, Path};

/// Octets of the IKE header (RFC 7296 3.1): what is shorter is nothing.
pub const IKE_HEADER: usize = 28;

/// Octets of the marker before IKE on port 4500 (RFC 3948 2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// Octets that each queue keeps at most, whatever the number of its datagrams.
const MAX_QUEUED_OCTETS: usize = 2 << 20;

const FLAG_INITIATOR: u8 = 0x08;
const FLAG_RESPONSE: u8 = 0x20;

/// Why a datagram did not reach Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IkeDrop {
    /// Shorter than a header.
    TooShort,
    /// Its queue was full.
    QueueFull(Queue),
}

/// Whose datagrams wait where; in this order they are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// For an IKE SA of ours.
    Known,
    /// Responses to something else we may have sent.
    Responses,
    /// The rest.
    Strangers,
}

/// One datagram without its marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeDatagram {
    /// The message.
    pub octets: Box<[u8]>,
    /// Its way.
    pub path: Path,
}

struct Bounded {
    waiting: ArrayQueue<IkeDatagram>,
    octets: AtomicUsize,
}

impl Bounded {
    fn new(datagrams: usize) -> Self {
        Self {
            waiting: ArrayQueue::new(datagrams.max(1)),
            octets: AtomicUsize::new(0),
        }
    }

    fn push(&self, octets: &[u8], path: Path) -> bool {
        // Room is asked for before anything is copied.
        let size = octets.len();
        if self.waiting.is_full() || self.octets.load(Ordering::Relaxed) + size > MAX_QUEUED_OCTETS
        {
            return false;
        }
        let taken = self
            .waiting
            .push(IkeDatagram {
                octets: octets.into(),
                path,
            })
            .is_ok();
        if taken {
            self.octets.fetch_add(size, Ordering::Relaxed);
        }
        taken
    }

    fn pop(&self) -> Option<IkeDatagram> {
        let datagram = self.waiting.pop()?;
        // One that is popped before its push has counted it must not wrap the sum.
        let less = |octets: usize| Some(octets.saturating_sub(datagram.octets.len()));
        let _ = self
            .octets
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Some(datagram)
    }
}

/// The three queues, our IKE SPIs, and the descriptor that says that something waits.
pub struct IkeQueues {
    queues: [Bounded; 3],
    known: RwLock<HashSet<u64>>,
    /// Readable while something waits.
    pub readable: EventFd,
}

impl IkeQueues {
    /// With room for so many datagrams in each queue.
    pub fn new(datagrams: usize) -> Result<Self, openmoat_io::DeviceError> {
        let queues = [
            Bounded::new(datagrams),
            Bounded::new(datagrams),
            Bounded::new(datagrams),
        ];
        Ok(Self {
            queues,
            known: RwLock::default(),
            readable: EventFd::new()?,
        })
    }

    /// Our IKE SPIs have changed.
    pub fn know(&self, added: &[u64], removed: &[u64]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(added);
        for spi in removed {
            known.remove(spi);
        }
    }

    /// Sort in a datagram without its marker.
    pub fn push(&self, octets: &[u8], path: Path) -> Result<(), IkeDrop> {
        let queue = self.sort(octets).ok_or(IkeDrop::TooShort)?;
        if !self.queues[queue as usize].push(octets, path) {
            return Err(IkeDrop::QueueFull(queue));
        }
        self.readable.signal();
        Ok(())
    }

    fn sort(&self, octets: &[u8]) -> Option<Queue> {
        let header: &[u8; IKE_HEADER] = octets.first_chunk()?;
        let flags = header[19];
        // The SPI of the initiator comes first; in a message with the initiator flag the second one is ours.
        let ours = if flags & FLAG_INITIATOR != 0 {
            &header[8..16]
        } else {
            &header[..8]
        };
        let spi = ours
            .iter()
            .fold(0u64, |spi, octet| (spi << 8) | u64::from(*octet));
        let is_known = self
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&spi);
        Some(match (is_known, flags & FLAG_RESPONSE != 0) {
            (true, _) => Queue::Known,
            (false, true) => Queue::Responses,
            (false, false) => Queue::Strangers,
        })
    }

    /// The next datagrams, up to `limit`.
    pub fn receive(&self, limit: usize) -> Vec<IkeDatagram> {
        // Cleared first: what comes from now on signals again.
        self.readable.clear();
        let mut batch = Vec::new();
        for queue in &self.queues {
            while batch.len() < limit {
                let Some(datagram) = queue.pop() else { break };
                batch.push(datagram);
            }
        }
        if self.queues.iter().any(|queue| !queue.waiting.is_empty()) {
            self.readable.signal();
        }
        batch
    }
}

/// Whether a path carries the marker before IKE: RFC 7296 2.23, everything on our port 4500.
pub fn has_marker(local: &SocketAddr) -> bool {
    local.port() == 4500
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Path {
        let local = SocketAddr::from(([192, 0, 2, 1], 500));
        Path {
            local,
            remote: SocketAddr::from(([192, 0, 2, 2], 500)),
        }
    }

    fn message(initiator: u64, responder: u64, flags: u8) -> Vec<u8> {
        let mut octets = [initiator.to_be_bytes(), responder.to_be_bytes()].concat();
        octets.extend([0, 0x20, 34, flags]);
        octets.resize(IKE_HEADER, 0);
        octets
    }

    #[test]
    fn our_sas_go_first_and_strangers_last() -> Result<(), openmoat_io::DeviceError> {
        let queues = IkeQueues::new(8)?;
        queues.know(&[7, 9], &[9]);
        let stranger = message(1, 0, FLAG_INITIATOR);
        let response = message(9, 5, FLAG_RESPONSE);
        let to_our_initiator = message(7, 5, 0);
        let to_our_responder = message(5, 7, FLAG_INITIATOR);
        for octets in [&stranger, &response, &to_our_initiator, &to_our_responder] {
            assert_eq!(queues.push(octets, path()), Ok(()));
        }
        let order: Vec<_> = queues
            .receive(3)
            .into_iter()
            .map(|datagram| datagram.octets.to_vec())
            .collect();
        assert_eq!(order, [to_our_initiator, to_our_responder, response]);
        assert_eq!(queues.receive(3).len(), 1);
        assert_eq!(queues.receive(3).len(), 0);
        Ok(())
    }

    #[test]
    fn a_flood_of_strangers_fills_their_queue_alone() -> Result<(), openmoat_io::DeviceError> {
        let queues = IkeQueues::new(4)?;
        queues.know(&[7], &[]);
        let outcomes: Vec<_> = (0..6)
            .map(|n| queues.push(&message(n, 0, FLAG_INITIATOR), path()))
            .collect();
        assert_eq!(
            outcomes[4..],
            [Err(IkeDrop::QueueFull(Queue::Strangers)); 2]
        );
        assert_eq!(queues.push(&message(7, 5, 0), path()), Ok(()));
        assert_eq!(
            queues.push(&[0; IKE_HEADER - 1], path()),
            Err(IkeDrop::TooShort)
        );
        Ok(())
    }

    #[test]
    fn large_datagrams_are_bounded_by_their_octets() -> Result<(), openmoat_io::DeviceError> {
        let queues = IkeQueues::new(1_024)?;
        let large = vec![0; 60_000];
        let taken = (0..1_024)
            .filter(|_| queues.push(&large, path()).is_ok())
            .count();
        assert_eq!(taken, MAX_QUEUED_OCTETS / 60_000);
        assert_eq!(queues.receive(2_000).len(), taken);
        assert_eq!(queues.push(&large, path()), Ok(()));
        Ok(())
    }
}
