//! From the outside to the host. The stages, in order, each a function below:
//!
//! 1. `turn`: a batch from one socket, joined datagrams among it (UDP GRO)
//! 2. `sort`: keep-alive, IKE behind its marker, or ESP (RFC 3948 2)
//! 3. `find`: the pair by its SPI, remembered from packet to packet
//! 4. `InboundSa::open`: size, window, ICV, window again, padding, inner lengths, selectors, ECN (RFC 4303 3.4)
//!    or `InboundSa::open_payload` and what is in it, packet by packet (`unpacking`): RFC 9347
//! 5. `note`: flags and path, for authentic packets only
//! 6. `deliver`: hops that end here are answered (`hop_errors`); MSS clamp, then a place in the list for the host, as part of
//!    a super-packet where neighbours join
//! 7. `flush`: one write per packet or super-packet
//!
//! Nothing per packet allocates, locks or logs, but for IKE datagrams, which are copied to their queue, and ICMP errors. Once
//! per batch and pair the lock of a reassembler is taken, which nobody else wants.

pub mod black_hole_checks;
pub mod hop_errors;
pub mod ike_queues;
pub mod join;
pub mod unpacking;

use std::ops::Range;
use std::sync::Arc;

use openmoat_esp::drops::{DropCounters, DropReason};
use openmoat_esp::ecn;
use openmoat_esp::meter::Usage;
use openmoat_esp::mss::{self, Checksum};
use openmoat_esp::sa::Opened;
use openmoat_esp::wire::{self, IpPacket};
use openmoat_io::{OuterSocket, PacketList, Path, ReceiveBatch, SocketKind, TunDevice};

use crate::events::{Events, flag};
use crate::inbound::black_hole_checks::BlackHoleChecks;
use crate::inbound::hop_errors::{HopErrors, Outcome};
use crate::inbound::ike_queues::{IkeDrop, IkeQueues, NON_ESP_MARKER};
use crate::inbound::join::{Joiner, Joins};
use crate::inbound::unpacking::{Origin, Unpacking};
use crate::outbox::Outbox;
use crate::outer_sockets::NATT_PORT;
use crate::sizes::ladder::SizeAction;
use crate::tables::pair::{Assembly, Pair};
use crate::tables::sa_counters::SaCounter;
use crate::tables::sad::{Found, Sad};

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
    lookups: Lookups,
    host: Host,
    batch: ReceiveBatch,
    unpacking: Unpacking,
    last: Option<Found>,
    checks: BlackHoleChecks,
    now: u64,
}

/// What an inbound worker looks up, and where it leaves what is not for the host.
pub struct Lookups {
    /// Pairs.
    pub sad: Arc<Sad>,
    /// News for the daemon.
    pub events: Arc<Events>,
    /// IKE datagrams.
    pub ike: Arc<IkeQueues>,
    /// Drops of no pair.
    pub drops: Arc<DropCounters>,
}

impl InboundWorker {
    /// Nothing has come yet. What is for the host goes to a queue of the TUN device, joined as `joins` permits; what is to be
    /// sent goes to `outbox`.
    pub fn new(
        lookups: Lookups,
        tun: Option<Arc<dyn TunDevice>>,
        joins: Joins,
        outbox: Arc<Outbox>,
    ) -> Self {
        let events = Arc::clone(&lookups.events);
        Self {
            host: Host {
                tun,
                drops: Arc::clone(&lookups.drops),
                list: PacketList::new(),
                joiner: Joiner::new(joins),
                hop_errors: HopErrors::default(),
                outbox: Arc::clone(&outbox),
            },
            lookups,
            batch: ReceiveBatch::new(),
            unpacking: Unpacking::default(),
            last: None,
            checks: BlackHoleChecks::new(outbox, events),
            now: 0,
        }
    }

    /// Carry one batch of a socket, at `now` nanoseconds of the engine's clock. Answers how many datagrams that were.
    pub fn turn(&mut self, socket: &dyn OuterSocket, now: u64) -> usize {
        self.now = now;
        self.unpacking.forget(); // of a turn that ended in a panic
        if socket.receive_batch(&mut self.batch).is_err() {
            return 0;
        }
        let count = self.batch.datagrams.len();
        for index in 0..count {
            let received = self.batch.datagrams[index];
            if received.length == 0 {
                self.lookups.drops.count(DropReason::TooShort);
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
        count
    }

    fn queue_ike(&mut self, message: Range<usize>, path: Path) {
        let reason = match self.lookups.ike.push(&self.batch.arena()[message], path) {
            Ok(()) => return,
            Err(IkeDrop::TooShort) => DropReason::TooShort,
            Err(IkeDrop::QueueFull(_)) => DropReason::QueueFull,
        };
        self.lookups.drops.count(reason);
    }

    fn carry(&mut self, range: Range<usize>, path: Path, tos: u8) {
        let Some(found) = self.find(&range) else {
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
            pair.raise(flag::SOFT_LIMIT | flag::HARD_LIMIT, &self.lookups.events);
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
        note(pair, &opened, path, &self.lookups.events);
        pair.suspicion.receive(self.now);
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
            assembly.counters.count(SaCounter::InboundMarks);
        }
        note(pair, &opened, path, &self.lookups.events);
        pair.suspicion.receive(self.now);
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
            let origin = Origin {
                pair,
                assembly,
                now,
            };
            while self.unpacking.is_waiting() {
                self.unpack(&origin);
            }
        }
        self.last = Some(found);
    }

    /// Carry what some payloads complete, each packet checked as if it had come alone (RFC 9347 2.5).
    fn unpack(&mut self, origin: &Origin<'_>) {
        let Origin { pair, assembly, .. } = origin;
        if !self.unpacking.has_room(&mut self.batch) {
            self.flush();
            self.unpacking.clear();
        }
        let Self {
            batch,
            unpacking,
            checks,
            now,
            ..
        } = self;
        unpacking.unpack(batch, origin, |report| {
            assembly.counters.count(SaCounter::InboundReports);
            checks.receive(pair, &report, *now);
        });
        let (mut packets, mut size) = (0, 0);
        while let Some(octets) = self.unpacking.next() {
            let Ok(packet) = pair.inbound.admit(&self.batch.arena()[octets.clone()]) else {
                continue; // counted at the pair
            };
            (packets, size) = (packets + 1, size + octets.len() as u64);
            self.deliver(pair, octets, &packet);
        }
        let counters = &assembly.counters;
        counters.count_many(SaCounter::InboundPackets, packets);
        counters.count_many(SaCounter::InboundOctets, size);
    }

    /// When pieces may have waited long enough for others, or a round of probes is due.
    pub fn deadline(&self) -> Option<u64> {
        let due = [self.unpacking.deadline(), self.checks.deadline()];
        due.into_iter().flatten().min()
    }

    /// Drop pieces that have waited long enough, and have probes sent that are due.
    pub fn look_after(&mut self, now: u64) {
        if self.unpacking.deadline().is_some_and(|due| due <= now) {
            self.unpacking.look_after(&self.lookups.sad, now);
        }
        self.checks.look_after(&self.lookups.sad, now);
    }

    /// The pair of an ESP packet. None is counted.
    fn find(&mut self, range: &Range<usize>) -> Option<Found> {
        let Some(spi) = wire::spi(&self.batch.arena()[range.clone()]) else {
            self.lookups.drops.count(DropReason::TooShort);
            return None;
        };
        let is_it = |found: &Found| found.as_ref().is_some_and(|pair| pair.handle == spi);
        if self.last.as_ref().is_some_and(is_it) {
            return self.last.take();
        }
        self.unpack_waiting();
        self.last = None;
        let found = self.lookups.sad.look_up(spi);
        if is_it(&found) {
            return Some(found);
        }
        self.lookups.drops.count(DropReason::UnknownSpi);
        None
    }

    fn deliver(&mut self, pair: &Pair, range: Range<usize>, packet: &IpPacket) {
        let arena = self.batch.arena();
        self.host.deliver(arena, pair, range, packet, self.now);
    }

    fn flush(&mut self) {
        self.host.flush(self.batch.arena());
    }
}

/// The way from an opened packet to the host.
struct Host {
    tun: Option<Arc<dyn TunDevice>>,
    drops: Arc<DropCounters>,
    list: PacketList,
    joiner: Joiner,
    hop_errors: HopErrors,
    outbox: Arc<Outbox>,
}

impl Host {
    fn deliver(
        &mut self,
        arena: &mut [u8],
        pair: &Pair,
        range: Range<usize>,
        packet: &IpPacket,
        now: u64,
    ) {
        if packet.hops <= 1 && self.ends_here(pair, &arena[range.clone()], packet, now) {
            return;
        }
        if !self.list.has_room() {
            self.flush(arena);
        }
        let octets = &mut arena[range.clone()];
        if let (true, Some(outbound)) = (mss::is_syn(octets, packet), pair.outbound.get()) {
            let bounds = outbound.settings.load().plan.mss;
            if mss::clamp(octets, packet, bounds, Checksum::Whole).is_some() {
                pair.size_counters.count(SizeAction::Clamp);
            }
        }
        self.joiner
            .add(arena, range, packet, pair.handle, &mut self.list);
    }

    /// Whether the hops of a packet end at this gateway, which then tells its sender: the host never sees such a packet,
    /// as it would answer from an address, and by a route, of its own choice.
    fn ends_here(&mut self, pair: &Pair, octets: &[u8], packet: &IpPacket, now: u64) -> bool {
        let settings = pair.outbound.get().map(|outbound| outbound.settings.load());
        let Some(plan) = settings.as_ref().map(|settings| &settings.plan) else {
            pair.drops.count(DropReason::HopsExceeded);
            return true;
        };
        if plan.is_own(packet.flow.destination) {
            return false;
        }
        pair.drops.count(DropReason::HopsExceeded);
        let is_left = match self.hop_errors.hops_exceeded(plan, packet, octets, now) {
            Outcome::Error(error) => self.outbox.leave_error(error),
            Outcome::NoSource => false,
            Outcome::NotDue => return true,
        };
        if !is_left {
            pair.drops.count(DropReason::IcmpUnsent);
        }
        true
    }

    fn flush(&mut self, arena: &mut [u8]) {
        self.joiner.finish(arena, &mut self.list);
        if let (false, Some(tun)) = (self.list.is_empty(), &self.tun) {
            let refused = tun.write_batch(arena, &self.list);
            self.drops
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
fn note<T>(pair: &Pair, opened: &Opened<T>, path: Path, events: &Events) {
    let mut flags = flag::FIRST_PACKET;
    if opened.usage == Usage::Soft {
        flags |= flag::SOFT_LIMIT;
    }
    pair.raise(flags, events);
    // RFC 7296 2.23: only the newest packet says where the peer is, so that a delayed one does not turn it back.
    if opened.is_newest {
        pair.follow(&path, events);
    }
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
