"""What the daemon does for callers of the control socket. Every fault is a `ControlError` with what to do about it."""

import difflib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType

from openmoat import __version__
from openmoat.control.messages import (
    ConnectionStatus,
    Done,
    Entry,
    ErrorCode,
    Failure,
    Log,
    Loop,
    Reloaded,
    Status,
    Version,
)
from openmoat.daemon.core.driver import Driver
from openmoat.daemon.core.installer import Installer
from openmoat.daemon.host.keeper import HostKeeper
from openmoat.daemon.host.path_sizes import PathSizes
from openmoat.daemon.reloader import Reloader
from openmoat.daemon.status import overview
from openmoat.daemon.status.accounting import Owner, Totals
from openmoat.daemon.status.book import Book, Record
from openmoat.daemon.status.journal import Journal
from openmoat.daemon.status.turns import Turns
from openmoat.dataplane.backend import SaCounters, Spi
from openmoat.dataplane.wire import Wire
from openmoat.errors import ControlError
from openmoat.ike.endpoint import Endpoint
from openmoat.model.connection import Connection
from openmoat.mtu.plan import MtuPlan

__all__ = ["MAX_STRANGERS", "Handlers"]

MAX_STRANGERS = 16
"""Failures of peers without a connection that status shows."""


class Handlers:
    """Lives in the daemon's event loop; each call is one step of it."""

    def __init__(
        self,
        *,
        core: Endpoint,
        desired: Reloader,
        driver: Driver,
        installer: Installer,
        wire: Wire,
        journal: Journal,
        book: Book,
        sizes: PathSizes,
        outer_icmp: Mapping[str, int],
        host: HostKeeper | None,
        device: str,
        turns: Turns,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._core = core
        self._desired = desired
        self._driver = driver
        self._installer = installer
        self._wire = wire
        self._journal = journal
        self._book = book
        self._sizes = sizes
        self._outer_icmp = outer_icmp
        self._host = host
        self._device = device
        self._turns = turns
        self._wall_clock = wall_clock
        self._since = wall_clock()

    def version(self) -> Version:
        """What answers."""
        return Version(version=__version__)

    def status(self) -> Status:
        """The daemon alone: its connections are told by `connections`."""
        strange = [row for row in self._book.failures.newest() if row[1].connection is None][:MAX_STRANGERS]
        return Status(
            version=__version__,
            now=self._wall_clock(),
            since=self._since,
            configuration=str(self._desired.file),
            device=self._device,
            warnings=self._warnings(),
            drops=self._drops(),
            offloads=dict(self._installer.backend.read_offloads()),
            loop=Loop(**asdict(self._turns)),
            strangers=tuple(self._failure(number) for number, _ in strange),
        )

    def connections(self) -> Iterator[ConnectionStatus]:
        """All connections, one with each step; those that are unloaded before it is their turn are left out."""
        view = _View(self._installer, self._offset())
        for name in sorted(self._desired.loaded.configuration.connections):
            connection = self._desired.loaded.find(name)
            if connection is not None:
                yield self._status(connection, view)

    def connection(self, name: str) -> ConnectionStatus:
        """One, with the explanation of its last failure."""
        connection = self._find(name)
        number = self._newest_failure(connection)
        failure = self._failure(number) if number is not None else None
        view = _View(self._installer, self._offset())
        record = self._book.record(name)
        plans = self._installer.plans(record.children) if record is not None else {}
        return self._status(connection, view, failure, plans)

    def up(self, name: str) -> Done:
        """Begin it now; an override by `down` is over."""
        connection = self._find(name)
        if name in self._desired.loaded.conflicts:
            text = self._desired.loaded.conflicts[name]
            raise ControlError(
                ErrorCode.BUSY, text, "give one of them a priority or other selectors, then: moat reload"
            )
        if connection.is_template or not connection.peer.addresses:
            self._core.initiate(name, None, self._driver.clock())
            self._driver.flush()
            if connection.is_template:
                text = f'connection "{name}" is a template: its peers come by themselves'
                raise ControlError(ErrorCode.TEMPLATE, text, "start it at the peer")
            return Done(text=f'connection "{name}" waits for its peer, which has no address here', connection=name)
        self._core.initiate(name, None, self._driver.clock())
        self._driver.flush()
        return Done(text=f'connection "{name}" is being negotiated', connection=name)

    def down(self, name: str) -> Done:
        """End it, and keep it down until `up` or a change of it."""
        self._find(name)
        if name not in self._desired.loaded.conflicts:
            self._core.take_down(name, self._driver.clock())
            self._driver.flush()
        return Done(text=f'connection "{name}" is down until: moat up {name}', connection=name)

    def probe(self, name: str) -> Done:
        """Find out now what the paths to its peers carry."""
        connection = self._find(name)
        record = self._book.record(connection.name)
        begun = sum(self._sizes.look(ike) for ike in record.ike_sas) if record is not None else 0
        if not begun:
            text = f'connection "{name}": nothing can be probed: it is not up, or its sizes are configured'
            raise ControlError(ErrorCode.BUSY, text, f"moat mtu {name}")
        return Done(text=f'connection "{name}": {begun} paths are being probed', connection=name)

    async def reload(self) -> Reloaded:
        """Read the configuration again and change what has changed."""
        return await self._desired.reload()

    def log(self, last: int) -> Log:
        """The newest entries of the journal, oldest first."""
        return Log(entries=tuple(overview.entry(line) for line in self._journal.entries()[-last:]))

    async def follow(self) -> AsyncIterator[Entry]:
        """Everything noted from now on; ends where the reader is too slow."""
        queue = self._journal.follow()
        try:
            while (line := await queue.get()) is not None:
                yield overview.entry(line)
        finally:
            self._journal.unfollow(queue)

    def _find(self, name: str) -> Connection:
        connection = self._desired.loaded.find(name)
        if connection is None:
            names = self._desired.loaded.configuration.connections
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f"near: {', '.join(near)}" if near else "moat connections lists all"
            raise ControlError(ErrorCode.UNKNOWN_CONNECTION, f'no connection "{name[:80]}"', hint)
        return connection

    def _newest_failure(self, connection: Connection) -> int | None:
        """Its own; or where it has none, that of a stranger who claimed to be its peer and did not prove it."""
        record = self._book.record(connection.name)
        if record is not None and record.failure is not None and self._book.failures.find(record.failure):
            return record.failure
        if record is not None and record.ike_sas:
            return None
        claims = connection.peer.identity.matches
        for number, facts in self._book.failures.newest():
            if facts.connection is None and facts.peer is not None and claims(facts.peer):
                return number
        return None

    def _status(
        self,
        connection: Connection,
        view: "_View",
        failure: Failure | None = None,
        plans: Mapping[Spi, MtuPlan] = MappingProxyType({}),
    ) -> ConnectionStatus:
        loaded = self._desired.loaded
        record = self._book.record(connection.name)
        record = record if record is not None else Record(self._since)
        rows = ((ike, self._core.ike_sa(ike)) for ike in record.ike_sas)
        facts = overview.Facts(
            record=record,
            failed=self._book.failures.find(record.failure) if record.failure is not None else None,
            core=self._core.connection(connection.name),
            source=loaded.configuration.sources.get(connection.name, ""),
            conflict=loaded.conflicts.get(connection.name, ""),
            clock_offset=view.offset,
            totals=view.totals.get(connection.name, {}),
            live=view.live,
            ike_sas={ike: row for ike, row in rows if row is not None},
            plans=plans,
            paths={ike: found for ike in record.ike_sas if (found := self._sizes.found(ike)) is not None},
        )
        return overview.connection_status(connection, facts, failure)

    def _failure(self, number: int) -> Failure:
        facts = self._book.failures.find(number)
        if facts is None:
            raise ControlError(ErrorCode.BAD_REQUEST, f"failure {number} is not remembered", "")
        return overview.failure(number, facts, self._desired.loaded.connections(), self._offset())

    def _offset(self) -> float:
        return self._wall_clock() - self._driver.clock()

    def _warnings(self) -> tuple[str, ...]:
        if self._host is None:
            return ()
        return (*((self._host.fault,) if self._host.fault else ()), *self._host.notes)

    def _drops(self) -> dict[str, int]:
        drops = dict(self._installer.backend.read_drops())
        drops.update(self._wire.read_drops())
        if self._journal.untold:
            drops["journal_untold"] = self._journal.untold
        if self._driver.faults:
            drops["moatd_faults"] = self._driver.faults
        drops.update({f"outer_icmp_{name}": count for name, count in self._outer_icmp.items() if name != "heeded"})
        drops.update({f"ike_{name}": count for name, count in self._core.counts().items()})
        return drops


class _View:
    """One look at the counters, for all connections of a reply."""

    def __init__(self, installer: Installer, offset: float) -> None:
        self.offset = offset
        counters = installer.counters()
        self.live: dict[int, SaCounters] = {row.handle: row for row in counters}
        self.totals: dict[str, dict[Owner, Totals]] = {}
        for owner, totals in installer.accounting.totals(counters).items():
            self.totals.setdefault(owner.connection, {})[owner] = totals
