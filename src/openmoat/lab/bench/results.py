"""What a benchmark found, as data, as a table for people and as one JSON object. Measures nothing itself."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["SCHEMA", "Missing", "Ratio", "Report", "Result", "Row"]

SCHEMA = "moat.bench/1"
SUBJECT_COLUMNS, FIGURE_COLUMNS = 34, 12
"""Width of the table's columns; with unit and goal it stays below 80."""


@dataclass(frozen=True, slots=True)
class Result:
    """One subject at one work, over all rounds."""

    work: str
    """In words: `TCP, 1 flow; 1500-octet packets`. Results of one work are compared, and stand together in the table."""
    subject: str
    version: str
    unit: str
    median: float
    spread: float
    """Largest less smallest sample, in `unit`."""

    @classmethod
    def of(cls, work: str, subject: str, version: str, unit: str, samples: Sequence[float]) -> Self:
        """From the samples of the rounds, at least one."""
        return cls(work, subject, version, unit, statistics.median(samples), max(samples) - min(samples))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours beside something: another subject, ourselves under other conditions, or a bound."""

    work: str
    against: str
    """With what it was compared, in words: `wireguard-go`, `1 SA`."""
    value: float
    goal: float | None
    """None where there is no budget for it."""
    at_least: bool = True
    """Whether the goal is a least value, or a greatest."""
    unit: str = "×"
    """Of value and goal; `s` or `ms` where a budget is a time."""

    @property
    def is_met(self) -> bool | None:
        """None where there is no goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be measured here, and why. Never guessed."""

    subject: str
    """A peer, or a work."""
    why: str


Row = Result | Ratio | Missing
"""What a measurement gives."""


@dataclass(slots=True)
class Report:
    """A whole run."""

    machine: Mapping[str, object]
    """Processor, kernel, versions, suite, rounds: whatever a reader needs to repeat it."""
    results: list[Result] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows in, each where it belongs. What is missing for the same reason again is said once."""
        for row in rows:
            match row:
                case Result():
                    self.results.append(row)
                case Ratio():
                    self.ratios.append(row)
                case Missing() if row not in self.missing:
                    self.missing.append(row)

    def fields(self) -> Mapping[str, Any]:
        """As it stands in JSON."""
        return {
            "schema": SCHEMA,
            "machine": dict(self.machine),
            "results": [
                {
                    "work": row.work,
                    "subject": row.subject,
                    "version": row.version,
                    "unit": row.unit,
                    "median": _rounded(row.median),
                    "spread": _rounded(row.spread),
                }
                for row in self.results
            ],
            "ratios": [
                {
                    "work": row.work,
                    "against": row.against,
                    "value": _rounded(row.value),
                    "goal": row.goal,
                    "at_least": row.at_least,
                    "unit": row.unit,
                }
                for row in self.ratios
            ],
            "missing": [{"subject": row.subject, "why": row.why} for row in self.missing],
        }

    def to_json(self) -> str:
        """One object, one line."""
        return json.dumps(self.fields(), ensure_ascii=False)

    def table(self) -> str:
        """For people: the machine, each work with its subjects, the budgets with their goals, what is missing."""
        lines = [f"{word}: {fact}" for word, fact in self.machine.items()]
        for work, rows in _by_work(self.results).items():
            lines += ["", work]
            lines += [_result_line(row) for row in rows]
        goals = {
            "Budgets: ours against": [row for row in self.ratios if row.goal is not None],
            "Without a budget: ours against": [row for row in self.ratios if row.goal is None],
        }
        for title, ratios in goals.items():
            if ratios:
                lines += ["", title, *_ratio_lines(ratios)]
        if self.missing:
            lines += ["", "Missing"]
            lines += [f"  {row.subject}: {row.why}" for row in self.missing]
        return "\n".join(lines)


def _by_work(results: Iterable[Result]) -> Mapping[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for row in results:
        found.setdefault(row.work, []).append(row)
    return found


def _result_line(row: Result) -> str:
    name = f"{row.subject} {row.version}".strip()
    return (
        f"  {name:{SUBJECT_COLUMNS}}{_figure(row.median):>{FIGURE_COLUMNS}} {row.unit:12} spread {_figure(row.spread)}"
    )


def _ratio_lines(rows: Iterable[Ratio]) -> Iterator[str]:
    work = ""
    for row in rows:
        if row.work != work:
            work = row.work
            yield f"  {work}"
        value = f"{row.value:.2f} {row.unit}"
        goal = "" if row.goal is None else f"{'≥' if row.at_least else '≤'} {row.goal:g} {row.unit}"
        verdict = {None: "", True: "met", False: "missed"}[row.is_met]
        yield f"    {row.against:{SUBJECT_COLUMNS - 2}}{value:>{FIGURE_COLUMNS}}  {goal:<{FIGURE_COLUMNS}}{verdict}".rstrip()


def _figure(value: float) -> str:
    """Three digits that mean something, or all before the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
