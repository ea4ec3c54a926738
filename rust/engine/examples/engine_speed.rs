//! Nanoseconds of a packet thread for each packet, over devices that cost only a copy: UDP of 64 and 1400 octets through
//! 1, 1 000 and 10 000 SAs, packet by packet in turns (the worst case for every cache) and in bursts of 64; and one SA in
//! plain tunnel mode beside one with AGGFRAG, packets of every kind of size over an outer path of 1500 octets.
//!
//! `engine_speed` prints the tables; `engine_speed SAS SIZE BURST PACKETS out|in whole|aggfrag` does just that, for
//! callgrind: what a packet takes is the difference of two runs by their difference in packets.

#[path = "../tests/devices/mod.rs"]
mod devices;

use devices::{Failure, SUITE, Work};
use openmoat_engine::plan::{Framing, MtuPlan, OuterDf};
use openmoat_io::thread_time;

/// Rounds of a table, of which the fastest counts: other programs only ever slow one down.
const ROUNDS: usize = 5;

/// Nanoseconds of a packet on its way out, and on its way in.
type Cost = (u64, u64);

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [sas, size, burst, packets, way, framing] = words.as_slice() {
        let work = Work {
            sas: sas.parse()?,
            size: size.parse()?,
            burst: burst.parse()?,
            packets: packets.parse()?,
            plan: plan_of(framing),
            ..work()
        };
        let (out, back) = work.run(way == "in")?;
        println!("out {out} ns, in {back} ns");
        return Ok(());
    }
    println!("suite {SUITE}, thread time per packet, fastest of {ROUNDS}");
    by_sas()?;
    by_framing()
}

fn work() -> Work {
    Work {
        sas: 1,
        size: 1400,
        burst: 1,
        packets: 128_000,
        warm_up: 0,
        meter: thread_time,
        plan: plan_of("whole"),
    }
}

/// Sizes of an outer path of 1500 octets.
fn plan_of(framing: &str) -> MtuPlan {
    if framing == "whole" {
        // Whatever the path: each packet is sealed as it is.
        return MtuPlan {
            inner_room: usize::MAX,
            ..MtuPlan::default()
        };
    }
    MtuPlan {
        framing: Framing::Aggfrag,
        slices: true,
        inner_room: 1434,
        outer_df: OuterDf::Set,
        ..MtuPlan::default()
    }
}

fn by_sas() -> Result<(), Failure> {
    println!(
        "{:>6} {:>6} {:>6} {:>9} {:>9}",
        "octets", "burst", "SAs", "out ns", "in ns"
    );
    for (size, burst, packets) in [
        (64, 1, 640_000),
        (64, 64, 640_000),
        (1400, 1, 128_000),
        (1400, 64, 128_000),
    ] {
        let works = [1, 1_000, 10_000].map(|sas| Work {
            sas,
            size,
            burst,
            packets,
            ..work()
        });
        for (work, (out, back)) in works.iter().zip(fastest(&works)?) {
            println!("{size:>6} {burst:>6} {:>6} {out:>9} {back:>9}", work.sas);
        }
    }
    Ok(())
}

fn by_framing() -> Result<(), Failure> {
    println!(
        "{:>6} {:>9} {:>9} {:>9}",
        "octets", "framing", "out ns", "in ns"
    );
    for (size, packets) in [
        (64, 640_000),
        (1400, 128_000),
        (1500, 128_000),
        (9_000, 25_000),
        (65_000, 4_000),
    ] {
        let framings = ["whole", "aggfrag"];
        let works = framings.map(|framing| Work {
            size,
            packets,
            plan: plan_of(framing),
            ..work()
        });
        for (framing, (out, back)) in framings.iter().zip(fastest(&works)?) {
            println!("{size:>6} {framing:>9} {out:>9} {back:>9}");
        }
    }
    Ok(())
}

/// Each of them, taken in turns, so that a busy moment of the machine falls on all.
fn fastest<const COUNT: usize>(works: &[Work; COUNT]) -> Result<[Cost; COUNT], Failure> {
    let mut best = [(u64::MAX, u64::MAX); COUNT];
    for _ in 0..ROUNDS {
        for (work, best) in works.iter().zip(&mut best) {
            // Apart, as what records packets for the way in takes time of the way out.
            let (out, back) = (work.run(false)?.0, work.run(true)?.1);
            *best = (best.0.min(out), best.1.min(back));
        }
    }
    for (work, best) in works.iter().zip(&mut best) {
        let each = |time: u64| time / work.packets as u64;
        *best = (each(best.0), each(best.1));
    }
    Ok(best)
}
