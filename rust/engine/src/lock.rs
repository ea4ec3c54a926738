//! Locks whose data stays valid where a holder panicked.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Take a lock, poisoned or not.
pub fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
