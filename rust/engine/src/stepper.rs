//! The work of the packet threads without threads: everything happens in the caller's, at times that it gives.

use std::sync::Arc;

use openmoat_io::OuterSocket;

use crate::doorbell::Doorbell;
use crate::inbound::InboundWorker;
use crate::intake::Reader;
use crate::outbound::keepalive::KeepAlives;
use crate::parts::Parts;
use crate::workers::TICK;

struct Worker {
    reader: Reader,
    inbound: InboundWorker,
    bell: Arc<Doorbell>,
    sockets: Vec<Arc<dyn OuterSocket>>,
}

/// The stages of all workers of an engine that was not started.
pub struct Stepper {
    workers: Vec<Worker>,
    keepalives: Arc<KeepAlives>,
    next_tick: u64,
}

impl Stepper {
    pub(crate) fn new(parts: &Parts) -> Self {
        parts.enable_offloads();
        let worker = |(number, worker): (usize, &crate::parts::Worker)| Worker {
            reader: Reader::new(
                worker.tun.clone(),
                Arc::clone(&worker.outbound),
                parts.outbound(number),
            ),
            inbound: parts.inbound(number),
            bell: Arc::clone(&worker.inbound),
            sockets: parts.sockets.receivers(number).to_vec(),
        };
        Self {
            workers: parts.workers.iter().enumerate().map(worker).collect(),
            keepalives: Arc::clone(&parts.keepalives),
            next_tick: 0,
        }
    }

    /// Carry at most one batch of each queue and each socket, and do what is due, at `now` nanoseconds of the engine's clock.
    /// Answers whether any batch was carried; if none was, nothing waits.
    pub fn step(&mut self, now: u64) -> bool {
        let mut has_carried = false;
        for worker in &mut self.workers {
            has_carried |= worker.step(now);
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.keepalives.tick(now);
        }
        has_carried
    }
}

impl Worker {
    fn step(&mut self, now: u64) -> bool {
        let mut has_carried = self.reader.read(|| now).unwrap_or(false);
        let Self { inbound, bell, .. } = self;
        if inbound.deadline().is_some_and(|due| due <= now) {
            bell.in_turn(|| inbound.look_after(now));
        }
        for socket in &self.sockets {
            let mut received = 0;
            bell.in_turn(|| received = inbound.turn(socket.as_ref(), now));
            has_carried |= received > 0;
        }
        // What the inbound stages have left, and what the tables have new.
        self.reader.look(now);
        has_carried
    }
}
