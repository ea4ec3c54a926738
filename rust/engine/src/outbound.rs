//! From the host to the outside. The stages, in order, each a function below:
//!
//! 1. `read`: a batch from the TUN device, super-packets among it
//! 2. `select`: the policy of the flow, and the pair that serves it (RFC 4301 5.1)
//! 3. `treat_missing`: hold, reject or drop where there is none
//! 4. `divide`: the pair's `MtuPlan`: whole, cut at its own size, fragmented, or refused
//! 5. `seal`: each piece is written into the bundle and sealed in place; or `pack`: into AGGFRAG payloads (`packing`),
//!    each of which is sealed when it is full, or nothing more has come
//! 6. `Bundle::send`: neighbours of one size as one datagram, all in one system call per socket
//!
//! Before the batch, ICMP errors that the inbound worker has made are sealed (`run_errands`).
//! Nothing per packet allocates, locks or logs, but for packets that are held.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openmoat_esp::drops::DropReason;
use openmoat_esp::icmp_error;
use openmoat_esp::mss::{self, Checksum};
use openmoat_esp::sa::Usage;
use openmoat_esp::spd::{Action, Missing, Policy};
use openmoat_esp::wire::{IpPacket, Ports};
use openmoat_io::{BATCH, MAX_PACKET, PacketBatch, VnetHeader};

use crate::answers::Answers;
use crate::arrangement::Arrangement;
use crate::bundle::{Address, Bundle};
use crate::errands::MAX_ERRANDS;
use crate::events::{Event, flag};
use crate::flows::{Choice, FlowCache, Lane};
use crate::fragment::Fragmentation;
use crate::hold::{Holds, Outcome};
use crate::icmp::Complaint;
use crate::ladder::{Deed, IdentifierGuard, Rung};
use crate::packing::{Packing, Sink};
use crate::plan::{Framing, MtuPlan, OuterDf};
use crate::segment::{Cut, complete_checksum};
use crate::shared::Shared;
use crate::tables::{Outbound, Pair, Served, Service};

/// Nanoseconds between two `Acquire` of one policy.
const ACQUIRE_INTERVAL: u64 = 1_000_000_000;

/// What every link of IPv6 carries (RFC 8200 5).
const MIN_MTU_V6: usize = 1280;

/// Errors per second and inner source for packets that a policy rejects.
const REJECTS_PER_SECOND: f64 = 10.0;

/// An inner packet on its way: what the kernel and its own headers say of it, and its octets.
struct InnerPacket<'a> {
    vnet: VnetHeader,
    packet: IpPacket,
    octets: &'a mut [u8],
}

/// The packets that an inner packet is made of.
pub enum Pieces {
    /// Itself, of so many octets.
    Whole(usize),
    /// Its segments.
    Segments(Cut),
    /// Its fragments.
    Fragments(Fragmentation),
    /// Fragments of segments, those of the first segment first.
    Shreds(Cut, Fragmentation),
}

impl Pieces {
    /// How many.
    pub fn count(&self) -> usize {
        match self {
            Self::Whole(_) => 1,
            Self::Segments(cut) => cut.count(),
            Self::Fragments(fragments) => fragments.count(),
            Self::Shreds(cut, fragments) => {
                let last = cut.count() - 1;
                let of_last = fragments.of_segment(last, cut.length(last));
                last * fragments.of_segment(0, cut.length(0)).count() + of_last.count()
            }
        }
    }

    /// Octets of one.
    pub fn length(&self, index: usize) -> usize {
        match self {
            Self::Whole(length) => *length,
            Self::Segments(cut) => cut.length(index),
            Self::Fragments(fragments) => fragments.length(index),
            Self::Shreds(cut, fragments) => {
                let (_, fragments, index) = shred(cut, fragments, index);
                fragments.length(index)
            }
        }
    }

    /// Write one to the front of `out`.
    pub fn write(&self, octets: &[u8], index: usize, out: &mut [u8]) {
        match self {
            Self::Whole(length) => out[..*length].copy_from_slice(&octets[..*length]),
            Self::Segments(cut) => cut.write(octets, index, out),
            Self::Fragments(fragments) => fragments.write(octets, index, out),
            Self::Shreds(cut, fragments) => {
                let (segment, fragments, index) = shred(cut, fragments, index);
                cut.write(octets, segment, out);
                fragments.keep(index, out);
            }
        }
    }
}

/// Which segment shred `index` is of, how that is fragmented, and which fragment of it this is.
fn shred(cut: &Cut, fragments: &Fragmentation, index: usize) -> (usize, Fragmentation, usize) {
    let each = fragments.of_segment(0, cut.length(0)).count();
    let segment = (index / each).min(cut.count() - 1);
    let fragments = fragments.of_segment(segment, cut.length(segment));
    (segment, fragments, index - segment * each)
}

/// How a packet leaves.
struct Division {
    pieces: Pieces,
    /// What was done because it does not fit, and to how many packets.
    deed: Option<(Rung, usize)>,
}

impl Division {
    /// Whether outer packets may be fragmented against `outer_df`.
    fn may_fragment(&self) -> bool {
        matches!(
            self.deed,
            Some((Rung::FragmentOuter | Rung::MinimumOuter, _))
        )
    }
}

/// What all pieces of an inner packet have in common.
struct Train<'a> {
    lane: &'a Lane,
    outbound: &'a Outbound,
    address: Address,
    may_fragment: bool,
}

impl Train<'_> {
    /// Where a sealed piece of `length` inner octets goes, by its TOS and the DF of what is in it.
    fn address_of(&self, tos: u8, is_inner_df: bool, length: usize) -> Address {
        let plan = &self.lane.settings.plan;
        let fits = length <= plan.inner_room;
        let df = match plan.outer_df {
            _ if self.may_fragment && !fits => false,
            OuterDf::Clear => false,
            OuterDf::Set => true,
            OuterDf::Copy => is_inner_df,
        };
        let may_join = self.address.may_join && fits;
        // Routers of IPv6 fragment nothing: the host must do it, and not only for its own link.
        let fragment_size = if fits || self.address.remote.is_ipv4() {
            0
        } else {
            plan.outer_size as u16
        };
        Address {
            tos,
            df,
            may_join,
            fragment_size,
            ..self.address
        }
    }
}

/// The state of an outbound thread.
pub struct OutboundWorker {
    flows: FlowCache,
    arrangement: Arrangement,
    /// All but what is remembered of flows, so that a choice can be borrowed while it is carried out.
    press: Press,
}

impl OutboundWorker {
    /// Worker number `worker` of an engine.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            flows: FlowCache::default(),
            arrangement: Arrangement::default(),
            press: Press::new(shared, worker),
        }
    }

    /// Carry one batch, at `now` nanoseconds of the engine's clock, and see to the packets that are held.
    pub fn turn(&mut self, batch: &mut PacketBatch, now: u64) {
        self.press.now = now;
        if self.flows.refresh(&self.press.shared.tables) {
            self.release_held();
        }
        self.run_errands();
        let is_arranged = self.arrangement.is_wanted();
        if is_arranged {
            self.arrange(batch);
        }
        for place in 0..batch.len() {
            let index = if is_arranged {
                self.arrangement.at(place)
            } else {
                place
            };
            let (vnet, octets) = batch.packet(index);
            self.carry(vnet, octets);
        }
        self.arrangement.learn(self.press.packing.take_changes());
        self.press.finish();
    }

    /// Let packets of one SA follow each other.
    fn arrange(&mut self, batch: &mut PacketBatch) {
        let Self {
            flows,
            arrangement,
            press,
        } = self;
        arrangement.arrange(batch.len(), |index| {
            let flow = IpPacket::parse(batch.packet(index).1).map(|packet| packet.flow);
            let choice = flow.ok().map(|flow| flows.choose(&flow, &press.shared));
            let lane = choice.and_then(|choice| choice.lane.as_ref());
            lane.map_or(0, |lane| lane.pair.handle)
        });
    }

    /// Let go of everything of a turn that ended in a panic.
    pub fn abandon(&mut self) {
        self.press.packing.abandon();
        self.press.bundle.discard();
        self.press.leave();
    }

    /// When a held packet has waited long enough.
    pub fn deadline(&self) -> Option<u64> {
        self.press.holds.deadline()
    }

    fn carry(&mut self, vnet: VnetHeader, octets: &mut [u8]) {
        let mut inner = match read(vnet, octets) {
            Ok(inner) => inner,
            Err(reason) => return self.press.shared.drops.count(reason),
        };
        let choice = self.flows.choose(&inner.packet.flow, &self.press.shared);
        let reason = match select(choice) {
            Ok(lane) => return self.press.protect(lane, &mut inner),
            Err(reason) => reason,
        };
        // RFC 4301 6.2: an ICMP error that no policy selects goes the way of the answers to what it quotes.
        if reason == DropReason::NoPolicy
            && let Some(flow) = icmp_error::return_flow(&inner.packet, inner.octets)
            && let Ok(lane) = select(self.flows.choose(&flow, &self.press.shared))
        {
            return self.press.protect(lane, &mut inner);
        }
        let choice = self.flows.choose(&inner.packet.flow, &self.press.shared);
        self.press.treat_missing(reason, choice, &inner);
    }

    /// Seal the ICMP errors that the inbound worker has made.
    fn run_errands(&mut self) {
        for _ in 0..MAX_ERRANDS {
            let Some(mut octets) = self.press.shared.errands[self.press.worker].take() else {
                return;
            };
            self.carry(VnetHeader::default(), &mut octets);
        }
    }

    /// Send what waited for policies that now have a pair, and forget about policies that are gone.
    fn release_held(&mut self) {
        let policies = self.press.shared.tables.policies.load_full();
        let released = self.press.holds.release(|policy| {
            policies
                .find(policy)
                .is_none_or(|served| !served.service.pairs.load().is_empty())
        });
        for (vnet, mut octets) in released {
            self.carry(vnet, &mut octets);
        }
    }
}

/// Where packets are divided, sealed, held and refused.
struct Press {
    shared: Arc<Shared>,
    worker: usize,
    bundle: Bundle,
    packing: Packing,
    answers: Answers,
    holds: Holds,
    /// Pairs whose turnstile this worker has passed and must leave.
    entered: Vec<Arc<Pair>>,
    now: u64,
}

impl Press {
    fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            bundle: Bundle::new(&shared, worker),
            packing: Packing::default(),
            answers: Answers::new(worker),
            holds: Holds::default(),
            entered: Vec::with_capacity(BATCH),
            now: 0,
            worker,
            shared,
        }
    }

    /// Send all that waits to be sent.
    fn finish(&mut self) {
        let expired = self.holds.expire(self.now);
        let drops = &self.shared.drops;
        drops.count_many(DropReason::HoldExpired, expired as u64);
        self.send();
        self.leave();
        self.answers.send(&self.shared);
    }

    /// Send what is sealed, and what is packed so far.
    fn send(&mut self) {
        let (packing, mut sink) = self.packing();
        packing.close(&mut sink);
        self.bundle.send(&self.shared);
    }

    fn packing(&mut self) -> (&mut Packing, Sink<'_>) {
        let sink = Sink {
            bundle: &mut self.bundle,
            shared: &self.shared,
            now: self.now,
        };
        (&mut self.packing, sink)
    }

    fn treat_missing(&mut self, reason: DropReason, choice: &Choice, inner: &InnerPacket<'_>) {
        let Some(Served { policy, service }) = choice.served.as_deref() else {
            let reason = if is_local_chatter(&inner.packet) {
                DropReason::NotUnicast
            } else {
                reason
            };
            return self.shared.drops.count(reason);
        };
        match (policy.action, policy.missing) {
            (Action::Reject, _) | (Action::Protect, Missing::Reject) => self.reject(reason, inner),
            (Action::Protect, Missing::Trap) => {
                self.acquire(policy, service, &inner.packet);
                match self
                    .holds
                    .hold(policy.id, inner.vnet, inner.octets, self.now)
                {
                    Outcome::Held => {}
                    Outcome::Full => self.shared.drops.count(DropReason::HoldFull),
                    Outcome::Over => self.reject(DropReason::NoSa, inner),
                }
            }
            _ => self.shared.drops.count(reason),
        }
    }

    fn acquire(&self, policy: &Policy, service: &Service, packet: &IpPacket) {
        if self.now < service.quiet_until.load(Ordering::Relaxed) {
            return;
        }
        service
            .quiet_until
            .store(self.now + ACQUIRE_INTERVAL, Ordering::Relaxed);
        let (source_port, destination_port) = match packet.flow.ports {
            Ports::Known(source, destination) => (source, destination),
            Ports::Opaque => (0, 0),
        };
        self.shared.events.tell_noise(Event::Acquire {
            policy: policy.id,
            source: packet.flow.source,
            destination: packet.flow.destination,
            protocol: packet.flow.protocol,
            source_port,
            destination_port,
        });
    }

    fn reject(&mut self, reason: DropReason, inner: &InnerPacket<'_>) {
        self.shared.drops.count(reason);
        let (shared, now) = (&self.shared, self.now);
        self.answers.complain(
            shared,
            now,
            Complaint::Prohibited,
            &inner.packet,
            inner.octets,
            None,
            REJECTS_PER_SECOND,
        );
    }

    fn protect(&mut self, lane: &Lane, inner: &mut InnerPacket<'_>) {
        let pair = &lane.pair;
        let Some(outbound) = lane.outbound() else {
            return pair.drops.count(DropReason::NoSa);
        };
        let plan = &lane.settings.plan;
        let Some(address) = lane.address else {
            return pair.drops.count(DropReason::SendFailed);
        };
        let limits = Limits {
            pair,
            guard: &self.shared.identifiers,
            peer: address.remote.ip(),
            now: self.now,
        };
        let division = match divide(plan, inner, &limits) {
            Ok(division) => division,
            Err(reason) => return self.refuse(reason, pair, plan, inner),
        };
        let (may_fragment, pieces) = (division.may_fragment(), division.pieces);
        if !mend(inner, pair, plan, &pieces) {
            return pair.drops.count(DropReason::MalformedInner);
        }
        if let Some((rung, packets)) = division.deed
            && pair.deeds.count(rung.into(), packets)
            && rung == Rung::FragmentAnyway
        {
            self.shared.raise(pair, flag::DF_IGNORED);
        }
        let may_join = self.bundle.joins(address.socket);
        let train = Train {
            lane,
            outbound,
            address: Address {
                may_join,
                ..address
            },
            may_fragment,
        };
        self.enter(pair, outbound);
        if let Err(reason) = self.begin(&train) {
            return pair.drops.count_many(reason, pieces.count() as u64);
        }
        for index in 0..pieces.count() {
            let sent = match plan.framing {
                Framing::Whole => self.seal(&train, &pieces, index, inner.octets),
                Framing::Aggfrag => self.pack(&train, &pieces, index, inner.octets),
            };
            if let Err(reason) = sent {
                if matches!(
                    reason,
                    DropReason::HardLimit | DropReason::SequenceExhausted
                ) {
                    self.shared.raise(pair, flag::SOFT_LIMIT | flag::HARD_LIMIT);
                }
                // The pair has counted this piece; those that follow would fare no better.
                let rest = pieces.count() - index - 1;
                return pair.drops.count_many(reason, rest as u64);
            }
        }
    }

    /// Have the room of the bundle for packets of this train.
    fn begin(&mut self, train: &Train<'_>) -> Result<(), DropReason> {
        let (packing, mut sink) = self.packing();
        match train.lane.settings.plan.framing {
            Framing::Whole => packing.close(&mut sink),
            // RFC 9347 2.2.5: nothing of inner headers is shown outside.
            Framing::Aggfrag => {
                packing.begin(&mut sink, train.lane, train.address_of(0, true, 0))?
            }
        }
        Ok(())
    }

    /// Pack one piece into payloads, or send it alone if it is larger than these are and may not be sliced.
    fn pack(
        &mut self,
        train: &Train<'_>,
        pieces: &Pieces,
        index: usize,
        octets: &[u8],
    ) -> Result<(), DropReason> {
        let (packing, mut sink) = self.packing();
        let (plan, length) = (&train.lane.settings.plan, pieces.length(index));
        if plan.slices || length <= plan.inner_room {
            return packing.pack(&mut sink, (pieces, index), octets);
        }
        let address = train.address_of(0, true, length);
        packing.send_alone(&mut sink, (pieces, index), octets, address)
    }

    /// Be the only worker that numbers and sends packets of this pair, until the bundle has left.
    fn enter(&mut self, pair: &Arc<Pair>, outbound: &Outbound) {
        let turnstile = &outbound.turnstile;
        if self.shared.workers() == 1 || turnstile.is_held_by(self.worker) {
            return;
        }
        if !turnstile.try_enter(self.worker) {
            // Nobody waits who is waited for: what this worker holds is sent and left first.
            self.send();
            self.leave();
            turnstile.enter(self.worker);
        }
        self.entered.push(Arc::clone(pair));
    }

    fn leave(&mut self) {
        for outbound in self.entered.iter().filter_map(|pair| pair.outbound.get()) {
            outbound.turnstile.leave();
        }
        self.entered.clear();
    }

    /// Seal one piece into the bundle.
    fn seal(
        &mut self,
        train: &Train<'_>,
        pieces: &Pieces,
        index: usize,
        octets: &[u8],
    ) -> Result<(), DropReason> {
        let sa = &train.outbound.sa;
        let length = pieces.length(index);
        let room = self.bundle.room(&self.shared);
        pieces.write(octets, index, &mut room[sa.suite().headroom()..]);
        let sealed = sa.seal(room, length)?;
        let address = train.address_of(sealed.outer_tos, sealed.is_inner_df, length);
        self.bundle.push(sealed.size, address);
        train.outbound.last_sent.store(self.now, Ordering::Relaxed);
        let (shared, plan) = (&self.shared, &train.lane.settings.plan);
        shared.watch(&train.lane.pair, plan, length, self.now);
        if sealed.usage == Usage::Soft {
            self.shared.raise(&train.lane.pair, flag::SOFT_LIMIT);
        }
        Ok(())
    }

    fn refuse(&mut self, reason: DropReason, pair: &Pair, plan: &MtuPlan, inner: &InnerPacket<'_>) {
        pair.drops.count(reason);
        if reason != DropReason::TooBig {
            return;
        }
        pair.deeds.count(Deed::Refuse, 1);
        // RFC 2473 7.1: no host of IPv6 is told less than what every link of it carries.
        let least = if inner.packet.flow.source.is_ipv6() {
            MIN_MTU_V6
        } else {
            0
        };
        let complaint = Complaint::TooBig(plan.inner_room.max(least));
        let (shared, now, rate) = (&self.shared, self.now, plan.too_big_per_second);
        // The error goes to the host itself, which would not believe a packet from one of its own addresses: so it comes
        // from where the packet was to go. Where its sender is behind another SA, the host routes it back into that.
        self.answers.complain(
            shared,
            now,
            complaint,
            &inner.packet,
            inner.octets,
            None,
            rate,
        );
    }
}

/// Read the headers of a packet from the TUN device.
fn read(vnet: VnetHeader, octets: &mut [u8]) -> Result<InnerPacket<'_>, DropReason> {
    let packet = IpPacket::parse(octets)?;
    if packet.length > MAX_PACKET {
        return Err(DropReason::MalformedInner);
    }
    Ok(InnerPacket {
        vnet,
        packet,
        octets,
    })
}

/// The pair that protects a packet, or why there is none.
fn select(choice: &Choice) -> Result<&Lane, DropReason> {
    let Some(served) = &choice.served else {
        return Err(DropReason::NoPolicy);
    };
    match served.policy.action {
        Action::Protect => choice.lane.as_ref().ok_or(DropReason::NoSa),
        Action::Pass => Err(DropReason::PolicyPass),
        Action::Drop => Err(DropReason::PolicyDrop),
        Action::Reject => Err(DropReason::PolicyReject),
    }
}

/// Whether a packet belongs on its own link: the host tells its neighbours of itself on every device, this one too.
fn is_local_chatter(packet: &IpPacket) -> bool {
    match packet.flow.destination {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
    }
}

/// Clamp the MSS of a SYN, and make the checksum that the host left to us. False where the host's header does not fit.
fn mend(inner: &mut InnerPacket<'_>, pair: &Pair, plan: &MtuPlan, pieces: &Pieces) -> bool {
    let checksum = if inner.vnet.needs_checksum {
        Checksum::Partial
    } else {
        Checksum::Whole
    };
    if mss::clamp(inner.octets, &inner.packet, plan.mss, checksum).is_some() {
        pair.deeds.count(Deed::Clamp, 1);
    }
    // Segments get checksums of their own.
    matches!(pieces, Pieces::Segments(_) | Pieces::Shreds(..))
        || complete_checksum(&inner.vnet, &inner.packet, inner.octets)
}

/// What bounds the rungs, and counts what they would not do.
struct Limits<'a> {
    pair: &'a Pair,
    guard: &'a IdentifierGuard,
    peer: IpAddr,
    now: u64,
}

/// How the plan lets a packet through.
///
/// A super-packet is cut at its own size, never smaller: whoever made it knows what its path carries.
fn divide(
    plan: &MtuPlan,
    inner: &InnerPacket<'_>,
    limits: &Limits<'_>,
) -> Result<Division, DropReason> {
    let packet = &inner.packet;
    let cut = Cut::of(&inner.vnet, packet, inner.octets)?;
    let largest = cut.as_ref().map_or(packet.length, Cut::largest);
    let packets = cut.as_ref().map_or(1, Cut::count);
    let uncut = || cut.map_or(Pieces::Whole(packet.length), Pieces::Segments);
    if plan.slices || largest <= plan.inner_room {
        return Ok(Division {
            pieces: uncut(),
            deed: None,
        });
    }
    let fragmented = |fragments| match cut {
        Some(cut) => Pieces::Shreds(cut, fragments),
        None => Pieces::Fragments(fragments),
    };
    for &rung in &plan.oversize {
        let pieces = match rung {
            Rung::FragmentInner => Fragmentation::of(packet, plan.inner_room).map(fragmented),
            Rung::MinimumOuter => {
                (packet.flow.source.is_ipv6() && largest <= MIN_MTU_V6).then(uncut)
            }
            Rung::FragmentOuter if limits.guard.permits(limits.peer, packets, limits.now) => {
                Some(uncut())
            }
            Rung::FragmentOuter => {
                limits.pair.deeds.count(Deed::Guard, packets);
                None
            }
            Rung::FragmentAnyway => Fragmentation::in_spite_of_df(packet, plan.inner_room)
                .map(|fragments| fragmented(fragments.identified(limits.pair.identify(packets)))),
            Rung::Refuse => break,
        };
        if let Some(pieces) = pieces {
            let deed = Some((rung, packets));
            return Ok(Division { pieces, deed });
        }
    }
    Err(DropReason::TooBig)
}
