"""Names of peers are asked again while an SA stands, when their TTL is over: a peer that has moved is found before it is missed.

Outside the protocol: what the DNS says moves nothing by itself, as anybody may have written it. It only makes us ask the
peer for a sign of life; if there is none, the IKE SA ends as always, and the next attempt goes to the new address.
"""

import asyncio
import logging
from collections.abc import Callable

from openmoat.daemon.names.paths import Names
from openmoat.daemon.peers import LiveIkeSa, Peers, WatchedNames
from openmoat.daemon.status.journal import Journal
from openmoat.daemon.timers import Later
from openmoat.ike.events import Event, IkeSaUp
from openmoat.model.connection import Connection
from openmoat.net import Address

__all__ = ["MIN_RENEWAL", "NameWatch"]

MIN_RENEWAL = 30.0
"""Seconds between two questions for the name of a peer that is up, however short its TTL; and for those in /etc/hosts."""


class NameWatch:
    """Lives in the daemon's event loop. Holds one timer for each IKE SA that we began towards a name."""

    def __init__(
        self,
        names: Names,
        find_connection: Callable[[str], Connection | None],
        peers: Peers,
        probe: Callable[[int], None],
        journal: Journal,
        later: Later,
    ) -> None:
        """`probe` asks the peer of an IKE SA for a sign of life."""
        self._names = names
        self._find_connection = find_connection
        self._peers = peers
        self._probe = probe
        self._journal = journal
        self._later = later
        self._tasks: set[asyncio.Task[None]] = set()

    def handle_event(self, event: Event) -> None:
        """Watch the names of peers that come. The table has been told before."""
        if isinstance(event, IkeSaUp):
            self._begin(event)

    async def finish(self) -> None:
        """Wait for the questions that are being asked now, and raise what one of them raised."""
        await asyncio.gather(*self._tasks)

    def close(self) -> None:
        """No name is asked any more."""
        for live in self._peers.ike_sas():
            if live.names is not None and live.names.timer is not None:
                live.names.timer.cancel()
            live.names = None
        for task in self._tasks:
            task.cancel()

    def _begin(self, event: IkeSaUp) -> None:
        live = self._peers.ike_sa(event.ike)
        if live is None:
            return
        before, live.names = live.names, None
        if before is not None and before.timer is not None:
            before.timer.cancel()
        connection = self._find_connection(event.connection)
        if connection is None or connection.is_template or not (event.is_initiator or before):
            return
        places = connection.peer.addresses
        names = tuple(place for place in places if isinstance(place, str))
        if names and event.path.remote.address not in places:
            live.names = WatchedNames(names, told=before.told if before is not None else frozenset())
            self._wait(event.ike, live.names)

    def _wait(self, ike: int, watched: WatchedNames) -> None:
        """Until the first of its names is to be asked again."""
        now = self._names.clock()
        due = min((self._names.until(name) or now for name in watched.names), default=now)
        watched.timer = self._later(max(MIN_RENEWAL, due - now), lambda: self._ask(ike))

    def _ask(self, ike: int) -> None:
        task = asyncio.ensure_future(self._look(ike))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_watched(self, ike: int, watched: WatchedNames) -> bool:
        """Whether this is still what is watched: an IKE SA may be rekeyed or gone meanwhile."""
        live = self._peers.ike_sa(ike)
        return live is not None and live.names is watched

    async def _look(self, ike: int) -> None:
        live = self._peers.ike_sa(ike)
        if live is None or live.names is None:
            return
        watched = live.names
        try:
            await self._compare(live, watched)
        finally:
            # Whatever became of the question, the next one is asked.
            if self._is_watched(ike, watched):
                self._wait(ike, watched)

    async def _compare(self, live: LiveIkeSa, watched: WatchedNames) -> None:
        found: set[Address] = set()
        for name in watched.names:
            found.update(await self._names.addresses(name, is_fresh_wanted=False))
        if not self._is_watched(live.up.ike, watched):
            return
        if live.path.remote.address in found:
            watched.told = frozenset()
        elif found and watched.told != found:
            watched.told = frozenset(found)
            self._tell(live, watched, found)
            self._probe(live.up.ike)

    def _tell(self, live: LiveIkeSa, watched: WatchedNames, found: set[Address]) -> None:
        where, there = ", ".join(sorted(map(str, found))), live.path.remote.address
        self._journal.note(
            "name-moved",
            logging.INFO,
            f"{', '.join(watched.names)} is {where} now; the peer is asked whether it is still at {there}",
            {"conn": live.up.connection},
        )
