//! Marks in virtual time: an SA whose large and small packets are lost as a test says, in both directions.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use openmoat_esp::aggfrag::Congestion;

use super::*;

const SECOND: u64 = 1_000 * MILLISECOND;

/// What a mark is lost by: whether it is large, and chance between 0 and 1.
type Loses<'a> = &'a dyn Fn(u64, bool, &mut Chance) -> bool;

/// Numbers that look like chance, the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, share: f64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as f64) < share * (1u64 << 53) as f64
    }
}

/// What happens next, the earliest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// A large packet of the host leaves.
    Packet,
    /// A mark comes back.
    Answer(u32),
    /// The next step of a doubt.
    Step,
}

/// What came of it.
#[derive(Debug, Default, PartialEq)]
struct Course {
    /// When large packets were found to be lost; milliseconds.
    lost_at: Vec<u64>,
    /// Marks of pad: large ones cost.
    pads: usize,
    smalls: usize,
    proved: u64,
}

/// An SA on a path, and what is still to happen to it.
#[derive(Default)]
struct Line {
    probe: PathProbe,
    course: Course,
    agenda: BinaryHeap<Reverse<(u64, Moment)>>,
    is_stepping: bool,
}

impl Line {
    /// The marks that leave at this moment.
    fn happen(&mut self, now: u64, moment: Moment) -> Vec<u32> {
        let mut sent = Vec::new();
        match moment {
            Moment::Packet if self.probe.is_due(now) => {
                let Probe { large, small } = self.probe.issue(now);
                sent.push(large);
                sent.extend(small);
                self.course.smalls += usize::from(small.is_some());
            }
            Moment::Packet => {}
            Moment::Answer(value) => self.receive(value, now),
            Moment::Step if self.probe.next_round() => {
                self.later(now + ROUND_INTERVAL, Moment::Step)
            }
            Moment::Step => self.is_stepping = false,
        }
        if let Some((larges, small)) = self.probe.take_round() {
            sent.extend(larges);
            sent.push(small);
            self.course.pads += larges.len();
            self.course.smalls += 1;
        }
        sent
    }

    fn receive(&mut self, value: u32, now: u64) {
        let said = Congestion {
            echo: value,
            ..Congestion::default()
        };
        let reaction = self.probe.receive(&said, now);
        assert!(!reaction.must_answer, "nothing was asked of us");
        if reaction.is_lost {
            self.course.lost_at.push(now / MILLISECOND);
        }
        if reaction.begins_check && !self.is_stepping {
            self.is_stepping = true;
            self.later(now, Moment::Step);
        }
    }

    fn later(&mut self, at: u64, moment: Moment) {
        self.agenda.push(Reverse((at, moment)));
    }
}

/// Let large packets leave at these moments (milliseconds), on a path of this round trip (microseconds).
fn run(packets: impl IntoIterator<Item = u64>, round: u64, loses: Loses<'_>) -> Course {
    let (mut line, mut chance) = (Line::default(), Chance(0x9e37_79b9_7f4a_7c15));
    for at in packets {
        line.later(at * MILLISECOND, Moment::Packet);
    }
    while let Some(Reverse((now, moment))) = line.agenda.pop() {
        for value in line.happen(now, moment) {
            // An answer is a small packet.
            let is_large = value & LARGE == LARGE;
            if !loses(now / MILLISECOND, is_large, &mut chance)
                && !loses(now / MILLISECOND, false, &mut chance)
            {
                line.later(now + round * 1_000, Moment::Answer(value));
            }
        }
    }
    line.course.proved = line.probe.proved();
    line.course
}

/// Large packets of a busy second or so, and what TCP sends again of it.
fn stalled_at(at: u64) -> impl Iterator<Item = u64> {
    (0..at + 10).chain([at + 210, at + 610, at + 1_410])
}

fn shrinks_at(at: u64) -> impl Fn(u64, bool, &mut Chance) -> bool {
    move |now, is_large, _| is_large && now >= at
}

#[test]
fn a_path_that_shrinks_is_found_out_at_the_first_repeat_of_tcp_at_the_latest() {
    // A mark was due in the last packets that TCP sent: six rounds of 15 ms from there.
    let found = run(stalled_at(1_045), 1_000, &shrinks_at(1_045));
    assert_eq!(found.lost_at, [1_113]);
    // None was due before the repeat, which is marked at once.
    for at in [1_000, 1_005, 1_060, 1_100] {
        let found = run(stalled_at(at), 1_000, &shrinks_at(at));
        assert_eq!(found.lost_at, [at + 210 + 77], "{at}");
    }
}

#[test]
fn a_longer_way_costs_its_round_trips_and_no_more() {
    for round in [20_000, 100_000, 300_000] {
        let found = run(stalled_at(1_000), round, &shrinks_at(1_000));
        let [at] = found.lost_at[..] else {
            panic!("{found:?}");
        };
        assert!(
            at <= 1_210 + 2 * round / 1_000 + 6 * ROUND_INTERVAL / MILLISECOND,
            "{round}: {at}"
        );
    }
}

#[test]
fn what_others_send_and_get_makes_no_difference() {
    // Other flows go on, and so do answers: packets that are not as large as may be are never marked.
    let found = run((0..4_000).step_by(3), 1_000, &shrinks_at(1_000));
    assert!((1_075..=1_230).contains(&found.lost_at[0]), "{found:?}");
    // Told again where nobody heeds it.
    assert!(
        found.lost_at[1] >= found.lost_at[0] + AGAIN / MILLISECOND,
        "{found:?}"
    );
}

#[test]
fn a_flow_of_one_large_packet_a_second_loses_one() {
    let found = run((0..20_000).step_by(1_000), 10_000, &shrinks_at(4_500));
    assert_eq!(found.lost_at.first(), Some(&5_095));
}

#[test]
fn loss_makes_no_size_flap() {
    for (share, packets) in [(0.01, 30), (0.2, 5), (0.2, 100), (0.3, 20)] {
        let loses = |_: u64, _: bool, chance: &mut Chance| chance.below(share);
        let hour = (0..3_600_000).step_by(packets);
        let course = run(hour, 20_000, &loses);
        let bound = if share < 0.3 { 0 } else { 40 };
        assert!(
            course.lost_at.len() <= bound,
            "{share}: {:?}",
            course.lost_at
        );
        assert!(course.proved > 3_600, "{course:?}");
    }
}

#[test]
fn a_path_that_shrinks_is_found_out_in_spite_of_loss() {
    for percent in [1, 5, 20] {
        let loses = |now: u64, is_large: bool, chance: &mut Chance| {
            (is_large && now >= 10_000) || chance.below(f64::from(percent) / 100.0)
        };
        let found = run((0..60_000).step_by(5), 10_000, &loses);
        let first = found.lost_at[0];
        assert!(
            (10_000..11_000).contains(&first),
            "{percent}: {:?}",
            found.lost_at
        );
    }
}

#[test]
fn a_way_that_carries_nothing_says_nothing_about_sizes() {
    let loses = |now: u64, _: bool, _: &mut Chance| now >= 1_000;
    let course = run(0..20_000, 1_000, &loses);
    assert_eq!(course.lost_at, []);
    assert_eq!(course.pads, 0);
}

#[test]
fn a_peer_that_never_answers_is_asked_less_and_never_believed_to_have_said_anything() {
    let course = run(0..20_000, 1_000, &|_, _, _| true);
    let asked = (20 * SECOND / UNANSWERED_INTERVAL) as usize;
    assert_eq!(
        course,
        Course {
            smalls: asked,
            ..Course::default()
        }
    );
}

#[test]
fn what_is_sent_is_bounded_on_a_good_way_and_on_a_bad_one() {
    let good = run(0..60_000, 1_000, &|_, _, _| false);
    assert_eq!((good.pads, good.smalls), (0, 60_000 / 150));
    let loses = |_: u64, _: bool, chance: &mut Chance| chance.below(0.05);
    let bad = run(0..60_000, 100_000, &loses);
    // In doubt for an eighth of a second, once a second at the most.
    assert!(
        bad.pads <= 60 * MAX_ROUNDS as usize * LARGE_PER_ROUND,
        "{bad:?}"
    );
}

fn echo_of(value: u32) -> Congestion {
    Congestion {
        echo: value,
        ..Congestion::default()
    }
}

#[test]
fn values_that_were_never_sent_or_belong_to_another_size_say_nothing() {
    let probe = PathProbe::default();
    let now = SECOND;
    for value in [1, 2, 3, u32::MAX, u32::MAX - 1] {
        assert_eq!(probe.receive(&echo_of(value), now), Reaction::default());
    }
    assert!(!probe.is_answered());
    let Probe { large, small } = probe.issue(now);
    probe.restart();
    for value in [large, small.unwrap()] {
        assert_eq!(probe.receive(&echo_of(value), now), Reaction::default());
    }
    assert_eq!((probe.is_answered(), probe.proved()), (false, 0));
    let Probe { large, .. } = probe.issue(now);
    probe.receive(&echo_of(large), now);
    assert_eq!((probe.is_answered(), probe.proved()), (true, 1));
}

#[test]
fn a_late_answer_about_a_large_packet_ends_the_doubt() {
    let probe = PathProbe::default();
    let Probe { large, small } = probe.issue(SECOND);
    assert!(probe.receive(&echo_of(small.unwrap()), SECOND).begins_check);
    assert!(probe.next_round());
    probe.receive(&echo_of(large), SECOND + MILLISECOND);
    assert!(!probe.next_round());
    assert_eq!(probe.take_round(), None);
}

#[test]
fn the_peer_gets_so_many_of_its_values_back_and_no_more() {
    let probe = PathProbe::default();
    let ask = |value| Congestion {
        value,
        ..Congestion::default()
    };
    let waiting = (1..=100)
        .filter(|n| probe.receive(&ask(*n), SECOND).must_answer)
        .count();
    assert_eq!(waiting, MAX_ANSWERS);
    assert_eq!(probe.take_answer(), Some((1, SECOND)));
    let mut sent = MAX_ANSWERS;
    while probe.take_answer().is_some() {}
    for n in 1..=2_000 {
        sent += usize::from(probe.receive(&ask(n), SECOND).must_answer);
        while probe.take_answer().is_some() {}
    }
    assert!(sent as u64 <= MAX_ANSWERS_PER_SECOND, "{sent}");
    assert!(probe.receive(&ask(7), 2 * SECOND).must_answer);
}

#[test]
fn of_marks_that_are_never_sent_back_the_oldest_are_forgotten() {
    let probe = PathProbe::default();
    for n in 0..1_000 {
        probe.issue(n * SECOND);
    }
    assert_eq!(locked(&probe.state).unanswered.len(), MAX_UNANSWERED);
}
