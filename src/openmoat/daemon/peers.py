"""The table of peers: by connection and identity, their IKE SAs, Child SAs, paths, counters, since when and why.

The installer enters the pairs it has put into the data plane, events of the core tell the rest, and every other part reads.
Nothing here is keyed by address, and nothing acts: what is done about it stands elsewhere.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from openmoat.crypto.identities import Identity
from openmoat.daemon.status.sums import Sums
from openmoat.daemon.timers import Timer
from openmoat.dataplane.backend import SaCounters, Spi
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
from openmoat.ike.negotiate.explain import Failures
from openmoat.mtu.discovery import BlackHole, Discovery
from openmoat.mtu.plan import BASE, PathMtu
from openmoat.net import Address, Path

__all__ = [
    "MAX_GONE",
    "Down",
    "LiveChildSa",
    "LiveIkeSa",
    "PathSearch",
    "Peer",
    "Peers",
    "Record",
    "WatchedNames",
]

MAX_GONE = 65_536
"""Peers without an SA whose counters are kept; beyond it the one that went longest ago is forgotten."""


@dataclass(slots=True)
class PathSearch:
    """The search for the sizes of one path (`host.path_sizes`)."""

    discovery: Discovery
    timer: Timer | None = None
    asked: int | None = None
    """The size that is being probed."""
    asks_passage: bool = False
    """It is being found out whether IP fragments pass."""
    begins: float = 0.0
    """When it begins: at once, but for a peer that moves again and again."""
    carried: int = 0
    """Packets sent by its children when it was last looked at."""
    proved: int = 0
    """Packets among these that were as large as possible and that the peer has confirmed."""

    @property
    def path_mtu(self) -> PathMtu:
        """What is known so far."""
        found = self.discovery
        return PathMtu(found.size, is_proved=found.learned_at is not None, fragments_pass=found.fragments_pass)


@dataclass(slots=True)
class WatchedNames:
    """The DNS names under which a peer was reached (`names.renewal`)."""

    names: tuple[str, ...]
    timer: Timer | None = None
    told: frozenset[Address] = frozenset()
    """What the names stood for when it was last told that the peer is elsewhere."""


@dataclass(slots=True)
class LiveIkeSa:
    """An IKE SA that is up. What waits for it ends with it."""

    up: IkeSaUp
    since: float
    """Wall clock: when its peer was authenticated; rekeys do not change it."""
    path: Path
    """Where the peer is now."""
    rekeyed: float | None = None
    """Wall clock: when it was rekeyed last."""
    search: PathSearch | None = None
    names: WatchedNames | None = None

    def close(self) -> None:
        """Stop its timers."""
        for waiting in (self.search, self.names):
            if waiting is not None and waiting.timer is not None:
                waiting.timer.cancel()
                waiting.timer = None


@dataclass(slots=True)
class LiveChildSa:
    """A Child SA in the data plane."""

    child: ChildSa
    since: float | None = None
    """Wall clock: when packets were carried first; rekeys do not change it. None: it only receives so far."""
    rekeyed: float | None = None


@dataclass(slots=True)
class _Counted:
    """A pair of the backend, and what it had carried when it was last looked at."""

    child: str
    inbound_packets: int = 0
    outbound_packets: int = 0


@dataclass(frozen=True, slots=True)
class Down:
    """How something ended."""

    at: float
    """Wall clock."""
    reason: DownReason
    text: str


@dataclass(slots=True)
class Peer:
    """One peer of one connection."""

    connection: str
    identity: Identity
    since: float
    """Wall clock: when it came, or when it went."""
    ike_sas: dict[int, LiveIkeSa] = field(default_factory=dict)
    children: dict[Spi, LiveChildSa] = field(default_factory=dict)
    down: Down | None = None
    """How its last IKE SA ended; None while there is one."""
    last_in: float | None = None
    """Wall clock: when a packet from it was last counted; as exact as counters are read often."""
    last_out: float | None = None
    hints: int = 0
    """Times that ICMP about sizes was acted on, on its earlier paths."""
    black_hole: BlackHole | None = None
    """The last one on its earlier paths."""
    retired: dict[str, Sums] = field(default_factory=dict)
    """By child: what pairs have carried that are gone."""
    counted: dict[Spi, _Counted] = field(default_factory=dict)
    """Its pairs in the backend; those that were replaced stay here until their final counters have come."""

    def sums(self, live: Mapping[Spi, SaCounters], child: str | None = None) -> SaCounters:
        """What it has carried since the daemon started, with all SAs or with those of one child, given all live counters."""
        total = Sums()
        for name, retired in self.retired.items():
            if child is None or name == child:
                total.merge(retired)
        for spi, pair in self.counted.items():
            if spi in live and (child is None or pair.child == child):
                total.add(live[spi])
        return total.total()

    def keep_search(self, search: PathSearch) -> None:
        """A search is given up; what it has counted stays."""
        self.hints += search.discovery.hints
        self.black_hole = search.discovery.black_hole or self.black_hole


@dataclass(slots=True)
class Record:
    """What is known of a loaded connection besides its peers."""

    since: float
    """Wall clock: when it was loaded, or last changed."""
    up: Counter[str] = field(default_factory=Counter)
    """How many Child SAs are up of each child, by its name: of a template there may be thousands."""
    child_downs: dict[str, Down] = field(default_factory=dict)
    """The last loss of each child, by its name; gone when it is up again."""
    failure: int | None = None
    """Number of the newest failed negotiation since something was last up."""
    missed: float | None = None
    """Wall clock: when the last of it was lost, or the first attempt failed; None while it is up, or not wanted."""

    def miss(self, now: float) -> None:
        """It is wanted and not there; attempts that fail one after the other do not make that younger."""
        if self.missed is None and not any(self.up.values()):
            self.missed = now


class Peers:
    """Lives in the daemon's event loop."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self.failures = Failures()
        self._wall_clock = wall_clock
        self._records: dict[str, Record] = {}
        self._peers: dict[str, dict[Identity, Peer]] = {}
        """By connection and folded identity."""
        self._gone: OrderedDict[tuple[str, Identity], None] = OrderedDict()
        """Peers without an SA, the one that went longest ago first."""
        self._by_ike: dict[int, Peer] = {}
        self._by_pair: dict[Spi, Peer] = {}
        """Until the final counters of the pair have come."""
        self._children_of: dict[int, set[Spi]] = {}
        """By IKE SA, its Child SAs."""
        self._by_outer: dict[tuple[Address, Spi], Spi] = {}
        """By the peer's address and its SPI, the pair that sends to it."""

    # What is loaded.

    def load(self, put: Iterable[str], remove: Iterable[str]) -> None:
        """Connections that are loaded from now on, and those that are not any more."""
        for name in remove:
            self._records.pop(name, None)
        for name in put:
            self._records.setdefault(name, Record(self._wall_clock())).since = self._wall_clock()

    def record(self, connection: str) -> Record | None:
        """Of a loaded connection."""
        return self._records.get(connection)

    # What there is.

    def of(self, connection: str) -> Iterable[Peer]:
        """The peers of a connection: those that are here, and those that were and have counters."""
        return self._peers.get(connection, {}).values()

    def find(self, connection: str, identity: Identity) -> Peer | None:
        """One peer, however its identity is spelt."""
        return self._peers.get(connection, {}).get(identity.folded())

    def ike_sa(self, ike: int) -> LiveIkeSa | None:
        """The IKE SA with this SPI of ours, if it is up."""
        peer = self._by_ike.get(ike)
        return peer.ike_sas.get(ike) if peer is not None else None

    def of_ike(self, ike: int) -> Peer | None:
        """The peer of an IKE SA that is up."""
        return self._by_ike.get(ike)

    def ike_sas(self) -> Iterator[LiveIkeSa]:
        """All that are up."""
        return (peer.ike_sas[ike] for ike, peer in self._by_ike.items())

    def child(self, handle: Spi) -> ChildSa | None:
        """The Child SA with this handle; None where it is replaced and on its way out, or not there."""
        peer = self._by_pair.get(handle)
        live = peer.children.get(handle) if peer is not None else None
        return live.child if live is not None else None

    def children(self) -> Iterator[ChildSa]:
        """All in the data plane."""
        return (peer.children[handle].child for handle, peer in self._by_pair.items() if handle in peer.children)

    def children_of(self, ike: int) -> tuple[ChildSa, ...]:
        """Those of one IKE SA."""
        found = (self.child(handle) for handle in self._children_of.get(ike, ()))
        return tuple(child for child in found if child is not None)

    def sender(self, address: Address, spi: Spi) -> ChildSa | None:
        """The Child SA that sends to this address with this SPI, which is the peer's."""
        handle = self._by_outer.get((address, spi))
        return self.child(handle) if handle is not None else None

    def is_replaced(self, child: ChildSa) -> bool:
        """Whether packets go out by a successor: then this Child SA only receives what was on its way."""
        return any(other.replaces == child.local_spi for other in self.children_of(child.ike))

    def path_mtu(self, ike: int) -> PathMtu:
        """What is known of the path to the peer of an IKE SA."""
        live = self.ike_sa(ike)
        return live.search.path_mtu if live is not None and live.search is not None else PathMtu(BASE)

    # What the installer has done.

    def install(self, child: ChildSa) -> None:
        """A pair is in the data plane; it counts for its peer from now on."""
        peer = self._peer(child.connection, child.peer)
        spi = child.local_spi
        peer.children[spi] = LiveChildSa(child)
        peer.counted[spi] = _Counted(child.child)
        self._by_pair[spi] = peer
        self._children_of.setdefault(child.ike, set()).add(spi)
        self._by_outer[_outer(child)] = spi
        self._gone.pop((peer.connection, peer.identity.folded()), None)

    def remove(self, handle: Spi) -> ChildSa | None:
        """A pair is about to leave the data plane; `retire` brings its final counters. None where it is not there."""
        peer = self._by_pair.get(handle)
        live = peer.children.pop(handle, None) if peer is not None else None
        if live is None:
            return None
        child = live.child
        self._forget_outer(child)
        handles = self._children_of[child.ike]
        handles.discard(handle)
        if not handles:
            del self._children_of[child.ike]
        record = self._records.get(child.connection)
        if record is not None and live.since is not None:
            record.up[child.child] -= 1
        return child

    def retire(self, final: SaCounters) -> None:
        """The final counters of a pair that left."""
        self.note_counters((final,))
        peer = self._by_pair.pop(final.handle, None)
        if peer is None:
            return
        pair = peer.counted.pop(final.handle)
        peer.retired.setdefault(pair.child, Sums()).add(final)
        self._drop_if_gone(peer)

    def note_counters(self, rows: Iterable[SaCounters]) -> None:
        """Counters as they are now: where they have grown, packets have come or gone."""
        now = self._wall_clock()
        for row in rows:
            peer = self._by_pair.get(row.handle)
            if peer is None:
                continue
            pair = peer.counted[row.handle]
            if row.inbound_packets > pair.inbound_packets:
                pair.inbound_packets, peer.last_in = row.inbound_packets, now
            if row.outbound_packets > pair.outbound_packets:
                pair.outbound_packets, peer.last_out = row.outbound_packets, now

    # What the core tells.

    def handle_event(self, event: Event) -> None:
        """Follow what an event means."""
        match event:
            case IkeSaUp():
                self._ike_up(event)
            case IkeSaDown():
                self._ike_down(event)
            case ChildSaUp(child=child):
                self._child_up(child)
            case ChildSaDown():
                self._child_down(event)
            case PeerMoved():
                self._moved(event)
            case NegotiationFailed():
                self._failed(event)
            case _:
                pass

    def _ike_up(self, event: IkeSaUp) -> None:
        peer, now = self._peer(event.connection, event.peer), self._wall_clock()
        before = peer.ike_sas.pop(event.replaces, None) if event.replaces is not None else None
        if event.replaces is not None:
            self._by_ike.pop(event.replaces, None)
            self._inherit(event.replaces, event.ike)
        if not peer.ike_sas and before is None:
            peer.since = now
        live = LiveIkeSa(event, before.since if before else now, event.path, now if before else None)
        if before is not None:
            live.search, live.names = before.search, before.names
        peer.ike_sas[event.ike] = live
        peer.down = None
        self._by_ike[event.ike] = peer
        self._gone.pop((peer.connection, peer.identity.folded()), None)
        record = self._records.get(event.connection)
        if record is not None:
            record.failure = None

    def _inherit(self, old: int, new: int) -> None:
        """The Child SAs of an IKE SA hang on its successor from now on (RFC 7296 2.18)."""
        handles = self._children_of.pop(old, set())
        for handle in handles:
            live = self._by_pair[handle].children[handle]
            live.child = replace(live.child, ike=new)
        if handles:
            self._children_of[new] = handles | self._children_of.get(new, set())

    def _ike_down(self, event: IkeSaDown) -> None:
        now = self._wall_clock()
        peer = self._by_ike.pop(event.ike, None)
        if peer is not None:
            live = peer.ike_sas.pop(event.ike)
            live.close()
            if live.search is not None:
                peer.keep_search(live.search)
            if not peer.ike_sas:
                peer.since, peer.down = now, Down(now, event.reason, event.text)
            self._drop_if_gone(peer)
        record = self._records.get(event.connection)
        if record is None or event.reason is DownReason.REKEYED:
            return
        # Its Child SAs have gone before it, each by an event of its own.
        if event.reason is DownReason.ASKED:
            record.missed = None
        else:
            record.miss(now)

    def _child_up(self, child: ChildSa) -> None:
        peer = self._by_pair.get(child.local_spi)
        live = peer.children.get(child.local_spi) if peer is not None else None
        if peer is None or live is None:
            return
        before = peer.children.get(child.replaces) if child.replaces is not None else None
        now = self._wall_clock()
        record = self._records.get(child.connection)
        if record is not None:
            record.up[child.child] += live.since is None
            record.child_downs.pop(child.child, None)
            record.failure = record.missed = None
        live.since = before.since if before is not None and before.since is not None else now
        live.rekeyed = now if before is not None else None

    def _child_down(self, event: ChildSaDown) -> None:
        record = self._records.get(event.child.connection)
        if record is not None and not record.up[event.child.child]:
            record.child_downs[event.child.child] = Down(self._wall_clock(), event.reason, event.text)

    def _moved(self, event: PeerMoved) -> None:
        live = self.ike_sa(event.ike)
        if live is not None:
            live.path = event.path
        for handle in event.children:
            peer = self._by_pair.get(handle)
            if peer is not None and handle in peer.children:
                one = peer.children[handle]
                self._forget_outer(one.child)
                one.child = replace(one.child, path=event.path, udp=event.udp)
                self._by_outer[_outer(one.child)] = handle

    def _failed(self, event: NegotiationFailed) -> None:
        number = self.failures.note(event)
        record = self._records.get(event.connection) if event.connection is not None else None
        if record is not None:
            record.failure = number
            record.miss(self._wall_clock())

    def _peer(self, connection: str, identity: Identity) -> Peer:
        peers = self._peers.setdefault(connection, {})
        key = identity.folded()
        if key not in peers:
            peers[key] = Peer(connection, identity, self._wall_clock())
        return peers[key]

    def _drop_if_gone(self, peer: Peer) -> None:
        """A peer without an SA keeps its counters, as long as there is room."""
        if peer.ike_sas or peer.counted:
            return
        key = (peer.connection, peer.identity.folded())
        self._gone[key] = None
        self._gone.move_to_end(key)
        while len(self._gone) > MAX_GONE:
            (connection, identity), _ = self._gone.popitem(last=False)
            peers = self._peers[connection]
            del peers[identity]
            if not peers:
                del self._peers[connection]

    def _forget_outer(self, child: ChildSa) -> None:
        if self._by_outer.get(_outer(child)) == child.local_spi:
            del self._by_outer[_outer(child)]


def _outer(child: ChildSa) -> tuple[Address, Spi]:
    return child.path.remote.address, child.remote_spi
