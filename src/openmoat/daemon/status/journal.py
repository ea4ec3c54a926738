"""What happened, told to people: one row per event gives level, words and the next command.

Knows no protocol: the events of `ike.events` come in, log lines and entries of `moat events` go out.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from openmoat.daemon.status.line_rate import LineRate
from openmoat.ike.events import (
    ChildSa,
    ChildSaDown,
    ChildSaUp,
    DownReason,
    Event,
    IkeSaDown,
    IkeSaUp,
    NegotiationFailed,
    PeerMoved,
)

__all__ = [
    "FAILURE_LINES_PER_SECOND",
    "MAX_ENTRIES",
    "MAX_FOLLOWER_BACKLOG",
    "MOVE_LINES_PER_SECOND",
    "UNKNOWN_PEER_LINES_PER_MINUTE",
    "Entry",
    "Journal",
]

MAX_ENTRIES = 1_000
"""Entries kept for `moat log`; older ones are in the system's log."""
MAX_FOLLOWER_BACKLOG = 256
"""Entries that wait for one slow reader of events; beyond it the reader is cut off."""
UNKNOWN_PEER_LINES_PER_MINUTE = 20
"""Lines about failures that belong to no connection: anybody can cause them."""
FAILURE_LINES_PER_SECOND = 10
"""Lines about failures of connections: who knows a name can cause them without proving anything."""
MOVE_LINES_PER_SECOND = 10
"""Lines about peers at another address: a peer can move with every packet."""

log = logging.getLogger("openmoat.daemon")

QUIET_REASONS = frozenset({DownReason.ASKED, DownReason.REKEYED, DownReason.COLLISION, DownReason.REPLACED})


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One line of the journal."""

    number: int
    at: float
    """Seconds since the epoch."""
    level: int
    """As in `logging`."""
    kind: str
    """Word of the event: `ike-sa-up`, ..."""
    text: str
    fields: Mapping[str, str]


Words = tuple[str, Mapping[str, str]]
"""Text and fields."""


class _Line(msgspec.Struct, frozen=True, gc=False):
    """One that is put into words when somebody reads it: of most nobody ever does."""

    number: int
    at: float
    level: int
    kind: str
    words: Callable[[], Words]

    def entry(self) -> Entry:
        """In words."""
        return Entry(self.number, self.at, self.level, self.kind, *self.words())


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of event is told."""

    kind: str
    level: Callable[[Any], int]
    text: Callable[[Any], str]
    fields: Callable[[Any], dict[str, str]]


def spi32(spi: int) -> str:
    """An ESP SPI as people write it."""
    return f"{spi:08x}"


def ike8(spi: int) -> str:
    """The first half of our IKE SPI: enough to tell two apart in a log."""
    return f"{spi:016x}"[:8]


def down_level(event: IkeSaDown | ChildSaDown) -> int:
    """A warning where service suffers, else news."""
    return logging.INFO if event.reason in QUIET_REASONS else logging.WARNING


def with_text(words: str, text: str) -> str:
    """The detail after a colon, where there is one."""
    return f"{words}: {text}" if text else words


def child_up_level(event: ChildSaUp) -> int:
    """A warning where large packets came whole until now, and may not any more."""
    return logging.WARNING if event.child.has_changed_mode and not event.child.aggfrag else logging.INFO


def child_up_text(event: ChildSaUp) -> str:
    """The Child SA, and what is new since the one before it."""
    child = event.child
    told = f"Child SA {child.child} is up, {child.suite.name}, {'ESP in UDP' if child.udp else 'ESP'}"
    if child.aggfrag:
        told += ", AGGFRAG" if child.takes_slices else ", AGGFRAG without slices"
    if child.has_changed_mode:
        told += "; new with this rekey" if child.aggfrag else "; AGGFRAG has ended with this rekey"
    return "; ".join((told, *child.remarks))


ROWS: Mapping[type, Row] = {
    IkeSaUp: Row(
        "ike-sa-up",
        lambda _: logging.INFO,
        lambda e: f"IKE SA with {e.peer} {'replaces its predecessor' if e.replaces else 'is up'}, {e.suite.name}",
        lambda e: {"conn": e.connection, "ike": ike8(e.ike), "peer": str(e.path.remote)},
    ),
    IkeSaDown: Row(
        "ike-sa-down",
        down_level,
        lambda e: with_text(f"IKE SA is down, {e.reason.value}", e.text),
        lambda e: {"conn": e.connection, "ike": ike8(e.ike)},
    ),
    ChildSaUp: Row(
        "child-sa-up",
        child_up_level,
        child_up_text,
        lambda e: {
            "conn": e.child.connection,
            "ike": ike8(e.child.ike),
            "child": spi32(e.child.local_spi),
            "peer": str(e.child.path.remote),
        },
    ),
    ChildSaDown: Row(
        "child-sa-down",
        down_level,
        lambda e: with_text(f"Child SA {e.child.child} is down, {e.reason.value}", e.text),
        lambda e: {"conn": e.child.connection, "ike": ike8(e.child.ike), "child": spi32(e.child.local_spi)},
    ),
    PeerMoved: Row(
        "peer-moved",
        lambda _: logging.INFO,
        lambda e: f"the peer is now at {e.path.remote}",
        lambda e: {"ike": ike8(e.ike), "peer": str(e.path.remote)},
    ),
    NegotiationFailed: Row(
        "negotiation-failed",
        lambda _: logging.WARNING,
        lambda e: f"{e.text}; see: moat status {e.connection}" if e.connection else f"{e.text}; see: moat status",
        lambda e: {"conn": e.connection or "-", "ike": ike8(e.ike), "peer": str(e.path.remote)},
    ),
}


class Journal:
    """Writes log lines, keeps the newest entries, and feeds those who follow."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._number = 0
        self._lines: deque[_Line] = deque(maxlen=MAX_ENTRIES)
        self._followers: set[asyncio.Queue[Entry | None]] = set()
        self._unknown_peers = LineRate(UNKNOWN_PEER_LINES_PER_MINUTE, 60, wall_clock)
        self._failures = LineRate(FAILURE_LINES_PER_SECOND, 1, wall_clock)
        self._moves = LineRate(MOVE_LINES_PER_SECOND, 1, wall_clock)

    @property
    def untold(self) -> int:
        """Events that got no line; failures are among those that can be explained all the same."""
        return sum(rate.untold for rate in (self._unknown_peers, self._failures, self._moves))

    def tell(self, event: Event) -> None:
        """Note an event of the core; those without a row are none of people's business."""
        row = ROWS.get(type(event))
        if row is None:
            return
        rate = self._rate_of(event)
        if rate is not None and not rate.permits():
            return
        gap = rate.gap() if rate is not None else ""
        self._keep(row.kind, row.level(event), lambda: (row.text(event) + gap, row.fields(event)))

    def _rate_of(self, event: Event) -> LineRate | None:
        """What bounds the lines that others can cause without end."""
        match event:
            case NegotiationFailed(connection=None):
                return self._unknown_peers
            case NegotiationFailed():
                return self._failures
            case PeerMoved():
                return self._moves
            case _:
                return None

    def df_ignored(self, child: ChildSa) -> None:
        """A child fragments packets before ESP although their senders forbid it."""
        words = f"Child SA {child.child} fragments IPv4 packets that must not be, as its df or mtu-policy says"
        self.note("df-ignored", logging.WARNING, words, {"conn": child.connection, "child": spi32(child.local_spi)})

    def note(self, kind: str, level: int, text: str, fields: Mapping[str, str] | None = None) -> None:
        """Note something that the daemon itself did or saw."""
        self._keep(kind, level, lambda: (text, fields or {}))

    def _keep(self, kind: str, level: int, words: Callable[[], Words]) -> None:
        self._number += 1
        line = _Line(self._number, self._wall_clock(), level, kind, words)
        self._lines.append(line)
        if log.isEnabledFor(level):
            text, fields = words()
            log.log(level, "%s%s", text, "".join(f" {name}={value}" for name, value in fields.items()))
        for follower in tuple(self._followers):
            self._feed(follower, line.entry())

    def entries(self) -> tuple[Entry, ...]:
        """The newest entries, oldest first."""
        return tuple(line.entry() for line in self._lines)

    def follow(self) -> "asyncio.Queue[Entry | None]":
        """A queue that gets every entry from now on; None ends it, after `unfollow` or when its reader is too slow."""
        queue: asyncio.Queue[Entry | None] = asyncio.Queue(MAX_FOLLOWER_BACKLOG + 1)
        self._followers.add(queue)
        return queue

    def unfollow(self, queue: "asyncio.Queue[Entry | None]") -> None:
        """Stop feeding a queue."""
        self._followers.discard(queue)

    def _feed(self, follower: "asyncio.Queue[Entry | None]", entry: Entry) -> None:
        if follower.qsize() < MAX_FOLLOWER_BACKLOG:
            follower.put_nowait(entry)
        else:
            self._followers.discard(follower)
            follower.put_nowait(None)
