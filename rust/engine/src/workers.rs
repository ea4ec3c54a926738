//! The packet threads: one outbound, one inbound, each running every batch to its end.

use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use openmoat_io::{BATCH, DeviceError, PacketBatch, Readiness, TunDevice, monotonic};

use crate::inbound::InboundWorker;
use crate::keepalive;
use crate::outbound::OutboundWorker;
use crate::shared::{Doorbell, Shared, locked};

/// Index of the outbound thread's doorbell.
pub const OUTBOUND: usize = 0;
/// Index of the inbound thread's doorbell.
pub const INBOUND: usize = 1;

/// Batches of one descriptor before the others have their turn.
const MAX_ROUNDS: usize = 16;

/// Nanoseconds between two looks at keep-alives.
const TICK: u64 = 1_000_000_000;

const MILLISECOND: u64 = 1_000_000;

/// Start both threads.
pub fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, DeviceError> {
    shared.offloads.enable(shared);
    let spawn = |name: &str, body: fn(Arc<Shared>)| {
        let shared = Arc::clone(shared);
        let started = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(shared));
        started.map_err(|source| DeviceError::System {
            what: "starting a packet thread",
            source,
        })
    };
    Ok(vec![
        spawn("moat-out", run_outbound)?,
        spawn("moat-in", run_inbound)?,
    ])
}

fn run_outbound(shared: Arc<Shared>) {
    let bell = &shared.threads[OUTBOUND];
    let mut worker = OutboundWorker::new(Arc::clone(&shared));
    let mut batch = PacketBatch::new();
    let mut next_tick = 0;
    let mut descriptors: Vec<_> = shared
        .tun
        .iter()
        .map(|tun| tun.readable().as_raw_fd())
        .collect();
    descriptors.push(bell.wake_fd());
    let mut readiness = Readiness::new(&descriptors);
    while !shared.is_stopping.load(Ordering::SeqCst) {
        if readiness
            .wait(patience(&shared, &worker, next_tick))
            .is_err()
        {
            break;
        }
        bell.wake.clear();
        // Without a packet too: tables may have changed, held packets may have waited long enough.
        batch.clear();
        in_turn(&shared, bell, || worker.turn(&mut batch, monotonic()));
        for (index, tun) in shared.tun.iter().enumerate() {
            if drain_tun(&shared, bell, tun.as_ref(), &mut worker, &mut batch).is_err() {
                // The device is gone; its descriptor would be readable for ever.
                readiness.forget(index);
            }
        }
        let now = monotonic();
        if now >= next_tick {
            next_tick = now + TICK;
            keepalive::tick(&shared, now);
        }
    }
}

/// Carry what waits in one queue of the TUN device, a bounded number of batches.
fn drain_tun(
    shared: &Shared,
    bell: &Doorbell,
    tun: &dyn TunDevice,
    worker: &mut OutboundWorker,
    batch: &mut PacketBatch,
) -> std::io::Result<()> {
    for _ in 0..MAX_ROUNDS {
        if tun.read_batch(batch)? == 0 {
            break;
        }
        in_turn(shared, bell, || worker.turn(batch, monotonic()));
    }
    Ok(())
}

/// Milliseconds until there is something to do without a packet; -1 for ever.
fn patience(shared: &Shared, worker: &OutboundWorker, next_tick: u64) -> i32 {
    let tick = (!locked(&shared.kept_open).is_empty()).then_some(next_tick);
    let Some(due) = [worker.deadline(), tick].into_iter().flatten().min() else {
        return -1;
    };
    // Rounded up, as the clock is coarse: a deadline must be over when the thread looks.
    (due.saturating_sub(monotonic()) / MILLISECOND + 5).min(TICK / MILLISECOND) as i32
}

fn run_inbound(shared: Arc<Shared>) {
    let bell = &shared.threads[INBOUND];
    let mut worker = InboundWorker::new(Arc::clone(&shared));
    let mut descriptors: Vec<_> = shared
        .sockets
        .iter()
        .map(|socket| socket.readable().as_raw_fd())
        .collect();
    descriptors.push(bell.wake_fd());
    let mut readiness = Readiness::new(&descriptors);
    while !shared.is_stopping.load(Ordering::SeqCst) {
        if readiness.wait(-1).is_err() {
            break;
        }
        bell.wake.clear();
        for (index, socket) in shared.sockets.iter().enumerate() {
            if !readiness.is_readable(index) {
                continue;
            }
            for _ in 0..MAX_ROUNDS {
                let mut count = 0;
                in_turn(&shared, bell, || {
                    count = worker.turn(socket.as_ref(), monotonic())
                });
                if count < BATCH {
                    break;
                }
            }
        }
    }
}

/// Run one turn between two strokes of the bell. A panic is a bug: it is counted, and costs one batch.
fn in_turn(shared: &Shared, bell: &Doorbell, turn: impl FnOnce()) {
    bell.begin();
    if catch_unwind(AssertUnwindSafe(turn)).is_err() {
        shared.faults.fetch_add(1, Ordering::Relaxed);
    }
    bell.end();
}
