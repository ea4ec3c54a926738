"""How long the event loop works from one wait to the next, and how long it stood still. Measures; decides nothing."""

import gc
import selectors
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["LONGEST_TURN", "Turns", "WatchedSelector", "watch_collections"]

LONGEST_TURN = 0.020
"""Seconds of the thread's CPU time that one turn of the loop may take, under any load."""


@dataclass(slots=True)
class Turns:
    """Since the daemon was ready. Seconds."""

    count: int = 0
    longest: float = 0.0
    """CPU time of the loop's thread in one turn: what else the machine does is not in it."""
    too_long: int = 0
    """Turns beyond `LONGEST_TURN`."""
    longest_pause: float = 0.0
    """The same by the wall clock: other threads, other processes and the collector included."""
    collections: int = 0
    """Of the garbage collector that looked at everything that is not frozen (generation 2)."""
    longest_collection: float = 0.0
    """By the wall clock, of any generation."""

    def reset(self) -> None:
        """Begin anew: what was before is no measure of what is to come."""
        fresh = Turns()
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def note(self, cpu: float, wall: float) -> None:
        """One turn has ended."""
        self.count += 1
        self.longest = max(self.longest, cpu)
        self.longest_pause = max(self.longest_pause, wall)
        if cpu > LONGEST_TURN:
            self.too_long += 1


class WatchedSelector(selectors.EpollSelector):
    """What the loop waits with. A turn is what happens between two waits, in the one thread that waits."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._began: tuple[float, float] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait as any selector does."""
        if self._began is not None:
            cpu, wall = self._began
            self._turns.note(time.thread_time() - cpu, time.monotonic() - wall)
        try:
            return super().select(timeout)
        finally:
            self._began = time.thread_time(), time.monotonic()


def watch_collections(turns: Turns, clock: Callable[[], float] = time.monotonic) -> Callable[[], None]:
    """Note what the garbage collector takes; answers how to stop."""
    began = clock()

    def note_collection(phase: str, info: Mapping[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = clock()
            return
        turns.longest_collection = max(turns.longest_collection, clock() - began)
        turns.collections += info["generation"] == 2

    gc.callbacks.append(note_collection)
    return lambda: gc.callbacks.remove(note_collection)
