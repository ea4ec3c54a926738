//! The packet threads: as many outbound and inbound ones as the TUN device has queues, each running every batch to its end.
//!
//! Inbound worker n receives from the n-th replica of each socket and writes to queue n. Who reads that queue changes with
//! the load, see `intake`. Rounds are bounded, so that what waits elsewhere is never far from its turn: [`MAX_BATCHES`] of
//! a queue, or one where sockets wait beside it, and one batch of a socket.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use openmoat_io::{DeviceError, OuterSocket, Readiness, boottime};

use crate::inbound::InboundWorker;
use crate::intake::{Intake, Load, QUIET_MILLISECONDS};
use crate::outbound::keepalive;
use crate::shared::{Doorbell, Shared, in_turn, locked};

/// Batches of a queue before the outbound worker looks at its doorbell and at the clock.
const MAX_BATCHES: usize = 16;

/// Nanoseconds between two looks at keep-alives.
const TICK: u64 = 1_000_000_000;

const MILLISECOND: u64 = 1_000_000;

/// The worker that sees to keep-alives.
const TICKING: usize = 0;

/// Places among the descriptors that a thread waits for.
const BELL: usize = 0;
const TUN: usize = 1;
const SOCKETS: usize = 2;

type Body = fn(Arc<Shared>, usize, Arc<Intake>, Readiness);

/// Start all threads.
pub fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, DeviceError> {
    shared.offloads.enable(shared);
    let mut threads = Vec::new();
    for worker in 0..shared.workers() {
        let intake = Arc::new(Intake::new(shared, worker));
        let tun = Intake::descriptor(shared, worker);
        let outbound = vec![shared.outbound_bell(worker).wake_fd(), tun];
        let mut inbound = vec![shared.inbound_bell(worker).wake_fd(), tun];
        let sockets = shared.outside.receivers[worker].iter();
        inbound.extend(sockets.map(|socket| socket.readable().as_raw_fd()));
        let bodies: [(&str, Body, Vec<i32>); 2] = [
            ("moat-out", run_outbound, outbound),
            ("moat-in", run_inbound, inbound),
        ];
        for (name, body, descriptors) in bodies {
            let readiness = Readiness::new(&descriptors)?;
            let (shared, intake) = (Arc::clone(shared), Arc::clone(&intake));
            let started = std::thread::Builder::new()
                .name(format!("{name}{worker}"))
                .spawn(move || body(shared, worker, intake, readiness));
            threads.push(started.map_err(|source| DeviceError::System {
                what: "starting a packet thread",
                source,
            })?);
        }
    }
    Ok(threads)
}

fn run_outbound(shared: Arc<Shared>, number: usize, intake: Arc<Intake>, mut readiness: Readiness) {
    let bell = shared.outbound_bell(number);
    let mut next_tick = 0;
    while !shared.is_stopping.load(Ordering::SeqCst) {
        let is_reading = intake.is_for_outbound();
        if readiness.heed(TUN, is_reading).is_err() {
            break;
        }
        let tick =
            (number == TICKING && !locked(&shared.kept_open).is_empty()).then_some(next_tick);
        let held = is_reading.then(|| intake.deadline()).flatten();
        let due = [held, tick].into_iter().flatten().min();
        // Unsigned, for ever is the longest.
        let longest = if is_reading { QUIET_MILLISECONDS } else { -1 };
        let patience = (patience(due) as u32).min(longest as u32) as i32;
        if readiness.wait(patience).is_err() {
            break;
        }
        let now = boottime();
        let is_called = answer(bell, &readiness);
        if is_called || held.is_some_and(|due| due <= now) {
            intake.reader().look();
        }
        if readiness.is_readable(TUN) {
            intake.drain(MAX_BATCHES);
        } else if is_reading && !is_called {
            intake.hand_over(false, shared.inbound_bell(number));
        }
        if number == TICKING && now >= next_tick {
            next_tick = now + TICK;
            keepalive::tick(&shared, now);
        }
    }
}

/// Whether the bell was rung.
fn answer(bell: &Doorbell, readiness: &Readiness) -> bool {
    let is_rung = readiness.is_readable(BELL);
    if is_rung {
        bell.wake.clear();
    }
    is_rung
}

/// Milliseconds until `due`; -1 for ever.
fn patience(due: Option<u64>) -> i32 {
    let Some(due) = due else {
        return -1;
    };
    // Rounded up, as the clock is coarse: a deadline must be over when the thread looks.
    (due.saturating_sub(boottime()) / MILLISECOND + 5).min(TICK / MILLISECOND) as i32
}

fn run_inbound(shared: Arc<Shared>, number: usize, intake: Arc<Intake>, mut readiness: Readiness) {
    let bell = shared.inbound_bell(number);
    let mut worker = InboundWorker::new(Arc::clone(&shared), number);
    let mut load = Load::default();
    let sockets = &shared.outside.receivers[number];
    while !shared.is_stopping.load(Ordering::SeqCst) {
        let is_reading = intake.is_for_inbound();
        if readiness.heed(TUN, is_reading).is_err() {
            break;
        }
        let held = is_reading.then(|| intake.deadline()).flatten();
        let due = [held, worker.deadline()].into_iter().flatten().min();
        let Ok(has_rested) = rest(&mut readiness, patience(due)) else {
            break;
        };
        answer(bell, &readiness);
        let now = boottime();
        if worker.deadline().is_some_and(|due| due <= now) {
            in_turn(&shared, bell, || worker.look_after(now));
        }
        if held.is_some_and(|due| due <= now) {
            intake.reader().look();
        }
        let waiting = sockets
            .iter()
            .enumerate()
            .filter(|(index, _)| readiness.is_readable(index + SOCKETS));
        receive(
            &shared,
            bell,
            &mut worker,
            waiting.map(|(_, socket)| socket.as_ref()),
        );
        let had_packets = readiness.is_readable(TUN) && intake.drain(1);
        if load.is_too_much(has_rested, had_packets) {
            intake.hand_over(true, shared.outbound_bell(number));
        }
    }
}

/// Wait as long, if nothing is there already. Answers whether that was so.
fn rest(readiness: &mut Readiness, milliseconds: i32) -> std::io::Result<bool> {
    if readiness.wait(0)? {
        return Ok(false);
    }
    readiness.wait(milliseconds)?;
    Ok(true)
}

/// One batch of each socket that has something, IKE first: so no flood of data is more than a batch of every other
/// socket ahead of an IKE message that has a socket of its own.
fn receive<'a>(
    shared: &Shared,
    bell: &Doorbell,
    worker: &mut InboundWorker,
    sockets: impl Iterator<Item = &'a dyn OuterSocket>,
) {
    for socket in sockets {
        in_turn(shared, bell, || worker.turn(socket, boottime()));
    }
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
