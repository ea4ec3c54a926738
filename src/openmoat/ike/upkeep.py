"""Looks after connections and SAs in time: what is wanted and missing is negotiated, what is old is rekeyed or ended."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address

from openmoat.crypto.identities import Identity
from openmoat.ike.connections import Connections
from openmoat.ike.context import Context, Timer
from openmoat.ike.events import Activity, Answer, AskActivity, DownReason, StopOutbound
from openmoat.ike.exchanges import sa_init
from openmoat.ike.exchanges.create_child import NewChild
from openmoat.ike.exchanges.informational import DeleteChildren, Probe
from openmoat.ike.exchanges.rekey_ike import RekeyIke
from openmoat.ike.ike_sa import IkeSa
from openmoat.ike.lineage import Lineage
from openmoat.ike.registry import Registry
from openmoat.ike.states import DerivingKeys, Established, FindingPath, InitSent, MakingKeyPair, ProvingSelf
from openmoat.model.connection import Child, Connection, Start
from openmoat.net import HostPort, Path

__all__ = ["Phase", "Record", "Upkeep"]

IDLE_PROBES = 8
"""Without traffic of ours the peer is asked only after so many liveness times: a silent link needs no proof."""
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
    peers_down: set[Identity] = field(default_factory=set)
    """Peers of a template that were taken down."""
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

    def __init__(self, context: Context, registry: Registry, connections: Connections) -> None:
        self.context = context
        self.registry = registry
        self.connections = connections
        self.records: dict[str, Record] = {}
        registry.upkeep = self

    # Loading.

    def load(self, connection: Connection) -> None:
        """A connection is new, or has changed in a way that a new negotiation must show."""
        wanted = {c.name for c in connection.children if c.start is Start.AUTO and connection.retry}
        record = Record(connection, wanted, since=self.context.now)
        record.asked = {c.name for c in connection.children if c.start is Start.AUTO}
        self.records[connection.name] = record
        self.connections.put(connection)
        self.look(connection.name)

    def update(self, connection: Connection) -> None:
        """A connection has changed in ways that its SAs can bear: they stay, and the next of them are as it says now."""
        record = self.records.get(connection.name)
        if record is None:
            self.load(connection)
            return
        before = {child.name for child in record.connection.children}
        record.connection = connection
        self.connections.put(connection)
        for sa in self.all_of(connection.name):
            sa.connection = connection
            sa.channel.forces_udp = connection.force_encapsulation
            if sa.lineage is not None:
                sa.lineage.connection = connection
                for child in sa.lineage.children.values():
                    child.spec = self.connections.child(connection.name, child.spec.name) or child.spec
        if not record.is_down:
            record.wanted = {c.name for c in connection.children if c.start is Start.AUTO and connection.retry}
            record.asked |= {c.name for c in connection.children if c.start is Start.AUTO} - before
        self.look(connection.name)

    def unload(self, name: str) -> None:
        """A connection is gone from the configuration: its SAs are deleted."""
        self.records.pop(name, None)
        self.context.timers.stop((Timer.KEEP_UP, name))
        for sa in self.all_of(name):
            self.end(sa, DownReason.ASKED, "no longer configured")
        self.connections.drop(name)

    def all_of(self, name: str) -> list[IkeSa]:
        """IKE SAs of a connection, also those on their way."""
        return list(self.registry.by_connection.get(name, {}).values())

    def end(self, sa: IkeSa, reason: DownReason, text: str = "") -> None:
        """Delete an IKE SA; one the peer has not yet authenticated is simply forgotten."""
        if sa.lineage is not None and isinstance(sa.state, Established):
            sa.delete(reason, text)
        elif sa.lineage is None:
            sa.forget(reason, text)

    # Wishes.

    def is_down(self, name: str, peer: Identity) -> bool:
        """Whether nobody may bring this connection up with this peer."""
        record = self.records.get(name)
        return record is None or record.is_down or peer.folded() in record.peers_down

    def initiate(self, name: str, child: str | None) -> None:
        """Somebody wants it, now."""
        record = self.records[name]
        if record.is_down:
            # What was asked for before is no reason any more.
            self._enter(record, Phase.IDLE, None, "")
            record.is_down, record.reason, record.text = False, None, ""
        record.peers_down.clear()
        record.failures = 0
        names = {c.name for c in record.connection.children}
        if child is not None and child not in names:
            raise ValueError(f"connection {name}: no child {child!r}; it has {', '.join(sorted(names))}")
        record.asked |= {child} if child is not None else names
        record.wanted = {
            c.name for c in record.connection.children if c.start is Start.AUTO and record.connection.retry
        }
        self.context.timers.stop((Timer.KEEP_UP, name))
        for sa in self.all_of(name):
            # Whatever it waits for: who asks now wants an attempt that begins now.
            if sa.lineage is None and sa.channel.is_initiator and isinstance(sa.state, BEFORE_AUTH):
                sa.forget(DownReason.ASKED, "begun anew")
        self.look(name)

    def look_again(self, name: str) -> None:
        """The time to try a connection again has come."""
        self.context.subject = Looking(self, name)
        self.look(name)

    def broken_off(self, name: str) -> None:
        """An attempt could not even begin: it is tried again after the back-off."""
        record = self.records.get(name)
        if record is not None and not record.is_down:
            self._later(record, DownReason.ERROR, "an error in moatd; its log has the traceback")

    def acquire(self, name: str, child: str) -> None:
        """A packet wants a child: not against a `take_down`, nor sooner after a failure than the back-off says."""
        record = self.records.get(name)
        if record is None or record.is_down or (Timer.KEEP_UP, name) in self.context.timers:
            return
        if record.phase is Phase.FAILED and record.reason is not None:
            wait = self.context.config.backoff.wait(record.failures, is_refusal=record.reason in REFUSALS)
            if self.context.now < record.failed_at + wait:
                return
        if any(spec.name == child for spec in record.connection.children):
            record.asked.add(child)
            self.look(name)

    def take_down(self, name: str, peer: Identity | None) -> None:
        """Nobody wants it until it is initiated again or changes."""
        record = self.records[name]
        if peer is not None:
            record.peers_down.add(peer.folded())
        else:
            record.is_down = True
            record.asked.clear()
            self.context.timers.stop((Timer.KEEP_UP, name))
            self._enter(record, Phase.DOWN, DownReason.ASKED, "")
        for sa in self.all_of(name):
            if peer is None or (sa.lineage is not None and sa.lineage.peer_key == peer.folded()):
                self.end(sa, DownReason.ASKED)

    def look(self, name: str) -> None:
        """Negotiate what is wanted and not there."""
        record = self.records.get(name)
        if record is None or record.is_down:
            return
        if record.connection.is_template:
            # Its peers come by themselves. There may be thousands: no message may cost work that grows with them.
            record.asked.clear()
            self._settle_phase(record, self.registry.each_established(name))
            return
        carriers = self.registry.established(name)
        there = {
            child.spec.name
            for sa in carriers
            if sa.lineage is not None
            for child in sa.lineage.children.values()
            if not child.is_closing and not child.is_replaced
        }
        record.asked -= there
        missing = [c for c in self.connections.children(name) if c.name in (record.wanted | record.asked) - there]
        if not missing:
            record.failures = 0
            self._settle_phase(record, carriers)
            self._tell_unkept(record, there)
            return
        if not record.connection.peer.addresses:
            record.asked.clear()
            self._settle_phase(record, carriers)
            return
        self._enter(record, Phase.CONNECTING, None, "")
        if carriers:
            for spec in missing:
                carriers[-1].want(NewChild(spec))
        elif not any(sa.lineage is None and sa.channel.is_initiator for sa in self.all_of(name)):
            self._open(record, missing[0])

    def _open(self, record: Record, child: Child) -> None:
        """Begin an IKE SA for this child."""
        state = sa_init.opening_of(self.context, record.connection, child, record.failures)
        sa = IkeSa(
            self.context,
            self.registry,
            own_spi=self.registry.fresh_spi(),
            peer_spi=0,
            is_initiator=True,
            path=_NO_PATH,
            state=state,
            connection=record.connection,
        )
        sa_init.begin(sa, state)

    def _tell_unkept(self, record: Record, there: set[str]) -> None:
        """Children that are wanted, and that nobody is asked for since the data plane could not keep them."""
        unkept = {c.name for c in record.connection.children} - {
            c.name for c in self.connections.children(record.connection.name)
        }
        lost = sorted((record.wanted | record.asked) & unkept - there)
        record.asked -= unkept
        if lost:
            text = f'child "{lost[0]}": the data plane has none of its algorithms, or no AGGFRAG, which it requires'
            self._enter(record, Phase.FAILED, DownReason.LOCAL, text)

    def _settle_phase(self, record: Record, carriers: Iterable[IkeSa]) -> None:
        phase = Phase.UP if any(sa.lineage and sa.lineage.children for sa in carriers) else Phase.IDLE
        if phase is Phase.UP or record.phase not in {Phase.FAILED, Phase.DOWN}:
            self._enter(record, phase, None, "")

    def _enter(self, record: Record, phase: Phase, reason: DownReason | None, text: str) -> None:
        if record.phase is not phase:
            record.phase, record.since = phase, self.context.now
        if reason is not None or phase is Phase.UP:
            record.reason, record.text = reason, text

    def _later(self, record: Record, reason: DownReason, text: str, *, wait: float | None = None) -> None:
        """Look again after the back-off, if anything is kept up; else the wish is over."""
        if wait is None:
            record.failures += 1
            record.failed_at = self.context.now
            wait = self.context.config.backoff.wait(record.failures, is_refusal=reason in REFUSALS)
            wait *= 1 + self.context.chance() / 4
            record.asked.clear()
        if not record.wanted and not record.asked:
            self._enter(record, Phase.FAILED, reason, text)
            return
        self._enter(record, Phase.WAITING, reason, text)
        key = (Timer.KEEP_UP, record.connection.name)
        at = self.context.now + wait
        self.context.timers.set(key, min(at, self.context.timers.deadline(key) or at))

    # News from SAs.

    def child_gone(self, lineage: Lineage, name: str, reason: DownReason, text: str) -> None:
        """A Child SA is lost; if it is kept up and nothing has replaced it, it comes back soon."""
        record = self.records.get(lineage.connection.name)
        if record is None or record.is_down or name not in record.wanted or reason is DownReason.REKEYED:
            return
        if lineage.lasting(name) is None:
            self._later(record, reason, text, wait=RECOVERY_SECONDS * self.context.chance())

    def child_failed(self, lineage: Lineage, name: str, reason: DownReason, text: str) -> None:
        """A Child SA could not be had on an IKE SA that is up."""
        record = self.records.get(lineage.connection.name)
        if record is not None and not record.is_down and lineage.lasting(name) is None:
            record.asked.discard(name)
            self._later(record, reason, text)

    def ike_gone(self, sa: IkeSa, reason: DownReason, text: str) -> None:
        """An IKE SA has ended without a successor, or has never come up."""
        record = self.records.get(sa.connection.name) if sa.connection is not None else None
        if record is None or record.is_down:
            return
        if sa.lineage is None:
            if sa.channel.is_initiator and reason not in {DownReason.COLLISION, DownReason.ASKED}:
                self._later(record, reason, text)
        elif record.wanted and reason is DownReason.ERROR:
            self._later(record, reason, text)
        elif record.wanted:
            self._later(record, reason, text, wait=RECOVERY_SECONDS * self.context.chance())
        else:
            self._enter(record, Phase.IDLE, reason, text)

    def ike_up(self, sa: IkeSa) -> None:
        """Set the timers of an IKE SA that is up; attempts of ours that have not come so far are pointless now."""
        if sa.connection is None:
            return
        for other in () if sa.connection.is_template else self.all_of(sa.connection.name):
            if other.lineage is None and isinstance(other.state, BEFORE_AUTH):
                other.forget(DownReason.COLLISION, "the peer was faster")
        lifetimes, now, timers = sa.connection.lifetimes, self.context.now, self.context.timers
        if lifetimes.rekey_after:
            early = lifetimes.rekey_after * lifetimes.jitter * self.context.chance()
            timers.set((Timer.REKEY_IKE, sa.own_spi), now + lifetimes.rekey_after - early)
        if lifetimes.hard:
            timers.set((Timer.HARD_IKE, sa.own_spi), now + lifetimes.hard)
        if lifetimes.liveness_after:
            timers.set((Timer.LIVENESS, sa.own_spi), now + lifetimes.liveness_after / 2)

    # Timers of SAs.

    def rekey_child(self, spi: int) -> None:
        """A soft lifetime is over."""
        lineage = self.registry.children.get(spi)
        child = lineage.children.get(spi) if lineage is not None else None
        if lineage is None or child is None or child.is_closing or child.is_replaced:
            return
        self.context.subject = lineage.carrier
        spec = self.connections.child(lineage.connection.name, child.spec.name) or child.spec
        lineage.carrier.want(NewChild(spec, replaces=spi))

    def end_child(self, spi: int, reason: DownReason, text: str = "") -> None:
        """A hard lifetime is over, or somebody wants it gone."""
        lineage = self.registry.children.get(spi)
        child = lineage.children.get(spi) if lineage is not None else None
        if lineage is None or child is None or child.is_closing:
            return
        self.context.subject = lineage.carrier
        child.is_closing = True
        lineage.carrier.want(DeleteChildren((spi,), reason, text))

    def expire_child(self, spi: int, text: str = "") -> None:
        """A hard lifetime is over: nothing more is sent, whatever the peer says and whatever waits (RFC 4301 4.4.2.1)."""
        if spi in self.registry.children:
            self.context.emit(StopOutbound(spi))
            self.end_child(spi, DownReason.EXPIRED, text)

    def expire_ike(self, sa: IkeSa) -> None:
        """The same for an IKE SA, and for all Child SAs that hang on it."""
        if sa.is_carrier and sa.lineage is not None:
            for spi in sa.lineage.children:
                self.context.emit(StopOutbound(spi))
        self.end(sa, DownReason.EXPIRED)

    def rekey_ike(self, sa: IkeSa) -> None:
        """A soft lifetime is over."""
        if isinstance(sa.state, Established):
            sa.want(RekeyIke())

    def check_liveness(self, sa: IkeSa) -> None:
        """Half a liveness time has passed: has anything come in? (RFC 7296 2.4)"""
        if not sa.is_carrier or sa.is_over or sa.lineage is None or sa.connection is None:
            return
        half = sa.connection.lifetimes.liveness_after / 2
        self.context.timers.set((Timer.LIVENESS, sa.own_spi), self.context.now + half)
        if sa.channel.window.sent is not None:
            return  # whatever is asked now asks for a sign of life as well
        children = tuple(sa.lineage.children)
        sa.ask(lambda t: AskActivity(t, children), lambda a: self._on_activity(sa, a), for_peer=False)

    def _on_activity(self, sa: IkeSa, answer: Answer) -> None:
        if not isinstance(answer, Activity) or sa.connection is None or sa.is_over:
            return
        liveness, now = sa.connection.lifetimes.liveness_after, self.context.now
        has_received = answer.inbound_packets > sa.activity[0]
        has_sent = answer.outbound_packets > sa.activity[1]
        sa.activity = (answer.inbound_packets, answer.outbound_packets)
        if has_received:
            sa.heard = now
        sa.is_owed = (sa.is_owed or has_sent) and not has_received
        silence = now - sa.heard
        if (silence >= liveness and sa.is_owed) or silence >= liveness * IDLE_PROBES:
            sa.is_owed = False
            sa.want(Probe())


_NOWHERE = HostPort(IPv4Address(0), 0)
_NO_PATH = Path(_NOWHERE, _NOWHERE)
"""Until `Paths` has answered."""
