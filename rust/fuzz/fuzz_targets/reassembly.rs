//! Invariant: see `reassembly_invariant.rs`, which `cargo test` runs with seeded octets, too.
#![no_main]

#[path = "../reassembly_invariant.rs"]
mod reassembly_invariant;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    reassembly_invariant::hold(octets);
});
