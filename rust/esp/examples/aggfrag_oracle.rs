//! Packs and reassembles by lines, so that another implementation can judge this one (RFC 9347).
//!
//! In: `pack ROOM PACKET...` packs what waits together, `ask EVERY ROOM PACKET...` too, and marks every so manieth payload
//! that a packet will fill, with pad that is marked behind it; `new OCTETS` begins an SA with nothing held and a budget of so
//! many; `accept SEQUENCE PAYLOAD...` gives it payloads with their numbers, up to `TOGETHER` in one batch; `expire
//! SECONDS` lets so long pass in silence. Octets are hexadecimal, `-` for none. Out: `ok PAYLOAD...`, `ok HELD PACKET...`, or
//! `error TEXT`; HELD are octets of buffers.

use std::io::{BufRead, Write};
use std::sync::Arc;

use openmoat_esp::aggfrag::{CONGESTION_HEADER, Congestion, HEADER, Packer};
use openmoat_esp::drops::DropCounters;
use openmoat_esp::reassembly::{AssemblyBuffer, Budget, Delivery, Reassembler};

type Failure = Box<dyn std::error::Error>;

/// Payloads of a batch for which there is room, whatever they complete.
const TOGETHER: usize = 8;

/// One inbound SA, as far as reassembly goes.
struct Sa {
    reassembler: Reassembler,
    drops: DropCounters,
    bench: Vec<u8>,
    now: u64,
}

impl Sa {
    fn new(octets: usize) -> Self {
        Self {
            reassembler: Reassembler::new(Arc::new(Budget::new(octets))),
            drops: DropCounters::default(),
            bench: vec![0; TOGETHER * AssemblyBuffer::NEEDED],
            now: 0,
        }
    }

    fn accept(&mut self, words: &[&str]) -> Result<Vec<Vec<u8>>, Failure> {
        let (mut delivered, mut source, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for pair in words.chunks(2) {
            let start = source.len();
            source.extend(octets(pair.get(1).ok_or("no payload")?)?);
            places.push((pair[0].parse()?, start..source.len()));
        }
        let bench = AssemblyBuffer::new(&mut self.bench, usize::MAX);
        let mut batch = self.reassembler.begin(&mut source, &self.drops, bench);
        for (sequence, place) in places {
            // Why something was dropped is for other tests: here it counts what is delivered.
            let _ = batch.accept((sequence, self.now), place, |packet| delivered.push(packet));
        }
        batch.finish();
        let octets = |delivery| match delivery {
            Delivery::Whole(range) | Delivery::Joined(range) => source[range].to_vec(),
            Delivery::Assembled(range) => self.bench[range].to_vec(),
        };
        Ok(delivered.into_iter().map(octets).collect())
    }

    fn state(&self, packets: &[Vec<u8>]) -> String {
        let held = self.reassembler.held().to_string();
        [held]
            .into_iter()
            .chain(packets.iter().map(|packet| hex(packet)))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

fn main() -> Result<(), Failure> {
    let (mut sa, mut out) = (Sa::new(0), std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        match answer(&mut sa, &line?) {
            Ok(answer) => writeln!(out, "ok {answer}")?,
            Err(error) => writeln!(out, "error {error}")?,
        }
        out.flush()?;
    }
    Ok(())
}

fn answer(sa: &mut Sa, line: &str) -> Result<String, Failure> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match *words.as_slice() {
        ["pack", room, ref packets @ ..] => pack(usize::MAX, room.parse()?, packets),
        ["ask", every, room, ref packets @ ..] => pack(every.parse()?, room.parse()?, packets),
        ["new", limit] => {
            *sa = Sa::new(limit.parse()?);
            Ok(sa.state(&[]))
        }
        ["accept", ref words @ ..] => {
            let packets = sa.accept(words)?;
            Ok(sa.state(&packets))
        }
        ["expire", seconds] => {
            sa.now += seconds.parse::<u64>()? * 1_000_000_000;
            sa.reassembler.expire(sa.now, &sa.drops);
            Ok(sa.state(&[]))
        }
        _ => Err(format!("no such command: {line:.40}").into()),
    }
}

fn pack(every: usize, room: usize, packets: &[&str]) -> Result<String, Failure> {
    let mut packer = Packer::new(room).ok_or("not enough room")?;
    let (mut payload, mut payloads) = (vec![0xee; HEADER + room], Vec::new());
    let (mut full, mut value) = (0_usize, 0);
    for packet in packets {
        let packet = octets(packet)?;
        let mut rest = &packet[..];
        while !rest.is_empty() {
            full += usize::from(packer.would_fill(rest.len()));
            let is_asked = packer.would_fill(rest.len()) && full.is_multiple_of(every);
            if is_asked {
                packer.say(ask(&mut value, false));
            }
            rest = &rest[packer.put(&mut payload, rest)..];
            if !rest.is_empty() {
                let size = packer.finish(&mut payload).ok_or("an empty payload")?;
                payloads.push(hex(&payload[..size]));
            }
            if is_asked {
                let mut pad = vec![0xee; CONGESTION_HEADER + 2];
                let size = pad.len();
                ask(&mut value, true).write_pad(&mut pad, size);
                payloads.push(hex(&pad));
            }
        }
    }
    let last = packer.finish(&mut payload);
    payloads.extend(last.map(|size| hex(&payload[..size])));
    Ok(payloads.join(" "))
}

fn ask(value: &mut u32, is_probing: bool) -> Congestion {
    *value += 1;
    Congestion {
        value: *value,
        is_probing,
        ..Congestion::default()
    }
}

fn octets(text: &str) -> Result<Vec<u8>, Failure> {
    let text = text.trim_start_matches('-');
    let pair = |at| text.get(at..at + 2).ok_or("an odd number of digits");
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(pair(at)?, 16)?))
        .collect()
}

fn hex(octets: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    octets
        .iter()
        .flat_map(|octet| [digit(octet >> 4), digit(octet & 15)])
        .collect()
}
