"""Names of peers are asked again while an SA stands, when their TTL is over: a peer that has moved is found before it is missed.

Beside the protocol: what the DNS says moves nothing by itself, as anybody may have written it. It only makes us ask the
peer for a sign of life; if there is none, the IKE SA ends as always, and the next attempt goes to the new address.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from openmoat.daemon.host.path_sizes import Timer
from openmoat.daemon.names.paths import Names
from openmoat.daemon.status.journal import Journal
from openmoat.ike.events import Event, IkeSaDown, IkeSaUp, PeerMoved
from openmoat.model.connection import Connection
from openmoat.net import Address

__all__ = ["MIN_RENEWAL", "NameWatch"]

MIN_RENEWAL = 30.0
"""Seconds between two questions for the name of a peer that is up, however short its TTL; and for those in /etc/hosts."""


@dataclass(slots=True)
class _Watched:
    connection: str
    names: tuple[str, ...]
    address: Address
    """Where the peer is."""
    timer: Timer | None = None
    told: frozenset[Address] = frozenset()
    """What the names stood for when we last said that the peer is elsewhere."""


class NameWatch:
    """Lives in the daemon's event loop. Holds one timer for each IKE SA that we began towards a name."""

    def __init__(
        self,
        names: Names,
        find_connection: Callable[[str], Connection | None],
        journal: Journal,
        clock: Callable[[], float],
    ) -> None:
        self._names = names
        self._find_connection = find_connection
        self._journal = journal
        self._clock = clock
        self._watched: dict[int, _Watched] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.later: Callable[[float, Callable[[], None]], Timer] | None = None
        """`call_later` of the loop; before it is there no name is asked."""
        self.suspect: Callable[[int], None] = lambda _ike: None
        """Asks the peer of that IKE SA for a sign of life."""

    def hear(self, event: Event) -> None:
        """Follow the IKE SAs and where their peers are."""
        match event:
            case IkeSaUp():
                self._begin(event)
            case IkeSaDown(ike=ike):
                self._end(ike)
            case PeerMoved(ike=ike, path=path) if ike in self._watched:
                self._watched[ike].address = path.remote.address
            case _:
                pass

    def close(self) -> None:
        """No name is asked any more."""
        for ike in list(self._watched):
            self._end(ike)
        for task in self._tasks:
            task.cancel()

    def _begin(self, event: IkeSaUp) -> None:
        before = self._end(event.replaces) if event.replaces is not None else None
        connection = self._find_connection(event.connection)
        if connection is None or connection.is_template or not (event.is_initiator or before):
            return
        places = connection.peer.addresses
        names = tuple(place for place in places if isinstance(place, str))
        if names and event.path.remote.address not in places:
            watched = _Watched(event.connection, names, event.path.remote.address)
            watched.told = before.told if before is not None else frozenset()
            self._watched[event.ike] = watched
            self._wait(event.ike, watched)

    def _end(self, ike: int) -> _Watched | None:
        watched = self._watched.pop(ike, None)
        if watched is not None and watched.timer is not None:
            watched.timer.cancel()
        return watched

    def _wait(self, ike: int, watched: _Watched) -> None:
        """Until the first of its names is to be asked again."""
        now = self._clock()
        due = min((self._names.until(name) or now for name in watched.names), default=now)
        if self.later is not None:
            watched.timer = self.later(max(MIN_RENEWAL, due - now), lambda: self._ask(ike))

    def _ask(self, ike: int) -> None:
        task = asyncio.ensure_future(self._look(ike))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, ike: int) -> None:
        watched = self._watched.get(ike)
        if watched is None:
            return
        try:
            await self._compare(ike, watched)
        finally:
            # Whatever became of the question, the next one is asked; unless it was rekeyed, or is gone, meanwhile.
            if self._watched.get(ike) is watched:
                self._wait(ike, watched)

    async def _compare(self, ike: int, watched: _Watched) -> None:
        found: set[Address] = set()
        for name in watched.names:
            found.update(await self._names.addresses(name, is_fresh_wanted=False))
        if self._watched.get(ike) is not watched:
            return
        if watched.address in found:
            watched.told = frozenset()
        elif found and watched.told != found:
            watched.told = frozenset(found)
            self._tell(watched, found)
            self.suspect(ike)

    def _tell(self, watched: _Watched, found: set[Address]) -> None:
        where = ", ".join(sorted(map(str, found)))
        self._journal.note(
            "name-moved",
            logging.INFO,
            f"{', '.join(watched.names)} is {where} now; the peer is asked whether it is still at {watched.address}",
            {"conn": watched.connection},
        )
