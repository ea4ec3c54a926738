//! Speed of sealing, opening and policy lookup on one core: Gbit/s of inner packets, and nanoseconds a packet.
//!
//! `esp_speed` prints the table; `esp_speed SUITE SIZE COUNT seal|open` does just that, for callgrind or perf.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openmoat_esp::meter::Limits;
use openmoat_esp::sa::{InboundSa, OutboundSa, SaConfig};
use openmoat_esp::selectors::{Selector, SelectorPair};
use openmoat_esp::spd::{Action, Missing, Policy, Spd};
use openmoat_esp::suite::{SUITES, Suite};
use openmoat_esp::wire::{self, Flow, IpPacket, Ports};

type Failure = Box<dyn std::error::Error>;

const TURN: Duration = Duration::from_millis(60);
const BATCH: usize = 64;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [suite, size, count, verb] = words.as_slice() {
        let suite = Suite::by_name(suite).ok_or("no such suite")?;
        let mut bench = Bench::new(suite, size.parse()?)?;
        let count: usize = count.parse()?;
        for _ in 0..count / BATCH {
            bench.seal()?;
            if verb == "open" {
                bench.open()?;
            }
        }
        return Ok(());
    }
    println!(
        "{:<18} {:>6} {:>16} {:>16} {:>9} {:>9}",
        "suite", "octets", "seal Gbit/s", "open Gbit/s", "seal ns", "open ns"
    );
    for suite in SUITES {
        for size in [64, 1400] {
            let (seal, open) = Bench::new(suite, size)?.run()?;
            let speed = |nanoseconds: f64| size as f64 * 8.0 / nanoseconds;
            println!(
                "{:<18} {size:>6} {:>16.2} {:>16.2} {seal:>9.0} {open:>9.0}",
                suite.name,
                speed(seal),
                speed(open)
            );
        }
    }
    memory()?;
    policies()
}

/// One SA in both directions, and a batch of packets.
struct Bench {
    outbound: OutboundSa,
    inbound: InboundSa,
    inner: Vec<u8>,
    packets: Vec<Vec<u8>>,
    headroom: usize,
}

impl Bench {
    fn new(suite: Suite, size: usize) -> Result<Self, Failure> {
        let (outbound, inbound) = Self::pair(suite)?;
        let mut inner = vec![0; size];
        inner[..12].copy_from_slice(&[
            0x45,
            0,
            (size >> 8) as u8,
            size as u8,
            0,
            0,
            0,
            0,
            64,
            17,
            0,
            0,
        ]);
        let packets = vec![vec![0; suite.sealed_size(size)]; BATCH];
        Ok(Self {
            outbound,
            inbound,
            inner,
            packets,
            headroom: suite.headroom(),
        })
    }

    fn pair(suite: Suite) -> Result<(OutboundSa, InboundSa), Failure> {
        let (key, integrity_key) = (
            vec![7; suite.key_material()],
            vec![9; suite.integrity_key()],
        );
        let any = Selector::new([0; 4].into(), [255; 4].into(), 0, 0, u16::MAX)?;
        let config = || SaConfig {
            spi: 0xc0ff_ee01,
            suite,
            has_esn: true,
            key: &key,
            integrity_key: &integrity_key,
            selectors: SelectorPair {
                local: [any].into(),
                remote: [any].into(),
            },
            limits: Limits::default(),
            last_sequence: 0,
        };
        Ok((
            OutboundSa::new(config(), true)?,
            InboundSa::new(config(), 1024)?,
        ))
    }

    fn seal(&mut self) -> Result<(), Failure> {
        for packet in &mut self.packets {
            packet[self.headroom..self.headroom + self.inner.len()].copy_from_slice(&self.inner);
            black_box(
                self.outbound
                    .seal(packet, self.inner.len())
                    .map_err(|reason| reason.name())?,
            );
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Failure> {
        for packet in &mut self.packets {
            black_box(
                self.inbound
                    .open(packet, 0)
                    .map_err(|reason| reason.name())?,
            );
        }
        Ok(())
    }

    /// Nanoseconds a packet, sealed and opened; the best of several turns.
    fn run(&mut self) -> Result<(f64, f64), Failure> {
        let (mut best_seal, mut best_open) = (f64::MAX, f64::MAX);
        let begin = Instant::now();
        while begin.elapsed() < TURN {
            let start = Instant::now();
            self.seal()?;
            let middle = Instant::now();
            self.open()?;
            best_seal = best_seal.min((middle - start).as_nanos() as f64 / BATCH as f64);
            best_open = best_open.min(middle.elapsed().as_nanos() as f64 / BATCH as f64);
        }
        Ok((best_seal, best_open))
    }
}

/// Octets of memory that one pair of SAs takes, keys and window and counters together.
fn memory() -> Result<(), Failure> {
    const PAIRS: usize = 2_000;
    let resident = || -> Result<usize, Failure> {
        let pages = std::fs::read_to_string("/proc/self/statm")?;
        Ok(pages
            .split_whitespace()
            .nth(1)
            .ok_or("statm")?
            .parse::<usize>()?
            * 4096)
    };
    println!("\n{:<18} {:>16}", "suite", "octets a pair");
    for suite in SUITES {
        let before = resident()?;
        let benches = (0..PAIRS)
            .map(|_| Bench::pair(suite))
            .collect::<Result<Vec<_>, _>>()?;
        println!(
            "{:<18} {:>16}",
            suite.name,
            (resident()? - before) / benches.len()
        );
        std::mem::forget(benches); // a freed pair would make the next one look smaller
    }
    Ok(())
}

/// Nanoseconds of one call, the best of several turns.
fn time(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 10_000;
    let mut best = f64::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
    best
}

/// A policy to the `number`th of many networks.
fn site(number: u32) -> Result<Arc<Policy>, Failure> {
    let (first, last) = ([10, 0, 0, 0].into(), [10, 255, 255, 255].into());
    let local = Selector::new(first, last, 0, 0, u16::MAX)?;
    let base = 0xac00_0000 + (number << 8);
    let (start, end) = (IpAddr::V4(base.into()), IpAddr::V4((base + 255).into()));
    let remote = Selector::new(start, end, 0, 0, u16::MAX)?;
    Ok(Arc::new(Policy {
        id: number + 1,
        rank: number * 16 + 16,
        action: Action::Protect,
        missing: Missing::Drop,
        selectors: SelectorPair {
            local: [local].into(),
            remote: [remote].into(),
        },
    }))
}

/// A flow to the `number`th of them.
fn flow(number: u32) -> Flow {
    Flow {
        source: [10, 1, 2, 3].into(),
        destination: IpAddr::V4((0xac00_0007 + (number << 8)).into()),
        protocol: 17,
        ports: Ports::Known(1, 2),
    }
}

/// A lookup among many policies, and what adding one to them costs.
fn policies() -> Result<(), Failure> {
    let packet = [
        &[0x45, 0, 0x05, 0x78, 0, 0, 0, 0, 64, 17, 0, 0][..],
        &[7; 1388],
    ]
    .concat();
    let parse = time(|| _ = black_box(IpPacket::parse(black_box(&packet))));
    let sum = time(|| _ = black_box(wire::checksum(0, black_box(&packet))));
    println!("\nparse a packet {parse:.0} ns, checksum of 1400 octets {sum:.0} ns");
    println!(
        "\n{:>8} {:>12} {:>12} {:>12}",
        "policies", "build ms", "add one us", "lookup ns"
    );
    for count in [1_u32, 100, 10_000, 50_000] {
        let all = (0..count).map(site).collect::<Result<Vec<_>, _>>()?;
        let start = Instant::now();
        let spd = Spd::build(all);
        let build = start.elapsed().as_secs_f64() * 1e3;
        let one = site(count)?;
        let start = Instant::now();
        black_box(spd.changed([one], []));
        let add = start.elapsed().as_secs_f64() * 1e6;
        let start = Instant::now();
        for number in 0..100_000_u32 {
            black_box(
                spd.outbound(black_box(&flow(number.wrapping_mul(2_654_435_761) % count)))
                    .ok_or("no policy")?,
            );
        }
        let lookup = start.elapsed().as_nanos() as f64 / 1e5;
        println!("{count:>8} {build:>12.2} {add:>12.1} {lookup:>12.1}");
    }
    Ok(())
}
