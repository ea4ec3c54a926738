//! Where inner packets become ESP packets: divided, encrypted or packed piece by piece, and put into the bundle in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use openmoat_esp::drops::DropReason;
use openmoat_esp::meter::Usage;
use openmoat_io::BATCH;

use crate::events::{Events, flag};
use crate::outbound::bundle::{Address, Bundle};
use crate::outbound::flows::Route;
use crate::outbound::packing::Packing;
use crate::outbound::probes::{self, Target};
use crate::outbound::sink::Sink;
use crate::sizes::divide::{Division, DivisionBounds, complete, divide};
use crate::sizes::inner_packet::{InnerPacket, Piece, Pieces};
use crate::sizes::ladder::{IdentifierGuard, Rung};
use crate::sizes::plan::{Framing, OuterDf};
use crate::sizes::probe::PathProbe;
use crate::tables::pair::{Outbound, Pair};

/// What all pieces of an inner packet have in common.
struct Encapsulation<'a> {
    route: &'a Route,
    outbound: &'a Outbound,
    address: Address,
    may_fragment: bool,
}

impl Encapsulation<'_> {
    /// Where an encrypted piece of `length` inner octets goes, by its TOS and the DF of what is in it.
    fn address_of(&self, tos: u8, is_inner_df: bool, length: usize) -> Address {
        let plan = &self.route.settings.plan;
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

/// Where the packets of one worker are divided and encrypted.
pub struct Encapsulator {
    worker: usize,
    is_alone: bool,
    events: Arc<Events>,
    guard: Arc<IdentifierGuard>,
    now: u64,
    bundle: Bundle,
    packing: Packing,
    /// Pairs whose send lock this worker holds.
    entered: Vec<Arc<Pair>>,
}

impl Encapsulator {
    /// Of outbound worker `worker`, which is the only one where it `is_alone`; `guard` bounds outer fragments of all workers.
    pub fn new(
        worker: usize,
        is_alone: bool,
        bundle: Bundle,
        guard: Arc<IdentifierGuard>,
        events: Arc<Events>,
    ) -> Self {
        Self {
            worker,
            is_alone,
            events,
            guard,
            now: 0,
            bundle,
            packing: Packing::default(),
            entered: Vec::with_capacity(BATCH),
        }
    }

    /// A turn begins at `now` nanoseconds of the engine's clock.
    pub fn begin(&mut self, now: u64) {
        self.now = now;
    }

    /// Send all that waits to be sent.
    pub fn finish(&mut self) {
        self.send();
        self.leave();
    }

    /// Let go of everything of a turn that ended in a panic.
    pub fn abandon(&mut self) {
        self.packing.abandon();
        self.bundle.discard();
        self.leave();
    }

    /// How often the SA of open payloads has changed since this was last asked.
    pub fn take_changes(&mut self) -> usize {
        self.packing.take_changes()
    }

    /// Send an inner packet by this route, in one piece or several. The division is large and stays where it is made.
    pub fn protect(
        &mut self,
        route: &Route,
        inner: &mut InnerPacket<'_>,
    ) -> Result<(), DropReason> {
        let (pair, plan) = (&route.pair, &route.settings.plan);
        let outbound = route.outbound().ok_or(DropReason::NoSa)?;
        if route.settings.is_expired(self.now) {
            return Err(DropReason::SaExpired);
        }
        let address = route.address.ok_or(DropReason::SendFailed)?;
        let bounds = DivisionBounds {
            counters: &pair.size_counters,
            identifications: &pair.identifications,
            guard: &self.guard,
            peer: address.remote.ip(),
            now: self.now,
        };
        let division = divide(plan, inner, &bounds)?;
        complete(inner, &pair.size_counters, plan, &division.pieces)?;
        self.note_action(pair, &division);
        let encapsulation = Encapsulation {
            route,
            outbound,
            address: Address {
                may_join: self.bundle.joins(address.socket),
                ..address
            },
            may_fragment: division.may_fragment(),
        };
        self.enter(pair, outbound);
        self.send_pieces(&encapsulation, &division.pieces, inner.octets);
        Ok(())
    }

    fn note_action(&self, pair: &Pair, division: &Division) {
        if let Some((rung, packets)) = division.action
            && pair.size_counters.count_first(rung.into(), packets as u64)
            && rung == Rung::FragmentAnyway
        {
            pair.raise(flag::DF_IGNORED, &self.events);
        }
    }

    /// Encrypt or pack each piece, up to the first that cannot be.
    fn send_pieces(&mut self, encapsulation: &Encapsulation<'_>, pieces: &Pieces, octets: &[u8]) {
        let pair = &encapsulation.route.pair;
        if let Err(reason) = self.open(encapsulation) {
            return pair.drops.count_many(reason, pieces.count() as u64);
        }
        for index in 0..pieces.count() {
            let piece = Piece::of(pieces, index, octets);
            let sent = match encapsulation.route.settings.plan.framing {
                Framing::Whole => self.seal(encapsulation, piece),
                Framing::Aggfrag => self.pack(encapsulation, piece),
            };
            if let Err(reason) = sent {
                if matches!(
                    reason,
                    DropReason::HardLimit | DropReason::SequenceExhausted
                ) {
                    pair.raise(flag::SOFT_LIMIT | flag::HARD_LIMIT, &self.events);
                }
                // The pair has counted this piece; those that follow would fare no better.
                let rest = pieces.count() - index - 1;
                return pair.drops.count_many(reason, rest as u64);
            }
        }
    }

    /// Take the room of the bundle for packets of this encapsulation.
    fn open(&mut self, encapsulation: &Encapsulation<'_>) -> Result<(), DropReason> {
        let (packing, mut sink) = self.packing();
        match encapsulation.route.settings.plan.framing {
            Framing::Whole => packing.close(&mut sink),
            // RFC 9347 2.2.5: nothing of inner headers is shown outside.
            Framing::Aggfrag => packing.begin(
                &mut sink,
                encapsulation.route,
                encapsulation.address_of(0, true, 0),
            )?,
        }
        Ok(())
    }

    /// Encrypt one piece into the bundle.
    fn seal(
        &mut self,
        encapsulation: &Encapsulation<'_>,
        piece: Piece<'_>,
    ) -> Result<(), DropReason> {
        let sa = &encapsulation.outbound.sa;
        let length = piece.length();
        let room = self.bundle.room();
        piece.write(&mut room[sa.suite().headroom()..]);
        let sealed = sa.seal(room, length)?;
        let address = encapsulation.address_of(sealed.outer_tos, sealed.is_inner_df, length);
        self.bundle.push(sealed.size, address);
        encapsulation
            .outbound
            .last_sent
            .store(self.now, Ordering::Relaxed);
        let (pair, plan) = (
            &encapsulation.route.pair,
            &encapsulation.route.settings.plan,
        );
        pair.watch(plan, length, self.now, &self.events);
        if sealed.usage == Usage::Soft {
            pair.raise(flag::SOFT_LIMIT, &self.events);
        }
        Ok(())
    }

    /// Pack one piece into payloads, or send it alone if it is larger than these are and may not be sliced.
    fn pack(
        &mut self,
        encapsulation: &Encapsulation<'_>,
        piece: Piece<'_>,
    ) -> Result<(), DropReason> {
        let (packing, mut sink) = self.packing();
        let (plan, length) = (&encapsulation.route.settings.plan, piece.length());
        if plan.slices || length <= plan.inner_room {
            return packing.pack(&mut sink, piece);
        }
        let address = encapsulation.address_of(0, true, length);
        packing.send_alone(&mut sink, piece, address)
    }

    /// Send the probes of the pair of this route.
    pub fn send_probes(&mut self, route: &Route, probe: &PathProbe) {
        let (Some(outbound), Some(address)) = (route.outbound(), route.address) else {
            return;
        };
        if route.settings.is_expired(self.now) {
            return;
        }
        self.enter(&route.pair, outbound);
        let encapsulation = Encapsulation {
            route,
            outbound,
            address: Address {
                may_join: self.bundle.joins(address.socket),
                ..address
            },
            may_fragment: false,
        };
        let target = Target {
            pair: &route.pair,
            outbound,
            plan: &route.settings.plan,
            address: encapsulation.address_of(0, true, 0),
        };
        let (packing, mut sink) = self.packing();
        packing.close(&mut sink);
        probes::send(&mut sink, &target, probe);
    }

    /// Send what is encrypted, and what is packed so far.
    fn send(&mut self) {
        let (packing, mut sink) = self.packing();
        packing.close(&mut sink);
        self.bundle.send();
    }

    fn packing(&mut self) -> (&mut Packing, Sink<'_>) {
        let sink = Sink {
            bundle: &mut self.bundle,
            events: &self.events,
            now: self.now,
        };
        (&mut self.packing, sink)
    }

    /// Be the only worker that numbers and sends packets of this pair, until the bundle has left.
    fn enter(&mut self, pair: &Arc<Pair>, outbound: &Outbound) {
        let lock = &outbound.send_lock;
        if self.is_alone || lock.is_held_by(self.worker) {
            return;
        }
        if !lock.try_enter(self.worker) {
            // A worker that is waited for never waits itself: it sends and releases what it holds first.
            self.send();
            self.leave();
            lock.enter(self.worker);
        }
        self.entered.push(Arc::clone(pair));
    }

    fn leave(&mut self) {
        for outbound in self.entered.iter().filter_map(|pair| pair.outbound.get()) {
            outbound.send_lock.leave();
        }
        self.entered.clear();
    }
}
