//! The fuzz target's invariant, held for seeded mutations of packets that mean something. `ROUNDS=10000000 cargo test
//! -p openmoat-esp --release --test fuzz` goes on for longer.

#[path = "../../fuzz/esp_input_invariant.rs"]
mod esp_input_invariant;

const ROUNDS: u64 = 20_000;

/// SplitMix64: enough to choose what to break.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let syn = [
        0xc0, 0, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 0x70, 2, 255, 255, 0, 0, 0, 0, 2, 4, 5, 0xb4, 1,
        3, 3, 7,
    ];
    let v4 = [
        &[
            0x45, 0, 0, 48, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 9, 0, 2,
        ][..],
        &syn,
        &[1, 2, 2, 4],
    ]
    .concat();
    let mut v6 = vec![0x60, 0, 0, 0, 0, 36, 0, 64];
    v6.extend_from_slice(&[0x20, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(2));
    v6.extend_from_slice(&[&[6, 0, 1, 4, 0, 0, 0, 0][..], &syn, &[1, 2, 2, 41]].concat());
    let fragment = [
        &v6[..6],
        &[44, 64],
        &v6[8..40],
        &[17, 0, 0, 8, 0, 0, 0, 1],
        &[7; 28],
        &[1, 2, 2, 41],
    ]
    .concat();
    // Of a size that fits a block cipher, with padding for traffic flow confidentiality.
    let padded = [&v4[..48], &[0; 12], &[1, 2, 2, 4]].concat();
    let dummy = [&[0; 30][..], &[0, 59]].concat();
    vec![v4, padded, v6, fragment, dummy, vec![0, 4], vec![]]
}

#[test]
fn the_invariant_holds_for_mutations_of_packets_that_mean_something() {
    let rounds = std::env::var("ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS);
    let (seeds, mut dice) = (seeds(), Dice(1));
    for _ in 0..rounds {
        let mut octets = vec![dice.roll(32) as u8];
        octets.extend_from_slice(&seeds[dice.roll(seeds.len())]);
        for _ in 0..dice.roll(6) {
            let at = dice.roll(octets.len());
            match dice.roll(4) {
                0 => octets[at] = dice.roll(256) as u8,
                1 => octets[at] ^= 1 << dice.roll(8),
                2 => octets.truncate(at.max(1)),
                _ => octets.insert(at, dice.roll(256) as u8),
            }
        }
        esp_input_invariant::hold(&octets);
    }
}
