"""All IKE SAs of one host: sorts datagrams, time and answers to them, and carries out what the daemon wants."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from hashlib import sha256
from types import TracebackType

from openmoat.crypto.identities import Identity
from openmoat.ike import lifecycle
from openmoat.ike.channel import Channel
from openmoat.ike.config import Count, IkeConfig
from openmoat.ike.connections import Connections
from openmoat.ike.context import Context, Output, Timer, TimerKey
from openmoat.ike.cookies import CookieJar
from openmoat.ike.errors import MalformedMessage, NoCommonProposal, ProtocolError
from openmoat.ike.events import Answer, DownReason
from openmoat.ike.exchanges import sa_init
from openmoat.ike.exchanges.exchange import Failure
from openmoat.ike.exchanges.informational import FragmentProbe, Probe, SizeProbe
from openmoat.ike.ike_sa import IkeSa
from openmoat.ike.registry import HalfOpenKey, Registry
from openmoat.ike.reports import unknown_peer_failure
from openmoat.ike.scopes import reason_of
from openmoat.ike.states import DerivingKeys, InitAnswered, InitReceived, InitSent
from openmoat.ike.status import ChildStatus, ConnectionStatus, Counts, IkeSaStatus
from openmoat.ike.upkeep import Upkeep
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, PayloadType
from openmoat.ike.wire.payloads import Nonce, Notify
from openmoat.ike.wire.rules import Phase, check
from openmoat.model.connection import Connection
from openmoat.net import Address, Path

__all__ = ["HINT_QUIET", "MAX_DUE", "MAX_INIT", "Endpoint"]

MAJOR = 2
NEXT_PAYLOAD = 16
"""Where the header has the type of the first payload (RFC 7296 3.1)."""
MAX_DUE = 32
"""Timers that fire in one `handle_timeout`: thousands that are due at once must not hold their caller."""
HINT_QUIET = 10.0
"""Seconds after a sign of life of a peer in which nobody's word that it has forgotten us makes us ask it for another."""
MAX_INIT = 16_384
"""Octets of an IKE_SA_INIT request, which is kept until its sender is authenticated."""


class Turn:
    """One call of the `Endpoint`. At its end `Upkeep` handles the news that it has brought.

    Where an exception comes up, the subject in whose handler that happened is ended; the exception goes on to the caller.
    """

    __slots__ = ("_context", "_upkeep")

    def __init__(self, context: Context, upkeep: Upkeep) -> None:
        self._context = context
        self._upkeep = upkeep

    def __enter__(self) -> None:
        self._context.subject = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context = self._context
        try:
            subject, context.subject = context.subject, None
            if subject is not None and isinstance(error, Exception):
                subject.break_off()
        finally:
            if context.news:
                self._handle_news()

    def _handle_news(self) -> None:
        """Handle the news; an exception in that ends its subject, too, and the rest is handled all the same."""
        context = self._context
        try:
            self._upkeep.handle_news()
        except Exception:
            subject, context.subject = context.subject, None
            if subject is not None:
                subject.break_off()
            if context.news:
                self._handle_news()
            raise


class Endpoint:
    """All IKE SAs of one host. Call handle_* or a verb, then poll until each gives None.

    No sockets, no clock, no tasks: `now` is seconds of any steady clock, `random` gives n octets. Never raises on what
    comes from outside; a verb that names what is not there raises `KeyError` or `ValueError`. Any other exception is an
    error in the core: it ends the one IKE SA in whose handler it came up, and goes on to the caller, who logs it.
    """

    def __init__(self, config: IkeConfig, random: Callable[[int], bytes]) -> None:
        self.config = config
        self._context = Context(config, random)
        self._connections = Connections(config.esp_suites, self._context.counts, config.aggfrag)
        self._registry: Registry[IkeSa] = Registry(random, self._connections)
        self._upkeep = Upkeep(self._context, self._registry, self._connections)
        self._turn = Turn(self._context, self._upkeep)
        self._cookies = CookieJar(random)
        self._allowance = config.answers_per_second
        self._allowed_at = 0.0
        self._is_closing = False
        self._context.refill_spis()

    def _at(self, now: float) -> "Turn":
        """Every call that may change something is one turn at a time."""
        self._context.now = now
        return self._turn

    # What happened.

    def handle_datagram(self, datagram: bytes, path: Path, now: float) -> None:
        """An IKE message, without non-ESP marker, that came in on `path`."""
        with self._at(now):
            self._sort(datagram, path)

    def handle_timeout(self, now: float) -> None:
        """Do what is due, `MAX_DUE` at a time; the deadline stays in the past as long as there is more."""
        with self._at(now):
            for _ in range(MAX_DUE):
                key = self._context.timers.pop_due(now)
                if key is None:
                    break
                self._fire(key)

    def handle_answer(self, answer: Answer, now: float) -> None:
        """The answer to a question; late ones are ignored."""
        with self._at(now):
            self._context.deliver(answer)

    def handle_first_packet(self, local_spi: int, now: float) -> None:
        """An authenticated packet has come in on a Child SA: its peer can receive on the other half (RFC 7296 2.8)."""
        with self._at(now):
            peer = self._registry.children.get(local_spi)
            child = peer.children.get(local_spi) if peer is not None else None
            if peer is not None and child is not None and not child.is_closing:
                peer.activate(child)

    def handle_limit(self, local_spi: int, is_hard: bool, now: float) -> None:
        """A Child SA has carried as much as it should, or as it may."""
        with self._at(now):
            if is_hard:
                self._upkeep.expire_child(local_spi, "hard limit of packets or octets")
            else:
                self._upkeep.rekey_child(local_spi)

    def handle_new_path(self, local_spi: int, path: Path, now: float) -> None:
        """The newest authenticated packet of a Child SA came from elsewhere than we send to (RFC 7296 2.23)."""
        with self._at(now):
            peer = self._registry.children.get(local_spi)
            sa = self._registry.sas.get(peer.carrier) if peer is not None else None
            if sa is not None and sa.channel.uses_udp:
                sa.follow(path)

    def handle_addresses(self, addresses: Collection[Address], now: float) -> None:
        """The host has these addresses now: IKE SAs at others are ended, and what is kept up is negotiated anew."""
        with self._at(now):
            text = "its address is no longer one of this host"
            for sa in list(self._registry.sas.values()):
                local = sa.channel.path.local
                if sa.is_over or local.address in addresses or not local.port:
                    continue  # without a port its path is not known yet
                if sa.session is None:
                    sa.forget(DownReason.NO_ROUTE, text)
                else:
                    self._upkeep.end(sa, DownReason.ASKED, text)

    def _sort(self, datagram: bytes, path: Path) -> None:
        """Find out which IKE SA a datagram is for."""
        try:
            header = Header.parse(datagram)
        except MalformedMessage:
            self._context.counts[Count.MALFORMED] += 1
            return
        if header.major != MAJOR:
            self._context.counts[Count.UNSUPPORTED_VERSION] += 1
            self._answer_unknown(header, path, Notify(NotifyType.INVALID_MAJOR_VERSION, bytes((MAJOR,))))
            return
        own, peer = header.responder_spi, header.initiator_spi
        if not header.is_initiator:
            own, peer = peer, own
        if header.exchange is ExchangeType.IKE_SA_INIT and header.is_initiator and not header.is_response and not own:
            self._handle_init_request(header, datagram, path)
            return
        sa = self._registry.sas.get(own)
        if sa is None or (sa.channel.peer_spi != peer and not isinstance(sa.state, (InitSent, DerivingKeys))):
            self._handle_stray(header, path)
            return
        sa.receive(header, datagram, path)
        if header.is_response and header.exchange is not ExchangeType.IKE_SA_INIT:
            self._check_hint(sa, header, datagram, path)

    # What the daemon wants.

    def load(self, connections: Iterable[Connection], now: float) -> None:
        """Add connections, or exchange those of the same name: an exchanged one is negotiated anew."""
        rows = tuple(connections)
        with self._at(now):
            self._upkeep.end_undecided({row.name for row in rows if row.name in self._connections}, "configured anew")
            for connection in rows:
                if connection.name in self._connections:
                    self._upkeep.unload(connection.name)
                self._upkeep.load(connection)

    def update(self, connections: Iterable[Connection], now: float) -> None:
        """Exchange connections for those of the same name whose SAs may stay; new lifetimes hold from the next rekey on."""
        with self._at(now):
            for connection in connections:
                self._upkeep.update(connection)

    def unload(self, names: Iterable[str], now: float) -> None:
        """Forget connections and delete their SAs."""
        gone = tuple(dict.fromkeys(names))
        with self._at(now):
            self._upkeep.end_undecided(frozenset(gone), "no longer configured")
            for name in gone:
                self._upkeep.unload(name)

    def initiate(self, connection: str, child: str | None, now: float) -> None:
        """Bring a connection up, or one child of it; ends a `take_down`, and begins anew what is still unanswered."""
        with self._at(now):
            self._upkeep.initiate(connection, child)

    def handle_acquire(self, connection: str, child: str, now: float) -> None:
        """A packet met a trapping policy that no SA serves. May come for every such packet."""
        with self._at(now):
            self._upkeep.acquire(connection, child)

    def reveal_keys(self, is_wanted: bool) -> None:
        """Emit `IkeSaKeys` for the IKE SAs of from now on, or no more."""
        self._context.config = self.config = replace(self.config, reveal_keys=is_wanted)

    def take_down(self, connection: str, now: float, peer: Identity | None = None) -> None:
        """Delete its SAs, and keep it down until `initiate` or a change of it; of a template perhaps one peer only."""
        with self._at(now):
            self._upkeep.take_down(connection, peer)

    def rekey_child(self, local_spi: int, now: float) -> None:
        """Replace a Child SA."""
        with self._at(now):
            self._upkeep.rekey_child(local_spi)

    def rekey_ike(self, ike: int, now: float) -> None:
        """Replace an IKE SA."""
        with self._at(now):
            self._upkeep.rekey_ike(self._registry.sas[ike])

    def delete_child(self, local_spi: int, now: float) -> None:
        """Delete a Child SA. What is kept up comes back."""
        with self._at(now):
            self._upkeep.end_child(local_spi, DownReason.ASKED)

    def delete_ike(self, ike: int, now: float) -> None:
        """Delete an IKE SA with its children. What is kept up comes back."""
        with self._at(now):
            self._upkeep.end(self._registry.sas[ike], DownReason.ASKED)

    def probe(self, ike: int, now: float) -> None:
        """Ask the peer for a sign of life."""
        with self._at(now):
            sa = self._registry.sas[ike]
            if sa.is_carrier:
                sa.want(Probe())

    def probe_size(self, ike: int, size: int, now: float) -> None:
        """Find out whether outer IP packets of `size` octets reach the peer; `SizeProbed` tells, if the IKE SA lives on."""
        with self._at(now):
            sa = self._registry.sas.get(ike)
            if sa is not None and sa.is_carrier:
                sa.want(SizeProbe(size))

    def probe_fragments(self, ike: int, now: float) -> None:
        """Find out whether IP fragments reach the peer; `FragmentsProbed` tells, if the IKE SA lives on."""
        with self._at(now):
            sa = self._registry.sas.get(ike)
            if sa is not None and sa.is_carrier:
                sa.want(FragmentProbe())

    def close(self, now: float) -> None:
        """Delete everything, and answer no unknown peer. Poll on until `is_idle`, or until patience is at an end."""
        with self._at(now):
            self._is_closing = True
            for name in self._connections.names():
                self._upkeep.unload(name)
            for sa in list(self._registry.sas.values()):
                self._upkeep.end(sa, DownReason.ASKED)

    # What to do now.

    def poll_output(self) -> Output | None:
        """The next transmit, question or event; their order matters."""
        return self._context.outputs.popleft() if self._context.outputs else None

    def poll_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        return self._context.timers.next()

    # What there is.

    @property
    def is_idle(self) -> bool:
        """Nothing is established or on its way."""
        return all(sa.is_over and sa.is_idle for sa in self._registry.sas.values())

    @property
    def open_questions(self) -> int:
        """Questions that wait for an answer; none waits longer than `IkeConfig.question_life`."""
        return self._context.open_questions

    @property
    def lingering(self) -> int:
        """IKE SAs that are over, and kept for a short time to answer a repeated last request."""
        return sum(sa.is_over for sa in self._registry.sas.values())

    def counts(self) -> Counts:
        """What was dropped or refused, by name."""
        return {count.value: number for count, number in self._context.counts.items()}

    def ike_sas(self) -> list[IkeSaStatus]:
        """All IKE SAs that are not over."""
        return [self._ike_status(sa) for sa in self._registry.sas.values() if not sa.is_over]

    def children(self) -> list[ChildStatus]:
        """All Child SAs."""
        deadline = self._context.timers.deadline
        return [
            ChildStatus(
                sa=child.sa,
                is_active=child.is_active,
                is_closing=child.is_closing,
                rekey_at=deadline((Timer.REKEY_CHILD, spi)),
                expires_at=deadline((Timer.HARD_CHILD, spi)),
            )
            for spi, peer in self._registry.children.items()
            for child in (peer.children[spi],)
        ]

    def ike_sa(self, spi: int) -> IkeSaStatus | None:
        """The IKE SA with this SPI of ours, unless it is over."""
        sa = self._registry.sas.get(spi)
        return self._ike_status(sa) if sa is not None and not sa.is_over else None

    def connections(self) -> list[ConnectionStatus]:
        """All loaded connections."""
        return [self._connection_status(name) for name in self._connections.names()]

    def connection(self, name: str) -> ConnectionStatus | None:
        """A loaded connection."""
        return self._connection_status(name) if name in self._connections else None

    def _ike_status(self, sa: IkeSa) -> IkeSaStatus:
        deadline, channel, session = self._context.timers.deadline, sa.channel, sa.session
        return IkeSaStatus(
            ike=sa.own_spi,
            peer_spi=channel.peer_spi,
            state=type(sa.state).__name__,
            connection=sa.connection.name if sa.connection else None,
            peer=session.peer.identity if session else None,
            is_initiator=channel.is_initiator,
            path=channel.path,
            suite=channel.suite,
            since=sa.created,
            heard=sa.liveness.heard,
            rekey_at=deadline((Timer.REKEY_IKE, sa.own_spi)),
            expires_at=deadline((Timer.HARD_IKE, sa.own_spi)),
            is_rekeying=sa.is_rekeying,
            children=tuple(session.peer.children) if session and session.is_carrier else (),
        )

    def _connection_status(self, name: str) -> ConnectionStatus:
        record = self._upkeep.records[name]
        there = {
            child.spec.name
            for sa in self._registry.established(name)
            if sa.session is not None
            for child in sa.session.peer.children.values()
        }
        return ConnectionStatus(
            name=name,
            phase=record.phase,
            since=record.since,
            reason=record.reason,
            text=record.text,
            failures=record.failures,
            retry_at=self._context.timers.deadline((Timer.KEEP_UP, name)),
            missing=tuple(sorted((record.wanted | record.asked) - there)),
        )

    # Timers.

    def _fire(self, key: TimerKey) -> None:
        kind, number = key
        self._context.subject = None
        if isinstance(number, str):
            self._upkeep.look_again(number)
        elif kind is Timer.QUESTION:
            self._context.give_up(number)
        elif kind is Timer.REKEY_CHILD:
            self._upkeep.rekey_child(number)
        elif kind is Timer.HARD_CHILD:
            self._upkeep.expire_child(number)
        elif (sa := self._registry.sas.get(number)) is not None:
            self._fire_ike(kind, sa)

    def _fire_ike(self, kind: Timer, sa: IkeSa) -> None:
        self._context.subject = sa
        match kind:
            case Timer.RETRANSMIT:
                sa.retransmit()
            case Timer.REFUSAL if isinstance(sa.state, InitSent):
                sa.on_silence()
            case Timer.HANDSHAKE:
                sa.expire_handshake()
            case Timer.REKEY_IKE:
                self._upkeep.rekey_ike(sa)
            case Timer.HARD_IKE:
                self._upkeep.expire_ike(sa)
            case Timer.LIVENESS:
                self._upkeep.check_liveness(sa)
            case Timer.RESUME:
                sa.exchanges.pump()
            case Timer.LINGER:
                sa.forget(DownReason.REKEYED)
            case _:  # these are not of IKE SAs, or what they were set for is over
                pass

    # Unknown peers.

    def _handle_init_request(self, header: Header, datagram: bytes, path: Path) -> None:
        """A request for a new IKE SA. Nothing is kept, and little computed, before the bounds are checked."""
        if self._is_closing:
            # Without connections it would have to be refused; without an answer the peer tries again after the restart.
            self._context.counts[Count.CLOSING] += 1
            return
        if len(datagram) > MAX_INIT:
            self._context.counts[Count.INIT_TOO_LONG] += 1
            return
        key = (path.remote.address, path.remote.port, sha256(datagram).digest()[:16])
        known = self._registry.half_open.get(key)
        if known is not None:
            self._repeat_init(known, path)
            return
        message: Message | None = None
        try:
            message = check(Message.parse(datagram, header), Phase.INIT)
            if header.message_id or not self._may_open(message, path):
                return
            self._open_half(key, message, datagram, path)
        except ProtocolError as error:
            self._refuse_init(header, path, error, message)

    def _repeat_init(self, sa: IkeSa, path: Path) -> None:
        """2.1: the same response again, or nothing where IKE_AUTH has begun."""
        self._context.counts[Count.REPEATED_REQUEST] += 1
        kept = sa.channel.window.kept
        if isinstance(sa.state, InitAnswered) and kept is not None:
            self._context.transmit_all(kept.datagrams, path)

    def _may_open(self, message: Message, path: Path) -> bool:
        """The bounds on what unknown peers can make us keep (RFC 7296 2.6)."""
        registry, config, counts = self._registry, self.config, self._context.counts
        if len(registry.half_open) >= config.max_half_open:
            counts[Count.HALF_OPEN_LIMIT] += 1
            return False
        if len(registry.half_open) >= config.cookie_threshold and not self._has_cookie(message, path):
            return False
        if registry.half_open_by_source[path.remote.address] >= config.max_half_open_per_source:
            counts[Count.HALF_OPEN_SOURCE_LIMIT] += 1
            return False
        return True

    def _has_cookie(self, message: Message, path: Path) -> bool:
        nonce, cookie = message.first(Nonce), message.notify(NotifyType.COOKIE)
        if nonce is None:
            return False
        spi, now = message.header.initiator_spi, self._context.now
        if cookie is not None:
            if self._cookies.is_good(cookie.data, nonce.octets, spi, path.remote, now):
                return True
            self._context.counts[Count.COOKIE_REFUSED] += 1
        self._context.counts[Count.COOKIE_DEMANDED] += 1
        made = self._cookies.make(nonce.octets, spi, path.remote, now)
        # A cookie is smaller than the request that asked for it: no amplification, so no rate limit either.
        self._send_unencrypted(message.header, path, Notify(NotifyType.COOKIE, made))
        return False

    def _open_half(self, key: HalfOpenKey, message: Message, datagram: bytes, path: Path) -> None:
        state = self._read_init(message, datagram, path)
        channel = Channel(
            self._context, self._registry.fresh_spi(), message.header.initiator_spi, path, is_initiator=False
        )
        sa = IkeSa(self._context, self._registry, channel, state)
        lifecycle.open_half(self._context, self._registry, sa, key)
        sa.begin(state)

    def _read_init(self, message: Message, datagram: bytes, path: Path) -> InitReceived:
        """By the first list of proposals that any connection has and the request meets."""
        failure: ProtocolError = NoCommonProposal("IKE_SA_INIT request: no connection is loaded")
        for proposals in self._connections.ike_proposals():
            try:
                return sa_init.read_request(message, datagram, path, proposals, self._context.config.vendor_id)
            except NoCommonProposal as error:
                failure = error
        raise failure

    def _refuse_init(self, header: Header, path: Path, error: ProtocolError, message: Message | None) -> None:
        self._context.counts[Count.MALFORMED if isinstance(error, MalformedMessage) else Count.INIT_REFUSED] += 1
        if error.notify is not None and self._answer_unknown(header, path, Notify(error.notify, error.data)):
            failure = Failure(header.exchange, int(error.notify), reason_of(error), str(error), notify_sent=True)
            self._context.emit(unknown_peer_failure(self._context, path, failure, message))

    def _handle_stray(self, header: Header, path: Path) -> None:
        """2.21.4: no IKE SA of ours. A request may be told so; the answer proves nothing and changes nothing."""
        if header.is_response:
            self._context.counts[Count.STRAY_RESPONSE] += 1
            return
        self._context.counts[Count.UNKNOWN_SPI] += 1
        self._answer_unknown(header, path, Notify(NotifyType.INVALID_IKE_SPI))

    def _check_hint(self, sa: IkeSa, header: Header, datagram: bytes, path: Path) -> None:
        """An unprotected message from the peer's address says that it has no such IKE SA (RFC 7296 2.21.1). Anybody may have
        sent it, so it proves nothing; it is a reason to ask the peer, if nothing came from it lately.
        """
        quiet_until = sa.liveness.heard + HINT_QUIET
        if datagram[NEXT_PAYLOAD] != PayloadType.NOTIFY or path.remote != sa.channel.path.remote or not sa.is_carrier:
            return
        try:
            is_hint = Message.parse(datagram, header).notify(NotifyType.INVALID_IKE_SPI) is not None
        except MalformedMessage:
            return
        if is_hint and header.is_initiator is not sa.channel.is_initiator and self._context.now >= quiet_until:
            self._context.counts[Count.UNAUTHENTICATED_ERROR] += 1
            sa.want(Probe())

    def _answer_unknown(self, header: Header, path: Path, notify: Notify) -> bool:
        """An unprotected error, within the rate limit (RFC 7296 2.21.4); never to a response."""
        if header.is_response:
            return False
        rate, now = self.config.answers_per_second, self._context.now
        self._allowance = min(rate, self._allowance + (now - self._allowed_at) * rate)
        self._allowed_at = now
        if self._allowance < 1:
            self._context.counts[Count.ANSWER_RATE_LIMIT] += 1
            return False
        self._allowance -= 1
        self._send_unencrypted(header, path, notify)
        return True

    def _send_unencrypted(self, header: Header, path: Path, notify: Notify) -> None:
        answer = Header(
            header.initiator_spi,
            header.responder_spi,
            header.exchange,
            not header.is_initiator,
            True,
            header.message_id,
        )
        self._context.transmit_all((Message(answer, (notify,)).emit(),), path)
