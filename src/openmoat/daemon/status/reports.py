"""What the daemon tells of itself and of its connections: facts gathered for `status.overview`, which puts them into replies."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType

from openmoat.control.messages import ConnectionStatus, ErrorCode, Failure, Loop
from openmoat.daemon.core.driver import Driver
from openmoat.daemon.core.installer import Installer
from openmoat.daemon.host.keeper import HostKeeper
from openmoat.daemon.host.switches import Switches
from openmoat.daemon.peers import Peers, Record
from openmoat.daemon.reloader import Loaded
from openmoat.daemon.status import overview
from openmoat.daemon.status.journal import Journal
from openmoat.daemon.status.turns import Turns
from openmoat.dataplane.backend import SaCounters, Spi
from openmoat.dataplane.wire import Wire
from openmoat.errors import ControlError
from openmoat.ike.endpoint import Endpoint
from openmoat.model.connection import Connection
from openmoat.mtu.plan import MtuPlan

__all__ = ["MAX_UNKNOWN_PEERS", "Health", "Reports"]

MAX_UNKNOWN_PEERS = 16
"""Failures of peers without a connection that status shows."""


class Health:
    """How the daemon as a whole is: what it dropped, what stands in its way, how long its turns take."""

    def __init__(
        self,
        *,
        installer: Installer,
        wire: Wire,
        journal: Journal,
        driver: Driver,
        outer_icmp: Mapping[str, int],
        host: HostKeeper | None,
        turns: Turns,
    ) -> None:
        self._installer = installer
        self._wire = wire
        self._journal = journal
        self._driver = driver
        self._outer_icmp = outer_icmp
        self._host = host
        self._turns = turns

    def warnings(self) -> tuple[str, ...]:
        """What suffers now, each with what to do about it."""
        if self._host is None:
            return ()
        return (*((self._host.fault,) if self._host.fault else ()), *self._host.notes)

    def drops(self, core: Mapping[str, int]) -> dict[str, int]:
        """What was dropped since the start, by name, with `core`, the counts of the IKE core."""
        drops = dict(self._installer.backend.read_drops())
        drops.update(self._wire.read_drops())
        if self._journal.untold:
            drops["journal_untold"] = self._journal.untold
        if self._driver.faults:
            drops["moatd_faults"] = self._driver.faults
        drops.update({f"outer_icmp_{name}": count for name, count in self._outer_icmp.items() if name != "used"})
        drops.update({f"ike_{name}": count for name, count in core.items()})
        return drops

    def offloads(self) -> dict[str, str]:
        """What the kernel does for the packet engine."""
        return dict(self._installer.backend.read_offloads())

    def loop(self) -> Loop:
        """How long the turns of the event loop take."""
        return Loop(**asdict(self._turns))


class Reports:
    """Lives in the daemon's event loop. Changes nothing."""

    def __init__(
        self,
        *,
        core: Endpoint,
        loaded: Loaded,
        peers: Peers,
        installer: Installer,
        switches: Switches,
        device: str,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is that of the core; `device`, the TUN in use."""
        self._core = core
        self._loaded = loaded
        self._peers = peers
        self._installer = installer
        self._switches = switches
        self._clock = clock
        self.wall_clock = time.time
        self.device = device
        self.since = self.wall_clock()
        """When the daemon started."""

    def counts(self) -> Mapping[str, int]:
        """What the IKE core has dropped or refused, by name."""
        return self._core.counts()

    def connections(self) -> Iterator[ConnectionStatus]:
        """All connections, one with each step; those that are unloaded before it is their turn are left out."""
        live = self._installer.counters()
        for name in sorted(self._loaded.configuration.connections):
            connection = self._loaded.find(name)
            if connection is not None:
                yield self._status(connection, live)

    def connection(self, connection: Connection) -> ConnectionStatus:
        """One, with the explanation of its last failure, and its sizes."""
        number = self._newest_failure(connection)
        failure = self.failure(number) if number is not None else None
        peers = list(self._peers.of(connection.name))
        handles = [handle for peer in peers for handle in peer.counted]
        plans = self._installer.plans([handle for peer in peers for handle in peer.children])
        return self._status(connection, self._installer.counters(handles), failure, plans)

    def unknown_peers(self) -> tuple[Failure, ...]:
        """The newest failures of peers that belong to no connection."""
        rows = [row for row in self._peers.failures.newest() if row[1].connection is None][:MAX_UNKNOWN_PEERS]
        return tuple(self.failure(number) for number, _ in rows)

    def failure(self, number: int) -> Failure:
        """The explanation of a failed negotiation."""
        facts = self._peers.failures.find(number)
        if facts is None:
            raise ControlError(ErrorCode.BAD_REQUEST, f"failure {number} is not remembered", "")
        return overview.failure(number, facts, self._loaded.connections(), self._offset())

    def _newest_failure(self, connection: Connection) -> int | None:
        """Its own; or where it has none, that of an unknown peer who claimed to be its peer and did not prove it."""
        record = self._peers.record(connection.name)
        if record is not None and record.failure is not None and self._peers.failures.find(record.failure):
            return record.failure
        if any(peer.ike_sas for peer in self._peers.of(connection.name)):
            return None
        claims = connection.peer.identity.matches
        for number, facts in self._peers.failures.newest():
            if facts.connection is None and facts.peer is not None and claims(facts.peer):
                return number
        return None

    def _status(
        self,
        connection: Connection,
        live: Mapping[Spi, SaCounters],
        failure: Failure | None = None,
        plans: Mapping[Spi, MtuPlan] = MappingProxyType({}),
    ) -> ConnectionStatus:
        name = connection.name
        record = self._peers.record(name) or Record(self.since)
        peers = tuple(self._peers.of(name))
        rows = ((ike, self._core.ike_sa(ike)) for peer in peers for ike in peer.ike_sas)
        facts = overview.Facts(
            record=record,
            peers=peers,
            standings=self._switches.standings(name) if connection.group is not None else (),
            failed=self._peers.failures.find(record.failure) if record.failure is not None else None,
            core=self._core.connection(name),
            source=self._loaded.configuration.sources.get(name, ""),
            conflict=self._loaded.conflicts.get(name, ""),
            clock_offset=self._offset(),
            live=live,
            ike_sas={ike: row for ike, row in rows if row is not None},
            plans=plans,
        )
        return overview.connection_status(connection, facts, failure)

    def _offset(self) -> float:
        return self.wall_clock() - self._clock()
