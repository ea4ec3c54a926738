"""What is up, since when, and why not: the state that `moat status` shows, kept from the events of the core."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from openmoat.ike.events import (
    ChildSa,
    ChildSaDown,
    ChildSaUp,
    DownReason,
    Event,
    IkeSaDown,
    IkeSaUp,
    NegotiationFailed,
)
from openmoat.ike.negotiate.explain import Failures

__all__ = ["Book", "Down", "LiveChildSa", "LiveIkeSa", "Record"]


@dataclass(slots=True)
class LiveIkeSa:
    """An IKE SA that is up."""

    up: IkeSaUp
    since: float
    """Wall clock: when its peer was authenticated; rekeys do not change it."""
    rekeyed: float | None = None
    """Wall clock: when it was rekeyed last."""


@dataclass(slots=True)
class LiveChildSa:
    """A Child SA that is up."""

    child: ChildSa
    since: float
    """Wall clock: when packets were carried first; rekeys do not change it."""
    rekeyed: float | None = None


@dataclass(frozen=True, slots=True)
class Down:
    """How something ended."""

    at: float
    """Wall clock."""
    reason: DownReason
    text: str


@dataclass(slots=True)
class Record:
    """All that is known of one loaded connection."""

    since: float
    """Wall clock: when it was loaded, or last changed."""
    ike_sas: dict[int, LiveIkeSa] = field(default_factory=dict)
    children: dict[int, LiveChildSa] = field(default_factory=dict)
    up: Counter[str] = field(default_factory=Counter)
    """How many Child SAs are up of each child, by its name: of a template there may be thousands."""
    down: Down | None = None
    """The last loss of an IKE SA or of an attempt to have one."""
    child_downs: dict[str, Down] = field(default_factory=dict)
    """The last loss of each child, by its name; gone when it is up again."""
    failure: int | None = None
    """Number of the newest failed negotiation since something was last up."""
    attempts: int = 0
    """Failed negotiations since something was last up."""
    missed: float | None = None
    """Wall clock: when the last of it was lost, or the first attempt failed; None while it is up, or not wanted."""

    def miss(self, now: float) -> None:
        """It is wanted and not there; attempts that fail one after the other do not make that younger."""
        if self.missed is None and not self.children:
            self.missed = now


class Book:
    """Hears every event; holds nothing of connections that are not loaded."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._records: dict[str, Record] = {}
        self.failures = Failures()

    def load(self, put: Iterable[str], remove: Iterable[str]) -> None:
        """Connections that are loaded from now on, and those that are not any more."""
        for name in remove:
            self._records.pop(name, None)
        for name in put:
            self._records.setdefault(name, Record(self._wall_clock())).since = self._wall_clock()

    def record(self, connection: str) -> Record | None:
        """Of a loaded connection."""
        return self._records.get(connection)

    def hear(self, event: Event) -> None:
        """Note what an event means."""
        match event:
            case IkeSaUp():
                self._ike_up(event)
            case IkeSaDown():
                self._ike_down(event)
            case ChildSaUp(child=child):
                self._child_up(child)
            case ChildSaDown():
                self._child_down(event)
            case NegotiationFailed():
                self._failed(event)
            case _:
                pass

    def _ike_up(self, event: IkeSaUp) -> None:
        record = self._records.get(event.connection)
        if record is None:
            return
        before = record.ike_sas.pop(event.replaces, None) if event.replaces is not None else None
        now = self._wall_clock()
        record.ike_sas[event.ike] = LiveIkeSa(event, before.since if before else now, now if before else None)
        record.down, record.failure, record.attempts = None, None, 0

    def _ike_down(self, event: IkeSaDown) -> None:
        record = self._records.get(event.connection)
        if record is None:
            return
        record.ike_sas.pop(event.ike, None)
        if event.reason is not DownReason.REKEYED:
            # Its Child SAs have gone before it, each by an event of its own.
            record.down = Down(self._wall_clock(), event.reason, event.text)
            if event.reason is DownReason.ASKED:
                record.missed = None
            else:
                record.miss(record.down.at)

    def _child_up(self, child: ChildSa) -> None:
        record = self._records.get(child.connection)
        if record is None:
            return
        before = record.children.get(child.replaces) if child.replaces is not None else None
        now = self._wall_clock()
        if child.local_spi not in record.children:
            record.up[child.child] += 1
        record.children[child.local_spi] = LiveChildSa(child, before.since if before else now, now if before else None)
        record.child_downs.pop(child.child, None)
        record.failure, record.attempts, record.missed = None, 0, None

    def _child_down(self, event: ChildSaDown) -> None:
        record = self._records.get(event.child.connection)
        if record is None:
            return
        gone = record.children.pop(event.child.local_spi, None)
        if gone is not None:
            record.up[gone.child.child] -= 1
        if not record.up[event.child.child]:
            record.child_downs[event.child.child] = Down(self._wall_clock(), event.reason, event.text)

    def _failed(self, event: NegotiationFailed) -> None:
        number = self.failures.note(event)
        record = self._records.get(event.connection) if event.connection is not None else None
        if record is not None:
            record.failure = number
            record.attempts += 1
            record.miss(self._wall_clock())
