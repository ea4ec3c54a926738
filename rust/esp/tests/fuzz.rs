//! The invariants of the fuzz targets, held for seeded mutations of packets that mean something. `ROUNDS=10000000 cargo test
//! -p openmoat-esp --release --test fuzz` goes on for longer.

#[path = "../../fuzz/esp_input_invariant.rs"]
mod esp_input_invariant;
#[path = "../../fuzz/reassembly_invariant.rs"]
mod reassembly_invariant;

use openmoat_esp::aggfrag::{HEADER, Packer};

const ROUNDS: u64 = 20_000;

/// Trains of payloads take longer than single packets.
const TRAINS_OF_ROUNDS: u64 = 10;

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
    let (seeds, mut dice) = (seeds(), Dice(seed(1)));
    for _ in 0..rounds() {
        let mut octets = vec![dice.roll(32) as u8];
        octets.extend_from_slice(&seeds[dice.roll(seeds.len())]);
        for _ in 0..dice.roll(6) {
            break_one(&mut octets, &mut dice);
        }
        esp_input_invariant::hold(&octets);
    }
}

/// Where a test begins: its own number, moved by `SEED` (`make fuzz`).
fn seed(own: u64) -> u64 {
    let moved = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    own.wrapping_add(moved.unwrap_or(0))
}

fn rounds() -> u64 {
    std::env::var("ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS)
}

fn break_one(octets: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.roll(octets.len());
    match dice.roll(4) {
        0 => octets[at] = dice.roll(256) as u8,
        1 => octets[at] ^= 1 << dice.roll(8),
        2 => octets.truncate(at.max(1)),
        _ => octets.insert(at, dice.roll(256) as u8),
    }
}

#[test]
fn the_invariant_holds_for_trains_of_payloads_that_go_astray() {
    let (mut dice, mut delivered) = (Dice(seed(2)), 0);
    let trains = rounds() / TRAINS_OF_ROUNDS;
    for _ in 0..trains {
        let mut payloads = train(&mut dice);
        for _ in 0..dice.roll(4) {
            let at = dice.roll(payloads.len());
            break_one(&mut payloads[at], &mut dice);
        }
        delivered += reassembly_invariant::hold(&records(&payloads, &mut dice));
    }
    assert!(delivered as u64 > trains, "what is lawful is delivered");
}

/// Payloads of a lawful sender with packets of all kinds, now and then with all pad between them.
fn train(dice: &mut Dice) -> Vec<Vec<u8>> {
    let room = 64 + dice.roll(1_400);
    let Some(mut packer) = Packer::new(room) else {
        unreachable!("enough room")
    };
    let (mut payload, mut payloads) = (vec![0; HEADER + room], Vec::new());
    for _ in 0..1 + dice.roll(12) {
        let packet = inner(dice);
        let mut rest = &packet[..];
        while !rest.is_empty() {
            rest = &rest[packer.put(&mut payload, rest)..];
            if !rest.is_empty() {
                payloads.extend(
                    packer
                        .finish(&mut payload)
                        .map(|size| payload[..size].to_vec()),
                );
            }
            if dice.roll(40) == 0 {
                payloads.push(vec![0; HEADER + dice.roll(3)]);
            }
        }
    }
    payloads.extend(
        packer
            .finish(&mut payload)
            .map(|size| payload[..size].to_vec()),
    );
    payloads
}

fn inner(dice: &mut Dice) -> Vec<u8> {
    let size = [60, 200, 2_000, 9_000][dice.roll(4)];
    let mut packet: Vec<u8> = (0..40 + dice.roll(size))
        .map(|_| dice.roll(256) as u8)
        .collect();
    let length = packet.len() as u16;
    if dice.roll(2) == 0 {
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
    } else {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    }
    packet
}

/// As `reassembly_invariant` wants them: mostly in order, some lost, some late, now and then a silence.
fn records(payloads: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let late = [1, 1, 5, 100][dice.roll(4)];
    let mut order: Vec<(usize, usize)> = (0..payloads.len())
        .filter_map(|at| {
            let place = at + dice.roll(late);
            (dice.roll(50) > 0).then_some((place, at))
        })
        .collect();
    order.sort_unstable();
    let (mut octets, mut last) = (vec![dice.roll(256) as u8], 0_i64);
    for (_, at) in order {
        if dice.roll(200) == 0 {
            octets.extend_from_slice(&[0x80, 0, 0]);
        }
        let step = (at as i64 - last).clamp(-127, 127) as i8;
        last += i64::from(step);
        octets.push(step as u8);
        octets.extend_from_slice(&(payloads[at].len() as u16).to_be_bytes());
        octets.extend_from_slice(&payloads[at]);
    }
    octets
}
