//! Whether the largest packets of an SA arrive, asked of the peer in the SA itself (RFC 9347 6.1.2, RFC 8899 4.3).
//!
//! A *probe* is a payload with a value that the peer sends back. A large probe is as large as the plan allows. A small one
//! follows large ones: if the peer answers it and not those before it, their size is the reason, or random loss. So nothing
//! waits for a timeout, and silence proves nothing. After such a loss a *check* begins: rounds of large probes, each with a
//! small one, follow each other fast, until a large probe is answered or `LOST` in a row were lost.
//!
//! While large packets leave, an ordinary one is a probe now and then; an SA that sends none is not probed. Values are
//! numbered; answers to probes of an earlier size count for nothing. This module sends nothing and keeps no timer: see
//! `outbound::probes` and `inbound::black_hole_checks`.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openmoat_esp::aggfrag::Congestion;

use crate::lock::locked;

const MILLISECOND: u64 = 1_000_000;

/// From one probe to the next while large packets leave: less than the first timeout of TCP, whose repeat is a probe then.
pub const INTERVAL: u64 = 150 * MILLISECOND;

/// The same where the peer has never answered.
pub const UNANSWERED_INTERVAL: u64 = 1_000 * MILLISECOND;

/// A probe this overdue is sent as pad: no large packet had a size at which it could be one.
pub const OVERDUE: u64 = 300 * MILLISECOND;

/// From one probe to the next during a check: packets that leave anyway tell more than pad, which comes in bursts.
pub const CHECK_INTERVAL: u64 = 5 * MILLISECOND;

/// From one round of a check to the next.
pub const ROUND_INTERVAL: u64 = 15 * MILLISECOND;

/// Large probes of pad in a round.
pub const LARGE_PER_ROUND: usize = 2;

/// Rounds of one check.
pub const MAX_ROUNDS: u32 = 8;

/// From one check to the next.
pub const CHECK_AGAIN: u64 = 1_000 * MILLISECOND;

/// Large probes lost in a row, while small ones are answered, that are not random loss any more: with a loss of one fifth
/// each way, one row in two hundred thousand is.
pub const LOST: u32 = 12;

/// After large packets were found to be lost no probe is sent for this long, unless the size changes.
pub const AGAIN: u64 = 2_000 * MILLISECOND;

/// Large probes whose answers are waited for; the oldest is forgotten.
pub const MAX_UNANSWERED: usize = 64;

/// Values of the peer that wait to be sent back, and how many are answered in a second.
pub const MAX_ANSWERS: usize = 32;
/// See [`MAX_ANSWERS`].
pub const MAX_ANSWERS_PER_SECOND: u64 = 400;

/// Large and small probes are told apart by their last bit.
const LARGE: u32 = 1;

/// What follows from what the peer said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// There is something to send.
    pub must_answer: bool,
    /// A check begins: `next_round` is to be called soon.
    pub begins_check: bool,
    /// The largest packets are lost.
    pub is_lost: bool,
}

/// The values of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Of the large packet.
    pub large: u32,
    /// Of the small one that follows it.
    pub small: Option<u32>,
}

/// A value of the peer, and when it came.
pub type Answer = (u32, u64);

/// What is known of one SA whose peer answers probes.
#[derive(Default)]
pub struct PathProbe {
    /// Clock of the next probe.
    due: AtomicU64,
    /// The peer has answered at least once.
    is_answered: AtomicBool,
    /// Large probes that were answered.
    proved: AtomicU64,
    /// The pair waits in an outbox, as there is something to send.
    is_queued: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many probes there were.
    count: u32,
    /// How many there were when the size last changed.
    first: u32,
    /// Numbers of large probes that were not answered.
    unanswered: VecDeque<u32>,
    /// Large probes that were lost while small ones arrived.
    lost: u32,
    /// Rounds made, during a check.
    check: Option<u32>,
    checked: u64,
    wants_round: bool,
    answers: VecDeque<Answer>,
    second: u64,
    answered: u64,
}

impl PathProbe {
    /// The size of large packets has changed.
    pub fn restart(&self) {
        let mut state = locked(&self.state);
        state.first = state.count;
        state.trust();
        state.checked = 0;
        self.due.store(0, Ordering::Relaxed);
    }

    /// Whether the peer has ever answered: then its answers tell more than silence does.
    pub fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    /// Large probes that were answered.
    pub fn proved(&self) -> u64 {
        self.proved.load(Ordering::Relaxed)
    }

    /// Whether the next packet of the largest size is to be a probe.
    pub fn is_due(&self, now: u64) -> bool {
        now >= self.due.load(Ordering::Relaxed)
    }

    /// Whether it is time to send one of pad.
    pub fn is_overdue(&self, now: u64) -> bool {
        now >= self.due.load(Ordering::Relaxed).saturating_add(OVERDUE)
    }

    /// The values of a probe that leaves now.
    pub fn issue(&self, now: u64) -> Probe {
        let mut state = locked(&self.state);
        let interval = match state.check {
            Some(_) => CHECK_INTERVAL,
            None if self.is_answered() => INTERVAL,
            None => UNANSWERED_INTERVAL,
        };
        self.due.store(now + interval, Ordering::Relaxed);
        let large = state.number(LARGE);
        // During a check each round has a small one.
        let small = state.check.is_none().then(|| state.number(0));
        Probe { large, small }
    }

    /// An authentic packet of the peer says this.
    pub fn receive(&self, said: &Congestion, now: u64) -> Reaction {
        let mut state = locked(&self.state);
        let mut reaction = Reaction::default();
        if said.value != 0 && state.may_answer(now) {
            state.answers.push_back((said.value, now));
            reaction.must_answer = true;
        }
        if said.echo != 0 && state.knows(said.echo) {
            if !self.is_answered.swap(true, Ordering::Relaxed) {
                self.due.store(now + INTERVAL, Ordering::Relaxed);
            }
            if said.echo & LARGE == LARGE {
                self.proved.fetch_add(1, Ordering::Relaxed);
                state.arrived(said.echo >> 1);
            } else {
                state.overtaken(said.echo >> 1);
                self.assess(&mut state, now, &mut reaction);
            }
        }
        reaction
    }

    fn assess(&self, state: &mut State, now: u64, reaction: &mut Reaction) {
        if state.lost >= LOST {
            state.trust();
            self.due.store(now + AGAIN, Ordering::Relaxed);
            reaction.is_lost = true;
        } else if state.lost > 0 && state.check.is_none() && now >= state.checked {
            state.check = Some(0);
            state.checked = now + CHECK_AGAIN;
            self.due.store(now, Ordering::Relaxed);
            reaction.begins_check = true;
        }
    }

    /// During a check, every `ROUND_INTERVAL`: whether it goes on, and there is something to send.
    pub fn next_round(&self) -> bool {
        let mut state = locked(&self.state);
        let Some(rounds) = state.check.filter(|rounds| *rounds < MAX_ROUNDS) else {
            state.check = None;
            return false;
        };
        state.check = Some(rounds + 1);
        state.wants_round = true;
        true
    }

    /// There is something to send; false where the pair waits in an outbox already.
    pub fn enter_queue(&self) -> bool {
        !self.is_queued.swap(true, Ordering::SeqCst)
    }

    /// The pair has been taken out of the outbox.
    pub fn leave_queue(&self) {
        self.is_queued.store(false, Ordering::SeqCst);
    }

    /// The oldest value that is to be sent back.
    pub fn take_answer(&self) -> Option<Answer> {
        locked(&self.state).answers.pop_front()
    }

    /// The values of a round that is to be made: large ones, and the small one that follows them.
    pub fn take_round(&self) -> Option<([u32; LARGE_PER_ROUND], u32)> {
        let mut state = locked(&self.state);
        std::mem::take(&mut state.wants_round).then(|| {
            (
                [0; LARGE_PER_ROUND].map(|_| state.number(LARGE)),
                state.number(0),
            )
        })
    }
}

impl State {
    /// The value of another probe.
    fn number(&mut self, kind: u32) -> u32 {
        self.count = (self.count + 1) & u32::MAX >> 1;
        if kind == LARGE {
            if self.unanswered.len() == MAX_UNANSWERED {
                self.unanswered.pop_front();
            }
            self.unanswered.push_back(self.count);
        }
        self.count << 1 | kind
    }

    /// Whether it is the value of a probe of the current size.
    fn knows(&self, value: u32) -> bool {
        let since = |count: u32| count.wrapping_sub(self.first) & u32::MAX >> 1;
        (1..=since(self.count)).contains(&since(value >> 1))
    }

    fn arrived(&mut self, number: u32) {
        self.unanswered.retain(|other| *other > number);
        (self.lost, self.check, self.wants_round) = (0, None, false);
    }

    /// Large probes before this one will not be answered any more.
    fn overtaken(&mut self, number: u32) {
        let before = self.unanswered.len();
        self.unanswered.retain(|other| *other > number);
        self.lost += (before - self.unanswered.len()) as u32;
    }

    fn trust(&mut self) {
        self.unanswered.clear();
        (self.lost, self.check, self.wants_round) = (0, None, false);
    }

    fn may_answer(&mut self, now: u64) -> bool {
        let second = now / (1_000 * MILLISECOND);
        if self.second != second {
            (self.second, self.answered) = (second, 0);
        }
        self.answered += 1;
        self.answered <= MAX_ANSWERS_PER_SECOND && self.answers.len() < MAX_ANSWERS
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
