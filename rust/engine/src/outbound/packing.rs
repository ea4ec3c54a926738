//! Inner packets into AGGFRAG payloads (RFC 9347), on demand: what one batch brings is packed, and nothing waits for more.
//!
//! One payload at a time is open, and lies in the room of the bundle in which it will be encrypted. So it is closed before
//! that room is used for something else, and before another worker may number packets of its SA: the pieces of a
//! packet have consecutive numbers, and are all sent before anything else is done (RFC 9347 2.2.3).

use std::sync::Arc;

use openmoat_esp::aggfrag::{Congestion, HEADER, Packer};
use openmoat_esp::drops::DropReason;
use openmoat_io::MAX_PACKET;

use crate::outbound::bundle::Address;
use crate::outbound::flows::Route;
use crate::outbound::probes::{self, Target};
use crate::outbound::sink::Sink;
use crate::sizes::inner_packet::Piece;
use crate::sizes::probe::Probe;
use crate::tables::pair::{Outbound, Pair, Settings};
use crate::tables::sa_counters::SaCounter;

/// The payload of one worker that may still grow.
pub struct Packing {
    open: Option<Open>,
    /// How often the SA has changed while one was open.
    changes: usize,
    /// Where segments and fragments that must be sliced are made.
    scratch: Box<[u8]>,
}

/// An SA while payloads of it are filled.
struct Open {
    pair: Arc<Pair>,
    settings: Arc<Settings>,
    packer: Packer,
    /// Octets before the payload.
    headroom: usize,
    address: Address,
    /// Packets that lie whole in the payload, and pieces of others.
    whole: u64,
    pieces: u64,
    /// The payload is a probe.
    probe: Option<Probe>,
}

impl Default for Packing {
    fn default() -> Self {
        Self {
            open: None,
            changes: 0,
            scratch: vec![0; MAX_PACKET].into(),
        }
    }
}

impl Packing {
    /// Fill payloads of this route from now on, which go to `address`.
    pub fn begin(
        &mut self,
        sink: &mut Sink<'_>,
        route: &Route,
        address: Address,
    ) -> Result<(), DropReason> {
        let is_it = |open: &Open| Arc::ptr_eq(&open.settings, &route.settings);
        if self.open.as_ref().is_some_and(is_it) {
            return Ok(());
        }
        self.changes += usize::from(self.open.is_some());
        self.close(sink);
        let outbound = route.outbound().ok_or(DropReason::NoSa)?;
        self.open = Some(Open {
            pair: Arc::clone(&route.pair),
            settings: Arc::clone(&route.settings),
            packer: Packer::new(route.settings.plan.inner_room).ok_or(DropReason::NoRoom)?,
            headroom: outbound.sa.suite().headroom(),
            address,
            whole: 0,
            pieces: 0,
            probe: None,
        });
        Ok(())
    }

    /// Pack a piece of an inner packet into payloads of the route begun with; or drop
    /// it before anything of it has left.
    pub fn pack(&mut self, sink: &mut Sink<'_>, piece: Piece<'_>) -> Result<(), DropReason> {
        let Self { open, scratch, .. } = self;
        let open = open.as_mut().ok_or(DropReason::NoSa)?;
        let outbound = open.pair.outbound.get().ok_or(DropReason::NoSa)?;
        let length = piece.length();
        let (payloads, size) = open.packer.with(length);
        outbound.sa.has_room_for(payloads, size as u64)?;
        outbound.counters.count_alone(SaCounter::OutboundPackets, 1);
        outbound
            .counters
            .count_alone(SaCounter::OutboundOctets, length as u64);
        if let Some(at) = open.packer.place(length) {
            let room = sink.bundle.room();
            piece.write(&mut room[open.headroom + at..]);
            open.whole += 1;
            return Ok(());
        }
        let packet = piece.as_it_stands().unwrap_or_else(|| {
            piece.write(scratch);
            &scratch[..length]
        });
        open.put(sink, packet);
        Ok(())
    }

    /// Send a piece in a payload of its own, however large that becomes, to `address`.
    pub fn send_alone(
        &mut self,
        sink: &mut Sink<'_>,
        piece: Piece<'_>,
        address: Address,
    ) -> Result<(), DropReason> {
        let open = self.open.as_mut().ok_or(DropReason::NoSa)?;
        open.finish(sink);
        let outbound = open.pair.outbound.get().ok_or(DropReason::NoSa)?;
        let length = piece.length();
        outbound.sa.has_room_for(1, (HEADER + length) as u64)?;
        let payload = &mut sink.bundle.room()[open.headroom..];
        payload[..HEADER].fill(0);
        piece.write(&mut payload[HEADER..]);
        outbound.counters.count_alone(SaCounter::OutboundPackets, 1);
        outbound
            .counters
            .count_alone(SaCounter::OutboundOctets, length as u64);
        seal(sink, open, outbound, HEADER + length, address, None);
        Ok(())
    }

    /// How often the SA has changed since this was last asked.
    pub fn take_changes(&mut self) -> usize {
        std::mem::take(&mut self.changes)
    }

    /// Seal what is open, and let go of its SA.
    pub fn close(&mut self, sink: &mut Sink<'_>) {
        if let Some(mut open) = self.open.take() {
            open.finish(sink);
        }
    }

    /// Let go of everything of a turn that ended in a panic.
    pub fn abandon(&mut self) {
        self.open = None;
    }
}

impl Open {
    /// Put a packet into this payload and those that follow.
    fn put(&mut self, sink: &mut Sink<'_>, packet: &[u8]) {
        let (mut rest, mut slices) = (packet, 0);
        loop {
            self.probe_path(rest.len(), sink.now);
            let room = sink.bundle.room();
            let taken = self.packer.put(&mut room[self.headroom..], rest);
            rest = &rest[taken..];
            slices += u64::from(taken > 0);
            if taken == packet.len() {
                self.whole += 1;
                return;
            }
            self.pieces += u64::from(taken > 0);
            if rest.is_empty() {
                break;
            }
            self.finish(sink);
        }
        if let Some(outbound) = self.pair.outbound.get() {
            outbound.counters.count_alone(SaCounter::OutboundSliced, 1);
            outbound
                .counters
                .count_alone(SaCounter::OutboundSlices, slices);
        }
    }

    /// Make the payload a probe, if one is due and nothing but this packet will be in it.
    fn probe_path(&mut self, rest: usize, now: u64) {
        if let Some(probe) = self.pair.probe()
            && self.settings.plan.asks()
            && self.packer.would_fill(rest)
            && probe.is_due(now)
        {
            let probe = probe.issue(now);
            self.packer.say(Congestion {
                value: probe.large,
                ..Congestion::default()
            });
            self.probe = Some(probe);
        }
    }

    /// Seal the payload, if there is anything in it, and begin another.
    fn finish(&mut self, sink: &mut Sink<'_>) {
        let Some(outbound) = self.pair.outbound.get() else {
            return;
        };
        let room = sink.bundle.room();
        let Some(size) = self.packer.finish(&mut room[self.headroom..]) else {
            return;
        };
        let (whole, pieces) = (
            std::mem::take(&mut self.whole),
            std::mem::take(&mut self.pieces),
        );
        if whole + pieces > 1 {
            outbound
                .counters
                .count_alone(SaCounter::OutboundPacked, whole);
        }
        let probe = self.probe.take();
        seal(sink, self, outbound, size, self.address, probe);
    }
}

/// Seal the payload of `size` octets that stands in the room of the bundle, and see whether such payloads arrive.
fn seal(
    sink: &mut Sink<'_>,
    open: &Open,
    outbound: &Outbound,
    size: usize,
    address: Address,
    values: Option<Probe>,
) {
    let (pair, plan) = (&open.pair, &open.settings.plan);
    if !sink.seal(pair, outbound, size, address) {
        return;
    }
    pair.watch(plan, size - HEADER, sink.now, sink.events);
    let Some(probe) = outbound.probe.as_ref().filter(|_| plan.asks()) else {
        return;
    };
    let target = Target {
        pair,
        outbound,
        plan,
        address: open.address,
    };
    match values {
        Some(Probe {
            small: Some(value), ..
        }) => probes::send_small(sink, &target, value),
        Some(_) => {}
        None if plan.watches(size - HEADER) && probe.is_overdue(sink.now) => {
            probes::send_overdue(sink, &target, probe);
        }
        None => {}
    }
}
