"""Groups of alternatives: connections that lead to the same networks, of which one carries the packets at a time. Pure.

Which pairs can carry packets is told; which of them shall is answered, and nothing is known of how they came about.
"""

from dataclasses import dataclass

from openmoat.errors import MoatError

__all__ = ["Alternatives", "GroupConflict", "Member"]


class GroupConflict(MoatError):
    """A connection says that it is an alternative to others, and does not lead to the same networks."""


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A connection of a group; the least one that can carry packets does."""

    order: int
    connection: str


class Alternatives:
    """The pairs that can serve one policy, by the connection each belongs to.

    Every pair receives from when it is installed, whichever sends: a change of the sender loses nothing that was on its way.
    """

    __slots__ = ("_ready", "_silent", "active")

    def __init__(self) -> None:
        self.active: Member | None = None
        """The connection whose pairs send; None while there is none."""
        self._ready: dict[int, Member] = {}
        """By pair, oldest first."""
        self._silent: set[int] = set()
        """Pairs whose peer does not answer: they send only while there are no others."""

    def __bool__(self) -> bool:
        return bool(self._ready)

    @property
    def members(self) -> frozenset[str]:
        """Connections that can carry packets now."""
        return frozenset(member.connection for member in self._ready.values())

    def add(self, pair: int, member: Member) -> tuple[int, ...]:
        """A pair can carry packets. Answers with the pairs to activate now, in this order; the last one sends."""
        self._ready.pop(pair, None)
        self._ready[pair] = member
        if self._choose():
            return self._pairs()
        return (pair,) if member == self.active else ()

    def remove(self, pair: int) -> tuple[int, ...]:
        """A pair carries nothing any more. Answers with the pairs to activate before it goes."""
        self._ready.pop(pair, None)
        self._silent.discard(pair)
        return self._pairs() if self._choose() else ()

    def suspect(self, pair: int, *, is_silent: bool) -> tuple[int, ...]:
        """The peer of a pair does not answer, or answers again. Answers with the pairs to activate now."""
        if pair in self._ready and is_silent:
            self._silent.add(pair)
        else:
            self._silent.discard(pair)
        return self._pairs() if self._choose() else ()

    def rank(self, member: Member) -> tuple[int, ...]:
        """A connection has another order than before. Answers with the pairs to activate now."""
        for pair, one in self._ready.items():
            if one.connection == member.connection:
                self._ready[pair] = member
        if self.active is not None and self.active.connection == member.connection:
            self.active = member
        return self._pairs() if self._choose() else ()

    def _choose(self) -> bool:
        """Whether another connection sends from now on."""
        rows = ((pair in self._silent, member) for pair, member in self._ready.items())
        _, first = min(rows, default=(False, None))
        before, self.active = self.active, first
        return self.active is not None and self.active != before

    def _pairs(self) -> tuple[int, ...]:
        return tuple(pair for pair, member in self._ready.items() if member == self.active)
