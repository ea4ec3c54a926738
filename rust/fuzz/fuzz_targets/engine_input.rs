//! Invariant: see `engine_input_invariant.rs`, which `cargo test` runs with seeded octets, too.
#![no_main]

#[path = "../engine_input_invariant.rs"]
mod engine_input_invariant;
#[allow(dead_code)]
#[path = "../../engine/src/lab.rs"]
mod lab;
#[allow(dead_code)]
#[path = "../../engine/src/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| engine_input_invariant::hold(octets));
