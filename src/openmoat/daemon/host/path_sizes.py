"""How large outer packets towards each peer may be: one search per IKE SA, whose probes that IKE SA carries.

`mtu.discovery` decides what to probe, `ike` carries the probe, the installer gives the result to the backend. The searches
stand in the table of peers.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from openmoat.daemon.peers import LiveIkeSa, PathSearch, Peers
from openmoat.daemon.timers import Later
from openmoat.dataplane.backend import Spi
from openmoat.ike.events import ChildSa, Event, FragmentsProbed, IkeSaUp, PeerMoved, SizeProbed
from openmoat.mtu.discovery import CONFIRM_SECONDS, Bounds, Discovery
from openmoat.mtu.plan import PathMtu
from openmoat.net import Path

__all__ = ["MAX_OUTER_SIZE", "MOVE_SECONDS", "PathSizes", "Probes", "Resizer"]

MAX_OUTER_SIZE = 1500
"""Octets up to which outer sizes are looked for."""
MOVE_SECONDS = 5.0
"""From the search on one path to that on the next at least. A peer says where it is with a small packet, and probes are
large: one that names others' addresses is not to have them flooded."""

log = logging.getLogger("openmoat.daemon.host.path_sizes")


class Probes(Protocol):
    """Carries probes on an IKE SA; an event tells what came of each."""

    def probe_size(self, ike: int, size: int) -> None:
        """Whether outer packets of `size` octets reach the peer: `SizeProbed`."""
        ...

    def probe_fragments(self, ike: int) -> None:
        """Whether IP fragments reach it: `FragmentsProbed`."""
        ...


class Resizer(Protocol):
    """Gives sizes to the data plane, and knows what it has carried."""

    def resize(self, ike: int) -> None:
        """Something else is known of the path to the peer of an IKE SA than before."""
        ...

    def carried(self, ike: int) -> int:
        """Packets that its children have sent."""
        ...

    def proved(self, ike: int) -> int:
        """Packets as large as possible that its peer has confirmed."""
        ...


class PathSizes:
    """Lives in the daemon's event loop."""

    def __init__(
        self,
        peers: Peers,
        probes: Probes,
        resizer: Resizer,
        discovers: Callable[[str], bool],
        clock: Callable[[], float],
        later: Later,
    ) -> None:
        """`discovers`: whether sizes of a connection are to be found out; where all are configured, nothing is probed."""
        self._peers = peers
        self._probes = probes
        self._resizer = resizer
        self._discovers = discovers
        self._clock = clock
        self._later = later

    def _search(self, ike: int) -> PathSearch | None:
        live = self._peers.ike_sa(ike)
        return live.search if live is not None else None

    def _is_wanted(self, ike: int) -> bool:
        live = self._peers.ike_sa(ike)
        return live is not None and self._discovers(live.up.connection)

    def handle_suspicion(self, handle: Spi) -> None:
        """Large packets of a Child SA seem to be lost. With AGGFRAG smaller ones cost next to nothing."""
        child = self._peers.child(handle)
        search = self._search(child.ike) if child is not None else None
        if child is None or search is None:
            return
        before = search.path_mtu
        search.discovery.handle_suspicion(self._clock(), shrinks=child.aggfrag)
        self._tell(child.ike, search, before)
        self._go_on(child.ike, search)

    def handle_hint(self, child: ChildSa, told: int, trusts: bool) -> bool:
        """ICMP quotes a packet that a Child SA has just sent, and names a size; `trusts`: that is believed. False: nothing
        was done about it.
        """
        search = self._search(child.ike)
        if search is None or not self._is_wanted(child.ike):
            return False
        before, now = search.path_mtu, self._clock()
        if trusts:
            is_news = search.discovery.handle_trusted(told, now)
        else:
            is_news = search.discovery.handle_hint(told, now, shrinks=child.aggfrag)
        self._tell(child.ike, search, before)
        self._go_on(child.ike, search)
        return is_news

    def handle_black_hole(self, handle: Spi) -> None:
        """The peer has said that packets of a Child SA that are as large as possible are lost, and small ones are not."""
        child = self._peers.child(handle)
        search = self._search(child.ike) if child is not None else None
        if child is None or search is None:
            return
        before = search.path_mtu
        search.discovery.handle_black_hole(self._clock())
        self._tell(child.ike, search, before)
        self._go_on(child.ike, search)

    def look(self, ike: int) -> bool:
        """Find out now what there is to know of the path of an IKE SA; False: nobody looks at it."""
        search = self._search(ike)
        if search is None or not self._is_wanted(ike):
            return False
        search.discovery.handle_wish(self._clock())
        self._go_on(ike, search)
        return True

    def handle_event(self, event: Event) -> None:
        """Follow the IKE SAs, their paths, and what became of probes. The table has been told before."""
        match event:
            case IkeSaUp(ike=ike, path=path):
                self._begin(ike, path)
            case PeerMoved(ike=ike, path=path):
                self._start(ike, path)
            case SizeProbed():
                self._probed(event)
            case FragmentsProbed():
                self._passage_probed(event)
            case _:
                pass

    def _begin(self, ike: int, path: Path) -> None:
        search = self._search(ike)
        if search is None:
            self._start(ike, path)
            return
        # The same peer on the same path: what was learned stays, a probe under way ended with the IKE SA before.
        if search.timer is not None:
            search.timer.cancel()
        search.asked = search.timer = None
        search.asks_passage = False
        self._go_on(ike, search)

    def _start(self, ike: int, path: Path) -> None:
        live, now = self._peers.ike_sa(ike), self._clock()
        if live is None:
            return
        before = live.search
        search = PathSearch(Discovery(Bounds(path.remote.address.version, MAX_OUTER_SIZE)), begins=now)
        if before is not None:
            self._give_up(live, before)
            rest = MOVE_SECONDS if before.begins <= now else 0.0
            search.begins = max(now, before.begins + rest)
        live.search = search
        if before is not None and before.path_mtu != search.path_mtu:
            self._resizer.resize(ike)
        self._go_on(ike, search)

    def _give_up(self, live: LiveIkeSa, search: PathSearch) -> None:
        peer = self._peers.of_ike(live.up.ike)
        if peer is not None:
            peer.keep_search(search)
        if search.timer is not None:
            search.timer.cancel()

    def _probed(self, event: SizeProbed) -> None:
        search = self._search(event.ike)
        if search is None or search.asked != event.size:
            return
        search.asked = None
        before, now = search.path_mtu, self._clock()
        if event.proved is None:
            pass  # it was about another path: asked again
        elif event.proved:
            search.discovery.handle_arrived(event.size, now, event.proved)
        else:
            search.discovery.handle_lost(event.size, now)
        self._tell(event.ike, search, before)
        self._go_on(event.ike, search)

    def _passage_probed(self, event: FragmentsProbed) -> None:
        search = self._search(event.ike)
        if search is None or not search.asks_passage:
            return
        search.asks_passage = False
        before = search.path_mtu
        if event.passed is not None:
            search.discovery.handle_fragments(passed=event.passed)
        self._tell(event.ike, search, before)
        self._go_on(event.ike, search)

    def _tell(self, ike: int, search: PathSearch, before: PathMtu) -> None:
        if (found := search.path_mtu) != before:
            log.debug("ike=%016x: %s", ike, found)
            search.proved = self._resizer.proved(ike)
            self._resizer.resize(ike)

    def _go_on(self, ike: int, search: PathSearch) -> None:
        """Ask for the next probe, or wait for the next deadline."""
        if search.asked is not None or search.asks_passage:
            return
        if search.timer is not None:
            search.timer.cancel()
            search.timer = None
        deadline = search.discovery.poll_timeout()
        if self._clock() < search.begins:
            deadline = search.begins
        elif not self._is_wanted(ike):
            deadline = self._clock() + CONFIRM_SECONDS  # its configuration may change while it is up
        elif self._ask(ike, search):
            return
        if deadline is not None:
            search.timer = self._later(max(0.0, deadline - self._clock()), lambda: self._time_out(ike))

    def _ask(self, ike: int, search: PathSearch) -> bool:
        """Have the next probe carried; False: there is none."""
        size = search.discovery.probe
        if size is not None:
            search.asked = size
            self._probes.probe_size(ike, size)
        elif search.discovery.probes_fragments:
            search.asks_passage = True
            self._probes.probe_fragments(ike)
        return size is not None or search.asks_passage

    def _time_out(self, ike: int) -> None:
        search = self._search(ike)
        if search is None:
            return
        search.timer = None
        carried, proved = self._resizer.carried(ike), self._resizer.proved(ike)
        search.discovery.handle_timeout(
            self._clock(), is_used=carried != search.carried, is_proved=proved > search.proved
        )
        search.carried, search.proved = carried, proved
        self._go_on(ike, search)
