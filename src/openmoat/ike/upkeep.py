"""Looks after connections and SAs in time: what is wanted and missing is negotiated, what is old is rekeyed or ended."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address
from typing import assert_never

from openmoat.crypto.identities import Identity
from openmoat.ike.channel import Channel
from openmoat.ike.connections import Connections
from openmoat.ike.context import Context, Timer
from openmoat.ike.events import (
    Activity,
    Answer,
    AskActivity,
    ChildSaDown,
    DownReason,
    IkeSaDown,
    IkeSaUp,
    StopOutbound,
)
from openmoat.ike.exchanges import sa_init
from openmoat.ike.exchanges.collisions import is_lowest
from openmoat.ike.exchanges.create_child import NewChild
from openmoat.ike.exchanges.informational import DeleteChildren, Probe
from openmoat.ike.exchanges.rekey_ike import RekeyIke
from openmoat.ike.ike_sa import IkeSa
from openmoat.ike.news import ChildFailed, ChildInstalled, HandshakeDone, News
from openmoat.ike.registry import Registry
from openmoat.ike.states import (
    Authorizing,
    DerivingKeys,
    Established,
    FindingPath,
    InitSent,
    MakingKeyPair,
    ProvingBack,
    ProvingSelf,
    State,
)
from openmoat.model.connection import Child, Connection, Start
from openmoat.net import HostPort, Path

__all__ = ["Phase", "Record", "Upkeep"]

RECOVERY_SECONDS = 1.0
"""A Child SA that was lost is negotiated again after a random part of this."""
REFUSALS = frozenset(
    {
        DownReason.AUTHENTICATION_FAILED,
        DownReason.NO_COMMON_GROUND,
        DownReason.REFUSED,
        DownReason.LOCAL,
        DownReason.PEER_MISBEHAVED,
    }
)
BEFORE_AUTH = (FindingPath, MakingKeyPair, InitSent, DerivingKeys, ProvingSelf)
"""Initiator's states in which the peer holds no more than a half-open IKE SA: to go away does it no harm."""


class Phase(Enum):
    """Where a connection stands."""

    IDLE = "idle"
    """Nothing is wanted of us; the peer may come."""
    CONNECTING = "connecting"
    WAITING = "waiting"
    """An attempt has failed, the next one comes by itself."""
    UP = "up"
    DOWN = "down"
    """Taken down by hand until it is wanted again."""
    FAILED = "failed"
    """An attempt has failed, and nobody asked for another."""


@dataclass(slots=True)
class Record:
    """What is known of a loaded connection beside its SAs."""

    connection: Connection
    wanted: set[str]
    """Children kept up by us."""
    asked: set[str] = field(default_factory=set)
    """Children asked for by hand or by a packet: until they are there, or have failed."""
    is_down: bool = False
    failures: int = 0
    failed_at: float = 0.0
    phase: Phase = Phase.IDLE
    since: float = 0.0
    reason: DownReason | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Looking:
    """A connection that is looked after: what an exception in that ends."""

    upkeep: "Upkeep"
    name: str

    def break_off(self) -> None:
        """See `context.Subject`."""
        self.upkeep.broken_off(self.name)


class Upkeep:
    """One record per connection; everything is set going by an event or by a timer of that connection."""

    def __init__(self, context: Context, registry: Registry[IkeSa], connections: Connections) -> None:
        self._context = context
        self._registry = registry
        self._connections = connections
        self.records: dict[str, Record] = {}

    # What has happened.

    def handle_news(self) -> None:
        """Handle everything that the call has brought."""
        news = self._context.news
        while news:
            self._context.subject = None
            self._handle(news.popleft())

    def _handle(self, news: News) -> None:
        match news:
            case IkeSaUp(ike=ike):
                self._context.subject = self._registry.sas.get(ike)
                self._ike_up(ike)
            case IkeSaDown(connection=name):
                self._context.subject = Looking(self, name)
                self._ike_down(news)
            case ChildSaDown(child=child):
                self._context.subject = Looking(self, child.connection)
                self._child_down(news)
            case ChildInstalled(connection=name):
                self._context.subject = Looking(self, name)
                self.look(name)
            case ChildFailed(connection=name):
                self._context.subject = Looking(self, name)
                self._child_failed(news)
            case HandshakeDone(ike=ike):
                self._context.subject = self._registry.sas.get(ike)
                self._handshake_done(ike)
            case never:
                assert_never(never)

    # Loading.

    def load(self, connection: Connection) -> None:
        """A connection is new, or has changed in a way that a new negotiation must show."""
        wanted = {c.name for c in connection.children if c.start is Start.AUTO and connection.retry}
        record = Record(connection, wanted, since=self._context.now)
        record.asked = {c.name for c in connection.children if c.start is Start.AUTO}
        self.records[connection.name] = record
        self._connections.admit(connection.name)
        self._connections.put(connection)
        self.look(connection.name)

    def update(self, connection: Connection) -> None:
        """A connection has changed in ways that its SAs can bear: they stay, and the next of them are as it says now."""
        record = self.records.get(connection.name)
        if record is None:
            self.load(connection)
            return
        before = {child.name for child in record.connection.children}
        record.connection = connection
        self._connections.put(connection)
        for sa in self._registry.of_connection(connection.name):
            sa.use(connection)
            if sa.session is not None:
                sa.session.peer.connection = connection
                for child in sa.session.peer.children.values():
                    child.spec = self._connections.child(connection.name, child.spec.name) or child.spec
        if not record.is_down:
            record.wanted = {c.name for c in connection.children if c.start is Start.AUTO and connection.retry}
            record.asked |= {c.name for c in connection.children if c.start is Start.AUTO} - before
        self.look(connection.name)

    def unload(self, name: str) -> None:
        """A connection is gone from the configuration: its SAs are deleted."""
        self.records.pop(name, None)
        self._context.timers.stop((Timer.KEEP_UP, name))
        for sa in self._registry.of_connection(name):
            self.end(sa, DownReason.ASKED, "no longer configured")
        self._connections.drop(name)
        self._connections.admit(name)

    def end(self, sa: IkeSa, reason: DownReason, text: str = "") -> None:
        """Delete an IKE SA; one that the peer does not know to be established is simply forgotten."""
        if isinstance(sa.state, Established):
            sa.delete(reason, text)
        elif not sa.is_over:
            sa.forget(reason, text)

    def end_undecided(self, names: Collection[str], text: str, peer: Identity | None = None) -> None:
        """Forget what answers a peer and may yet become an IKE SA of these connections, by what they said before."""
        for sa in list(self._registry.half_open.values()) if names else ():
            if _may_become(sa.state, names, peer):
                sa.forget(DownReason.ASKED, text)

    # Wishes.

    def initiate(self, name: str, child: str | None) -> None:
        """It is wanted now."""
        record = self.records[name]
        if record.is_down:
            # What was asked for before is no reason any more.
            self._enter(record, Phase.IDLE, None, "")
            record.is_down, record.reason, record.text = False, None, ""
        self._connections.admit(name)
        record.failures = 0
        names = {c.name for c in record.connection.children}
        if child is not None and child not in names:
            raise ValueError(f"connection {name}: no child {child!r}; it has {', '.join(sorted(names))}")
        record.asked |= {child} if child is not None else names
        record.wanted = {
            c.name for c in record.connection.children if c.start is Start.AUTO and record.connection.retry
        }
        self._context.timers.stop((Timer.KEEP_UP, name))
        for sa in self._registry.of_connection(name):
            # Whatever it waits for: who asks now wants an attempt that begins now.
            if sa.is_attempt(BEFORE_AUTH):
                sa.forget(DownReason.ASKED, "begun anew")
        self.look(name)

    def look_again(self, name: str) -> None:
        """The time to try a connection again has come."""
        self._context.subject = Looking(self, name)
        self.look(name)

    def broken_off(self, name: str) -> None:
        """An attempt could not even begin: it is tried again after the back-off."""
        record = self.records.get(name)
        if record is not None and not record.is_down:
            self._later(record, DownReason.ERROR, "an error in moatd; its log has the traceback")

    def acquire(self, name: str, child: str) -> None:
        """A packet wants a child: not against a `take_down`, nor sooner after a failure than the back-off says."""
        record = self.records.get(name)
        if record is None or record.is_down or (Timer.KEEP_UP, name) in self._context.timers:
            return
        if record.phase is Phase.FAILED and record.reason is not None:
            wait = self._context.config.backoff.wait(record.failures, is_refusal=record.reason in REFUSALS)
            if self._context.now < record.failed_at + wait:
                return
        if any(spec.name == child for spec in record.connection.children):
            record.asked.add(child)
            self.look(name)

    def take_down(self, name: str, peer: Identity | None) -> None:
        """It stays down until it is initiated again or changes."""
        record = self.records[name]
        if peer is not None and not record.connection.is_template:
            if not record.connection.peer.identity.matches(peer):
                return
            peer = None  # its only peer: we do not begin anew either
        self._connections.bar(name, peer)
        if peer is None:
            record.is_down = True
            record.asked.clear()
            self._context.timers.stop((Timer.KEEP_UP, name))
            self._enter(record, Phase.DOWN, DownReason.ASKED, "")
        self.end_undecided((name,), "taken down", peer)
        for sa in self._registry.of_connection(name):
            if peer is None or (sa.session is not None and sa.session.peer.key == peer.folded()):
                self.end(sa, DownReason.ASKED)

    def look(self, name: str) -> None:
        """Negotiate what is wanted and not there."""
        record = self.records.get(name)
        if record is None or record.is_down:
            return
        if record.connection.is_template:
            # Its peers come by themselves. There may be thousands: no message may cost work that grows with them.
            record.asked.clear()
            self._enter_phase(record, self._registry.each_established(name))
            return
        carriers = self._registry.established(name)
        there = {
            child.spec.name
            for sa in carriers
            if sa.session is not None
            for child in sa.session.peer.children.values()
            if not child.is_closing and not child.is_replaced
        }
        record.asked -= there
        missing = [c for c in self._connections.children(name) if c.name in (record.wanted | record.asked) - there]
        if not missing:
            record.failures = 0
            self._enter_phase(record, carriers)
            self._tell_unkept(record, there)
            return
        if not record.connection.peer.addresses:
            record.asked.clear()
            self._enter_phase(record, carriers)
            return
        self._enter(record, Phase.CONNECTING, None, "")
        if carriers:
            for spec in missing:
                carriers[-1].want(NewChild(spec))
        elif not any(sa.is_attempt() for sa in self._registry.of_connection(name)):
            self._open(record, missing[0])

    def _open(self, record: Record, child: Child) -> None:
        """Begin an IKE SA for this child."""
        state = sa_init.first_state(self._context, record.connection, child, record.failures)
        channel = Channel(self._context, self._registry.fresh_spi(), 0, _NO_PATH, is_initiator=True)
        IkeSa(self._context, self._registry, channel, state, record.connection).begin(state)

    def _tell_unkept(self, record: Record, there: set[str]) -> None:
        """Children that are wanted, and that nobody is asked for since the data plane could not keep them."""
        unkept = {c.name for c in record.connection.children} - {
            c.name for c in self._connections.children(record.connection.name)
        }
        lost = sorted((record.wanted | record.asked) & unkept - there)
        record.asked -= unkept
        if lost:
            text = f'child "{lost[0]}": the data plane has none of its algorithms, or no AGGFRAG, which it requires'
            self._enter(record, Phase.FAILED, DownReason.LOCAL, text)

    def _enter_phase(self, record: Record, carriers: Iterable[IkeSa]) -> None:
        phase = Phase.UP if any(sa.session and sa.session.peer.children for sa in carriers) else Phase.IDLE
        if phase is Phase.UP or record.phase not in {Phase.FAILED, Phase.DOWN}:
            self._enter(record, phase, None, "")

    def _enter(self, record: Record, phase: Phase, reason: DownReason | None, text: str) -> None:
        if record.phase is not phase:
            record.phase, record.since = phase, self._context.now
        if reason is not None or phase is Phase.UP:
            record.reason, record.text = reason, text

    def _later(self, record: Record, reason: DownReason, text: str, *, wait: float | None = None) -> None:
        """Look again after the back-off, if anything is kept up; else the wish is over."""
        if wait is None:
            record.failures += 1
            record.failed_at = self._context.now
            wait = self._context.config.backoff.wait(record.failures, is_refusal=reason in REFUSALS)
            wait *= 1 + self._context.random_fraction() / 4
            record.asked.clear()
        if not record.wanted and not record.asked:
            self._enter(record, Phase.FAILED, reason, text)
            return
        self._enter(record, Phase.WAITING, reason, text)
        key = (Timer.KEEP_UP, record.connection.name)
        at = self._context.now + wait
        self._context.timers.set(key, min(at, self._context.timers.deadline(key) or at))

    # News.

    def _child_down(self, news: ChildSaDown) -> None:
        """A Child SA is lost; if it is kept up and nothing has replaced it, it comes back soon."""
        name, child = news.child.connection, news.child.child
        record = self.records.get(name)
        if record is None or record.is_down or child not in record.wanted or news.reason is DownReason.REKEYED:
            return
        if not self._has_lasting(name, news.child.peer.folded(), child):
            self._later(record, news.reason, news.text, wait=RECOVERY_SECONDS * self._context.random_fraction())

    def _child_failed(self, news: ChildFailed) -> None:
        """A Child SA could not be had on an IKE SA that is up."""
        record = self.records.get(news.connection)
        if record is not None and not record.is_down and not self._has_lasting(news.connection, news.peer, news.child):
            record.asked.discard(news.child)
            self._later(record, news.reason, news.text)

    def _has_lasting(self, name: str, peer: Identity, child: str) -> bool:
        """Whether there is a Child SA of this name that stays."""
        sessions = (sa.session for sa in self._registry.of_peer(name, peer) if sa.is_carrier and not sa.is_over)
        return any(session is not None and session.peer.lasting(child) is not None for session in sessions)

    def _ike_down(self, news: IkeSaDown) -> None:
        """An IKE SA has ended without a successor, or has never come up."""
        record, reason, text = self.records.get(news.connection), news.reason, news.text
        if record is None or record.is_down or reason is DownReason.REKEYED:
            return
        if news.peer is None:
            if reason not in {DownReason.COLLISION, DownReason.ASKED}:
                self._later(record, reason, text)
        elif record.wanted and reason is DownReason.ERROR:
            self._later(record, reason, text)
        elif record.wanted:
            self._later(record, reason, text, wait=RECOVERY_SECONDS * self._context.random_fraction())
        else:
            self._enter(record, Phase.IDLE, reason, text)

    def _ike_up(self, ike: int) -> None:
        """Set the timers of an IKE SA that is up; attempts of ours that have not come so far are pointless now."""
        sa = self._registry.sas.get(ike)
        if sa is None or sa.connection is None or sa.is_over:
            return
        for other in () if sa.connection.is_template else self._registry.of_connection(sa.connection.name):
            if other.is_attempt(BEFORE_AUTH):
                other.forget(DownReason.COLLISION, "the peer was faster")
        lifetimes, now, timers = sa.connection.lifetimes, self._context.now, self._context.timers
        if lifetimes.rekey_after:
            early = lifetimes.rekey_after * lifetimes.jitter * self._context.random_fraction()
            timers.set((Timer.REKEY_IKE, sa.own_spi), now + lifetimes.rekey_after - early)
        if lifetimes.hard:
            timers.set((Timer.HARD_IKE, sa.own_spi), now + lifetimes.hard)
        if lifetimes.liveness_after:
            timers.set((Timer.LIVENESS, sa.own_spi), now + lifetimes.liveness_after / 2)

    def _handshake_done(self, ike: int) -> None:
        """If both sides began one at once, one stays; then whatever else is wanted."""
        sa = self._registry.sas.get(ike)
        session = sa.session if sa is not None and not sa.is_over else None
        if session is None:
            return
        peer, name = session.peer, session.peer.connection.name
        for other in self._registry.of_peer(name, peer.key):
            rival = other.session.peer if other.session is not None else peer
            if rival is peer or rival.is_ours is peer.is_ours or other.is_over:
                continue
            loser = peer if is_lowest(peer.nonces, rival.nonces) else rival
            # As with rekeys (RFC 7296 2.8.1), the side that began the exchange with the lowest nonce closes it.
            if loser.is_ours:
                self._registry.sas[loser.carrier].delete(DownReason.COLLISION, "both sides began at once")
        self.look(name)

    # Timers of SAs.

    def rekey_child(self, spi: int) -> None:
        """A soft lifetime is over."""
        peer = self._registry.children.get(spi)
        child = peer.children.get(spi) if peer is not None else None
        if peer is None or child is None or child.is_closing or child.is_replaced:
            return
        spec = self._connections.child(peer.connection.name, child.spec.name) or child.spec
        self._registry.sas[peer.carrier].want(NewChild(spec, replaces=spi))

    def end_child(self, spi: int, reason: DownReason, text: str = "") -> None:
        """A hard lifetime is over, or somebody wants it gone."""
        peer = self._registry.children.get(spi)
        child = peer.children.get(spi) if peer is not None else None
        if peer is None or child is None or child.is_closing:
            return
        child.is_closing = True
        self._registry.sas[peer.carrier].want(DeleteChildren((spi,), reason, text))

    def expire_child(self, spi: int, text: str = "") -> None:
        """A hard lifetime is over: nothing more is sent, whatever the peer says and whatever waits (RFC 4301 4.4.2.1)."""
        if spi in self._registry.children:
            self._context.emit(StopOutbound(spi))
            self.end_child(spi, DownReason.EXPIRED, text)

    def expire_ike(self, sa: IkeSa) -> None:
        """The same for an IKE SA, and for all Child SAs that hang on it."""
        session = sa.session
        if session is not None and session.is_carrier:
            for spi in session.peer.children:
                self._context.emit(StopOutbound(spi))
        self.end(sa, DownReason.EXPIRED)

    def rekey_ike(self, sa: IkeSa) -> None:
        """A soft lifetime is over."""
        if isinstance(sa.state, Established):
            sa.want(RekeyIke())

    def check_liveness(self, sa: IkeSa) -> None:
        """Half a liveness time has passed: has anything come in? (RFC 7296 2.4)"""
        session = sa.session
        if session is None or not session.is_carrier or sa.is_over:
            return
        half = session.peer.connection.lifetimes.liveness_after / 2
        self._context.timers.set((Timer.LIVENESS, sa.own_spi), self._context.now + half)
        if not sa.is_idle:
            return  # whatever is asked now asks for a sign of life as well
        children = tuple(session.peer.children)
        sa.exchanges.ask(lambda t: AskActivity(t, children), lambda a: self._on_activity(sa, a))

    def _on_activity(self, sa: IkeSa, answer: Answer) -> None:
        connection = sa.connection
        if not isinstance(answer, Activity) or connection is None or sa.is_over:
            return
        if sa.liveness.must_ask(answer, self._context.now, connection.lifetimes.liveness_after):
            sa.want(Probe())


def _may_become(state: State, names: Collection[str], peer: Identity | None) -> bool:
    """Whether a responder in this state has begun to authenticate a peer, or this one, for one of these connections."""
    match state:
        case Authorizing(identity=identity, candidates=candidates):
            found = any(one.name in names for one in candidates)
        case ProvingBack(identity=identity, connection=connection):
            found = connection.name in names
        case _:
            return False
    return found and (peer is None or identity.folded() == peer.folded())


_NOWHERE = HostPort(IPv4Address(0), 0)
_NO_PATH = Path(_NOWHERE, _NOWHERE)
"""Until `Paths` has answered."""
