//! A queue of the TUN device, and which of its two threads waits for the packets of the host.
//!
//! While one thread can carry both ways, the inbound one does: a packet that answers the one it has just written finds it
//! awake, and no other thread has to be woken, which costs more than the packet. After [`RESTLESS`] rounds without rest and
//! with packets of the host in them, the outbound thread takes the queue over, until there is no packet for [`QUIET`].

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use openmoat_io::{PacketBatch, TunDevice, boottime};

use crate::doorbell::Doorbell;
use crate::lock::locked;
use crate::outbound::OutboundWorker;

/// Rounds without rest after which a second thread is worth being woken.
pub const RESTLESS: u32 = 16;

/// How long the outbound thread keeps waiting for packets that do not come.
pub const QUIET: Duration = Duration::from_millis(1);

/// Reads one queue of the TUN device, and carries what it reads.
pub struct Reader {
    tun: Option<Arc<dyn TunDevice>>,
    bell: Arc<Doorbell>,
    worker: OutboundWorker,
    batch: PacketBatch,
}

impl Reader {
    /// Of this queue; `bell` is the outbound thread's.
    pub fn new(
        tun: Option<Arc<dyn TunDevice>>,
        bell: Arc<Doorbell>,
        worker: OutboundWorker,
    ) -> Self {
        Self {
            tun,
            bell,
            worker,
            batch: PacketBatch::new(),
        }
    }

    /// Without a packet: tables may have changed, held packets may have waited long enough.
    pub fn look(&mut self, now: u64) {
        self.batch.clear();
        self.carry(now);
    }

    /// Carry one batch. Answers whether there was one, or why there will never be one again.
    pub fn read(&mut self, now: impl FnOnce() -> u64) -> std::io::Result<bool> {
        let Some(tun) = &self.tun else {
            return Ok(false);
        };
        if tun.read_batch(&mut self.batch)? == 0 {
            return Ok(false);
        }
        self.carry(now());
        Ok(true)
    }

    /// Carry what waits, up to so many batches. Answers whether there was something.
    fn drain(&mut self, batches: usize) -> std::io::Result<bool> {
        for round in 0..batches {
            if !self.read(boottime)? {
                return Ok(round > 0);
            }
            if self.batch.room().is_some() {
                break; // it was not full: nothing more waited
            }
        }
        Ok(true)
    }

    fn carry(&mut self, now: u64) {
        let Self { worker, batch, .. } = self;
        if !self.bell.in_turn(|| worker.turn(batch, now)) {
            self.worker.abandon();
        }
    }
}

/// What the two threads of a queue share.
pub struct Intake {
    reader: Mutex<Reader>,
    descriptor: i32,
    is_taken_over: AtomicBool,
    is_gone: AtomicBool,
}

impl Intake {
    /// The inbound thread waits for the queue.
    pub fn new(reader: Reader) -> Self {
        let readable = |tun: &Arc<dyn TunDevice>| tun.readable().as_raw_fd();
        Self {
            descriptor: reader.tun.as_ref().map_or(-1, readable),
            is_taken_over: AtomicBool::new(false),
            is_gone: AtomicBool::new(reader.tun.is_none()),
            reader: Mutex::new(reader),
        }
    }

    /// To wait for; negative where there is no such queue.
    pub fn descriptor(&self) -> i32 {
        self.descriptor
    }

    /// Whether the outbound thread is to wait for packets. Both threads ask before they wait.
    pub fn is_for_outbound(&self) -> bool {
        self.is_taken_over.load(Ordering::SeqCst) && !self.is_gone.load(Ordering::SeqCst)
    }

    /// The same of the inbound thread.
    pub fn is_for_inbound(&self) -> bool {
        !self.is_taken_over.load(Ordering::SeqCst) && !self.is_gone.load(Ordering::SeqCst)
    }

    /// Let the other thread, with this doorbell, wait for packets.
    pub fn hand_over(&self, to_outbound: bool, bell: &Doorbell) {
        self.is_taken_over.store(to_outbound, Ordering::SeqCst);
        bell.ring();
    }

    /// The reader; a second thread that wants it waits.
    pub fn reader(&self) -> MutexGuard<'_, Reader> {
        locked(&self.reader)
    }

    /// Carry what waits, up to so many batches. Answers whether there was something.
    pub fn drain(&self, batches: usize) -> bool {
        self.reader().drain(batches).unwrap_or_else(|_| {
            // The device is gone; its descriptor would be readable for ever.
            self.is_gone.store(true, Ordering::SeqCst);
            false
        })
    }

    /// When a held packet has waited long enough.
    pub fn deadline(&self) -> Option<u64> {
        self.reader().worker.deadline()
    }
}

/// Tells when one thread is not enough.
#[derive(Default)]
pub struct Load {
    restless: u32,
}

impl Load {
    /// A round is over: whether the thread had to wait before it, and whether packets of the host were in it. Answers
    /// whether another thread should take those.
    pub fn is_too_much(&mut self, has_rested: bool, had_packets: bool) -> bool {
        match (has_rested, had_packets) {
            (true, _) => self.restless = 0,
            (false, true) => self.restless += 1,
            (false, false) => {}
        }
        if self.restless < RESTLESS {
            return false;
        }
        self.restless = 0;
        true
    }
}
