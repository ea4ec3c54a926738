"""One IKE SA: window, state, keys and timers. It moves octets and time to the exchanges, which know what they mean."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from openmoat.crypto.keymat import IkeKeymat
from openmoat.crypto.suites import IkeSuite
from openmoat.ike import dispatch
from openmoat.ike.channel import Channel
from openmoat.ike.config import Count
from openmoat.ike.context import Context, Timer
from openmoat.ike.errors import MalformedMessage, ProtocolError
from openmoat.ike.events import Answer, DownReason, PeerMoved, Question
from openmoat.ike.exchanges.exchange import Exchange, PeerExchange
from openmoat.ike.lineage import Lineage
from openmoat.ike.reports import failure_of
from openmoat.ike.scopes import Scope, scope_of
from openmoat.ike.states import Closed, Dead, Deleting, Established, State, Superseded, check_step
from openmoat.ike.window import Arrival
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import Notify, Payload
from openmoat.model.connection import Connection
from openmoat.net import Path

if TYPE_CHECKING:
    from openmoat.ike.registry import Registry

__all__ = ["LINGER_SECONDS", "MAX_QUEUED_EXCHANGES", "IkeSa"]

MAX_QUEUED_EXCHANGES = 64
"""Exchanges of ours that wait for their turn on one IKE SA."""
DELETE_SECONDS = 60.0
"""A deleted IKE SA is forgotten after this time, whether its Delete could be sent or not."""
LINGER_SECONDS = 20.0
"""A closed IKE SA answers a repeated last request for so long; one that was replaced waits so long for its Delete."""

AnswerKind = TypeVar("AnswerKind", bound=Answer)


class IkeSa:
    """One IKE SA, from its first message to its end."""

    __slots__ = (
        "_tickets",
        "activity",
        "answering",
        "asked",
        "channel",
        "connection",
        "context",
        "created",
        "end_wanted",
        "exchange",
        "heard",
        "is_kin",
        "is_owed",
        "keymat",
        "lineage",
        "nonces",
        "queue",
        "registry",
        "state",
    )

    def __init__(
        self,
        context: Context,
        registry: "Registry",
        *,
        own_spi: int,
        peer_spi: int,
        is_initiator: bool,
        path: Path,
        state: State,
        connection: Connection | None = None,
    ) -> None:
        self.context = context
        self.registry = registry
        self.channel = Channel(context, own_spi, peer_spi, path, is_initiator=is_initiator)
        self.state: State = state
        self.connection = connection
        self.lineage: Lineage | None = None
        """From authentication on."""
        self.keymat: IkeKeymat | None = None
        self.nonces: tuple[bytes, bytes] = (b"", b"")
        self.is_kin = False
        """The peer is of our make, by its vendor ID."""
        self.exchange: Exchange | None = None
        self.queue: list[Exchange] = []
        self.answering: PeerExchange | None = None
        self.asked: Message | None = None
        """The peer's request that we work on."""
        self.created = self.heard = context.now
        """When an authenticated, fresh message last came in."""
        self.end_wanted: tuple[DownReason, str] | None = None
        """Delete it, or rather its successor, once our open rekey has shown which IKE SA that is."""
        self.activity = (0, 0)
        """Packets in and out of its children, as last told."""
        self.is_owed = False
        """We have sent packets since anything came in."""
        self._tickets: list[int] = []
        """Of questions that are open: one or two."""
        self.channel.forces_udp = connection is not None and connection.force_encapsulation
        registry.add(self)

    # What others ask about it.

    @property
    def own_spi(self) -> int:
        """Its handle on this host."""
        return self.channel.own_spi

    @property
    def is_over(self) -> bool:
        """Nothing is negotiated here any more."""
        return isinstance(self.state, (Superseded, Deleting, Closed, Dead))

    @property
    def is_carrier(self) -> bool:
        """Whether the Child SAs of its lineage hang on this IKE SA."""
        return self.lineage is not None and self.lineage.carrier is self

    # State and questions.

    def step(self, following: State) -> None:
        """Go over to the next state, if it may come next."""
        self.state = check_step(self.state, following)
        if type(following) in _PAST_HANDSHAKE:
            self.context.timers.stop((Timer.HANDSHAKE, self.own_spi))

    def ask(self, make: Callable[[int], Question], on_answer: Callable[[Answer], None], *, for_peer: bool) -> None:
        """Put a question for the request of the peer that we work on, or for an exchange of ours."""

        def handle(answer: Answer) -> None:
            self.context.subject = self
            if answer.ticket in self._tickets:
                self._tickets.remove(answer.ticket)
            try:
                on_answer(answer)
            except ProtocolError as error:
                self.fail_request(error) if for_peer else self.fail_response(error)

        self._tickets.append(self.context.ask(make, handle))

    def forget_proofs(self) -> None:
        """Both ends have proved who they are: of the keys that lie here SK_d alone is wanted again."""
        if self.keymat is not None:
            self.keymat = self.keymat.lasting()

    def set_keys(self, suite: IkeSuite, keymat: IkeKeymat) -> None:
        """From now on messages are protected."""
        self.keymat = keymat
        self.channel.protect(suite, keymat)

    # Sending.

    def request(self, exchange: ExchangeType, payloads: Sequence[Payload]) -> None:
        """Send a protected request of ours and keep it until its response comes."""
        if self.exchange is not None:
            self.exchange.is_sent = True
        self.channel.request(exchange, payloads)
        self._await_response()

    def request_whole(self, exchange: ExchangeType, payloads: Sequence[Payload], *, df: bool = False) -> None:
        """Send a protected request in one message, whatever its size."""
        if self.exchange is not None:
            self.exchange.is_sent = True
        self.channel.request_whole(exchange, payloads, df=df)
        self._await_response()

    def request_init(self, message: bytes, *, again: bool) -> None:
        """Send an IKE_SA_INIT request, in place of the one before it where `again`."""
        self.channel.request_init(message, again=again)
        self._await_response()

    def respond(self, exchange: ExchangeType, payloads: Sequence[Payload]) -> None:
        """Answer the peer's request that we work on, protected."""
        self.channel.respond(exchange, payloads)
        self.answering = None
        self.asked = None

    def _await_response(self) -> None:
        sent = self.channel.window.sent
        if sent is not None:
            wait = self.exchange.wait(sent.sent) if self.exchange is not None else None
            if wait is None:
                wait = self.context.config.retransmission.wait(sent.sent)
            self.context.timers.set((Timer.RETRANSMIT, self.own_spi), self.context.now + wait)

    def retransmit(self) -> None:
        """No response has come in time: send the same octets again, or conclude that the peer is silent."""
        self.context.subject = self
        sent = self.channel.window.sent
        if sent is None:
            return
        if sent.sent >= self.context.config.retransmission.tries:
            dispatch.on_silence(self)
            return
        sent.sent += 1
        if self.exchange is not None:
            self.exchange.on_again(self, sent.sent)
        self.context.counts[Count.RETRANSMITTED] += 1
        self.channel.transmit_request()
        self._await_response()

    # Receiving.

    def receive(self, header: Header, datagram: bytes, path: Path) -> None:
        """A datagram whose SPIs name this IKE SA. Nothing changes before it is found to be authentic."""
        if header.is_initiator is self.channel.is_initiator:
            self.context.counts[Count.WRONG_ROLE_FLAG] += 1
        elif header.is_response:
            self._receive_response(header, datagram, path)
        else:
            self._receive_request(header, datagram, path)

    def _receive_response(self, header: Header, datagram: bytes, path: Path) -> None:
        if not self.channel.window.is_response_expected(header.message_id, header.exchange):
            self.context.counts[Count.UNEXPECTED_RESPONSE] += 1
            return
        if header.exchange is ExchangeType.IKE_SA_INIT:
            dispatch.on_init_response(self, header, datagram)
            return
        try:
            message = self.channel.open(header, datagram)
            if message is None:
                return
        except MalformedMessage as error:
            self._accept_response(path)
            self.fail_response(error)
            return
        self._accept_response(path)
        try:
            dispatch.on_response(self, message)
        except ProtocolError as error:
            self.fail_response(error)

    def _accept_response(self, path: Path) -> None:
        self.context.subject = self
        self.complete_request()
        self.hear(path)

    def complete_request(self) -> None:
        """The response to our open request is accepted."""
        self.channel.window.complete()
        self.context.timers.stop((Timer.RETRANSMIT, self.own_spi))

    def _receive_request(self, header: Header, datagram: bytes, path: Path) -> None:
        arrival = self.channel.window.classify(header.message_id)
        if arrival in _DROPPED:
            self.context.counts[_DROPPED[arrival]] += 1
            return
        if not self.channel.is_protected:
            dispatch.on_early_request(self, header, datagram, path)
            return
        if arrival is Arrival.REPEATED:
            self.channel.answer_again(header, datagram, path)
            return
        try:
            message = self.channel.open(header, datagram)
        except MalformedMessage as error:
            self._accept_request(path)
            self.fail_request(error, header.exchange)
            return
        if message is None:
            return
        self._accept_request(path)
        try:
            self.asked = message
            dispatch.on_request(self, message)
        except ProtocolError as error:
            self.fail_request(error, header.exchange)

    def _accept_request(self, path: Path) -> None:
        self.context.subject = self
        self.channel.window.accept(path)
        self.hear(path)

    def hear(self, path: Path) -> None:
        """An authenticated, fresh message came in on `path` (RFC 7296 2.4, 2.23)."""
        self.heard = self.context.now
        if self.lineage is None:
            self.channel.path = path  # an initiator goes over to port 4500 with IKE_AUTH
        elif not self.is_over:
            self.follow(path)

    def follow(self, path: Path) -> None:
        """Use another path where a NAT stands before the peer; without one its address is what it is (RFC 7296 2.23)."""
        channel = self.channel
        if path == channel.path or not channel.nat.peer:
            return
        channel.path = path
        if self.is_carrier and self.lineage is not None:
            for child in self.lineage.children.values():
                child.sa = replace(child.sa, path=channel.esp_path)
            children = tuple(self.lineage.children)
            self.context.emit(PeerMoved(self.own_spi, channel.esp_path, channel.uses_udp, children))

    # Errors.

    def fail_request(self, error: ProtocolError, exchange: ExchangeType | None = None) -> None:
        """The peer's request that we work on cannot be carried out: answer it, and end the IKE SA where that follows."""
        self.context.count_malformed(error)
        if isinstance(self.state, Closed):
            self.channel.window.abandon_answer()  # nothing that is asked of it is done, so nothing can fail
            return
        exchange = exchange or dispatch.answered_exchange(self)
        scope = scope_of(error, exchange, is_response=False)
        if self.answering is not None:
            self.answering.on_end(self)
        self.report(error, exchange, notify_sent=True)
        if error.notify is None:
            self.answering = None
            self.channel.window.abandon_answer()
            return
        self.respond(exchange, [Notify(error.notify, error.data)])
        if scope is Scope.CLOSE:
            self.close(dispatch.reason_of(error), str(error))
        else:
            self.pump()

    def fail_response(self, error: ProtocolError) -> None:
        """The response to our request is of no use."""
        self.context.count_malformed(error)
        exchange = dispatch.open_exchange(self)
        scope = scope_of(error, exchange, is_response=True)
        # It is we who found fault: the notify, if any, goes out with the Delete, and none has come in.
        notify = error.notify if scope is Scope.DELETE else None
        self.report_failure(exchange, notify, notify_sent=True, reason=dispatch.reason_of(error), text=str(error))
        if scope is Scope.DELETE:
            self.delete(dispatch.reason_of(error), str(error), error)
        elif self.exchange is not None:
            ended = self.exchange
            ended.on_end(self, dispatch.reason_of(error))
            self.finish(ended)

    def report(self, error: ProtocolError, exchange: ExchangeType, *, notify_sent: bool) -> None:
        """Tell why a negotiation came to nothing."""
        self.report_failure(
            exchange, error.notify, notify_sent=notify_sent, reason=dispatch.reason_of(error), text=str(error)
        )

    def report_failure(
        self, exchange: ExchangeType, notify: int | None, *, notify_sent: bool, reason: DownReason, text: str
    ) -> None:
        """Tell why a negotiation came to nothing, in words."""
        self.context.emit(failure_of(self, int(exchange), notify, reason, text, notify_sent=notify_sent))

    # Exchanges of ours.

    def want(self, exchange: Exchange, *, first: bool = False) -> None:
        """Queue an exchange; it starts when those before it are over."""
        if self.is_over and not isinstance(self.state, Superseded):
            return
        waiting = [*self.queue] if self.exchange is None else [self.exchange, *self.queue]
        if any(other.is_same(exchange) for other in waiting):
            return
        if exchange.is_bounded and len(self.queue) >= MAX_QUEUED_EXCHANGES:
            self.context.counts[Count.EXCHANGE_QUEUE_LIMIT] += 1
            return
        if first:
            self.queue.insert(0, exchange)
        else:
            self.queue.append(exchange)
        self.pump()

    def pump(self) -> None:
        """Start the next exchange, if nothing stands in its way."""
        if self.channel.window.is_used_up and self.queue:
            self.forget(DownReason.EXPIRED, "the Message IDs are used up")
            return
        while self.exchange is None and self.queue and self._may_start():
            self.exchange = self.queue.pop(0)
            self.exchange.start(self)

    def _may_start(self) -> bool:
        if not self.channel.window.is_open or (Timer.RESUME, self.own_spi) in self.context.timers:
            return False
        if self.answering is not None and self.answering.delays_ours:
            return False
        return isinstance(self.state, (Established, Superseded, Deleting))

    def finish(self, exchange: Exchange) -> None:
        """The exchange is over; the next one may start."""
        if self.exchange is exchange:
            self.exchange = None
        if self.end_wanted is not None and self.lineage is not None:
            (reason, text), self.end_wanted = self.end_wanted, None
            self.lineage.carrier.delete(reason, text)
        self.pump()

    def pause(self, seconds: float) -> None:
        """Let queued exchanges wait (RFC 7296 2.25)."""
        self.context.timers.set((Timer.RESUME, self.own_spi), self.context.now + seconds)

    # The end.

    def delete(self, reason: DownReason, text: str = "", error: ProtocolError | None = None) -> None:
        """Tell the peer that this IKE SA is over, also that `error` in its last response is why; forget it in any case."""
        if isinstance(self.state, (Deleting, Closed, Dead)):
            return
        if error is None and self.exchange is not None and self.exchange.is_sent and self.exchange.delays_delete:
            self.end_wanted = (reason, text)
            return
        self._release(reason, text)
        self.step(Deleting())
        self.context.timers.set((Timer.LINGER, self.own_spi), self.context.now + DELETE_SECONDS)
        self.queue.append(dispatch.farewell(error))
        self.pump()

    def close(self, reason: DownReason, text: str = "") -> None:
        """The peer knows that this IKE SA is over; its last request may come again."""
        self._release(reason, text)
        self.step(Closed())
        self._stop_timers()
        self.registry.linger(self, LINGER_SECONDS)

    def forget(self, reason: DownReason, text: str = "") -> None:
        """Forget everything at once."""
        if isinstance(self.state, Dead):
            return
        self._release(reason, text)
        self.step(Dead())
        self._stop_timers()
        self.context.timers.stop((Timer.LINGER, self.own_spi))
        self.registry.remove(self)

    def expire_handshake(self) -> None:
        """It is not established in time: give it up, whoever is waited for."""
        self.context.subject = self
        if not self.channel.is_initiator:
            self.context.counts[Count.HALF_OPEN_EXPIRED] += 1
            self.forget(DownReason.PEER_SILENT)
            return
        reason = DownReason.PEER_SILENT if self.channel.window.sent is not None else DownReason.LOCAL
        text = f"no IKE SA within {self.context.config.handshake_life:g} s"
        self.report_failure(dispatch.open_exchange(self), None, notify_sent=False, reason=reason, text=text)
        self.forget(reason, text)

    def break_off(self) -> None:
        """A handler has raised an exception: the peer is told that this IKE SA is over, if that still works."""
        text = "an error in moatd; its log has the traceback"
        try:
            if self.lineage is not None and isinstance(self.state, Established):
                exchange, self.exchange = self.exchange, None
                if exchange is not None:
                    exchange.on_end(self, DownReason.ERROR)
                self.delete(DownReason.ERROR, text)
            else:
                self.forget(DownReason.ERROR, text)
        except Exception:
            self.registry.expel(self)
            raise

    def expire(self) -> None:
        """It stands aside: forget it after a while even if nobody deletes it."""
        for timer in (Timer.REKEY_IKE, Timer.HARD_IKE, Timer.LIVENESS):
            self.context.timers.stop((timer, self.own_spi))
        self.registry.linger(self, LINGER_SECONDS)

    def sibling(self, own_spi: int, peer_spi: int, *, is_initiator: bool) -> "IkeSa":
        """A further IKE SA with the same peer on the same path, made by an exchange on this one (RFC 7296 2.18)."""
        new = IkeSa(
            self.context,
            self.registry,
            own_spi=own_spi,
            peer_spi=peer_spi,
            is_initiator=is_initiator,
            path=self.channel.path,
            state=Established(),
            connection=self.connection,
        )
        new.lineage = self.lineage
        new.channel = self.channel.sibling(own_spi, peer_spi, is_initiator=is_initiator)
        new.is_kin = self.is_kin
        return new

    def note_deleted(self, remote_spi: int) -> None:
        """The peer deletes a Child SA that we do not know: perhaps one whose making we have not heard of yet."""
        deleted = getattr(self.exchange, "deleted", None)
        if deleted is not None and len(deleted) < MAX_QUEUED_EXCHANGES:
            deleted.add(remote_spi)

    def _release(self, reason: DownReason, text: str) -> None:
        """Children, exchanges and questions of this IKE SA end here; once."""
        if isinstance(self.state, (Deleting, Closed)):
            return
        exchange, self.exchange = self.exchange, None
        answering, self.answering = self.answering, None
        self.asked = None
        if exchange is not None:
            exchange.on_end(self, reason)  # a successor may take the queue over
        self.queue.clear()
        if answering is not None:
            answering.on_end(self)
        self.channel.window.abandon_answer()
        for ticket in self._tickets:
            self.context.forget(ticket)
        self._tickets.clear()
        self.registry.ending(self, reason, text)

    def _stop_timers(self) -> None:
        for timer in _OWN_TIMERS:
            self.context.timers.stop((timer, self.own_spi))


_PAST_HANDSHAKE = (Established, Deleting, Closed, Dead)
_DROPPED = {
    Arrival.BUSY: Count.BUSY_REQUEST,
    Arrival.STALE: Count.STALE_REQUEST,
    Arrival.AHEAD: Count.REQUEST_AHEAD,
}
_OWN_TIMERS = (
    Timer.RETRANSMIT,
    Timer.HANDSHAKE,
    Timer.REFUSAL,
    Timer.REKEY_IKE,
    Timer.HARD_IKE,
    Timer.LIVENESS,
    Timer.RESUME,
)
