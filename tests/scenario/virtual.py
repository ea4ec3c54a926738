"""An event loop whose time is virtual: it stands still while there is something to do, and jumps to the next deadline."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["VirtualLoop", "run_virtual"]

WORK_SECONDS = 0.0002
"""Real time that threads and sockets are given before virtual time jumps."""
PATIENCE = 10.0
"""Real time after which a loop that has no deadline is stuck."""

Result = TypeVar("Result")


class _Selector(selectors.SelectSelector):
    """Answers at once, and counts the time that it was asked to wait."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(PATIENCE)
            if not ready:
                raise TimeoutError("nothing happens, and nothing is waited for")
            return ready
        ready = super().select(WORK_SECONDS if timeout > 0 else 0)
        if not ready and timeout > 0:
            self.passed += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its `time` begins at 0."""

    def __init__(self) -> None:
        self._waits = _Selector()
        super().__init__(self._waits)

    def time(self) -> float:
        """Virtual seconds."""
        return self._waits.passed


def run_virtual(main: Coroutine[Any, Any, Result]) -> Result:
    """Run in a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
