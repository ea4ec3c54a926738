//! The lock of an SA's sending half, where there are several outbound workers: one at a time numbers, encrypts and sends.
//!
//! Numbers are taken as packets are encrypted, and a receiver tolerates little reordering (RFC 4303 3.4.3: 64 packets by
//! default, and many keep 32). So a worker keeps the others out from its first packet of an SA until its bundle has left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::lock::locked;

const NOBODY: usize = usize::MAX;

/// Held by one worker for part of a turn.
pub struct SendLock {
    holder: AtomicUsize,
    waiting: Mutex<usize>,
    freed: Condvar,
}

impl Default for SendLock {
    fn default() -> Self {
        Self {
            holder: AtomicUsize::new(NOBODY),
            waiting: Mutex::new(0),
            freed: Condvar::new(),
        }
    }
}

impl SendLock {
    /// Whether this worker holds it.
    pub fn is_held_by(&self, worker: usize) -> bool {
        self.holder.load(Ordering::Relaxed) == worker
    }

    /// Take it if it is free. Answers whether that is so.
    pub fn try_enter(&self, worker: usize) -> bool {
        self.holder
            .compare_exchange(NOBODY, worker, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Wait until it is free, then take it. The caller holds no other, or two could wait for each other.
    pub fn enter(&self, worker: usize) {
        let mut waiting = locked(&self.waiting);
        *waiting += 1;
        while !self.try_enter(worker) {
            waiting = self
                .freed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *waiting -= 1;
    }

    /// Release it.
    pub fn leave(&self) {
        self.holder.store(NOBODY, Ordering::SeqCst);
        // A worker that counts itself as waiting after this look finds it free.
        if *locked(&self.waiting) > 0 {
            self.freed.notify_one();
        }
    }
}
