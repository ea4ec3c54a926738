//! Invariant: see `esp_input_invariant.rs`, which `cargo test` runs with seeded octets, too.
#![no_main]

#[path = "../esp_input_invariant.rs"]
mod esp_input_invariant;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| esp_input_invariant::hold(octets));
