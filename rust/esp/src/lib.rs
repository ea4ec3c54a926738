//! ESP (RFC 4303) as pure functions over octets: no I/O, no clock, no threads, no randomness.
//!
//! The way of an outbound packet: `IpPacket::parse` → `Spd::outbound` → `mss::clamp` → `OutboundSa::seal`. Inbound:
//! `InboundSa::open`, which does everything from the SPI to the selector check. Neither allocates, locks or logs.
//! With AGGFRAG: `aggfrag::Packer` → `OutboundSa::seal_payload`, and back `InboundSa::open_payload` →
//! `reassembly::Reassembler` → `InboundSa::admit`.
//! TTL and hop limit are left alone: the host's own forwarding to and from the TUN device counts them down
//! (RFC 4301 5.1.2.1 asks for one decrement per forwarding step, and that is where the step is).
#![forbid(unsafe_code)]

pub mod aggfrag;
mod counted;
pub mod drops;
pub mod ecn;
pub mod icmp_error;
pub mod meter;
pub mod mss;
pub mod reassembly;
pub mod replay;
pub mod sa;
pub mod selectors;
mod slots;
pub mod spd;
pub mod suite;
pub mod wire;
