"""How large outer packets towards each peer may be: one search per IKE SA, whose probes that IKE SA carries.

`mtu.discovery` decides what to probe, `ike` carries the probe, the installer gives the result to the backend.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from openmoat.ike.events import Event, FragmentsProbed, IkeSaDown, IkeSaUp, PeerMoved, SizeProbed
from openmoat.mtu.discovery import CONFIRM_SECONDS, Bounds, Discovery
from openmoat.mtu.plan import BASE, Outside
from openmoat.net import Path

__all__ = ["MAX_OUTER_SIZE", "MOVE_SECONDS", "PathSizes", "Timer"]

MAX_OUTER_SIZE = 1500
"""Octets up to which outer sizes are looked for."""
MOVE_SECONDS = 5.0
"""From the search on one path to that on the next at least. A peer says where it is with a small packet, and probes are
large: one that names others' addresses is not to have them flooded."""

log = logging.getLogger("openmoat.daemon.host.path_sizes")


class Timer(Protocol):
    """What `call_later` of an event loop gives."""

    def cancel(self) -> None:
        """It is not wanted any more."""
        ...


@dataclass(slots=True)
class _Search:
    connection: str
    discovery: Discovery
    timer: Timer | None = None
    asked: int | None = None
    """The size that is being probed."""
    asks_passage: bool = False
    """Whether it is being found out if IP fragments pass."""
    begins: float = 0.0
    """When it begins: at once, but for a peer that moves again and again."""
    carried: int = field(default=0)
    """Packets sent by its children when it was last looked at."""
    proved: int = field(default=0)
    """Those of them that the peer has said to be as large as may be and to have come."""


class PathSizes:
    """Lives in the daemon's event loop. Holds as much as there are IKE SAs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._searches: dict[int, _Search] = {}
        self.later: Callable[[float, Callable[[], None]], Timer] | None = None
        """`call_later` of the loop; before it is there nothing is probed."""
        self.probe: Callable[[int, int], None] = lambda _ike, _size: None
        """Carries a probe of that size on that IKE SA; `SizeProbed` tells what came of it."""
        self.probe_fragments: Callable[[int], None] = lambda _ike: None
        """Finds out on that IKE SA whether IP fragments pass; `FragmentsProbed` tells what came of it."""
        self.discovers: Callable[[str], bool] = lambda _connection: True
        """Whether sizes of that connection are to be found out; where all are configured, nobody is asked."""
        self.carried: Callable[[int], int] = lambda _ike: 0
        """Packets that the children of that IKE SA have sent."""
        self.proved: Callable[[int], int] = lambda _ike: 0
        """Packets as large as may be that the peer of that IKE SA has said to have come."""
        self.on_size: Callable[[int], None] = lambda _ike: None
        """Told when something else is known of the way to the peer of an IKE SA than before."""

    def outside(self, ike: int) -> Outside:
        """What is known of the way to this peer."""
        search = self._searches.get(ike)
        return _outside(search.discovery) if search is not None else Outside(BASE)

    def found(self, ike: int) -> Discovery | None:
        """What is known of the path of an IKE SA; None where nobody looks."""
        search = self._searches.get(ike)
        return search.discovery if search is not None else None

    def suspect(self, ike: int, *, shrinks: bool) -> None:
        """Large packets of an IKE SA's children seem to be lost. `shrinks`: it costs little to send smaller ones at once."""
        search = self._searches.get(ike)
        if search is None:
            return
        before = _outside(search.discovery)
        search.discovery.handle_suspicion(self._clock(), shrinks=shrinks)
        self._tell(ike, search, before)
        self._go_on(ike, search)

    def hint(self, ike: int, told: int, *, shrinks: bool, trusts: bool) -> bool:
        """ICMP quotes a packet of an IKE SA's children, and names a size; `trusts`: that is believed. `shrinks`: as with
        `suspect`. False: nothing was done about it.
        """
        search = self._searches.get(ike)
        if search is None or not self.discovers(search.connection):
            return False
        before, now = _outside(search.discovery), self._clock()
        if trusts:
            is_heeded = search.discovery.handle_trusted(told, now)
        else:
            is_heeded = search.discovery.handle_hint(told, now, shrinks=shrinks)
        self._tell(ike, search, before)
        self._go_on(ike, search)
        return is_heeded

    def black_hole(self, ike: int) -> None:
        """The peer of an IKE SA has said that packets as large as may be are lost on their way to it."""
        search = self._searches.get(ike)
        if search is None:
            return
        before = _outside(search.discovery)
        search.discovery.handle_black_hole(self._clock())
        self._tell(ike, search, before)
        self._go_on(ike, search)

    def look(self, ike: int) -> bool:
        """Find out now what there is to know of the path of an IKE SA; False: nobody looks at it."""
        search = self._searches.get(ike)
        if search is None or not self.discovers(search.connection):
            return False
        search.discovery.handle_wish(self._clock())
        self._go_on(ike, search)
        return True

    def hear(self, event: Event) -> None:
        """Follow the IKE SAs, their paths, and what became of probes."""
        match event:
            case IkeSaUp(ike=ike, path=path, replaces=replaces, connection=connection):
                self._begin(ike, connection, path, replaces)
            case IkeSaDown(ike=ike):
                search = self._searches.pop(ike, None)
                if search is not None and search.timer is not None:
                    search.timer.cancel()
            case PeerMoved(ike=ike, path=path) if ike in self._searches:
                self._start(ike, self._searches[ike].connection, path)
            case SizeProbed():
                self._probed(event)
            case FragmentsProbed():
                self._passage_probed(event)
            case _:
                pass

    def _begin(self, ike: int, connection: str, path: Path, replaces: int | None) -> None:
        before = self._searches.pop(replaces, None) if replaces is not None else None
        if before is None:
            self._start(ike, connection, path)
            return
        # The same peer on the same path: what was learned stays, a probe under way ended with its IKE SA.
        if before.timer is not None:
            before.timer.cancel()
        before.asked = before.timer = None
        before.asks_passage = False
        self._searches[ike] = before
        self._go_on(ike, before)

    def _start(self, ike: int, connection: str, path: Path) -> None:
        before, now = self._searches.get(ike), self._clock()
        if before is not None and before.timer is not None:
            before.timer.cancel()
        search = _Search(connection, Discovery(Bounds(path.remote.address.version, MAX_OUTER_SIZE)))
        if before is not None:
            rest = MOVE_SECONDS if before.begins <= now else 0.0
            search.begins = max(now, before.begins + rest)
        else:
            search.begins = now
        self._searches[ike] = search
        if before is not None and _outside(before.discovery) != _outside(search.discovery):
            self.on_size(ike)
        self._go_on(ike, search)

    def _probed(self, event: SizeProbed) -> None:
        search = self._searches.get(event.ike)
        if search is None or search.asked != event.size:
            return
        search.asked = None
        before, now = _outside(search.discovery), self._clock()
        if event.proved is None:
            pass  # it was about another path: asked again
        elif event.proved:
            search.discovery.handle_arrived(event.size, now, event.proved)
        else:
            search.discovery.handle_lost(event.size, now)
        self._tell(event.ike, search, before)
        self._go_on(event.ike, search)

    def _passage_probed(self, event: FragmentsProbed) -> None:
        search = self._searches.get(event.ike)
        if search is None or not search.asks_passage:
            return
        search.asks_passage = False
        before = _outside(search.discovery)
        if event.passed is not None:
            search.discovery.handle_fragments(passed=event.passed)
        self._tell(event.ike, search, before)
        self._go_on(event.ike, search)

    def _tell(self, ike: int, search: _Search, before: Outside) -> None:
        if (outside := _outside(search.discovery)) != before:
            log.debug("ike=%016x: %s", ike, outside)
            search.proved = self.proved(ike)
            self.on_size(ike)

    def _go_on(self, ike: int, search: _Search) -> None:
        """Ask for the next probe, or wait for the next deadline."""
        if search.asked is not None or search.asks_passage:
            return
        if search.timer is not None:
            search.timer.cancel()
            search.timer = None
        deadline = search.discovery.poll_timeout()
        if self._clock() < search.begins:
            deadline = search.begins
        elif not self.discovers(search.connection):
            deadline = self._clock() + CONFIRM_SECONDS  # its configuration may change while it is up
        elif self._ask(ike, search):
            return
        if deadline is not None and self.later is not None:
            search.timer = self.later(max(0.0, deadline - self._clock()), lambda: self._time_out(ike))

    def _ask(self, ike: int, search: _Search) -> bool:
        """Have the next probe carried; False: there is none."""
        size = search.discovery.probe
        if size is not None:
            search.asked = size
            self.probe(ike, size)
        elif search.discovery.probes_fragments:
            search.asks_passage = True
            self.probe_fragments(ike)
        return size is not None or search.asks_passage

    def _time_out(self, ike: int) -> None:
        search = self._searches.get(ike)
        if search is None:
            return
        search.timer = None
        carried, proved = self.carried(ike), self.proved(ike)
        search.discovery.handle_timeout(
            self._clock(), is_used=carried != search.carried, is_proved=proved > search.proved
        )
        search.carried, search.proved = carried, proved
        self._go_on(ike, search)


def _outside(discovery: Discovery) -> Outside:
    return Outside(discovery.size, is_proved=discovery.learned_at is not None, fragments_pass=discovery.fragments_pass)
