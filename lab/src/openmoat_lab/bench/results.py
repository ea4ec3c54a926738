"""What a benchmark found, as data, as a table for people and as one JSON object. Measures nothing itself."""

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["SCHEMA", "Missing", "Ratio", "Report", "Result", "Row", "aspect_of"]

SCHEMA = "moat.bench/1"
ASPECT = ": "
SUBJECT_COLUMNS, FIGURE_COLUMNS, ASPECT_COLUMNS = 30, 22, 13
"""Widths of the table's columns; the whole table stays below 80."""
PSEUDO_VERSION = re.compile(r"(-\d{8})\d{6}-[0-9a-f]{12}$")


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
    """Our figure compared with another subject, with our own under other conditions, or with a bound."""

    work: str
    against: str
    """What it is compared with, in words: `wireguard-go`, `1 SA`."""
    value: float
    goal: float | None
    """None if there is no goal."""
    at_least: bool = True
    """Whether the goal is a minimum; otherwise it is a maximum."""
    unit: str = "×"
    """Of value and goal; `s` or `ms` if the goal is a time."""

    @property
    def is_met(self) -> bool | None:
        """None where there is no goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be measured here, and why."""

    subject: str
    """A peer, or a work."""
    why: str


Row = Result | Ratio | Missing
"""What a measurement gives."""


@dataclass(slots=True)
class Report:
    """A whole run."""

    machine: Mapping[str, object]
    """Processor, kernel, versions, suite, rounds: all that a reader needs to repeat the run."""
    results: list[Result] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    def add(self, rows: Iterable[Row]) -> None:
        """Sort rows into their lists. The same `Missing` is kept once."""
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
            lines += ["", *_work_lines(work, rows)]
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


def aspect_of(work: str, aspect: str) -> str:
    """Name of a further figure of the same work, which gets a column of its own in the table."""
    return f"{work}{ASPECT}{aspect}"


def _by_work(results: Iterable[Result]) -> Mapping[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for row in results:
        found.setdefault(row.work.partition(ASPECT)[0], []).append(row)
    return found


def _work_lines(work: str, rows: Iterable[Result]) -> Iterator[str]:
    subjects: dict[str, dict[str, Result]] = {}
    aspects: dict[str, str] = {}
    for row in rows:
        aspect = row.work.removeprefix(work).removeprefix(ASPECT)
        aspects.setdefault(aspect, row.unit)
        subjects.setdefault(f"{row.subject} {_short(row.version)}".strip(), {})[aspect] = row
    head = "".join(f"{aspect:>{ASPECT_COLUMNS if aspect else FIGURE_COLUMNS}}" for aspect in aspects)
    yield work
    if head.strip():
        yield f"  {'':{SUBJECT_COLUMNS}}{head}"
    for name, found in subjects.items():
        cells = "".join(_cell(found.get(aspect), aspect) for aspect in aspects)
        yield f"  {name:{SUBJECT_COLUMNS}}{cells}".rstrip()


def _cell(row: Result | None, aspect: str) -> str:
    width = ASPECT_COLUMNS if aspect else FIGURE_COLUMNS
    if row is None:
        return " " * width
    spread = f" ±{_figure(row.spread / 2)}" if row.spread and not aspect else ""
    return f"{f'{_figure(row.median)}{spread} {row.unit}':>{width}}"


def _ratio_lines(rows: Iterable[Ratio]) -> Iterator[str]:
    works: dict[str, list[Ratio]] = {}
    for row in rows:
        works.setdefault(row.work, []).append(row)
    for work, ratios in works.items():
        yield f"  {work}"
        for row in ratios:
            value = f"{row.value:.2f} {row.unit}"
            goal = "" if row.goal is None else f"{'≥' if row.at_least else '≤'} {row.goal:g} {row.unit}"
            verdict = {None: "", True: "met", False: "missed"}[row.is_met]
            yield f"    {row.against:{SUBJECT_COLUMNS}}{value:>{ASPECT_COLUMNS}}  {goal:{ASPECT_COLUMNS}}{verdict}".rstrip()


def _short(version: str) -> str:
    """The version without time and commit of a Go pseudo-version, and without the distribution's revision."""
    return PSEUDO_VERSION.sub(r"\1", version).partition("+")[0]


def _figure(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
