//! Sockets of the outside: UDP and raw IP, received and sent in batches.
//!
//! Both ends of every datagram are known and chosen: the local address comes and goes as ancillary data. The type of
//! service is chosen per datagram too. Don't Fragment is so for IPv6; for IPv4 it is a setting of the whole socket
//! (`IP_MTU_DISCOVER`), so that a send that wants it differently changes the setting under the lock that all senders of
//! the socket hold: one system call more where neighbours differ, none where they agree.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::batch::{Outgoing, ReceiveBatch};
use crate::bounds::BATCH;
use crate::error::DeviceError;
use crate::fragments::Fragmented;
use crate::messages::{Receiver, Sender};
use crate::offloads::{OffloadState, Offloads, SocketOffloads};
use crate::options::{
    bound_to, check_kind, configure, duplicate, option, set_option, wait_for_room,
};
use crate::socket::{OuterSocket, SocketKind};

/// A UDP or raw socket.
pub struct Socket {
    fd: OwnedFd,
    kind: SocketKind,
    is_v6: bool,
    receiver: Mutex<Receiver>,
    sender: Mutex<Sender>,
    can_segment: AtomicBool,
    /// Of a UDP socket of IPv6: by what fragments of our own making leave. Its lock comes after that of this one.
    fragmenter: OnceLock<Arc<Socket>>,
}

impl Socket {
    /// Own a duplicate of a socket bound to no address, only to a port. Sets what this crate needs on it.
    pub fn adopt(fd: RawFd, kind: SocketKind) -> Result<Self, DeviceError> {
        let owned = duplicate(fd)?;
        let local = check_kind(fd, &owned, kind)?;
        let is_v6 = local.is_ipv6();
        configure(&owned, is_v6)?;
        Ok(Self {
            fd: owned,
            kind,
            is_v6,
            receiver: Mutex::new(Receiver::new()),
            sender: Mutex::new(Sender::new()),
            can_segment: AtomicBool::new(false),
            fragmenter: OnceLock::new(),
        })
    }

    /// Let what this UDP socket of IPv6 sends in fragments leave by a raw one, which alone can send fragments that are
    /// smaller than the link asks for.
    pub fn fragment_by(&self, raw: &Arc<Self>) {
        if self.is_v6 && raw.is_v6 && self.kind != SocketKind::Raw && raw.kind == SocketKind::Raw {
            // Whoever says so twice has meant the first.
            let _ = self.fragmenter.set(Arc::clone(raw));
        }
    }

    /// The address it is bound to; its port is of interest where the kernel chose it.
    pub fn local(&self) -> Result<SocketAddr, DeviceError> {
        bound_to(&self.fd)
    }
}

impl OuterSocket for Socket {
    fn kind(&self) -> SocketKind {
        self.kind
    }

    fn is_v6(&self) -> bool {
        self.is_v6
    }

    fn enable_offloads(&self, wanted: Offloads) -> SocketOffloads {
        if self.kind == SocketKind::Raw {
            let none = OffloadState::NoDevice;
            return SocketOffloads {
                gso: none.clone(),
                gro: none,
            };
        }
        let gso = OffloadState::of(wanted.udp_gso, || {
            option(&self.fd, libc::SOL_UDP, libc::UDP_SEGMENT).map(|_| ())
        });
        let gro = OffloadState::of(wanted.udp_gro, || {
            set_option(&self.fd, libc::SOL_UDP, libc::UDP_GRO, 1)
        });
        self.can_segment.store(gso.is_on(), Ordering::Relaxed);
        SocketOffloads { gso, gro }
    }

    fn segments(&self) -> bool {
        self.can_segment.load(Ordering::Relaxed)
    }

    fn readable(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn receive_batch(&self, batch: &mut ReceiveBatch) -> io::Result<usize> {
        batch.datagrams.clear();
        let mut receiver = unpoisoned(&self.receiver);
        let count = receiver.receive(&self.fd, batch)?;
        for index in 0..count {
            if let Some(received) = receiver.describe(index, self.kind, self.is_v6, batch) {
                batch.datagrams.push(received);
            }
        }
        Ok(batch.datagrams.len())
    }

    fn send_batch(
        &self,
        arena: &[u8],
        datagrams: &[Outgoing],
        patience: i32,
        lost: &mut Vec<usize>,
    ) {
        lost.clear();
        let mut sender = unpoisoned(&self.sender);
        let mut patience = patience;
        for (number, chunk) in datagrams.chunks(BATCH).enumerate() {
            let mut done = 0;
            while done < chunk.len() {
                match self.send_some(&mut sender, arena, &chunk[done..], &mut patience) {
                    Some(sent) => done += sent,
                    None => {
                        lost.push(number * BATCH + done);
                        done += 1;
                    }
                }
            }
        }
    }
}

impl Socket {
    /// Send what may leave in one call. Answers how many datagrams left, which may be none yet; None where the first is lost.
    fn send_some(
        &self,
        sender: &mut Sender,
        arena: &[u8],
        rest: &[Outgoing],
        patience: &mut i32,
    ) -> Option<usize> {
        let first = rest.first()?;
        if let Some(is_sent) = self.send_fragments(sender, arena, first, patience) {
            return is_sent.then_some(1);
        }
        if !self.is_v6 {
            sender.set_df(&self.fd, first.df);
        } else {
            sender.set_fragment_size(&self.fd, first.fragment_size);
            if self.kind == SocketKind::Raw {
                sender.set_headers(&self.fd, false).ok()?;
            }
        }
        let run = rest.iter().take_while(|other| is_like(first, other));
        let run = &rest[..run.count()];
        match sender.send(&self.fd, arena, run, self.kind, self.is_v6) {
            Ok(sent) => Some(sent.max(1)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && *patience > 0 => {
                *patience -= wait_for_room(&self.fd, *patience);
                Some(0)
            }
            Err(error) => self.send_apart(sender, arena, first, &error).then_some(1),
        }
    }

    /// Send a datagram in fragments of our own making. Answers whether all of them went; None where the kernel is to send it.
    fn send_fragments(
        &self,
        own: &mut Sender,
        arena: &[u8],
        outgoing: &Outgoing,
        patience: &mut i32,
    ) -> Option<bool> {
        if outgoing.fragment_size == 0 || !self.is_v6 {
            return None;
        }
        let whole = Fragmented::of(self.kind, outgoing, arena)?;
        let mut send = |sender: &mut Sender, fd: &OwnedFd| {
            let wait = || {
                let has_patience = *patience > 0;
                if has_patience {
                    *patience -= wait_for_room(fd, *patience);
                }
                has_patience
            };
            sender.send_fragments(fd, &whole, outgoing, wait).is_ok()
        };
        if self.kind == SocketKind::Raw {
            return Some(send(own, &self.fd));
        }
        let raw = self.fragmenter.get()?;
        Some(send(&mut unpoisoned(&raw.sender), &raw.fd))
    }

    /// Send the segments of a super-datagram that the kernel refused one by one. Answers whether all of it went.
    ///
    /// It refuses where a segment is larger than the MTU of the way out, which fragmentation would mend.
    fn send_apart(
        &self,
        sender: &mut Sender,
        arena: &[u8],
        whole: &Outgoing,
        error: &io::Error,
    ) -> bool {
        if whole.segment == 0 || error.kind() == io::ErrorKind::WouldBlock {
            return false;
        }
        if error.raw_os_error() == Some(libc::EIO) {
            self.can_segment.store(false, Ordering::Relaxed); // the device has no checksum offload
        }
        let mut is_whole = true;
        for from in whole.octets.clone().step_by(usize::from(whole.segment)) {
            let to = (from + usize::from(whole.segment)).min(whole.octets.end);
            let one = Outgoing {
                octets: from..to,
                segment: 0,
                ..whole.clone()
            };
            let sent = sender.send(
                &self.fd,
                arena,
                std::slice::from_ref(&one),
                self.kind,
                self.is_v6,
            );
            is_whole &= sent.is_ok();
        }
        is_whole
    }
}

/// Whether both may be sent in one call under the same settings of their socket. What may leave in fragments is looked at
/// by itself.
fn is_like(one: &Outgoing, other: &Outgoing) -> bool {
    std::ptr::eq(one, other)
        || (one.df == other.df && one.fragment_size == 0 && other.fragment_size == 0)
}

/// A lock whose data is valid even where its holder panicked: all of it is rewritten before use.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::any_address;
    use crate::batch::Received;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    type Arrived = Vec<(Vec<u8>, Received)>;
    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// The address of `ip` with the port of `of`.
    fn at(ip: [u8; 4], of: &SocketAddr) -> SocketAddr {
        SocketAddr::new(ip.into(), of.port())
    }

    fn pair() -> Result<(Socket, Socket), Box<dyn std::error::Error>> {
        let open = || -> Result<Socket, Box<dyn std::error::Error>> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            let port = socket.local_addr()?.port();
            Ok(Socket::adopt(socket.as_raw_fd(), SocketKind::Udp { port })?)
        };
        Ok((open()?, open()?))
    }

    fn receive_all(socket: &Socket, wanted: usize) -> Result<Arrived, Box<dyn std::error::Error>> {
        let mut batch = ReceiveBatch::new();
        let mut found = Vec::new();
        let mut readiness = crate::Readiness::new(&[socket.readable().as_raw_fd()])?;
        while found.len() < wanted {
            readiness.wait(Some(std::time::Duration::from_secs(1)))?;
            if socket.receive_batch(&mut batch)? == 0 {
                return Err(format!("{} of {wanted} datagrams came", found.len()).into());
            }
            for received in batch.datagrams.clone() {
                let arena = batch.arena();
                found.extend(
                    received
                        .segments()
                        .map(|range| (arena[range].to_vec(), received)),
                );
            }
        }
        Ok(found)
    }

    #[test]
    fn a_batch_arrives_in_order_with_both_ends_and_the_type_of_service() -> Outcome {
        let (ours, theirs) = pair()?;
        let arena: Vec<u8> = (0..200).collect();
        let (local, remote) = (
            at([127, 0, 0, 2], &ours.local()?),
            at([127, 0, 0, 3], &theirs.local()?),
        );
        let one = |index: usize| Outgoing {
            octets: index..index + 1,
            local,
            remote,
            tos: 0x2a,
            df: index.is_multiple_of(3),
            segment: 0,
            fragment_size: 0,
            tag: 0,
        };
        let datagrams: Vec<Outgoing> = (0..100).map(one).collect();
        let mut lost = vec![7];
        ours.send_batch(&arena, &datagrams, 10, &mut lost);
        assert!(lost.is_empty());
        let found = receive_all(&theirs, 100)?;
        assert_eq!(
            found
                .iter()
                .map(|(octets, _)| octets[0])
                .collect::<Vec<_>>(),
            (0..100).collect::<Vec<_>>()
        );
        assert_eq!(
            (found[5].1.local, found[5].1.remote, found[5].1.tos),
            (remote, local, 0x2a)
        );
        Ok(())
    }

    #[test]
    fn a_super_datagram_arrives_as_its_segments() -> Outcome {
        let (ours, theirs) = pair()?;
        ours.enable_offloads(Offloads::ALL);
        theirs.enable_offloads(Offloads::ALL);
        let arena: Vec<u8> = (0..=255).cycle().take(2_500).collect();
        let remote = at([127, 0, 0, 1], &theirs.local()?);
        let whole = Outgoing {
            octets: 0..2_500,
            local: any_address(&remote),
            remote,
            tos: 0,
            df: false,
            segment: 1_000,
            fragment_size: 0,
            tag: 0,
        };
        let mut lost = Vec::new();
        ours.send_batch(&arena, &[whole], 10, &mut lost);
        let found = receive_all(&theirs, 3)?;
        let sizes: Vec<usize> = found.iter().map(|(octets, _)| octets.len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        let joined: Vec<u8> = found
            .iter()
            .flat_map(|(octets, _)| octets.clone())
            .collect();
        assert_eq!(joined, arena);
        Ok(())
    }

    #[test]
    fn what_is_no_udp_socket_is_refused() -> Outcome {
        let file = std::fs::File::open("/dev/null")?;
        assert!(Socket::adopt(file.as_raw_fd(), SocketKind::Udp { port: 500 }).is_err());
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        assert!(Socket::adopt(socket.as_raw_fd(), SocketKind::Raw).is_err());
        assert!(Socket::adopt(socket.as_raw_fd(), SocketKind::Udp { port: 1 }).is_err());
        assert!(Socket::adopt(-1, SocketKind::Raw).is_err());
        Ok(())
    }
}
