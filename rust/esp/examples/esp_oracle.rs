//! Seals and opens by lines, so that another implementation can judge this one. Keys stand on the line: for tests only.
//!
//! In: `seal|open SUITE esn|short SPI SEQUENCE KEY INTEGRITY-KEY PACKET`; SPI and SEQUENCE are decimal, keys and packets
//! hexadecimal, `-` where empty. To seal, PACKET is the inner one; to open, the ESP packet, and SEQUENCE is the highest
//! number seen before it. Out: `ok PACKET`, `drop REASON`, or `error TEXT`.

use std::io::{BufRead, Write};

use openmoat_esp::meter::Limits;
use openmoat_esp::sa::{InboundSa, OutboundSa, SaConfig};
use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_esp::suite::Suite;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = answer(&line?).unwrap_or_else(|error| format!("error {error}"));
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn answer(line: &str) -> Result<String, Failure> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[verb, suite, esn, spi, sequence, key, integrity_key, packet] = words.as_slice() else {
        return Err(format!("8 words, got {}", words.len()).into());
    };
    let (key, integrity_key) = (octets(key)?, octets(integrity_key)?);
    let sequence: u64 = sequence.parse()?;
    let config = SaConfig {
        spi: spi.parse()?,
        suite: Suite::by_name(suite).ok_or_else(|| format!("no suite {suite:?}"))?,
        has_esn: esn == "esn",
        key: &key,
        integrity_key: &integrity_key,
        selectors: everything()?,
        limits: Limits::default(),
        last_sequence: if verb == "seal" {
            sequence.saturating_sub(1)
        } else {
            sequence
        },
    };
    if verb == "seal" {
        seal(config, &octets(packet)?)
    } else {
        open(config, octets(packet)?)
    }
}

fn seal(config: SaConfig<'_>, inner: &[u8]) -> Result<String, Failure> {
    let sa = OutboundSa::new(config, true)?;
    let (headroom, size) = (sa.suite().headroom(), sa.suite().sealed_size(inner.len()));
    let mut buffer = vec![0xee; size];
    buffer[headroom..headroom + inner.len()].copy_from_slice(inner);
    Ok(match sa.seal(&mut buffer, inner.len()) {
        Ok(sealed) => format!("ok {}", hex(&buffer[..sealed.size])),
        Err(reason) => format!("drop {}", reason.name()),
    })
}

fn open(config: SaConfig<'_>, mut packet: Vec<u8>) -> Result<String, Failure> {
    let sa = InboundSa::new(config, 1024)?;
    let inner = sa.open(&mut packet, 0).and_then(|opened| opened.inner);
    Ok(match inner {
        Ok(inner) => format!("ok {}", hex(&packet[inner.range])),
        Err(reason) => format!("drop {}", reason.name()),
    })
}

fn everything() -> Result<SelectorPair, Failure> {
    let v4 = Selector::new([0; 4].into(), [255; 4].into(), 0, 0, u16::MAX)?;
    let v6 = Selector::new([0; 16].into(), [255; 16].into(), 0, 0, u16::MAX)?;
    Ok(SelectorPair {
        local: [v4, v6].into(),
        remote: [v4, v6].into(),
    })
}

fn octets(text: &str) -> Result<Vec<u8>, Failure> {
    if text == "-" {
        return Ok(Vec::new());
    }
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err("an even number of hexadecimal digits, got an odd one".into());
    }
    pairs
        .iter()
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect()
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
