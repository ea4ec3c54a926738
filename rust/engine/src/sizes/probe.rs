//! Whether the largest packets of an SA arrive, asked of the peer in the SA itself (RFC 9347 6.1.2, RFC 8899 4.3).
//!
//! A *mark* is a payload with a value that the peer sends back. It is large, as large as may be, or small. A small one
//! follows large ones: if it is sent back and they are not, their size is why they were lost, or chance. So no time has to
//! be waited for, and nothing follows from silence. Then the SA is in *doubt*, and steps of large marks, each with a small
//! one, follow each other fast, until one of the large ones is sent back, or `LOST` in a row were not.
//!
//! As long as large packets leave an ordinary one is marked now and then; whoever sends none is asked nothing. Values are
//! numbered; what was marked before the size became another says nothing. Nothing here sends or keeps time: see `echoes`.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openmoat_esp::aggfrag::Congestion;

use crate::shared::locked;

const MILLISECOND: u64 = 1_000_000;

/// From one mark to the next, where large packets leave: less than until TCP sends again, so that this is marked at once.
pub const INTERVAL: u64 = 150 * MILLISECOND;

/// The same where nothing has ever been sent back.
pub const UNHEARD_INTERVAL: u64 = 1_000 * MILLISECOND;

/// So long after a mark is due pad is sent in its place: all large packets are of a size at which they cannot be marked.
pub const OVERDUE: u64 = 300 * MILLISECOND;

/// From one mark to the next in doubt: packets that leave anyway tell more than pad, which comes in bursts.
pub const DOUBT_INTERVAL: u64 = 5 * MILLISECOND;

/// From one step to the next.
pub const STEP: u64 = 15 * MILLISECOND;

/// Large marks of pad in a step.
pub const LARGE_IN_STEP: usize = 2;

/// Steps of one doubt.
pub const MAX_STEPS: u32 = 8;

/// No doubt again for so long.
pub const DOUBT_AGAIN: u64 = 1_000 * MILLISECOND;

/// Large marks in a row that are lost while small ones arrive before it is no chance any more: of one in a fifth each way,
/// one row in two hundred thousand.
pub const LOST: u32 = 12;

/// Nothing is asked for so long after large packets were found to be lost, unless their size becomes another.
pub const AGAIN: u64 = 2_000 * MILLISECOND;

/// Large marks that wait to be sent back; the oldest is forgotten.
pub const MAX_UNANSWERED: usize = 64;

/// Values of the peer's that wait to be sent back, and how many are in a second, beyond which it gets none.
pub const MAX_ANSWERS: usize = 32;
/// See [`MAX_ANSWERS`].
pub const MAX_ANSWERS_PER_SECOND: u64 = 400;

/// Large and small marks are told apart by their last bit.
const LARGE: u32 = 1;

/// What a mark that came in means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// There is something to send.
    pub is_due: bool,
    /// Doubt begins: `step` is to be called soon.
    pub is_doubt: bool,
    /// The largest packets are lost.
    pub is_lost: bool,
}

/// The values of one mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Of the large packet.
    pub large: u32,
    /// Of the small one that follows it.
    pub small: Option<u32>,
}

/// A value of the peer's, and when it came.
pub type Answer = (u32, u64);

/// What is known of one SA whose peer sends marks back.
#[derive(Default)]
pub struct Echo {
    /// Clock of the next mark.
    due: AtomicU64,
    /// Something was ever sent back.
    is_heard: AtomicBool,
    /// Large marks that were sent back.
    proved: AtomicU64,
    /// Somebody was told that there is something to send.
    is_told: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many marks there were.
    count: u32,
    /// How many there were when the size became what it is.
    first: u32,
    /// Numbers of large marks that were not sent back.
    unanswered: VecDeque<u32>,
    /// Large marks that were lost while small ones arrived.
    lost: u32,
    /// Steps made.
    doubt: Option<u32>,
    doubted: u64,
    wants_step: bool,
    answers: VecDeque<Answer>,
    second: u64,
    answered: u64,
}

impl Echo {
    /// The size of large packets is another one than before.
    pub fn begin_anew(&self) {
        let mut state = locked(&self.state);
        state.first = state.count;
        state.be_sure();
        state.doubted = 0;
        self.due.store(0, Ordering::Relaxed);
    }

    /// Whether the peer has ever sent something back: then it says more than silence does.
    pub fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Relaxed)
    }

    /// Large marks that were sent back.
    pub fn proved(&self) -> u64 {
        self.proved.load(Ordering::Relaxed)
    }

    /// Whether a packet as large as may be is to be marked.
    pub fn is_due(&self, now: u64) -> bool {
        now >= self.due.load(Ordering::Relaxed)
    }

    /// Whether it is time to do so with pad.
    pub fn is_overdue(&self, now: u64) -> bool {
        now >= self.due.load(Ordering::Relaxed).saturating_add(OVERDUE)
    }

    /// A packet as large as may be is marked.
    pub fn mark(&self, now: u64) -> Mark {
        let mut state = locked(&self.state);
        let interval = match state.doubt {
            Some(_) => DOUBT_INTERVAL,
            None if self.is_heard() => INTERVAL,
            None => UNHEARD_INTERVAL,
        };
        self.due.store(now + interval, Ordering::Relaxed);
        let large = state.number(LARGE);
        // In doubt each step has a small one.
        let small = state.doubt.is_none().then(|| state.number(0));
        Mark { large, small }
    }

    /// An authentic packet of the peer says this.
    pub fn hear(&self, said: &Congestion, now: u64) -> Heard {
        let mut state = locked(&self.state);
        let mut heard = Heard::default();
        if said.value != 0 && state.may_answer(now) {
            state.answers.push_back((said.value, now));
            heard.is_due = true;
        }
        if said.echo != 0 && state.knows(said.echo) {
            if !self.is_heard.swap(true, Ordering::Relaxed) {
                self.due.store(now + INTERVAL, Ordering::Relaxed);
            }
            if said.echo & LARGE == LARGE {
                self.proved.fetch_add(1, Ordering::Relaxed);
                state.arrived(said.echo >> 1);
            } else {
                state.overtaken(said.echo >> 1);
                self.judge(&mut state, now, &mut heard);
            }
        }
        heard
    }

    fn judge(&self, state: &mut State, now: u64, heard: &mut Heard) {
        if state.lost >= LOST {
            state.be_sure();
            self.due.store(now + AGAIN, Ordering::Relaxed);
            heard.is_lost = true;
        } else if state.lost > 0 && state.doubt.is_none() && now >= state.doubted {
            state.doubt = Some(0);
            state.doubted = now + DOUBT_AGAIN;
            self.due.store(now, Ordering::Relaxed);
            heard.is_doubt = true;
        }
    }

    /// In doubt, every `STEP`: whether it goes on, and there is something to send.
    pub fn step(&self) -> bool {
        let mut state = locked(&self.state);
        let Some(steps) = state.doubt.filter(|steps| *steps < MAX_STEPS) else {
            state.doubt = None;
            return false;
        };
        state.doubt = Some(steps + 1);
        state.wants_step = true;
        true
    }

    /// There is something to send; false where that was said already.
    pub fn tell(&self) -> bool {
        !self.is_told.swap(true, Ordering::SeqCst)
    }

    /// Whoever was told does it now, or never.
    pub fn untell(&self) {
        self.is_told.store(false, Ordering::SeqCst);
    }

    /// The oldest value that is to be sent back.
    pub fn take_answer(&self) -> Option<Answer> {
        locked(&self.state).answers.pop_front()
    }

    /// The values of a step that is to be made: large ones, and the small one that follows them.
    pub fn take_step(&self) -> Option<([u32; LARGE_IN_STEP], u32)> {
        let mut state = locked(&self.state);
        std::mem::take(&mut state.wants_step).then(|| {
            (
                [0; LARGE_IN_STEP].map(|_| state.number(LARGE)),
                state.number(0),
            )
        })
    }
}

impl State {
    /// The value of another mark.
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

    /// Whether it is the value of a mark, of the size in use.
    fn knows(&self, value: u32) -> bool {
        let since = |count: u32| count.wrapping_sub(self.first) & u32::MAX >> 1;
        (1..=since(self.count)).contains(&since(value >> 1))
    }

    fn arrived(&mut self, number: u32) {
        self.unanswered.retain(|other| *other > number);
        (self.lost, self.doubt, self.wants_step) = (0, None, false);
    }

    /// Large marks before this one do not come back any more.
    fn overtaken(&mut self, number: u32) {
        let before = self.unanswered.len();
        self.unanswered.retain(|other| *other > number);
        self.lost += (before - self.unanswered.len()) as u32;
    }

    fn be_sure(&mut self) {
        self.unanswered.clear();
        (self.lost, self.doubt, self.wants_step) = (0, None, false);
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
