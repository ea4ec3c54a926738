//! What an inbound worker leaves for the outbound one to encrypt and send: ICMP errors about packets out of the tunnel, and
//! pairs whose path probes are due. An error that tunnel traffic provokes goes into an SA or nowhere, never through the host.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_queue::ArrayQueue;

use crate::doorbell::Doorbell;
use crate::lock::locked;
use crate::sizes::probe::PathProbe;

/// ICMP errors that wait for one worker.
pub const MAX_ERRORS: usize = 64;

/// Pairs of one worker that have probes to send.
pub const MAX_PAIRS: usize = 1_024;

/// What waits for one outbound worker, and how it is woken.
pub struct Outbox {
    bell: Arc<Doorbell>,
    error_count: AtomicUsize,
    errors: Mutex<VecDeque<Vec<u8>>>,
    pairs: ArrayQueue<u32>,
}

impl Outbox {
    /// Nothing waits for the worker with this doorbell.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        Self {
            bell,
            error_count: AtomicUsize::new(0),
            errors: Mutex::default(),
            pairs: ArrayQueue::new(MAX_PAIRS),
        }
    }

    /// Leave an ICMP error; false where there is no room.
    pub fn leave_error(&self, octets: Vec<u8>) -> bool {
        let mut errors = locked(&self.errors);
        let has_room = errors.len() < MAX_ERRORS;
        if has_room {
            errors.push_back(octets);
            self.error_count.store(errors.len(), Ordering::Release);
            self.bell.ring();
        }
        has_room
    }

    /// Take the oldest error. Costs one look at a number while there is none.
    pub fn take_error(&self) -> Option<Vec<u8>> {
        if self.error_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut errors = locked(&self.errors);
        let octets = errors.pop_front();
        self.error_count.store(errors.len(), Ordering::Release);
        octets
    }

    /// Have the probes of this pair sent. Where there is no room they wait until the pair has more of them.
    pub fn leave_pair(&self, handle: u32, probe: &PathProbe) {
        if !probe.enter_queue() {
            return;
        }
        if self.pairs.push(handle).is_ok() {
            self.bell.ring();
        } else {
            probe.leave_queue();
        }
    }

    /// The next pair that has probes to send.
    pub fn take_pair(&self) -> Option<u32> {
        self.pairs.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> Outbox {
        Outbox::new(Arc::new(Doorbell::new().unwrap()))
    }

    #[test]
    fn a_full_queue_takes_no_error_and_keeps_its_order() {
        let outbox = outbox();
        assert!((0..MAX_ERRORS).all(|number| outbox.leave_error(vec![number as u8])));
        assert!(!outbox.leave_error(vec![255]));
        assert_eq!(outbox.take_error(), Some(vec![0]));
        assert!(outbox.leave_error(vec![64]));
        let rest: Vec<u8> = std::iter::from_fn(|| outbox.take_error())
            .flatten()
            .collect();
        assert_eq!(rest, (1..=64).collect::<Vec<u8>>());
        assert_eq!(outbox.take_error(), None);
    }

    #[test]
    fn a_pair_waits_once_until_it_is_taken_and_not_at_all_without_room() {
        let (outbox, probes) = (outbox(), [PathProbe::default(), PathProbe::default()]);
        outbox.leave_pair(1, &probes[0]);
        outbox.leave_pair(1, &probes[0]);
        assert_eq!((outbox.take_pair(), outbox.take_pair()), (Some(1), None));
        probes[0].leave_queue();
        for handle in 0..MAX_PAIRS as u32 {
            outbox.leave_pair(handle, &PathProbe::default());
        }
        outbox.leave_pair(7_777, &probes[1]);
        outbox.take_pair();
        outbox.leave_pair(7_777, &probes[1]);
        assert_eq!(
            std::iter::from_fn(|| outbox.take_pair()).last(),
            Some(7_777)
        );
    }
}
