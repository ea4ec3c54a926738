//! The packet engine: threads that carry packets between a TUN device and the outside, through SAs that Python installs.
//!
//! `outbound.rs` and `inbound.rs` are the two directions of a packet, stage by stage. `tables.rs` is what they look up,
//! `installer.rs` how it gets there, `engine.rs` what Python calls. `parts.rs` puts the stages together, `workers.rs` runs
//! them in threads and `stepper.rs` without. Nothing here opens a descriptor, negotiates or decides about sizes.
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate self as openmoat_engine; // `lab.rs` is also part of tests outside

#[cfg(test)]
mod aggfrag_tests;
pub mod command;
mod config;
mod counters;
mod doorbell;
mod engine;
mod error;
pub mod events;
mod icmp;
#[cfg(test)]
mod icmp_errors_tests;
mod inbound;
mod installer;
mod intake;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod ladder_tests;
mod lock;
mod offloads;
#[cfg(test)]
mod oracle;
mod outbound;
mod outbox;
mod outer_sockets;
mod parts;
#[cfg(test)]
mod peer_tests;
#[cfg(test)]
mod probes_tests;
#[cfg(test)]
mod samples;
mod sizes;
#[cfg(test)]
mod stage_tests;
mod stepper;
mod tables;
#[cfg(test)]
mod train_tests;
mod workers;

pub use config::Config;
pub use counters::Counters;
pub use engine::Engine;
pub use error::EngineError;
pub use inbound::ike_queues::IkeDatagram;
pub use outbound::ike::IkeOutgoing;
pub use sizes::{ladder, plan};
pub use stepper::Stepper;
pub use tables::sa_counters::SaCounter;
