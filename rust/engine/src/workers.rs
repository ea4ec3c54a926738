//! The packet threads: as many outbound and inbound ones as the TUN device has queues, each running every batch to its end.
//!
//! Outbound worker n reads queue n, inbound worker n receives from the n-th replica of each socket and writes to queue n.
//! Rounds are bounded, so that what waits elsewhere is never far from its turn: [`MAX_BATCHES`] of a queue, one batch of
//! a socket.

use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use openmoat_io::{DeviceError, OuterSocket, PacketBatch, Readiness, TunDevice, monotonic};

use crate::inbound::InboundWorker;
use crate::keepalive;
use crate::outbound::OutboundWorker;
use crate::shared::{Doorbell, Shared, locked};

/// Batches of a queue before the outbound worker looks at its doorbell and at the clock.
const MAX_BATCHES: usize = 16;

/// Nanoseconds between two looks at keep-alives.
const TICK: u64 = 1_000_000_000;

const MILLISECOND: u64 = 1_000_000;

/// The worker that sees to keep-alives.
const TICKING: usize = 0;

/// Start all threads.
pub fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, DeviceError> {
    shared.offloads.enable(shared);
    let spawn = |name: &str, worker: usize, body: fn(Arc<Shared>, usize)| {
        let shared = Arc::clone(shared);
        let started = std::thread::Builder::new()
            .name(format!("{name}{worker}"))
            .spawn(move || body(shared, worker));
        started.map_err(|source| DeviceError::System {
            what: "starting a packet thread",
            source,
        })
    };
    let mut threads = Vec::new();
    for worker in 0..shared.workers() {
        threads.push(spawn("moat-out", worker, run_outbound)?);
        threads.push(spawn("moat-in", worker, run_inbound)?);
    }
    Ok(threads)
}

fn run_outbound(shared: Arc<Shared>, number: usize) {
    let bell = shared.outbound_bell(number);
    let mut worker = OutboundWorker::new(Arc::clone(&shared), number);
    let mut batch = PacketBatch::new();
    let mut next_tick = 0;
    let mut tun = shared.tun.get(number);
    let mut descriptors = vec![bell.wake_fd()];
    descriptors.extend(tun.map(|tun| tun.readable().as_raw_fd()));
    let mut readiness = Readiness::new(&descriptors);
    while !shared.is_stopping.load(Ordering::SeqCst) {
        let tick =
            (number == TICKING && !locked(&shared.kept_open).is_empty()).then_some(next_tick);
        let due = [worker.deadline(), tick].into_iter().flatten().min();
        if readiness.wait(patience(due)).is_err() {
            break;
        }
        bell.wake.clear();
        // Without a packet too: tables may have changed, held packets may have waited long enough.
        batch.clear();
        carry(&shared, bell, &mut worker, &mut batch);
        if tun
            .is_some_and(|tun| drain(&shared, bell, tun.as_ref(), &mut worker, &mut batch).is_err())
        {
            // The device is gone; its descriptor would be readable for ever.
            tun = None;
            readiness.forget(1);
        }
        let now = monotonic();
        if number == TICKING && now >= next_tick {
            next_tick = now + TICK;
            keepalive::tick(&shared, now);
        }
    }
}

/// Carry what waits in a queue of the TUN device, a bounded number of batches.
fn drain(
    shared: &Shared,
    bell: &Doorbell,
    tun: &dyn TunDevice,
    worker: &mut OutboundWorker,
    batch: &mut PacketBatch,
) -> std::io::Result<()> {
    for _ in 0..MAX_BATCHES {
        if tun.read_batch(batch)? == 0 {
            break;
        }
        carry(shared, bell, worker, batch);
    }
    Ok(())
}

fn carry(shared: &Shared, bell: &Doorbell, worker: &mut OutboundWorker, batch: &mut PacketBatch) {
    if !in_turn(shared, bell, || worker.turn(batch, monotonic())) {
        worker.abandon();
    }
}

/// Milliseconds until `due`; -1 for ever.
fn patience(due: Option<u64>) -> i32 {
    let Some(due) = due else {
        return -1;
    };
    // Rounded up, as the clock is coarse: a deadline must be over when the thread looks.
    (due.saturating_sub(monotonic()) / MILLISECOND + 5).min(TICK / MILLISECOND) as i32
}

fn run_inbound(shared: Arc<Shared>, number: usize) {
    let bell = shared.inbound_bell(number);
    let mut worker = InboundWorker::new(Arc::clone(&shared), number);
    let sockets = &shared.outside.receivers[number];
    let mut descriptors = vec![bell.wake_fd()];
    descriptors.extend(sockets.iter().map(|socket| socket.readable().as_raw_fd()));
    let mut readiness = Readiness::new(&descriptors);
    while !shared.is_stopping.load(Ordering::SeqCst) {
        if readiness.wait(patience(worker.deadline())).is_err() {
            break;
        }
        bell.wake.clear();
        let now = monotonic();
        if worker.deadline().is_some_and(|due| due <= now) {
            in_turn(&shared, bell, || worker.look_after(now));
        }
        let waiting = sockets
            .iter()
            .enumerate()
            .filter(|(index, _)| readiness.is_readable(index + 1));
        receive(
            &shared,
            bell,
            &mut worker,
            waiting.map(|(_, socket)| socket.as_ref()),
        );
    }
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
        in_turn(shared, bell, || worker.turn(socket, monotonic()));
    }
}

/// Run one turn between two strokes of the bell. A panic is a bug: it is counted, and costs one batch.
fn in_turn(shared: &Shared, bell: &Doorbell, turn: impl FnOnce()) -> bool {
    bell.begin();
    let is_done = catch_unwind(AssertUnwindSafe(turn)).is_ok();
    if !is_done {
        shared.faults.fetch_add(1, Ordering::Relaxed);
    }
    bell.end();
    is_done
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
