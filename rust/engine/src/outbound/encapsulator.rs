//! Where inner packets become outer ones: divided, sealed or packed piece by piece, and put into the bundle in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use openmoat_esp::drops::DropReason;
use openmoat_esp::meter::Usage;
use openmoat_io::BATCH;

use crate::events::flag;
use crate::outbound::bundle::{Address, Bundle};
use crate::outbound::echoes::{self, MAX_PAIRS, Way};
use crate::outbound::flows::{Choice, Lane};
use crate::outbound::packing::{Packing, Sink};
use crate::outbound::refusals::Refusals;
use crate::shared::Shared;
use crate::sizes::divide::{Division, Limits, divide, mend};
use crate::sizes::inner_packet::{InnerPacket, Piece, Pieces};
use crate::sizes::ladder::Rung;
use crate::sizes::plan::{Framing, OuterDf};
use crate::tables::{Outbound, Pair};

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

/// Where the packets of one worker are divided, sealed, held and refused.
pub struct Press {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Which one this is.
    pub worker: usize,
    /// What does not leave.
    pub refusals: Refusals,
    /// The engine's clock at the beginning of this turn.
    pub now: u64,
    bundle: Bundle,
    packing: Packing,
    /// Pairs whose turnstile this worker has passed and must leave.
    entered: Vec<Arc<Pair>>,
}

impl Press {
    /// An empty one.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            bundle: Bundle::new(&shared, worker),
            packing: Packing::default(),
            refusals: Refusals::new(worker),
            entered: Vec::with_capacity(BATCH),
            now: 0,
            worker,
            shared,
        }
    }

    /// Send all that waits to be sent.
    pub fn finish(&mut self) {
        self.send();
        self.leave();
        self.refusals.finish(&self.shared, self.now);
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

    /// Hold, reject or drop a packet that no pair serves.
    pub fn treat_missing(&mut self, reason: DropReason, choice: &Choice, inner: &InnerPacket<'_>) {
        self.refusals
            .treat_missing(&self.shared, self.now, reason, choice, inner);
    }

    /// Send an inner packet through the pair of this lane.
    pub fn protect(&mut self, lane: &Lane, inner: &mut InnerPacket<'_>) {
        if let Err(reason) = self.try_protect(lane, inner) {
            let (shared, now) = (&self.shared, self.now);
            self.refusals.refuse(shared, now, reason, lane, inner);
        }
    }

    /// Divide, mend and send it. The division is large and stays where it is made.
    fn try_protect(&mut self, lane: &Lane, inner: &mut InnerPacket<'_>) -> Result<(), DropReason> {
        let (pair, plan) = (&lane.pair, &lane.settings.plan);
        let outbound = lane.outbound().ok_or(DropReason::NoSa)?;
        if lane.settings.is_expired(self.now) {
            return Err(DropReason::SaExpired);
        }
        let address = lane.address.ok_or(DropReason::SendFailed)?;
        let limits = Limits {
            pair,
            guard: &self.shared.identifiers,
            peer: address.remote.ip(),
            now: self.now,
        };
        let division = divide(plan, inner, &limits)?;
        mend(inner, pair, plan, &division.pieces)?;
        self.note_deed(pair, &division);
        let train = Train {
            lane,
            outbound,
            address: Address {
                may_join: self.bundle.joins(address.socket),
                ..address
            },
            may_fragment: division.may_fragment(),
        };
        self.enter(pair, outbound);
        self.send_pieces(&train, &division.pieces, inner.octets);
        Ok(())
    }

    fn note_deed(&self, pair: &Pair, division: &Division) {
        if let Some((rung, packets)) = division.deed
            && pair.deeds.count(rung.into(), packets)
            && rung == Rung::FragmentAnyway
        {
            self.shared.raise(pair, flag::DF_IGNORED);
        }
    }

    /// Seal or pack each piece, up to the first that cannot be.
    fn send_pieces(&mut self, train: &Train<'_>, pieces: &Pieces, octets: &[u8]) {
        let pair = &train.lane.pair;
        if let Err(reason) = self.begin(train) {
            return pair.drops.count_many(reason, pieces.count() as u64);
        }
        for index in 0..pieces.count() {
            let piece = Piece::of(pieces, index, octets);
            let sent = match train.lane.settings.plan.framing {
                Framing::Whole => self.seal(train, piece),
                Framing::Aggfrag => self.pack(train, piece),
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

    /// Seal one piece into the bundle.
    fn seal(&mut self, train: &Train<'_>, piece: Piece<'_>) -> Result<(), DropReason> {
        let sa = &train.outbound.sa;
        let length = piece.length();
        let room = self.bundle.room(&self.shared);
        piece.write(&mut room[sa.suite().headroom()..]);
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

    /// Pack one piece into payloads, or send it alone if it is larger than these are and may not be sliced.
    fn pack(&mut self, train: &Train<'_>, piece: Piece<'_>) -> Result<(), DropReason> {
        let (packing, mut sink) = self.packing();
        let (plan, length) = (&train.lane.settings.plan, piece.length());
        if plan.slices || length <= plan.inner_room {
            return packing.pack(&mut sink, piece);
        }
        let address = train.address_of(0, true, length);
        packing.send_alone(&mut sink, piece, address)
    }

    /// Seal the marks that the inbound worker wants sent.
    pub fn send_echoes(&mut self) {
        for _ in 0..MAX_PAIRS {
            let Some(handle) = self.shared.echoes[self.worker].take() else {
                return;
            };
            let Some(pair) = self.shared.sad.find(handle) else {
                continue;
            };
            let Some(echo) = pair.echo() else {
                continue;
            };
            echo.untell();
            if let Some(lane) = Lane::of(&pair, &self.shared)
                && let (Some(outbound), Some(address)) = (lane.outbound(), lane.address)
                && !lane.settings.is_expired(self.now)
            {
                self.enter(&pair, outbound);
                let may_join = self.bundle.joins(address.socket);
                let train = Train {
                    lane: &lane,
                    outbound,
                    address: Address {
                        may_join,
                        ..address
                    },
                    may_fragment: false,
                };
                let way = Way {
                    pair: &pair,
                    outbound,
                    plan: &lane.settings.plan,
                    address: train.address_of(0, true, 0),
                };
                let (packing, mut sink) = self.packing();
                packing.close(&mut sink);
                echoes::send(&mut sink, &way, echo);
            }
        }
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
}
