//! What Python tells the engine (`openmoat.dataplane.backend`), as plain data.

use openmoat_esp::icmp_error::IcmpCheck;
use openmoat_esp::meter::Limits;
use openmoat_esp::selectors::SelectorPair;
use openmoat_esp::spd::Policy;
use openmoat_esp::suite::Suite;
use openmoat_io::Path;

use crate::sizes::plan::{Framing, MtuPlan};

/// Keys of one direction; wiped when they are dropped.
pub struct Keys {
    /// Row of the table of suites.
    pub suite: Suite,
    /// Whether sequence numbers have 64 bits.
    pub has_esn: bool,
    /// Key and salt in KEYMAT order.
    pub key: zeroize::Zeroizing<Vec<u8>>,
    /// Empty with an AEAD.
    pub integrity_key: zeroize::Zeroizing<Vec<u8>>,
}

/// A time that does not come.
pub const NEVER: u64 = u64::MAX;

/// Where ESP packets go and how they are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carriage {
    /// Both ends; ports count only in UDP.
    pub path: Path,
    /// In UDP (RFC 3948), or as IP protocol 50.
    pub is_udp: bool,
}

/// The inbound half of a pair.
pub struct AddInbound {
    /// Reserved SPI: the handle of the pair.
    pub spi: u32,
    /// What protects it.
    pub keys: Keys,
    /// Whence it is expected.
    pub carriage: Carriage,
    /// What may come out.
    pub selectors: SelectorPair,
    /// Packets.
    pub replay_window: u32,
    /// When it asks and stops.
    pub limits: Limits,
    /// How the peer lays inner packets into payloads.
    pub framing: Framing,
    /// How ICMP errors are looked at.
    pub icmp_check: IcmpCheck,
}

/// The outbound half of a pair.
pub struct AddOutbound {
    /// Inbound SPI of the pair.
    pub handle: u32,
    /// The peer's SPI.
    pub spi: u32,
    /// What protects it.
    pub keys: Keys,
    /// Where to.
    pub carriage: Carriage,
    /// What may go in.
    pub selectors: SelectorPair,
    /// Whose packets it carries.
    pub policy: u32,
    /// Sizes.
    pub plan: MtuPlan,
    /// When it asks and stops.
    pub limits: Limits,
    /// Whether the outer DSCP is the inner one.
    pub copies_dscp: bool,
    /// Nanoseconds of silence after which a keep-alive is sent; 0: never.
    pub keepalive: u64,
    /// Nanoseconds of the engine's clock from which on nothing is sent any more; [`NEVER`].
    pub hard_at: u64,
}

/// Changes of a live pair; None leaves a field as it is.
#[derive(Default)]
pub struct Update {
    /// Which pair.
    pub handle: u32,
    /// Other ends.
    pub path: Option<Path>,
    /// Another way of carriage.
    pub is_udp: Option<bool>,
    /// Other sizes.
    pub plan: Option<MtuPlan>,
    /// Other limits.
    pub limits: Option<Limits>,
    /// Nanoseconds.
    pub keepalive: Option<u64>,
    /// Another end of the hard lifetime.
    pub hard_at: Option<u64>,
}

/// One command of a batch.
pub enum Command {
    /// See `AddInbound`.
    AddInbound(Box<AddInbound>),
    /// See `AddOutbound`.
    AddOutbound(Box<AddOutbound>),
    /// Send with this pair.
    Activate(u32),
    /// See `Update`.
    Update(Box<Update>),
    /// Take the pair out and answer with its final counters.
    Remove(u32),
    /// Add a policy, or replace the one with its id.
    PutPolicy(Box<Policy>),
    /// Take a policy away.
    RemovePolicy(u32),
}
