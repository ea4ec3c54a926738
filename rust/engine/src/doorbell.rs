//! How other threads wake a packet thread, stop it, and see that it has let go of what it held.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openmoat_io::{DeviceError, EventFd};

/// One for each packet thread.
pub struct Doorbell {
    wake: EventFd,
    /// Odd while the thread is in a turn.
    turn: AtomicU64,
    faults: AtomicU64,
    is_stopped: AtomicBool,
}

impl Doorbell {
    /// Of a thread that is between turns.
    pub fn new() -> Result<Self, DeviceError> {
        Ok(Self {
            wake: EventFd::new()?,
            turn: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        })
    }

    /// Readable from `ring` to `answer`.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_fd().as_raw_fd()
    }

    /// Let the thread look at its queues and at the tables.
    pub fn ring(&self) {
        self.wake.signal();
    }

    /// The thread is about to look.
    pub fn answer(&self) {
        self.wake.clear();
    }

    /// Let the thread end.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether the thread must end.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    /// Run one turn: what the thread looks up in it, it has let go of after it. False: it panicked, which is a bug. It is
    /// counted and costs one batch.
    pub fn in_turn(&self, turn: impl FnOnce()) -> bool {
        self.turn.fetch_add(1, Ordering::SeqCst);
        let is_done = catch_unwind(AssertUnwindSafe(turn)).is_ok();
        if !is_done {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        self.turn.fetch_add(1, Ordering::SeqCst);
        is_done
    }

    /// Turns that ended in a panic.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Wait until the thread is between turns, or in a later one than now: it holds nothing that was taken out before.
    ///
    /// A turn is one batch, some hundred microseconds.
    pub fn wait_for_turn(&self) {
        let turn = self.turn.load(Ordering::SeqCst);
        if turn.is_multiple_of(2) {
            return;
        }
        while self.turn.load(Ordering::SeqCst) == turn {
            std::thread::yield_now();
        }
    }
}
