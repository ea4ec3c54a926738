"""Work that must not hold the event loop: one bounded pool of threads, entered by name."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from openmoat.errors import MoatError

__all__ = ["MAX_WAITING", "Overloaded", "WorkerThreads"]

MAX_WAITING = 4096
"""Calls that wait or run; an unknown peer's key exchange beyond them is refused instead of queued."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Overloaded(MoatError):
    """More work waits than the bound; the caller refuses what asked for it."""


class WorkerThreads:
    """Runs calls in threads. Made and used in one event loop; the calls themselves touch nothing that belongs to it."""

    def __init__(self, threads: int = min(8, os.cpu_count() or 1)) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="moat-worker")
        self.waiting = 0
        """Calls that wait or run."""

    async def run(
        self, call: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """The result of `call`, made in a thread. Raises what it raises, or `Overloaded`."""
        if self.waiting >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} calls wait already: this one is refused")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Forget what waits; what runs ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
