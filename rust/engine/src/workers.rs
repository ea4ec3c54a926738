//! The packet threads: as many outbound and inbound ones as the TUN device has queues, each running every batch to its end.
//!
//! Inbound worker n receives from the n-th replica of each socket and writes to queue n. Which thread reads that queue
//! depends on the load, see `intake`. Rounds are bounded, so that what waits elsewhere has its turn soon: [`MAX_BATCHES`] of
//! a queue, or one where sockets wait beside it, and one batch of a socket.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use openmoat_io::{DeviceError, OuterSocket, Readiness, boottime};

use crate::doorbell::Doorbell;
use crate::inbound::InboundWorker;
use crate::intake::{Intake, Load, QUIET, Reader};
use crate::outbound::keepalive::KeepAlives;
use crate::parts::Parts;

/// Batches of a queue before the outbound worker looks at its doorbell and at the clock.
const MAX_BATCHES: usize = 16;

/// Nanoseconds between two looks at keep-alives.
pub const TICK: u64 = 1_000_000_000;

/// No thread sleeps longer than this when something is due: its timer stands still while the machine sleeps.
const LONGEST: Duration = Duration::from_nanos(TICK);

/// The worker that sends keep-alives.
const TICKING: usize = 0;

/// Places among the descriptors that a thread waits for.
const BELL: usize = 0;
const TUN: usize = 1;
const SOCKETS: usize = 2;

/// Start all threads.
pub fn start(parts: &Parts) -> Result<Vec<JoinHandle<()>>, DeviceError> {
    parts.enable_offloads();
    let mut threads = Vec::new();
    for (number, worker) in parts.workers.iter().enumerate() {
        let bell = Arc::clone(&worker.outbound);
        let reader = Reader::new(worker.tun.clone(), bell, parts.outbound(number));
        let intake = Arc::new(Intake::new(reader));
        let sockets = parts.sockets.receivers(number).to_vec();
        let mut descriptors = vec![worker.inbound.wake_fd(), intake.descriptor()];
        descriptors.extend(sockets.iter().map(|socket| socket.readable().as_raw_fd()));
        let inbound = InboundThread {
            bell: Arc::clone(&worker.inbound),
            other: Arc::clone(&worker.outbound),
            intake: Arc::clone(&intake),
            readiness: Readiness::new(&descriptors)?,
            worker: parts.inbound(number),
            sockets,
        };
        let outbound = OutboundThread {
            bell: Arc::clone(&worker.outbound),
            other: Arc::clone(&worker.inbound),
            readiness: Readiness::new(&[worker.outbound.wake_fd(), intake.descriptor()])?,
            intake,
            keepalives: (number == TICKING).then(|| Arc::clone(&parts.keepalives)),
            next_tick: 0,
        };
        threads.push(spawn(format!("moat-out{number}"), || outbound.run())?);
        threads.push(spawn(format!("moat-in{number}"), || inbound.run())?);
    }
    Ok(threads)
}

fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, DeviceError> {
    let started = std::thread::Builder::new().name(name).spawn(body);
    started.map_err(|source| DeviceError::System {
        what: "starting a packet thread",
        source,
    })
}

/// Time until the first of these is due, if any is.
fn until(due: impl IntoIterator<Item = Option<u64>>) -> Option<Duration> {
    let due = due.into_iter().flatten().min()?;
    Some(Duration::from_nanos(due.saturating_sub(boottime())).min(LONGEST))
}

struct OutboundThread {
    bell: Arc<Doorbell>,
    /// The inbound thread's.
    other: Arc<Doorbell>,
    intake: Arc<Intake>,
    readiness: Readiness,
    keepalives: Option<Arc<KeepAlives>>,
    next_tick: u64,
}

impl OutboundThread {
    fn run(mut self) {
        while !self.bell.is_stopped() && self.round().is_ok() {}
    }

    fn round(&mut self) -> Result<(), DeviceError> {
        let is_reading = self.intake.is_for_outbound();
        self.readiness.watch(TUN, is_reading)?;
        let keepalives = self.keepalives.as_ref().filter(|kept| !kept.is_empty());
        let tick = keepalives.map(|_| self.next_tick);
        let held = is_reading.then(|| self.intake.deadline()).flatten();
        let due = until([held, tick]);
        let quiet = is_reading.then_some(QUIET);
        self.readiness.wait(due.into_iter().chain(quiet).min())?;
        let now = boottime();
        let is_called = self.readiness.is_readable(BELL);
        if is_called {
            self.bell.answer();
        }
        if is_called || held.is_some_and(|due| due <= now) {
            self.intake.reader().look(now);
        }
        if self.readiness.is_readable(TUN) {
            self.intake.drain(MAX_BATCHES);
        } else if is_reading && !is_called {
            self.intake.hand_over(false, &self.other);
        }
        if let Some(keepalives) = self.keepalives.as_ref().filter(|_| now >= self.next_tick) {
            self.next_tick = now + TICK;
            keepalives.tick(now);
        }
        Ok(())
    }
}

struct InboundThread {
    bell: Arc<Doorbell>,
    /// The outbound thread's.
    other: Arc<Doorbell>,
    intake: Arc<Intake>,
    readiness: Readiness,
    worker: InboundWorker,
    sockets: Vec<Arc<dyn OuterSocket>>,
}

impl InboundThread {
    fn run(mut self) {
        let mut load = Load::default();
        while !self.bell.is_stopped() && self.round(&mut load).is_ok() {}
    }

    fn round(&mut self, load: &mut Load) -> Result<(), DeviceError> {
        let is_reading = self.intake.is_for_inbound();
        self.readiness.watch(TUN, is_reading)?;
        let held = is_reading.then(|| self.intake.deadline()).flatten();
        let due = until([held, self.worker.deadline()]);
        let has_rested = rest(&mut self.readiness, due)?;
        if self.readiness.is_readable(BELL) {
            self.bell.answer();
        }
        let now = boottime();
        let Self { bell, worker, .. } = self;
        if worker.deadline().is_some_and(|due| due <= now) {
            bell.in_turn(|| worker.look_after(now));
        }
        if held.is_some_and(|due| due <= now) {
            self.intake.reader().look(now);
        }
        // One batch of each socket that has something, IKE first: so no flood of data is more than a batch of every other
        // socket ahead of an IKE message that has a socket of its own.
        for (place, socket) in self.sockets.iter().enumerate() {
            if self.readiness.is_readable(SOCKETS + place) {
                bell.in_turn(|| {
                    worker.turn(socket.as_ref(), boottime());
                });
            }
        }
        let had_packets = self.readiness.is_readable(TUN) && self.intake.drain(1);
        if load.is_too_much(has_rested, had_packets) {
            self.intake.hand_over(true, &self.other);
        }
        Ok(())
    }
}

/// Wait as long, if nothing is there already. Answers whether that was so.
fn rest(readiness: &mut Readiness, time: Option<Duration>) -> Result<bool, DeviceError> {
    if readiness.wait(Some(Duration::ZERO))? {
        return Ok(false);
    }
    readiness.wait(time)?;
    Ok(true)
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
