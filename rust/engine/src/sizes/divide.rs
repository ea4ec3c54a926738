//! What becomes of an inner packet before it is encrypted: the pair's `MtuPlan` carried out.

use std::net::IpAddr;

use openmoat_esp::drops::DropReason;
use openmoat_esp::mss::{self, Checksum};
use openmoat_esp::wire::IpPacket;

use crate::sizes::fragment::{Fragmentation, Identifications};
use crate::sizes::inner_packet::{InnerPacket, Pieces};
use crate::sizes::ladder::{IdentifierGuard, Rung, SizeAction, SizeCounters};
use crate::sizes::plan::MtuPlan;
use crate::sizes::segment::{Cut, complete_checksum};

/// What every link of IPv6 carries (RFC 8200 5).
pub const MIN_MTU_V6: usize = 1280;

/// How a packet leaves.
pub struct Division {
    /// What of it.
    pub pieces: Pieces,
    /// What was done because it does not fit, and to how many packets.
    pub action: Option<(Rung, usize)>,
}

impl Division {
    /// Whether outer packets may be fragmented against `outer_df`.
    pub fn may_fragment(&self) -> bool {
        matches!(
            self.action,
            Some((Rung::FragmentOuter | Rung::MinimumOuter, _))
        )
    }
}

/// What bounds the rungs, and counts what they would not do.
pub struct DivisionBounds<'a> {
    /// Counts what was done.
    pub counters: &'a SizeCounters,
    /// For packets fragmented before ESP.
    pub identifications: &'a Identifications,
    /// Bounds outer fragments (RFC 4963).
    pub guard: &'a IdentifierGuard,
    /// Whom outer fragments would go to.
    pub peer: IpAddr,
    /// The engine's clock.
    pub now: u64,
}

/// How the plan lets a packet through.
///
/// A super-packet is cut at its own size, never smaller: its sender knows what its path carries.
pub fn divide(
    plan: &MtuPlan,
    inner: &InnerPacket<'_>,
    bounds: &DivisionBounds<'_>,
) -> Result<Division, DropReason> {
    let packet = &inner.packet;
    let cut = Cut::of(&inner.vnet, packet, inner.octets)?;
    let largest = cut.as_ref().map_or(packet.length, Cut::largest);
    if plan.slices || largest <= plan.inner_room {
        let pieces = cut.map_or(Pieces::Whole(packet.length), Pieces::Segments);
        return Ok(Division {
            pieces,
            action: None,
        });
    }
    descend(plan, packet, cut, bounds).ok_or(DropReason::TooBig)
}

/// The first rung of the ladder that does something with a packet that does not fit.
fn descend(
    plan: &MtuPlan,
    packet: &IpPacket,
    cut: Option<Cut>,
    bounds: &DivisionBounds<'_>,
) -> Option<Division> {
    let largest = cut.as_ref().map_or(packet.length, Cut::largest);
    let packets = cut.as_ref().map_or(1, Cut::count);
    let uncut = || cut.map_or(Pieces::Whole(packet.length), Pieces::Segments);
    let fragmented = |fragments| match cut {
        Some(cut) => Pieces::SegmentFragments(cut, fragments),
        None => Pieces::Fragments(fragments),
    };
    for &rung in &plan.oversize {
        let pieces = match rung {
            Rung::FragmentInner => Fragmentation::of(packet, plan.inner_room).map(fragmented),
            Rung::MinimumOuter => {
                (packet.flow.source.is_ipv6() && largest <= MIN_MTU_V6).then(uncut)
            }
            Rung::FragmentOuter if bounds.guard.permits(bounds.peer, packets, bounds.now) => {
                Some(uncut())
            }
            Rung::FragmentOuter => {
                bounds
                    .counters
                    .count_many(SizeAction::Guard, packets as u64);
                None
            }
            Rung::FragmentAnyway => {
                Fragmentation::in_spite_of_df(packet, plan.inner_room).map(|fragments| {
                    fragmented(fragments.identified(bounds.identifications.take(packets)))
                })
            }
            Rung::Refuse => return None,
        };
        if let Some(pieces) = pieces {
            let action = Some((rung, packets));
            return Some(Division { pieces, action });
        }
    }
    None
}

/// Clamp the MSS of a SYN, and complete the checksum that the host left to us, where its header fits.
pub fn complete(
    inner: &mut InnerPacket<'_>,
    counters: &SizeCounters,
    plan: &MtuPlan,
    pieces: &Pieces,
) -> Result<(), DropReason> {
    let checksum = if inner.vnet.needs_checksum {
        Checksum::Partial
    } else {
        Checksum::Whole
    };
    if mss::clamp(inner.octets, &inner.packet, plan.mss, checksum).is_some() {
        counters.count(SizeAction::Clamp);
    }
    // Segments get checksums of their own.
    let is_complete = matches!(pieces, Pieces::Segments(_) | Pieces::SegmentFragments(..))
        || complete_checksum(&inner.vnet, &inner.packet, inner.octets);
    is_complete.then_some(()).ok_or(DropReason::MalformedInner)
}
