//! Devices in memory for tests: a TUN whose host is the test, and sockets whose network is the other socket.
//!
//! They deliver and take batches and super-packets as the real ones do. Locks and allocations do not matter here.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::batch::{Outgoing, PacketBatch, PacketList, ReceiveBatch, Received};
use crate::bounds::{BATCH, MAX_UDP_PAYLOAD, MAX_UDP_SEGMENTS};
use crate::error::DeviceError;
use crate::offloads::{OffloadState, Offloads, SocketOffloads, TunOffloads};
use crate::poll::EventFd;
use crate::socket::{OuterSocket, SocketKind};
use crate::tun::TunDevice;
use crate::vnet::VnetHeader;

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TUN device whose host is the test.
pub struct MemoryTun {
    to_engine: Mutex<VecDeque<(VnetHeader, Vec<u8>)>>,
    to_host: Mutex<VecDeque<(VnetHeader, Vec<u8>)>>,
    came: Condvar,
    readable: EventFd,
    is_old: AtomicBool,
}

impl MemoryTun {
    /// One with nothing waiting.
    pub fn new() -> Result<Self, DeviceError> {
        Ok(Self {
            to_engine: Mutex::default(),
            to_host: Mutex::default(),
            came: Condvar::new(),
            readable: EventFd::new()?,
            is_old: AtomicBool::new(false),
        })
    }

    /// Be a device of a kernel without offloads: nothing but whole packets is written to it.
    pub fn refuse_super_packets(&self) {
        self.is_old.store(true, Ordering::Relaxed);
    }

    /// As the host, send these packets at once.
    pub fn send(&self, packets: impl IntoIterator<Item = (VnetHeader, Vec<u8>)>) {
        locked(&self.to_engine).extend(packets);
        self.readable.signal();
    }

    /// As the host, take the next packet that came out of the tunnel.
    pub fn receive(&self) -> Option<(VnetHeader, Vec<u8>)> {
        locked(&self.to_host).pop_front()
    }

    /// The same, but wait for it.
    pub fn receive_within(&self, time: Duration) -> Option<(VnetHeader, Vec<u8>)> {
        let host = locked(&self.to_host);
        let waited = self
            .came
            .wait_timeout_while(host, time, |host| host.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.pop_front()
    }
}

impl TunDevice for MemoryTun {
    fn readable(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }

    fn read_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        batch.clear();
        let mut waiting = locked(&self.to_engine);
        while let Some(room) = batch.room() {
            let Some((vnet, octets)) = waiting.pop_front() else {
                break;
            };
            let length = octets.len().min(room.len());
            room[..length].copy_from_slice(&octets[..length]);
            batch.push(vnet, length);
        }
        if waiting.is_empty() {
            self.readable.clear();
        }
        Ok(batch.len())
    }

    fn write_batch(&self, arena: &[u8], list: &PacketList) -> usize {
        let mut host = locked(&self.to_host);
        for (vnet, pieces) in list.iter() {
            host.push_back((
                vnet,
                pieces
                    .flat_map(|piece| arena[piece].iter().copied())
                    .collect(),
            ));
        }
        self.came.notify_all();
        0
    }

    fn enable_offloads(&self, wanted: Offloads) -> TunOffloads {
        let state = |is_wanted| {
            OffloadState::of(is_wanted, || {
                if self.is_old.load(Ordering::Relaxed) {
                    Err("a kernel without it")
                } else {
                    Ok(())
                }
            })
        };
        TunOffloads {
            tso: state(wanted.tun_tso),
            uso: state(wanted.tun_uso),
        }
    }
}

/// What lies on the line: one datagram, or many of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// All octets.
    pub octets: Vec<u8>,
    /// Octets of each datagram but the last; 0: it is one.
    pub segment: usize,
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Type of service.
    pub tos: u8,
    /// Don't Fragment.
    pub df: bool,
}

#[derive(Debug)]
struct Line {
    waiting: Mutex<VecDeque<Datagram>>,
    came: Condvar,
    readable: EventFd,
}

impl Line {
    fn new() -> Result<Arc<Self>, DeviceError> {
        Ok(Arc::new(Self {
            waiting: Mutex::default(),
            came: Condvar::new(),
            readable: EventFd::new()?,
        }))
    }
}

/// A socket whose network is another one, or the test.
#[derive(Debug)]
pub struct MemorySocket {
    kind: SocketKind,
    is_v6: bool,
    can_segment: AtomicBool,
    joins: AtomicBool,
    inbound: Arc<Line>,
    outbound: Arc<Line>,
}

impl MemorySocket {
    /// Two sockets of one kind: what one sends, the other receives.
    pub fn pair(kind: SocketKind, is_v6: bool) -> Result<(Self, Self), DeviceError> {
        let (there, back) = (Line::new()?, Line::new()?);
        let end = |inbound: &Arc<Line>, outbound: &Arc<Line>| Self {
            kind,
            is_v6,
            can_segment: AtomicBool::new(false),
            joins: AtomicBool::new(false),
            inbound: Arc::clone(inbound),
            outbound: Arc::clone(outbound),
        };
        let (ours, theirs) = (end(&back, &there), end(&there, &back));
        Ok((ours, theirs))
    }

    /// As the network, deliver this.
    pub fn deliver(&self, datagram: Datagram) {
        locked(&self.inbound.waiting).push_back(datagram);
        self.inbound.readable.signal();
    }

    /// The same with many at once, so that one batch takes them all.
    pub fn deliver_all(&self, datagrams: impl IntoIterator<Item = Datagram>) {
        locked(&self.inbound.waiting).extend(datagrams);
        self.inbound.readable.signal();
    }

    /// As the network, take what was sent next, waiting for it. On a pair this takes it away from the other socket.
    pub fn take_sent(&self, within: Duration) -> Option<Datagram> {
        let waiting = locked(&self.outbound.waiting);
        let waited = self
            .outbound
            .came
            .wait_timeout_while(waiting, within, |waiting| waiting.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.pop_front()
    }
}

impl OuterSocket for MemorySocket {
    fn kind(&self) -> SocketKind {
        self.kind
    }

    fn is_v6(&self) -> bool {
        self.is_v6
    }

    fn enable_offloads(&self, wanted: Offloads) -> SocketOffloads {
        let state = |is_wanted| match self.kind {
            SocketKind::Udp { .. } => OffloadState::of(is_wanted, || Ok::<(), DeviceError>(())),
            SocketKind::Raw => OffloadState::NoDevice,
        };
        let (gso, gro) = (state(wanted.udp_gso), state(wanted.udp_gro));
        self.can_segment.store(gso.is_on(), Ordering::Relaxed);
        self.joins.store(gro.is_on(), Ordering::Relaxed);
        SocketOffloads { gso, gro }
    }

    fn segments(&self) -> bool {
        self.can_segment.load(Ordering::Relaxed)
    }

    fn readable(&self) -> BorrowedFd<'_> {
        self.inbound.readable.as_fd()
    }

    fn receive_batch(&self, batch: &mut ReceiveBatch) -> io::Result<usize> {
        batch.datagrams.clear();
        let mut waiting = locked(&self.inbound.waiting);
        while batch.datagrams.len() < BATCH {
            let Some(mut datagram) = waiting.pop_front() else {
                break;
            };
            let joins = self.joins.load(Ordering::Relaxed);
            if !joins && (1..datagram.octets.len()).contains(&datagram.segment) {
                // A socket that does not join gets each datagram by itself.
                let rest = datagram.octets.split_off(datagram.segment);
                waiting.push_front(Datagram {
                    octets: rest,
                    ..datagram.clone()
                });
            }
            let (start, room) = batch.room(batch.datagrams.len());
            let length = datagram.octets.len().min(room.len());
            room[..length].copy_from_slice(&datagram.octets[..length]);
            let segment = if datagram.segment == 0 {
                length
            } else {
                datagram.segment.min(length)
            };
            batch.datagrams.push(Received {
                start,
                length,
                segment,
                local: datagram.destination,
                remote: datagram.source,
                tos: datagram.tos,
            });
        }
        if waiting.is_empty() {
            self.inbound.readable.clear();
        }
        Ok(batch.datagrams.len())
    }

    fn send_batch(
        &self,
        arena: &[u8],
        datagrams: &[Outgoing],
        _patience: i32,
        lost: &mut Vec<usize>,
    ) {
        lost.clear();
        let mut waiting = locked(&self.outbound.waiting);
        for (index, datagram) in datagrams.iter().enumerate() {
            let segment = usize::from(datagram.segment);
            let length = datagram.octets.len();
            // What the kernel would refuse is refused here too.
            if length > MAX_UDP_PAYLOAD
                || (segment > 0 && length.div_ceil(segment) > MAX_UDP_SEGMENTS)
            {
                lost.push(index);
                continue;
            }
            waiting.push_back(Datagram {
                octets: arena[datagram.octets.clone()].to_vec(),
                segment,
                source: datagram.local,
                destination: datagram.remote,
                tos: datagram.tos,
                df: datagram.df,
            });
        }
        self.outbound.readable.signal();
        self.outbound.came.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vnet::GsoType;

    #[test]
    fn a_tun_gives_batches_of_64_and_takes_super_packets() -> Result<(), Box<dyn std::error::Error>>
    {
        let tun = MemoryTun::new()?;
        tun.send((0..100).map(|n| (VnetHeader::default(), vec![n; 40])));
        let mut batch = PacketBatch::new();
        assert_eq!(tun.read_batch(&mut batch)?, BATCH);
        assert_eq!(tun.read_batch(&mut batch)?, 100 - BATCH);
        assert_eq!(batch.packet(35).1, [99; 40]);

        let vnet = VnetHeader {
            gso_type: GsoType::TcpV4,
            gso_size: 3,
            ..VnetHeader::default()
        };
        let mut list = PacketList::new();
        list.push(vnet, 0..2);
        list.extend(0, 5..8);
        assert_eq!(tun.write_batch(&[0, 1, 2, 3, 4, 5, 6, 7], &list), 0);
        assert_eq!(tun.receive(), Some((vnet, vec![0, 1, 5, 6, 7])));
        assert_eq!(tun.receive(), None);
        Ok(())
    }

    #[test]
    fn a_pair_of_sockets_carries_super_datagrams_both_ways()
    -> Result<(), Box<dyn std::error::Error>> {
        let (ours, theirs) = MemorySocket::pair(SocketKind::Udp { port: 4500 }, false)?;
        ours.enable_offloads(Offloads::ALL);
        theirs.enable_offloads(Offloads::ALL);
        let local = SocketAddr::from(([192, 0, 2, 1], 4500));
        let remote = SocketAddr::from(([192, 0, 2, 2], 4500));
        let whole = Outgoing {
            octets: 0..25,
            local,
            remote,
            tos: 0,
            df: false,
            segment: 10,
            fragment_size: 0,
            tag: 0,
        };
        let mut lost = Vec::new();
        ours.send_batch(&[1; 25], &[whole], 0, &mut lost);
        assert!(lost.is_empty());
        let mut batch = ReceiveBatch::new();
        assert_eq!(theirs.receive_batch(&mut batch)?, 1);
        assert_eq!(batch.datagrams[0].segments().count(), 3);
        assert_eq!(
            (batch.datagrams[0].local, batch.datagrams[0].remote),
            (remote, local)
        );
        Ok(())
    }
}
