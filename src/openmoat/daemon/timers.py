"""Deadlines of the event loop, as parts of the daemon are handed them; tests hand them time of their own."""

from collections.abc import Callable
from typing import Protocol

__all__ = ["Later", "Timer"]


class Timer(Protocol):
    """What `call_later` of an event loop gives."""

    def cancel(self) -> None:
        """It is not wanted any more."""
        ...


Later = Callable[[float, Callable[[], None]], Timer]
"""`call_later` of an event loop."""
