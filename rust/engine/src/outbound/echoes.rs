//! Marks on their way (see `echo`): the inbound thread hears them and keeps the time of doubts, the outbound one seals what
//! is to be sent, in packets of its own that are all pad.

use crossbeam_queue::ArrayQueue;
use openmoat_esp::aggfrag::{CONGESTION_HEADER, Congestion, HEADER, MAX_DELAY};

use crate::events::flag;
use crate::outbound::bundle::Address;
use crate::outbound::packing::{Sink, seal_payload};
use crate::shared::Shared;
use crate::sizes::plan::MtuPlan;
use crate::sizes::probe::{Echo, Heard, STEP};
use crate::tables::{Outbound, Pair};

/// Pairs of one worker that have marks to send.
pub const MAX_PAIRS: usize = 1_024;

/// Octets of a payload that only says something: its pad begins behind the header, and ends where none of ESP is needed.
const SMALL: usize = CONGESTION_HEADER + 2;

const NANOSECONDS_IN_MICROSECOND: u64 = 1_000;

/// Handles of the pairs that have marks to send, for one outbound worker.
pub struct Echoes(ArrayQueue<u32>);

impl Default for Echoes {
    fn default() -> Self {
        Self(ArrayQueue::new(MAX_PAIRS))
    }
}

impl Echoes {
    /// The next pair.
    pub fn take(&self) -> Option<u32> {
        self.0.pop()
    }

    /// This one, too. Where there is no room its marks wait until more of them come.
    fn leave(&self, pair: &Pair, echo: &Echo) -> bool {
        let is_left = echo.tell() && self.0.push(pair.handle).is_ok();
        if !is_left && self.0.is_full() {
            echo.untell();
        }
        is_left
    }
}

/// What one inbound worker knows of pairs in doubt.
#[derive(Default)]
pub struct Doubts {
    handles: Vec<u32>,
    next: u64,
}

impl Doubts {
    /// An authentic packet of the peer says something of the path.
    pub fn hear(
        &mut self,
        shared: &Shared,
        worker: usize,
        pair: &Pair,
        said: &Congestion,
        now: u64,
    ) {
        let Some(echo) = pair.echo() else {
            return;
        };
        let Heard {
            is_due,
            is_doubt,
            is_lost,
        } = echo.hear(said, now);
        if is_lost {
            shared.raise(pair, flag::BLACK_HOLE);
        }
        let has_step = is_doubt && echo.step();
        if has_step && !self.handles.contains(&pair.handle) {
            if self.handles.is_empty() {
                self.next = now + STEP;
            }
            self.handles.push(pair.handle);
        }
        if is_due || has_step {
            ask(shared, worker, pair, echo);
        }
    }

    /// When the next step is due.
    pub fn deadline(&self) -> Option<u64> {
        (!self.handles.is_empty()).then_some(self.next)
    }

    /// Let all pairs that are still in doubt make their next step.
    pub fn look_after(&mut self, shared: &Shared, worker: usize, now: u64) {
        if self.deadline().is_none_or(|due| now < due) {
            return;
        }
        self.next = now + STEP;
        self.handles.retain(|handle| {
            let found = shared.sad.look_up(*handle);
            let pair = found.as_ref().filter(|pair| pair.handle == *handle);
            let Some((pair, echo)) = pair.and_then(|pair| Some((pair, pair.echo()?))) else {
                return false;
            };
            let goes_on = echo.step();
            if goes_on {
                ask(shared, worker, pair, echo);
            }
            goes_on
        });
    }
}

/// Have the outbound worker send what there is.
fn ask(shared: &Shared, worker: usize, pair: &Pair, echo: &Echo) {
    if shared.echoes[worker].leave(pair, echo) {
        shared.outbound_bell(worker).wake.signal();
    }
}

/// How the packets of a pair leave.
pub struct Way<'a> {
    /// Which pair.
    pub pair: &'a Pair,
    /// Its outbound half.
    pub outbound: &'a Outbound,
    /// Its sizes.
    pub plan: &'a MtuPlan,
    /// Where to.
    pub address: Address,
}

/// Seal what a pair has to send. Nothing else is open in the bundle, and nobody else numbers packets of the pair.
pub fn send(sink: &mut Sink<'_>, way: &Way<'_>, echo: &Echo) {
    let now = sink.now;
    while let Some((value, since)) = echo.take_answer() {
        let held = now.saturating_sub(since) / NANOSECONDS_IN_MICROSECOND;
        let answer = Congestion {
            echo: value,
            echo_delay: held.min(MAX_DELAY.into()) as u32,
            ..Congestion::default()
        };
        send_pad(sink, way, &answer, SMALL);
    }
    if let Some((large, small)) = echo.take_step()
        && way.plan.asks()
    {
        for value in large {
            send_mark(sink, way, value, way.plan.inner_room + HEADER);
        }
        send_small(sink, way, small);
    }
}

/// A large packet has left that could not be marked: ask about it with pad, if nothing was asked for long.
pub fn send_overdue(sink: &mut Sink<'_>, way: &Way<'_>, echo: &Echo) {
    let mark = echo.mark(sink.now);
    send_mark(sink, way, mark.large, way.plan.inner_room + HEADER);
    if let Some(small) = mark.small {
        send_small(sink, way, small);
    }
}

/// The small packet that follows a large one which was marked.
pub fn send_small(sink: &mut Sink<'_>, way: &Way<'_>, value: u32) {
    send_mark(sink, way, value, SMALL);
}

fn send_mark(sink: &mut Sink<'_>, way: &Way<'_>, value: u32, size: usize) {
    let mark = Congestion {
        is_probing: true,
        value,
        ..Congestion::default()
    };
    send_pad(sink, way, &mark, size);
}

fn send_pad(sink: &mut Sink<'_>, way: &Way<'_>, says: &Congestion, size: usize) {
    let sa = &way.outbound.sa;
    if sa.has_room_for(1, size as u64).is_err() {
        return;
    }
    let room = sink.bundle.room(sink.shared);
    says.write_pad(&mut room[sa.suite().headroom()..], size);
    seal_payload(sink, way.pair, way.outbound, size, way.address);
}
