//! What a pair has carried, put together from its halves when Python asks.

use std::ops::Index;

use openmoat_esp::drops::DropReason;

use crate::sizes::ladder::SizeAction;
use crate::sizes::probe::PathProbe;
use crate::tables::pair::Pair;
use crate::tables::sa_counters::SaCounter;

/// What a pair has carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Which pair.
    pub handle: u32,
    /// In the order of `SaCounter::ALL`.
    pub values: [u64; SaCounter::ALL.len()],
    /// By reason.
    pub drops: Vec<(DropReason, u64)>,
    /// What was done about sizes, and to how many inner packets.
    pub deeds: Vec<(SizeAction, u64)>,
}

impl Index<SaCounter> for Counters {
    type Output = u64;

    fn index(&self, row: SaCounter) -> &u64 {
        &self.values[row as usize]
    }
}

impl Counters {
    /// Those of a pair, as they are now.
    pub fn of(pair: &Pair) -> Self {
        let mut values = [0; SaCounter::ALL.len()];
        for &row in SaCounter::ALL {
            values[row as usize] = read(pair, row);
        }
        Self {
            handle: pair.handle,
            values,
            drops: drops(pair),
            deeds: pair.size_counters.happened().collect(),
        }
    }
}

/// Without AGGFRAG inner packets are what the SA itself has carried; sequence numbers are its own.
fn read(pair: &Pair, row: SaCounter) -> u64 {
    let (assembly, outbound) = (pair.assembly.as_deref(), pair.outbound.get());
    match row {
        SaCounter::InboundPackets if assembly.is_none() => pair.inbound.carried().0,
        SaCounter::InboundOctets if assembly.is_none() => pair.inbound.carried().1,
        SaCounter::InboundSequence => pair.inbound.highest_sequence(),
        SaCounter::OutboundSequence => outbound.map_or(0, |outbound| outbound.sa.last_sequence()),
        SaCounter::OutboundProved => pair.probe().map_or(0, PathProbe::proved),
        SaCounter::OutboundPackets | SaCounter::OutboundOctets => {
            outbound.map_or(0, |outbound| outbound.carried(row))
        }
        _ => {
            let inbound = assembly.map_or(0, |assembly| assembly.counters.read(row));
            inbound + outbound.map_or(0, |outbound| outbound.counters.read(row))
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
