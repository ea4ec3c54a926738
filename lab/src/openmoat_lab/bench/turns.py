"""Turns: in each round one subject after the other does a work, so that other load of the machine affects all of them."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from openmoat_lab.bench.measures import Figure, Raised, Work
from openmoat_lab.bench.results import Missing, Result, Row, aspect_of
from openmoat_lab.processes import LabError

__all__ = ["Turn", "schedule", "take_turns"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One subject at one work, once."""

    round: int
    work: Work
    raised: Raised


@dataclass(slots=True)
class Samples:
    """Samples of one subject by figure, in the order in which they were first seen."""

    raised: Raised
    values: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def take(self, figures: Iterable[Figure]) -> None:
        """Add what one turn gave."""
        for figure in figures:
            self.values.setdefault((figure.what, figure.aspect, figure.unit), []).append(figure.value)


def schedule(
    subjects: Sequence[Raised],
    works: Sequence[Work],
    rounds: int,
    *,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Turn]:
    """A B A B, for each work: no subject is measured twice in a row while another waits.

    A round after the first begins only if it would end within `seconds`, should it take as long as those before.
    """
    start = clock()
    for number in range(1, rounds + 1):
        spent = clock() - start
        if number > 1 and spent + spent / (number - 1) > seconds:
            return
        for work in works:
            for raised in subjects:
                if work.is_of(raised.subject):
                    yield Turn(number, work, raised)


def take_turns(turns: Iterable[Turn], links: str, seconds: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Measure; yields results, and what could not be measured. A subject that fails at a work does not repeat it."""
    samples: dict[str, Samples] = {}
    failed: set[tuple[str, str]] = set()
    for turn in turns:
        raised, work = turn.raised, turn.work
        if (raised.subject.name, work.name) in failed:
            continue
        try:
            figures = work.measure(raised, seconds)
        except LabError as error:
            failed.add((raised.subject.name, work.name))
            yield Missing(f"{raised.subject.title}: {work.name}; {links}", str(error)[:200])
            continue
        samples.setdefault(raised.subject.name, Samples(raised)).take(figures)
        say(f"round {turn.round}: {work.name:20} {raised.subject.title:24} {figures[0].value:12.3f} {figures[0].unit}")
    yield from _results(samples.values(), links)


def _results(samples: Iterable[Samples], links: str) -> Iterator[Result]:
    for one in samples:
        for (what, aspect, unit), values in one.values.items():
            work = aspect_of(f"{what}; {links}", aspect) if aspect else f"{what}; {links}"
            yield Result.of(work, one.raised.subject.title, one.raised.version, unit, values)
