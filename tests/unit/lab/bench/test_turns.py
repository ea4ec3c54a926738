"""Turns are taken A B A B, failures end nothing, and the search finds what is carried."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from openmoat_lab.bench.measures import MAX_LOSS, Figure, Raised, Work, highest_rate
from openmoat_lab.bench.results import Missing, Result, Row
from openmoat_lab.bench.subjects import Subject
from openmoat_lab.bench.turns import schedule, take_turns
from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
from openmoat_lab.processes import LabError

LINKS = "1500-octet packets"


def raised(name: str, *only: str) -> Raised:
    """As if its tunnel were up: what is measured here does not go there."""
    subject = Subject(name, name.upper(), lambda: "1", lambda lab: (), only)
    return Raised(subject, "1", Lab(two_gateways(), name), (), has_real_packets=True)


def counting(name: str, done: list[str]) -> Work:
    """A work that notes who did it, and finds how many were done before."""

    def measure(one: Raised, seconds: int) -> Sequence[Figure]:
        done.append(f"{name} {one.subject.name}")
        return [Figure(name, "turns", len(done)), Figure(name, "s/GB", seconds, "CPU")]

    return Work(name, measure)


def ignore(text: str) -> None:
    """For progress that nobody watches."""


def test_subjects_take_turns_at_each_work_in_each_round() -> None:
    done: list[str] = []
    turns = schedule([raised("a"), raised("b")], [counting("tcp", done), counting("udp", done)], 2)
    rows = list(take_turns(turns, LINKS, 1, ignore))
    once = ["tcp a", "tcp b", "udp a", "udp b"]
    assert done == once * 2
    # Turns 1 and 5 were a's, 2 and 6 were b's.
    work = f"tcp; {LINKS}"
    assert Result(work, "A", "1", "turns", 3.0, 4.0) in rows
    assert Result(work, "B", "1", "turns", 4.0, 4.0) in rows
    assert Result(f"{work}: CPU", "A", "1", "s/GB", 1.0, 0.0) in rows


def test_a_subject_that_is_there_for_one_work_does_no_other() -> None:
    done: list[str] = []
    works = [counting("tcp", done), counting("udp", done)]
    list(take_turns(schedule([raised("a"), raised("b", "udp")], works, 1), LINKS, 1, ignore))
    assert done == ["tcp a", "udp a", "udp b"]


def test_a_work_that_is_not_for_all_is_done_by_who_names_it() -> None:
    done: list[str] = []
    special = replace(counting("spread", done), is_for_all=False)
    list(take_turns(schedule([raised("a"), raised("b", "spread")], [special], 1), LINKS, 1, ignore))
    assert done == ["spread b"]


def test_a_round_begins_only_where_it_would_end_in_time() -> None:
    times = iter([0.0, 0.0, 10.0, 20.0, 30.0])
    turns = schedule([raised("a")], [counting("tcp", [])], 5, seconds=25.0, clock=lambda: next(times))
    assert [turn.round for turn in turns] == [1, 2]


def test_who_fails_is_named_and_not_asked_again_and_the_others_go_on() -> None:
    asked: list[str] = []

    def measure(one: Raised, seconds: int) -> Sequence[Figure]:
        asked.append(one.subject.name)
        if one.subject.name == "b":
            raise LabError("the tunnel is down")
        return [Figure("tcp", "Mbit/s", 1.0)]

    turns = schedule([raised("a"), raised("b")], [Work("tcp", measure)], 3)
    rows: list[Row] = list(take_turns(turns, LINKS, 1, ignore))
    assert asked == ["a", "b", "a", "a"]
    assert rows == [
        Missing(f"B: tcp; {LINKS}", "the tunnel is down"),
        Result(f"tcp; {LINKS}", "A", "1", "Mbit/s", 1.0, 0.0),
    ]


def line(most: float, sender: float = 1e6) -> Callable[[float], tuple[float, float]]:
    """A line that carries `most` packets a second and drops the rest."""

    def trial(wanted: float) -> tuple[float, float]:
        sent = min(wanted, sender)
        return sent, min(sent, most)

    return trial


@pytest.mark.parametrize("most", [1_000.0, 64_183.0, 483_022.0, 990_000.0])
def test_the_highest_rate_is_found_within_a_few_percent(most: float) -> None:
    found = highest_rate(line(most))
    assert most * 0.95 <= found <= most * (1 + MAX_LOSS)


def test_a_line_faster_than_the_sender_carries_what_was_sent() -> None:
    assert highest_rate(line(5e6)) == 1e6


def test_a_line_that_always_loses_carries_nothing() -> None:
    assert highest_rate(lambda wanted: (wanted, wanted * 0.99)) == 0.0


def test_a_line_that_is_dead_carries_nothing() -> None:
    assert highest_rate(lambda wanted: (wanted, 0.0)) == 0.0


@pytest.mark.parametrize("overloaded", [20_000, 600_000])
def test_what_an_overload_gets_through_is_only_where_the_search_begins(overloaded: float) -> None:
    def trial(wanted: float) -> tuple[float, float]:
        return wanted, wanted if wanted <= 100_000 else min(overloaded, wanted * 0.98)

    assert 90_000 <= highest_rate(trial) <= 100_000


def test_one_accident_of_the_machine_does_not_lower_the_rate() -> None:
    trials: list[float] = []

    def trial(wanted: float) -> tuple[float, float]:
        trials.append(wanted)
        sent, arrived = line(100_000.0)(wanted)
        return sent, arrived * (0.9 if len(trials) == 2 else 1.0)

    assert highest_rate(trial) >= 95_000
