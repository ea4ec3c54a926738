"""A bound on log lines that others can cause: so many in a time, then a count of those left out."""

from collections.abc import Callable

__all__ = ["LineRate"]


class LineRate:
    """At most `lines` lines in each stretch of `seconds`, by a clock that is given."""

    def __init__(self, lines: int, seconds: float, clock: Callable[[], float]) -> None:
        self._lines = lines
        self._seconds = seconds
        self._clock = clock
        self._began = 0.0
        self._told = 0
        self._left_out = 0
        self.untold = 0
        """Lines left out since the start."""

    def permits(self) -> bool:
        """Whether one more line may be written now; if not, it is counted."""
        now = self._clock()
        # A wall clock may also go back, which begins another stretch.
        if not 0 <= now - self._began < self._seconds:
            self._began, self._told = now, 0
        if self._told >= self._lines:
            self._left_out += 1
            self.untold += 1
            return False
        self._told += 1
        return True

    def gap(self) -> str:
        """What the next line adds of those left out since the last one; empty where none was."""
        left_out, self._left_out = self._left_out, 0
        return f" (lines of this kind left out before: {left_out})" if left_out else ""
