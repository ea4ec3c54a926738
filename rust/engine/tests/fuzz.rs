//! The fuzz target's invariant, held for seeded mutations of packets that mean something. `ROUNDS=10000000 cargo test
//! -p openmoat-engine --release --test fuzz` goes on for longer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use openmoat_esp::aggfrag::Packer;

#[path = "../../fuzz/engine_input_invariant.rs"]
mod engine_input_invariant;
#[allow(dead_code, missing_docs, reason = "made for more than this")]
#[path = "../src/lab.rs"]
mod lab;
#[allow(dead_code, reason = "made for more than this")]
#[path = "../src/oracle.rs"]
mod oracle;

const ROUNDS: u64 = 6_000;

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

/// TCP or UDP of either family from `net` to the other, the `number`th of its flow.
fn packet(is_v6: bool, is_udp: bool, net: u8, number: usize, size: usize) -> Vec<u8> {
    let next = if is_udp { 17 } else { 6 };
    let mut packet = if is_v6 {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        for end in [net, 3 - net] {
            header.extend([0xfd, end, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        }
        header
    } else {
        let mut header = vec![0x45, 0, 0, 0, 1, number as u8, 0x40, 0, 64, next, 0, 0];
        for end in [net, 3 - net] {
            header.extend([10, end, 0, 1]);
        }
        header
    };
    packet.extend([3, 0xe8, 7, 0xd0]);
    if is_udp {
        packet.extend([0; 4]);
    } else {
        packet.extend(((number * size) as u32).to_be_bytes());
        packet.extend([0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    }
    packet.extend((0..size).map(|n| n as u8));
    oracle::finish(&mut packet);
    packet
}

/// What the host hands over: a super-packet with its header.
fn from_the_host(dice: &mut Dice) -> Vec<u8> {
    let (is_v6, is_udp) = (dice.roll(2) == 1, dice.roll(2) == 1);
    let size = dice.roll(3_000);
    let packet = packet(is_v6, is_udp, 1, 0, size);
    let kind = match (is_udp, is_v6) {
        (true, _) => 5,
        (false, true) => 4,
        (false, false) => 1,
    };
    let start: u16 = if is_v6 { 40 } else { 20 };
    let offset: u16 = if is_udp { 6 } else { 16 };
    let mut octets = vec![0, 1, if dice.roll(4) == 0 { 0 } else { kind }];
    octets.extend((start + 20).to_ne_bytes());
    octets.extend([0_u16, 1, 9, 1_000, 65_535][dice.roll(5)].to_ne_bytes());
    octets.extend([start, 0, 65_535][dice.roll(6).saturating_sub(3)].to_ne_bytes());
    octets.extend([offset, 0, 65_535][dice.roll(6).saturating_sub(3)].to_ne_bytes());
    octets.extend(packet);
    octets
}

/// A train of flows that are to be joined.
fn from_the_peer(dice: &mut Dice) -> Vec<u8> {
    let mut octets = vec![2];
    let (count, size) = (1 + dice.roll(30), 1 + dice.roll(300));
    let flow = dice.roll(8);
    for number in 0..count {
        let (is_v6, is_udp) = (
            flow & 1 == 1,
            (flow & 2 == 2) ^ (flow & 4 == 4 && number % 3 == 0),
        );
        let inner = packet(is_v6, is_udp, 2, number, size);
        octets.extend((inner.len() as u16).to_be_bytes());
        octets.extend(inner);
    }
    octets
}

/// Payloads as a peer packs them, and now and then as none would.
fn from_the_packer(dice: &mut Dice) -> Vec<u8> {
    let mut packer = Packer::new(64 + dice.roll(600)).unwrap();
    let (mut payload, mut octets) = (vec![0; 1_000], vec![3]);
    let close = |packer: &mut Packer, payload: &mut [u8], octets: &mut Vec<u8>, delay: usize| {
        if let Some(size) = packer.finish(payload) {
            octets.push(delay as u8);
            octets.extend((size as u16).to_be_bytes());
            octets.extend(&payload[..size]);
        }
    };
    for number in 0..1 + dice.roll(12) {
        let (is_v6, is_udp, size) = (dice.roll(2) == 1, dice.roll(2) == 1, dice.roll(900));
        let inner = packet(is_v6, is_udp, 2, number, size);
        let mut rest = &inner[..];
        loop {
            rest = &rest[packer.put(&mut payload, rest)..];
            if rest.is_empty() {
                break;
            }
            let delay = dice.roll(8) * dice.roll(2);
            close(&mut packer, &mut payload, &mut octets, delay);
        }
    }
    close(&mut packer, &mut payload, &mut octets, 0);
    octets
}

fn from_a_stranger(dice: &mut Dice) -> Vec<u8> {
    let length = dice.roll(200);
    let mut octets = vec![1, dice.roll(256) as u8];
    octets.extend((0..length).map(|_| if dice.roll(3) == 0 { 0 } else { 255 }));
    octets
}

#[test]
fn the_invariant_holds_for_mutations_of_packets_that_mean_something() {
    let rounds = std::env::var("ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse::<u64>().ok());
    let mut dice = Dice(1 + seed.unwrap_or(0));
    for _ in 0..rounds {
        let mut octets = match dice.roll(4) {
            0 => from_the_host(&mut dice),
            1 => from_a_stranger(&mut dice),
            2 => from_the_peer(&mut dice),
            _ => from_the_packer(&mut dice),
        };
        for _ in 0..dice.roll(5) {
            let at = 1 + dice.roll(octets.len() - 1);
            match dice.roll(4) {
                0 => octets[at] = dice.roll(256) as u8,
                1 => octets[at] ^= 1 << dice.roll(8),
                2 if dice.roll(4) == 0 => octets.truncate(at.max(2)),
                2 => octets[at] = 0,
                _ => octets.insert(at, dice.roll(256) as u8),
            }
        }
        engine_input_invariant::hold(&octets);
    }
}
