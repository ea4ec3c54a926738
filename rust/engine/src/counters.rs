//! What a pair has carried, added up from its halves when Python asks.

use std::sync::atomic::{AtomicU64, Ordering};

use openmoat_esp::drops::DropReason;

use crate::sizes::ladder::SizeAction;
use crate::sizes::probe::PathProbe;
use crate::tables::pair::{Outbound, Packed, Pair};

/// What a pair has carried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Which pair.
    pub handle: u32,
    /// Packets and octets that came out of it.
    pub inbound: (u64, u64),
    /// Packets and octets that went into it.
    pub outbound: (u64, u64),
    /// Highest sequence number authenticated.
    pub inbound_sequence: u64,
    /// Last sequence number sent.
    pub outbound_sequence: u64,
    /// By reason.
    pub drops: Vec<(DropReason, u64)>,
    /// What was done about sizes, and to how many inner packets.
    pub deeds: Vec<(SizeAction, u64)>,
    /// Inner packets that left whole beside others in one payload, that left in slices, and slices.
    pub outbound_packed: (u64, u64, u64),
    /// Inner packets that were put together from slices.
    pub inbound_assembled: u64,
    /// Packets as large as may be that the peer has said it got.
    pub outbound_proved: u64,
    /// AGGFRAG payloads in which the peer said something of the path.
    pub inbound_reports: u64,
    /// AGGFRAG payloads that a router has marked: congestion experienced.
    pub inbound_marks: u64,
}

impl Counters {
    /// Those of a pair, as they are now.
    pub fn of(pair: &Pair) -> Self {
        let outbound = pair.outbound.get();
        let assembly = pair.assembly.as_deref();
        Self {
            handle: pair.handle,
            inbound: assembly.map_or_else(
                || pair.inbound.carried(),
                |assembly| (read(&assembly.packets), read(&assembly.octets)),
            ),
            outbound: outbound.map_or((0, 0), Outbound::carried),
            outbound_packed: outbound.map_or((0, 0, 0), |outbound| packed(&outbound.packed)),
            outbound_proved: pair.probe().map_or(0, PathProbe::proved),
            inbound_assembled: assembly.map_or(0, |assembly| read(&assembly.assembled)),
            inbound_reports: assembly.map_or(0, |assembly| read(&assembly.reports)),
            inbound_marks: assembly.map_or(0, |assembly| read(&assembly.ce_marks)),
            inbound_sequence: pair.inbound.highest_sequence(),
            outbound_sequence: outbound.map_or(0, |outbound| outbound.sa.last_sequence()),
            drops: drops(pair),
            deeds: pair.size_counters.taken().collect(),
        }
    }
}

/// What both halves and the pair itself have dropped.
fn drops(pair: &Pair) -> Vec<(DropReason, u64)> {
    let outbound = pair.outbound.get().map(|outbound| outbound.sa.drops());
    let halves = [Some(pair.inbound.drops()), outbound, Some(&pair.drops)];
    let sum = |reason| {
        halves
            .iter()
            .flatten()
            .map(|drops| drops.read(reason))
            .sum()
    };
    DropReason::ALL
        .iter()
        .map(|&reason| (reason, sum(reason)))
        .filter(|&(_, packets)| packets > 0)
        .collect()
}

fn packed(packed: &Packed) -> (u64, u64, u64) {
    (
        read(&packed.packed),
        read(&packed.sliced),
        read(&packed.slices),
    )
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
