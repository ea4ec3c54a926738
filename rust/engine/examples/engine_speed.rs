//! Nanoseconds of a packet thread for each packet, over devices that cost only a copy: UDP of 64 and 1400 octets through
//! 1, 1 000 and 10 000 SAs, packet by packet in turns (the worst case for every cache) and in bursts of 64.
//!
//! `engine_speed` prints the table; `engine_speed SAS SIZE BURST PACKETS out|in` does just that, for callgrind: what a
//! packet takes is the difference of two runs by their difference in packets.

#[path = "../tests/devices/mod.rs"]
mod devices;

use devices::{Failure, SUITE, Work};
use openmoat_io::thread_time;

/// Rounds of the table, of which the fastest counts: other programs only ever slow one down.
const ROUNDS: usize = 5;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [sas, size, burst, packets, way] = words.as_slice() {
        let work = Work {
            sas: sas.parse()?,
            size: size.parse()?,
            burst: burst.parse()?,
            packets: packets.parse()?,
            warm_up: 0,
            meter: thread_time,
        };
        let (out, back) = work.run(way == "in")?;
        println!("out {out} ns, in {back} ns");
        return Ok(());
    }
    println!("suite {SUITE}, thread time per packet, fastest of {ROUNDS}");
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
        // Taken in turns, so that a busy moment of the machine falls on all of them.
        let works = [1, 1_000, 10_000].map(|sas| Work {
            sas,
            size,
            burst,
            packets,
            warm_up: 0,
            meter: thread_time,
        });
        let mut best = [(u64::MAX, u64::MAX); 3];
        for _ in 0..ROUNDS {
            for (work, best) in works.iter().zip(&mut best) {
                // Apart, as what records packets for the way in takes time of the way out.
                let (out, back) = (work.run(false)?.0, work.run(true)?.1);
                *best = (best.0.min(out), best.1.min(back));
            }
        }
        for (work, (out, back)) in works.iter().zip(best) {
            let each = |time: u64| time / packets as u64;
            let (out, back) = (each(out), each(back));
            println!("{size:>6} {burst:>6} {:>6} {out:>9} {back:>9}", work.sas);
        }
    }
    Ok(())
}
