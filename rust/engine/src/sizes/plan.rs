//! What Python decided about sizes on one outbound SA (`openmoat.mtu.plan`), as the packet threads execute it.

use std::net::IpAddr;

use openmoat_esp::mss::MssBounds;

use crate::sizes::ladder::Rung;

/// Don't Fragment of the outer IPv4 header (RFC 4301 8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OuterDf {
    /// Never.
    #[default]
    Clear,
    /// Always.
    Set,
    /// As the inner packet has it.
    Copy,
}

/// How inner packets lie in ESP payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// One in each: plain tunnel mode.
    #[default]
    Whole,
    /// Sliced and packed (RFC 9347).
    Aggfrag,
}

/// Sizes of one outbound SA, in octets of IP packets.
#[derive(Clone, Debug, PartialEq)]
pub struct MtuPlan {
    /// What was agreed with the peer.
    pub framing: Framing,
    /// With AGGFRAG: larger packets are sliced, whatever stands in `oversize`.
    pub slices: bool,
    /// Largest outer packet sent in one piece.
    pub outer_size: usize,
    /// Largest inner packet that travels in one outer packet of that size, or all that AGGFRAG packs into one.
    pub inner_room: usize,
    /// Upper bounds for the MSS option of TCP SYNs, both ways.
    pub mss: MssBounds,
    /// Don't Fragment outside.
    pub outer_df: OuterDf,
    /// What to try with a larger packet, in order.
    pub oversize: Vec<Rung>,
    /// Inner packets, or AGGFRAG payloads, with more octets than these are watched (see `suspicion`).
    pub watch_above: Option<usize>,
    /// With AGGFRAG: the peer sends marks back, and its own are sent back (see `echo`).
    pub echoes: bool,
    /// Bound on the ICMP errors of `Rung::Refuse`, per inner source.
    pub too_big_per_second: f64,
    /// Our addresses from which ICMP errors go into the SA; the first whose prefix holds the inner destination is used.
    pub icmp_sources: Vec<IcmpSource>,
}

impl Default for MtuPlan {
    fn default() -> Self {
        Self {
            framing: Framing::Whole,
            slices: false,
            outer_size: 1500,
            inner_room: 1422,
            mss: MssBounds::default(),
            outer_df: OuterDf::Clear,
            oversize: vec![Rung::FragmentOuter],
            watch_above: None,
            echoes: false,
            too_big_per_second: 10.0,
            icmp_sources: Vec::new(),
        }
    }
}

/// One of our addresses, for errors about packets to this prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpSource {
    /// First address of the prefix.
    pub first: IpAddr,
    /// Last address of the prefix.
    pub last: IpAddr,
    /// Ours.
    pub address: IpAddr,
}

impl MtuPlan {
    /// Whether a packet of so many octets shows if large ones arrive.
    pub fn watches(&self, length: usize) -> bool {
        self.watch_above.is_some_and(|least| length > least)
    }

    /// Whether the peer is asked if the largest packets arrive.
    pub fn asks(&self) -> bool {
        self.echoes && self.watch_above.is_some()
    }

    /// Our address in an ICMP error about a packet to `destination`.
    pub fn icmp_source(&self, destination: IpAddr) -> Option<IpAddr> {
        self.icmp_sources
            .iter()
            .find(|row| (row.first..=row.last).contains(&destination))
            .map(|row| row.address)
    }

    /// Whether an address that a packet of the SA goes to is ours, so that its hops need not reach further.
    pub fn is_own(&self, destination: IpAddr) -> bool {
        self.icmp_sources
            .iter()
            .any(|row| row.address == destination)
    }
}
