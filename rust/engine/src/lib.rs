//! The packet engine: threads that carry packets between a TUN device and the outside, through SAs that Python installs.
//!
//! `outbound.rs` and `inbound.rs` are the two ways of a packet, stage by stage. `tables.rs` is what they look up,
//! `register.rs` how it gets there, `engine.rs` what Python calls. Nothing here opens a descriptor, negotiates or decides about sizes.
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate self as openmoat_engine; // `lab.rs` is also part of tests outside

#[cfg(test)]
mod aggfrag_tests;
mod answers;
mod arrangement;
mod bundle;
pub mod command;
mod counters;
mod divide;
mod echo;
mod echoes;
#[cfg(test)]
mod echoes_tests;
mod engine;
mod errands;
#[cfg(test)]
mod errands_tests;
pub mod events;
mod flows;
mod fragment;
mod hold;
mod icmp;
mod ike;
mod ike_send;
mod inbound;
mod intake;
mod join;
mod keepalive;
#[cfg(test)]
mod lab;
pub mod ladder;
#[cfg(test)]
mod ladder_tests;
mod offloads;
#[cfg(test)]
mod oracle;
mod outbound;
mod packing;
#[cfg(test)]
mod peer_tests;
mod pieces;
pub mod plan;
mod press;
mod refusals;
mod register;
#[cfg(test)]
mod samples;
mod segment;
mod shared;
mod spis;
mod suspicion;
mod tables;
#[cfg(test)]
mod train_tests;
mod turnstile;
mod unpacking;
mod workers;

pub use counters::Counters;
pub use engine::Engine;
pub use ike::IkeDatagram;
pub use ike_send::IkeOutgoing;
pub use register::EngineError;
pub use shared::Config;
