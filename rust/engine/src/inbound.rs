//! From the outside to the host. The stages, in order, each a function below:
//!
//! 1. `turn`: a batch from one socket, joined datagrams among it (UDP GRO)
//! 2. `sort`: keep-alive, IKE behind its marker, or ESP (RFC 3948 2)
//! 3. `find`: the pair by its SPI, remembered from packet to packet
//! 4. `InboundSa::open`: size, window, ICV, window again, padding, inner lengths, selectors, ECN (RFC 4303 3.4)
//!    or `InboundSa::open_payload` and what is in it, packet by packet (`unpacking`): RFC 9347
//! 5. `note`: flags and path, for authentic packets only
//! 6. `deliver`: hops that end here are answered (`errands`); MSS clamp, then a place in the list for the host, as part of
//!    a super-packet where neighbours join
//! 7. `flush`: one write per packet or super-packet
//!
//! Nothing per packet allocates, locks or logs, but for IKE datagrams, which are copied to their queue, and ICMP errors.

pub mod ike_queues;
pub mod join;
pub mod unpacking;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openmoat_esp::drops::DropReason;
use openmoat_esp::ecn;
use openmoat_esp::meter::Usage;
use openmoat_esp::mss::{self, Checksum};
use openmoat_esp::sa::Opened;
use openmoat_esp::wire::{self, IpPacket};
use openmoat_io::{OuterSocket, PacketList, Path, ReceiveBatch, SocketKind};

use crate::errands::{Complaints, Written};
use crate::events::{Event, flag};
use crate::inbound::ike_queues::{IkeDrop, NON_ESP_MARKER};
use crate::inbound::join::Joiner;
use crate::inbound::unpacking::{Unpacking, Whence};
use crate::outbound::echoes::Doubts;
use crate::shared::{NATT_PORT, Shared};
use crate::sizes::ladder::Deed;
use crate::tables::{Assembly, Found, Pair};

const KEEPALIVE: u8 = 0xff;

/// What a datagram is.
#[derive(Debug, PartialEq, Eq)]
enum Sort {
    KeepAlive,
    Ike(Range<usize>),
    Esp,
}

/// The state of an inbound thread.
pub struct InboundWorker {
    shared: Arc<Shared>,
    worker: usize,
    batch: ReceiveBatch,
    list: PacketList,
    joiner: Joiner,
    unpacking: Unpacking,
    last: Option<Found>,
    complaints: Complaints,
    doubts: Doubts,
    now: u64,
}

impl InboundWorker {
    /// Worker number `worker` of an engine.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let joiner = Joiner::new(shared.offloads.joins());
        Self {
            shared,
            worker,
            batch: ReceiveBatch::new(),
            list: PacketList::new(),
            joiner,
            unpacking: Unpacking::default(),
            last: None,
            complaints: Complaints::default(),
            doubts: Doubts::default(),
            now: 0,
        }
    }

    /// Carry one batch of a socket, at `now` nanoseconds of the engine's clock.
    pub fn turn(&mut self, socket: &dyn OuterSocket, now: u64) {
        self.now = now;
        self.unpacking.forget(); // of a turn that ended in a panic
        if socket.receive_batch(&mut self.batch).is_err() {
            return;
        }
        for index in 0..self.batch.datagrams.len() {
            let received = self.batch.datagrams[index];
            if received.length == 0 {
                self.shared.drops.count(DropReason::TooShort);
            }
            let path = Path {
                local: received.local,
                remote: received.remote,
            };
            for range in received.segments() {
                match sort(socket.kind(), &self.batch.arena()[range.clone()]) {
                    Sort::KeepAlive => {}
                    Sort::Ike(message) => {
                        self.queue_ike(range.start + message.start..range.end, path)
                    }
                    Sort::Esp => self.carry(range, path, received.tos),
                }
            }
        }
        self.unpack_waiting();
        self.flush();
        self.unpacking.clear();
        // What is not in a table any more must not be kept alive between turns.
        self.last = None;
    }

    fn queue_ike(&mut self, message: Range<usize>, path: Path) {
        let reason = match self.shared.ike.push(&self.batch.arena()[message], path) {
            Ok(()) => return,
            Err(IkeDrop::TooShort) => DropReason::TooShort,
            Err(IkeDrop::QueueFull(_)) => DropReason::QueueFull,
        };
        self.shared.drops.count(reason);
    }

    fn carry(&mut self, range: Range<usize>, path: Path, tos: u8) {
        let Some(found) = self.find(&range, path) else {
            return;
        };
        let Some(pair) = found.as_ref() else {
            return;
        };
        let carried = match &pair.assembly {
            None => self.open(pair, range, path, tos),
            Some(assembly) => self.open_payload((pair, assembly), range, path, tos),
        };
        if carried == Err(DropReason::HardLimit) {
            self.shared.raise(pair, flag::SOFT_LIMIT | flag::HARD_LIMIT);
        }
        self.last = Some(found);
        if self.unpacking.is_full() {
            self.unpack_waiting();
        }
    }

    /// Carry the one inner packet of an ESP packet. Drops are counted at the pair.
    fn open(
        &mut self,
        pair: &Pair,
        range: Range<usize>,
        path: Path,
        tos: u8,
    ) -> Result<(), DropReason> {
        let packet = &mut self.batch.arena()[range.clone()];
        let opened = pair.inbound.open(packet, tos)?;
        note(&self.shared, pair, &opened, path);
        pair.suspicion.hear(self.now);
        let inner = opened.inner?;
        let octets = range.start + inner.range.start..range.start + inner.range.end;
        self.deliver(pair, octets, &inner.packet);
        Ok(())
    }

    /// Let an AGGFRAG payload wait for those that follow. A mark on it is counted, and goes no further: it belongs to no
    /// inner packet (RFC 9347 2.2.5.2).
    fn open_payload(
        &mut self,
        (pair, assembly): (&Pair, &Assembly),
        range: Range<usize>,
        path: Path,
        tos: u8,
    ) -> Result<(), DropReason> {
        let packet = &mut self.batch.arena()[range.clone()];
        let opened = pair.inbound.open_payload(packet)?;
        if tos & ecn::ECN_MASK == ecn::CE {
            assembly.marks.fetch_add(1, Ordering::Relaxed);
        }
        note(&self.shared, pair, &opened, path);
        pair.suspicion.hear(self.now);
        let payload = opened.inner?;
        let payload = range.start + payload.start..range.start + payload.end;
        self.unpacking.wait(opened.sequence, payload);
        Ok(())
    }

    /// Carry what the payloads that wait complete.
    fn unpack_waiting(&mut self) {
        let Some(found) = self.last.take() else {
            return;
        };
        if let Some(pair) = found.as_ref()
            && let Some(assembly) = &pair.assembly
        {
            let now = self.now;
            let whence = Whence {
                pair,
                assembly,
                now,
            };
            while self.unpacking.is_waiting() {
                self.unpack(&whence);
            }
        }
        self.last = Some(found);
    }

    /// Carry what some payloads complete, each packet checked as if it had come alone (RFC 9347 2.5).
    fn unpack(&mut self, whence: &Whence<'_>) {
        let Whence { pair, assembly, .. } = whence;
        if !self.unpacking.has_room(&mut self.batch) {
            self.flush();
            self.unpacking.clear();
        }
        let Self {
            shared,
            worker,
            batch,
            unpacking,
            doubts,
            now,
            ..
        } = self;
        unpacking.unpack(batch, whence, |report| {
            assembly.reports.fetch_add(1, Ordering::Relaxed);
            doubts.hear(shared, *worker, pair, &report, *now);
        });
        let (mut packets, mut size) = (0, 0);
        while let Some(octets) = self.unpacking.next() {
            let Ok(packet) = pair.inbound.admit(&self.batch.arena()[octets.clone()]) else {
                continue; // counted at the pair
            };
            (packets, size) = (packets + 1, size + octets.len() as u64);
            self.deliver(pair, octets, &packet);
        }
        assembly.packets.fetch_add(packets, Ordering::Relaxed);
        assembly.octets.fetch_add(size, Ordering::Relaxed);
    }

    /// When pieces may have waited long enough for others, or a pair in doubt asks again.
    pub fn deadline(&self) -> Option<u64> {
        let due = [self.unpacking.deadline(), self.doubts.deadline()];
        due.into_iter().flatten().min()
    }

    /// Drop pieces that have waited long enough, and have those asked that are in doubt.
    pub fn look_after(&mut self, now: u64) {
        if self.unpacking.deadline().is_some_and(|due| due <= now) {
            self.unpacking.look_after(&self.shared.sad, now);
        }
        self.doubts.look_after(&self.shared, self.worker, now);
    }

    /// The pair of an ESP packet. None is counted, and told if there is room for such noise.
    fn find(&mut self, range: &Range<usize>, path: Path) -> Option<Found> {
        let Some(spi) = wire::spi(&self.batch.arena()[range.clone()]) else {
            self.shared.drops.count(DropReason::TooShort);
            return None;
        };
        let is_it = |found: &Found| found.as_ref().is_some_and(|pair| pair.handle == spi);
        if self.last.as_ref().is_some_and(is_it) {
            return self.last.take();
        }
        self.unpack_waiting();
        self.last = None;
        let found = self.shared.sad.look_up(spi);
        if is_it(&found) {
            return Some(found);
        }
        self.shared.drops.count(DropReason::UnknownSpi);
        self.shared
            .events
            .tell_strange(Event::StrangeSpi { spi, path }, self.now);
        None
    }

    fn deliver(&mut self, pair: &Pair, range: Range<usize>, packet: &IpPacket) {
        if packet.hops <= 1 && self.ends_here(pair, &range, packet) {
            return;
        }
        if !self.list.has_room() {
            self.flush();
        }
        let octets = &self.batch.arena()[range.clone()];
        if let (true, Some(outbound)) = (mss::is_syn(octets, packet), pair.outbound.get()) {
            let bounds = outbound.settings.load().plan.mss;
            let syn = &mut self.batch.arena()[range.clone()];
            if mss::clamp(syn, packet, bounds, Checksum::Whole).is_some() {
                pair.deeds.count(Deed::Clamp, 1);
            }
        }
        let arena = self.batch.arena();
        self.joiner
            .add(arena, range, packet, pair.handle, &mut self.list);
    }

    /// Whether the hops of a packet end at this gateway, which then tells its sender: the host never sees such a packet,
    /// or it would answer from an address, and by a way, of its own choice.
    fn ends_here(&mut self, pair: &Pair, range: &Range<usize>, packet: &IpPacket) -> bool {
        let settings = pair.outbound.get().map(|outbound| outbound.settings.load());
        let Some(plan) = settings.as_ref().map(|settings| &settings.plan) else {
            pair.drops.count(DropReason::HopsExceeded);
            return true;
        };
        if plan.is_own(packet.flow.destination) {
            return false;
        }
        pair.drops.count(DropReason::HopsExceeded);
        let octets = &self.batch.arena()[range.clone()];
        let (now, worker) = (self.now, self.worker);
        let is_left = match self.complaints.hops_exceeded(plan, packet, octets, now) {
            Written::Error(error) => self.shared.errands[worker].leave(error),
            Written::NoSource => false,
            Written::NotDue => return true,
        };
        if is_left {
            self.shared.outbound_bell(worker).wake.signal();
        } else {
            pair.drops.count(DropReason::IcmpUnsent);
        }
        true
    }

    fn flush(&mut self) {
        self.joiner.finish(self.batch.arena(), &mut self.list);
        if let (false, Some(tun)) = (self.list.is_empty(), self.shared.tun.get(self.worker)) {
            let refused = tun.write_batch(self.batch.arena(), &self.list);
            self.shared
                .drops
                .count_many(DropReason::DeviceFull, refused as u64);
        }
        self.list.clear();
    }
}

/// What a datagram is, by the socket it came in by and its first octets.
fn sort(kind: SocketKind, octets: &[u8]) -> Sort {
    match kind {
        SocketKind::Raw => Sort::Esp,
        SocketKind::Udp { port } if port != NATT_PORT => Sort::Ike(0..octets.len()),
        SocketKind::Udp { .. } if octets == [KEEPALIVE] => Sort::KeepAlive,
        SocketKind::Udp { .. } if octets.starts_with(&NON_ESP_MARKER) => {
            Sort::Ike(NON_ESP_MARKER.len()..octets.len())
        }
        SocketKind::Udp { .. } => Sort::Esp,
    }
}

/// Let the daemon know what an authentic packet says of its pair.
fn note<T>(shared: &Shared, pair: &Pair, opened: &Opened<T>, path: Path) {
    let mut flags = flag::FIRST_PACKET;
    if opened.usage == Usage::Soft {
        flags |= flag::SOFT_LIMIT;
    }
    shared.raise(pair, flags);
    // RFC 7296 2.23: only the newest packet may say where the peer is, lest a delayed one turns it back.
    if opened.is_newest {
        follow(shared, pair, path);
    }
}

fn follow(shared: &Shared, pair: &Pair, path: Path) {
    let usual = pair.usual.load(Ordering::Acquire);
    let mark = mark_of(&path);
    if usual == mark {
        return;
    }
    if is_news(pair, path) {
        shared.events.tell_state(shared.sad.slot(pair.handle));
    }
    // Python's thread may have said meanwhile that packets come from elsewhere; then the next one looks again.
    let _ = pair
        .usual
        .compare_exchange(usual, mark, Ordering::AcqRel, Ordering::Relaxed);
}

/// An even number that stands for a path. That two paths share one would cost only that the second is followed later.
fn mark_of(path: &Path) -> u64 {
    let fold = |end: &SocketAddr| {
        let address = match end.ip() {
            IpAddr::V4(v4) => u64::from(u32::from(v4)),
            IpAddr::V6(v6) => {
                let bits = u128::from(v6);
                (bits as u64).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ (bits >> 64) as u64
            }
        };
        (address ^ (u64::from(end.port()) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    fold(&path.local)
        .rotate_left(31)
        .wrapping_add(fold(&path.remote))
        & !1
}

/// Whether the daemon is to hear of this path: what it must know is put down in the pair.
fn is_news(pair: &Pair, path: Path) -> bool {
    let is_expected = **pair.expected.load() == path;
    let known = pair.new_path.load();
    let is_known = known.as_ref().map_or(is_expected, |known| **known == path);
    if is_known {
        return false;
    }
    if is_expected {
        pair.settle();
    } else {
        pair.new_path.store(Some(Arc::new(path)));
        pair.raise(flag::NEW_PATH);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_sorted_by_port_and_first_octets() {
        let natt = SocketKind::Udp { port: 4500 };
        assert_eq!(sort(natt, &[0xff]), Sort::KeepAlive);
        assert_eq!(sort(natt, &[0, 0, 0, 0, 1, 2]), Sort::Ike(4..6));
        assert_eq!(sort(natt, &[0, 0, 1, 0, 1, 2]), Sort::Esp);
        assert_eq!(sort(natt, &[]), Sort::Esp);
        assert_eq!(sort(natt, &[0xff, 0xff]), Sort::Esp);
        assert_eq!(
            sort(SocketKind::Udp { port: 500 }, &[0, 0, 0, 0]),
            Sort::Ike(0..4)
        );
        assert_eq!(sort(SocketKind::Raw, &[0, 0, 0, 0]), Sort::Esp);
    }
}
