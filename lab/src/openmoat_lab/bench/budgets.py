"""The budgets of the data plane: which results are compared, and what the ratio should be. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from openmoat_lab.bench.fixed_keys import PLAIN, VIRTUAL, VIRTUAL_64K
from openmoat_lab.bench.measures import FORWARDED, GATEWAY_STREAM, IDLE, LARGEST, P50, P99, SPREAD, udp_title
from openmoat_lab.bench.results import Missing, Ratio, Result, Row
from openmoat_lab.bench.subjects import OURS, PEERS, SA_COUNTS, SUBJECTS, UNSEALED, VETH, sas_name

__all__ = ["RATES", "Rate", "budgets"]

TCP_GOAL, UDP_GOAL, ROUND_TRIP_GOAL = 2.5, 2.0, 1.0
SEALING_GOAL, SAS_GOAL = 0.7, 0.95
FORWARDED_GOAL, LARGE_GOAL = 0.9, 1.0
"""Of the virtual MTU against plain tunnel mode: forwarded packets of 1500 octets, and packets of 64 KiB."""
NO_PEER = "no peer was measured"

Medians = Mapping[str, float]
"""Of one work, by title of the subject."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A work where more is better, and the goal: how many times the best peer's figure ours should be."""

    what: str
    goal: float


RATE_UNITS = frozenset({"Mbit/s", "packets/s"})
RATES = (Rate(GATEWAY_STREAM.title, TCP_GOAL), Rate(udp_title(64), UDP_GOAL), Rate(udp_title(1300), UDP_GOAL))


def budgets(results: Sequence[Result], links: str) -> Iterator[Row]:
    """The ratios over one kind of links. What could not be compared becomes `Missing`."""
    works: dict[str, dict[str, float]] = {}
    for row in results:
        works.setdefault(row.work, {})[row.subject] = row.median
    for rate in RATES:
        yield from _against_peers(f"{rate.what}; {links}", works, rate.goal)
    for quantile in (P50, P99):
        yield from _added(f"{IDLE}, {quantile}; {links}", works)
    yield from _against_ourselves(f"{GATEWAY_STREAM.title}; {links}", works, SAS_GOAL)
    yield from _against_ourselves(f"{SPREAD}; {links}", works, None)
    for name, what, goal in (
        (VIRTUAL, FORWARDED.title, FORWARDED_GOAL),
        (VIRTUAL_64K, GATEWAY_STREAM.title, LARGE_GOAL),
        (VIRTUAL, udp_title(LARGEST), None),
    ):
        medians = works.get(f"{what}; {links}", {})
        virtual, plain = medians.get(_title(name)), medians.get(_title(PLAIN))
        if virtual and plain:
            yield Ratio(f"{_title(name)}: {what}; {links}", _title(PLAIN), virtual / plain, goal)
    judged = {f"{rate.what}; {links}" for rate in RATES}
    for row in results:
        if row.unit in RATE_UNITS and row.work.endswith(links) and row.work not in judged:
            judged.add(row.work)
            yield from _against_peers(row.work, works, None)


def _against_peers(work: str, works: Mapping[str, Medians], goal: float | None) -> Iterator[Row]:
    medians = works.get(work, {})
    ours = medians.get(_title(OURS))
    peers = {title: value for title in map(_title, PEERS) if (value := medians.get(title))}
    if ours is None or not medians:
        return
    if not peers:
        yield Missing(work, NO_PEER)
        return
    best = max(peers, key=lambda title: peers[title])
    yield Ratio(work, f"{best}, the best peer", ours / peers[best], goal)
    if goal is not None:
        yield from (Ratio(work, title, ours / value, None) for title, value in peers.items() if title != best)


def _added(work: str, works: Mapping[str, Medians]) -> Iterator[Row]:
    """What a tunnel adds to the round trip without one."""
    medians = works.get(work, {})
    ours, bare = medians.get(_title(OURS)), medians.get(_title(VETH))
    if ours is None:
        return
    peers = {title: medians[title] for title in map(_title, PEERS) if title in medians}
    if not peers or bare is None:
        yield Missing(work, NO_PEER if bare is not None else f"{_title(VETH)} was not measured")
        return
    best = min(peers, key=lambda title: peers[title])
    if peers[best] <= bare:
        yield Missing(work, f"{best} adds nothing that can be measured here")
        return
    yield Ratio(
        f"added {work}", f"{best}, the best peer", (ours - bare) / (peers[best] - bare), ROUND_TRIP_GOAL, at_least=False
    )


def _against_ourselves(work: str, works: Mapping[str, Medians], sas_goal: float | None) -> Iterator[Row]:
    medians = works.get(work, {})
    few, *more = map(sas_name, SA_COUNTS)
    rows: list[tuple[str, str, str, float | None]] = [(work, few, UNSEALED, SEALING_GOAL)]
    rows += [(f"{_title(many)}: {work}", many, few, sas_goal if many == more[-1] else None) for many in more]
    for label, own, other, goal in rows:
        above, below = medians.get(_title(own)), medians.get(_title(other))
        if above and below:
            yield Ratio(label, _title(other), above / below, goal)


def _title(name: str) -> str:
    return SUBJECTS[name].title
