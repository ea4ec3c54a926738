//! A queue of the TUN device, and which of its two threads waits for the packets of the host.
//!
//! While one thread can carry both ways, the inbound one does: a packet that answers the one it has just written finds it
//! awake, and nobody else has to be woken, which costs more than the packet. Once it has had no rest for [`RESTLESS`]
//! rounds with packets of the host in them, the outbound thread takes them over, until there is none for
//! [`QUIET_MILLISECONDS`].

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use openmoat_io::{PacketBatch, TunDevice, boottime};

use crate::outbound::OutboundWorker;
use crate::shared::{Doorbell, Shared, in_turn, locked};

/// Rounds without rest after which a second thread is worth being woken.
pub const RESTLESS: u32 = 16;

/// How long the outbound thread keeps waiting for packets that do not come.
pub const QUIET_MILLISECONDS: i32 = 1;

/// Reads one queue of the TUN device, and carries what it reads.
pub struct Reader {
    shared: Arc<Shared>,
    number: usize,
    worker: OutboundWorker,
    batch: PacketBatch,
}

impl Reader {
    /// Without a packet: tables may have changed, held packets may have waited long enough.
    pub fn look(&mut self) {
        self.batch.clear();
        self.carry();
    }

    /// Carry what waits, up to so many batches. Answers whether there was something, or why there will never be again.
    pub fn drain(&mut self, batches: usize) -> std::io::Result<bool> {
        let tun = Arc::clone(&self.shared.tun[self.number]);
        for round in 0..batches {
            if tun.read_batch(&mut self.batch)? == 0 {
                return Ok(round > 0);
            }
            self.carry();
            if self.batch.room().is_some() {
                break; // it was not full: nothing more waited
            }
        }
        Ok(true)
    }

    fn carry(&mut self) {
        let bell = self.shared.outbound_bell(self.number);
        let Self { worker, batch, .. } = self;
        if !in_turn(&self.shared, bell, || worker.turn(batch, boottime())) {
            self.worker.abandon();
        }
    }
}

/// What the two threads of a queue share.
pub struct Intake {
    reader: Mutex<Reader>,
    is_taken_over: AtomicBool,
    is_gone: AtomicBool,
}

impl Intake {
    /// Of queue `number`; the inbound thread waits for it.
    pub fn new(shared: &Arc<Shared>, number: usize) -> Self {
        Self {
            reader: Mutex::new(Reader {
                shared: Arc::clone(shared),
                number,
                worker: OutboundWorker::new(Arc::clone(shared), number),
                batch: PacketBatch::new(),
            }),
            is_taken_over: AtomicBool::new(false),
            is_gone: AtomicBool::new(shared.tun.get(number).is_none()),
        }
    }

    /// To wait for; negative where there is no such queue.
    pub fn descriptor(shared: &Shared, number: usize) -> i32 {
        let readable = |tun: &Arc<dyn TunDevice>| tun.readable().as_raw_fd();
        shared.tun.get(number).map_or(-1, readable)
    }

    /// Whether the outbound thread is to wait for packets. It is asked by both threads before they wait.
    pub fn is_for_outbound(&self) -> bool {
        self.is_taken_over.load(Ordering::SeqCst) && !self.is_gone.load(Ordering::SeqCst)
    }

    /// The same of the inbound thread.
    pub fn is_for_inbound(&self) -> bool {
        !self.is_taken_over.load(Ordering::SeqCst) && !self.is_gone.load(Ordering::SeqCst)
    }

    /// Let the other thread wait for packets.
    pub fn hand_over(&self, to_outbound: bool, bell: &Doorbell) {
        self.is_taken_over.store(to_outbound, Ordering::SeqCst);
        bell.wake.signal();
    }

    /// The reader; whoever else wants it waits.
    pub fn reader(&self) -> MutexGuard<'_, Reader> {
        locked(&self.reader)
    }

    /// Carry what waits, see [`Reader::drain`].
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
    /// whether another should see to those.
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
