"""Runs the exchanges of one IKE SA: one of ours and one of the peer's at a time, step by step; the others of ours wait."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self, assert_never

from openmoat.ike import dispatch
from openmoat.ike.channel import Channel
from openmoat.ike.config import Count
from openmoat.ike.context import Context, Timer
from openmoat.ike.errors import ProtocolError
from openmoat.ike.events import Answer, DownReason, Question, Ticket
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.exchanges.exchange import (
    Again,
    Ask,
    Done,
    Exchange,
    Failure,
    Outcome,
    PeerExchange,
    Reply,
    Send,
    Step,
)
from openmoat.ike.reports import failure_of
from openmoat.ike.scopes import Scope, reason_of, scope_of
from openmoat.ike.session import Session
from openmoat.ike.states import Closed, Deleting, Established, Rejecting, State, Superseded
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import Notify, Payload
from openmoat.model.connection import Connection

__all__ = ["MAX_QUEUED_EXCHANGES", "MAX_TEMPORARY_FAILURES", "TEMPORARY_WAIT", "ExchangeRunner"]

MAX_QUEUED_EXCHANGES = 64
"""Exchanges of ours that wait for their turn on one IKE SA."""
TEMPORARY_WAIT = 2.0
"""Seconds, and a random part of as many more, before a request that met TEMPORARY_FAILURE is tried again."""
MAX_TEMPORARY_FAILURES = 30
"""This often in a row (two to three minutes) means that the two sides are out of step (RFC 7296 2.25)."""


class ExchangeRunner(ABC):
    """The part of an `IkeSa` that owns its exchanges. What they lead to is decided by the IKE SA as a whole."""

    __slots__ = ("_answering", "_asked", "_context", "_exchange", "_queue", "_tickets", "channel")

    def __init__(self, context: Context, channel: Channel) -> None:
        self._context = context
        self.channel = channel
        self._exchange: Exchange | None = None
        self._queue: list[Exchange] = []
        self._answering: PeerExchange | None = None
        self._asked: Message | None = None
        """The peer's request that we work on."""
        self._tickets: list[Ticket] = []
        """Of questions that are open: one or two."""

    @property
    @abstractmethod
    def state(self) -> State:
        """Where the IKE SA stands."""

    @property
    @abstractmethod
    def session(self) -> Session | None:
        """What exists from authentication on."""

    @property
    @abstractmethod
    def connection(self) -> Connection | None:
        """The connection it is for, as far as it is known."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Nothing is negotiated here any more."""

    @abstractmethod
    def carrier(self) -> Self:
        """The IKE SA that carries the Child SAs of the same peer: this one, or its successor."""

    @abstractmethod
    def on_silence(self) -> None:
        """Nothing of use has come in answer to our request."""

    @abstractmethod
    def delete(self, reason: DownReason, text: str = "", error: ProtocolError | None = None) -> None:
        """Tell the peer that it is over."""

    @abstractmethod
    def close(self, reason: DownReason, text: str = "") -> None:
        """The peer knows that it is over."""

    @abstractmethod
    def forget(self, reason: DownReason, text: str = "") -> None:
        """Forget everything at once."""

    @abstractmethod
    def _establish(self) -> None:
        """The response to IKE_AUTH is about to go out."""

    @abstractmethod
    def _conclude(self, outcome: Outcome) -> None:
        """What an exchange means for the IKE SA as a whole."""

    @abstractmethod
    def _after_exchange(self) -> None:
        """Our open exchange is over, and the next one has yet to start."""

    @abstractmethod
    def _send_last_notice(self) -> None:
        """Nothing waits: if the IKE SA is over, the peer can be told."""

    @abstractmethod
    def break_off(self) -> None:
        """See `context.Subject`."""

    @property
    def own_spi(self) -> int:
        """Its handle on this host."""
        return self.channel.own_spi

    @property
    def is_idle(self) -> bool:
        """No request of ours waits for its response."""
        return self.channel.window.sent is None

    # Steps of exchanges.

    def ask(self, question: Callable[[Ticket], Question], then: Callable[[Answer], None]) -> None:
        """Put a question for this IKE SA."""

        def go_on(answer: Answer) -> None:
            self._context.subject = self
            if answer.ticket in self._tickets:
                self._tickets.remove(answer.ticket)
            try:
                then(answer)
            except ProtocolError as error:
                self._fail_handshake(error)

        self._tickets.append(self._context.ask(question, go_on))

    def _fail_handshake(self, error: ProtocolError) -> None:
        """A message of the handshake led to this, after some questions."""
        if self.channel.is_initiator:
            self._fail_response(error)
        else:
            self._fail_request(error)

    def _go_on(self, exchange: Exchange | PeerExchange, take: Callable[[], Step]) -> None:
        """Take the next step of an exchange."""
        try:
            step = take()
        except ProtocolError as error:
            if isinstance(exchange, Exchange):
                self._fail_response(error)
            else:
                self._fail_request(error)
            return
        self._run(exchange, step)

    def _run(self, exchange: Exchange | PeerExchange, step: Step) -> None:
        match step:
            case Ask(question=question, then=then):
                self.ask(question, lambda answer: self._go_on(exchange, lambda: then(answer)))
            case Send() if isinstance(exchange, Exchange):
                self._send(exchange, step)
            case Reply(payloads=payloads, then=conclude):
                self._reply(payloads)
                self._finish(conclude())
                self._asked = None
            case Done():
                if exchange is self._exchange:
                    self._finish(step, ends_ours=True)
            case Again(is_busy=is_busy) if isinstance(exchange, Exchange):
                self._repeat(exchange, is_busy=is_busy)
            case Send() | Again():
                raise ValueError(f"{type(exchange).__name__}: {type(step).__name__} is for exchanges of ours")
            case never:
                assert_never(never)

    def _send(self, exchange: Exchange, step: Send) -> None:
        exchange.is_sent = True
        if step.is_whole:
            self.channel.request_whole(exchange.kind, step.payloads, df=step.df)
        else:
            self.channel.request(exchange.kind, step.payloads)
        self._await_response()

    def _reply(self, payloads: Sequence[Payload]) -> None:
        kind = self._asked.header.exchange if self._asked is not None else ExchangeType.INFORMATIONAL
        self._establish()
        self.channel.respond(kind, payloads)
        self._set_answering(None)

    def _finish(self, done: Done, *, ends_ours: bool = False) -> None:
        """An exchange is over: tell why if it failed, see to what follows, and start the next one."""
        self._report(done.failure)
        if ends_ours:
            self._set_exchange(None)
        self._want_all(done)
        if done.outcome is not None:
            self._conclude(done.outcome)
        if ends_ours:
            self._after_exchange()
        self.pump()

    def _want_all(self, done: Done) -> None:
        if not done.wants:
            return
        carrier = self.carrier()
        for want in done.wants:
            carrier._enqueue(want.exchange, first=want.first)
        if carrier is not self:
            carrier.pump()

    def _repeat(self, exchange: Exchange, *, is_busy: bool) -> None:
        """The same once more; where the peer is busy, later, and not for ever (RFC 7296 2.25)."""
        exchange.is_sent = False
        if not is_busy:
            self._queue.insert(0, exchange)
            self._finish(Done(), ends_ours=True)
            return
        exchange.attempts += 1
        if exchange.attempts > MAX_TEMPORARY_FAILURES:
            self._set_exchange(None)
            self.delete(DownReason.PEER_MISBEHAVED, "the peer answers TEMPORARY_FAILURE for minutes")
            return
        carrier = self.carrier()
        carrier.pause(TEMPORARY_WAIT * (1 + self._context.random_fraction()))
        carrier._queue.append(exchange)
        self._finish(Done(), ends_ours=True)

    def _set_exchange(self, exchange: Exchange | None) -> None:
        self._exchange = exchange
        if exchange is not None:
            exchange.theirs = self._answering
        if self._answering is not None:
            self._answering.ours = exchange

    def _set_answering(self, answering: PeerExchange | None) -> None:
        self._answering = answering
        if answering is not None:
            answering.ours = self._exchange
        if self._exchange is not None:
            self._exchange.theirs = answering

    def doing(self, spi: int | None) -> Ours:
        """What we are at, seen from the Child SA with this SPI of ours, or from none."""
        exchange, session = self._exchange, self.session
        ours = exchange.ours(spi) if exchange is not None and exchange.is_sent else Ours.NOTHING
        if ours is Ours.CLOSING_THIS_CHILD:
            return ours
        if self.is_over or session is None or not session.is_carrier:
            # Not the carrier: a successor about which both sides' nonces have yet to decide. The peer must wait for that.
            return Ours.CLOSING_IKE
        child = session.peer.children.get(spi) if spi is not None else None
        if child is not None and (child.is_closing or child.is_replaced):
            return Ours.LEAVING_THIS_CHILD
        return ours

    # Sending again.

    def _await_response(self) -> None:
        sent = self.channel.window.sent
        if sent is not None:
            wait = self._exchange.wait(sent.sent) if self._exchange is not None else None
            if wait is None:
                wait = self._context.config.retransmission.wait(sent.sent)
            self._context.timers.set((Timer.RETRANSMIT, self.own_spi), self._context.now + wait)

    def retransmit(self) -> None:
        """No response has come in time: send the same octets again, or conclude that the peer is silent."""
        sent, session = self.channel.window.sent, self.session
        if sent is None:
            return
        if sent.sent >= self._context.config.retransmission.tries:
            self.on_silence()
            return
        sent.sent += 1
        if self._exchange is not None and session is not None:
            self._exchange.on_again(session, sent.sent)
        self._context.counts[Count.RETRANSMITTED] += 1
        self.channel.transmit_request()
        self._await_response()

    # Errors.

    def _fail_request(self, error: ProtocolError, kind: ExchangeType | None = None) -> None:
        """The peer's request that we work on cannot be carried out: answer it, and end the IKE SA where that follows."""
        self._context.count_malformed(error)
        if isinstance(self.state, Closed):
            self.channel.window.abandon_answer()  # nothing that is asked of it is done, so nothing can fail
            return
        if kind is None:
            kind = self._asked.header.exchange if self._asked is not None else dispatch.KINDS[type(self.state)]
        session, answering = self.session, self._answering
        if answering is not None and session is not None:
            answering.end(session)
        self._report(Failure(kind, error.notify, reason_of(error), str(error), notify_sent=True))
        self._asked = None
        self._set_answering(None)
        if error.notify is None:
            self.channel.window.abandon_answer()
            return
        self.channel.respond(kind, [Notify(error.notify, error.data)])
        if scope_of(error, kind, is_response=False) is Scope.CLOSE:
            self.close(reason_of(error), str(error))
        else:
            self.pump()

    def _fail_response(self, error: ProtocolError) -> None:
        """The response to our request is of no use."""
        self._context.count_malformed(error)
        kind, reason, session = self._kind_of_ours(), reason_of(error), self.session
        deletes = scope_of(error, kind, is_response=True) is Scope.DELETE
        # It is we who reject it: the notify, if any, goes out with the Delete, and none has come in.
        self._report(Failure(kind, error.notify if deletes else None, reason, str(error), notify_sent=True))
        if deletes:
            self.delete(reason, str(error), error)
        elif self._exchange is not None and session is not None:
            self._finish(self._exchange.fail(session, reason), ends_ours=True)

    def _kind_of_ours(self) -> ExchangeType:
        if self._exchange is not None:
            return self._exchange.kind
        return dispatch.KINDS.get(type(self.state), ExchangeType.INFORMATIONAL)

    def _report(self, failure: Failure | None) -> None:
        """Tell why a negotiation came to nothing."""
        if failure is not None:
            session = self.session
            connection = self.connection
            self._context.emit(
                failure_of(
                    self._context,
                    self.channel,
                    failure,
                    connection=connection.name if connection is not None else None,
                    peer=session.peer.identity if session is not None else None,
                    asked=self._asked,
                )
            )

    # The queue.

    def want(self, exchange: Exchange, *, first: bool = False) -> None:
        """Queue an exchange; it starts when those before it are over."""
        self._enqueue(exchange, first=first)
        self.pump()

    def _enqueue(self, exchange: Exchange, *, first: bool) -> None:
        if self.is_over and not isinstance(self.state, Superseded):
            return
        waiting = [*self._queue] if self._exchange is None else [self._exchange, *self._queue]
        if any(other.is_same(exchange) for other in waiting):
            return
        if exchange.is_bounded and len(self._queue) >= MAX_QUEUED_EXCHANGES:
            self._context.counts[Count.EXCHANGE_QUEUE_LIMIT] += 1
            return
        if first:
            self._queue.insert(0, exchange)
        else:
            self._queue.append(exchange)

    def pump(self) -> None:
        """Start the next exchange, if nothing stands in its way."""
        if self.channel.window.is_used_up and (self._queue or self.is_over):
            self.forget(DownReason.EXPIRED, "the Message IDs are used up")
            return
        while self._exchange is None and self._queue and self._may_start():
            session = self.session
            exchange = self._queue.pop(0)
            self._set_exchange(exchange)
            if session is not None:
                self._go_on(exchange, lambda exchange=exchange, session=session: exchange.start(session))  # type: ignore[misc]
        if self._exchange is None and self.is_over and self._may_start():
            self._send_last_notice()

    def _may_start(self) -> bool:
        if not self.channel.window.is_open or (Timer.RESUME, self.own_spi) in self._context.timers:
            return False
        if self._answering is not None and self._answering.delays_ours:
            return False
        return isinstance(self.state, (Established, Superseded, Deleting, Rejecting))

    def pause(self, seconds: float) -> None:
        """Let queued exchanges wait (RFC 7296 2.25)."""
        self._context.timers.set((Timer.RESUME, self.own_spi), self._context.now + seconds)
