"""All timers of one `Endpoint` behind one deadline: a heap whose stale entries are passed over when they surface."""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["STALE_FACTOR", "Timers"]

Key = TypeVar("Key", bound=Hashable)

STALE_FACTOR = 4
"""The heap is built anew when it holds this many times more entries than there are timers set."""
SMALL = 64
"""Heaps up to this size are never built anew."""


class Timers(Generic[Key]):
    """Deadlines by key. Setting, stopping and firing cost O(log n); a timer that is set again moves."""

    __slots__ = ("_deadlines", "_heap", "_serial")

    def __init__(self) -> None:
        self._deadlines: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, key: Key) -> bool:
        return key in self._deadlines

    def set(self, key: Key, at: float) -> None:
        """Let `key` fire at `at`, and no longer at any other time."""
        # The serial number makes entries of equal time fire in the order in which they were set, and comparable.
        self._serial += 1
        self._deadlines[key] = (at, self._serial)
        heapq.heappush(self._heap, (at, self._serial, key))
        if len(self._heap) > SMALL and len(self._heap) > STALE_FACTOR * len(self._deadlines):
            self._heap = [(at, serial, key) for key, (at, serial) in self._deadlines.items()]
            heapq.heapify(self._heap)

    def stop(self, key: Key) -> None:
        """Let `key` not fire; nothing happens where it was not set."""
        self._deadlines.pop(key, None)

    def deadline(self, key: Key) -> float | None:
        """When `key` fires."""
        entry = self._deadlines.get(key)
        return entry[0] if entry else None

    def next(self) -> float | None:
        """When the first timer fires."""
        while self._heap:
            at, serial, key = self._heap[0]
            if self._deadlines.get(key) == (at, serial):
                return at
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float) -> Key | None:
        """The first timer that is due, which is thereby stopped."""
        at = self.next()
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._deadlines[key]
        return key
