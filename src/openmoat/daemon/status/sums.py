"""Counters that outlive the SAs that counted: a backend forgets them with the SA, and what people see only grows."""

from collections import Counter
from operator import add, attrgetter
from typing import Any

import msgspec

from openmoat.dataplane.backend import SaCounters

__all__ = ["Sums"]

OF_ONE_SA = frozenset({"handle", "inbound_sequence", "outbound_sequence"})
"""Fields that mean nothing beyond their own SA."""
NUMBERS = tuple(row.name for row in msgspec.structs.fields(SaCounters) if row.type is int and row.name not in OF_ONE_SA)
_numbers_of = attrgetter(*NUMBERS)


class Sums:
    """Every counter of `SaCounters` that can be added, over any number of SAs."""

    __slots__ = ("_deeds", "_drops", "_numbers")

    def __init__(self) -> None:
        self._numbers: tuple[int, ...] = (0,) * len(NUMBERS)
        self._drops: Counter[str] = Counter()
        self._deeds: Counter[str] = Counter()

    def add(self, row: SaCounters) -> None:
        """Add the counters of one SA."""
        self._numbers = tuple(map(add, self._numbers, _numbers_of(row)))
        if row.drops:
            self._drops.update(row.drops)
        if row.deeds:
            self._deeds.update(row.deeds)

    def merge(self, other: "Sums") -> None:
        """Add other sums."""
        self._numbers = tuple(map(add, self._numbers, other._numbers))
        self._drops.update(other._drops)
        self._deeds.update(other._deeds)

    def total(self) -> SaCounters:
        """As the counters of one SA that has carried all of it; its handle and sequence numbers are 0."""
        numbers: dict[str, Any] = dict(zip(NUMBERS, self._numbers, strict=True))
        return SaCounters(handle=0, drops=dict(self._drops), deeds=dict(self._deeds), **numbers)
