"""Runs the exchanges of one IKE SA: one of ours and one of the peer's at a time, step by step; the others of ours wait."""

from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

from openmoat.ike import dispatch
from openmoat.ike.channel import Channel
from openmoat.ike.config import Count
from openmoat.ike.context import Context, Subject, Timer
from openmoat.ike.errors import ProtocolError
from openmoat.ike.events import Answer, DownReason, Question, Ticket
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.exchanges.exchange import (
    Again,
    Ask,
    Close,
    Done,
    Exchange,
    Failure,
    Forget,
    Outcome,
    PeerExchange,
    Reply,
    Send,
    Step,
)
from openmoat.ike.reports import failure_of
from openmoat.ike.scopes import Scope, reason_of, scope_of
from openmoat.ike.session import Session
from openmoat.ike.states import (
    Closed,
    Deleting,
    Established,
    Rejecting,
    State,
    Superseded,
    is_over,
    session_of,
)
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import Notify, Payload
from openmoat.ike.wire.rules import check
from openmoat.model.connection import Connection

__all__ = ["MAX_QUEUED_EXCHANGES", "MAX_TEMPORARY_FAILURES", "TEMPORARY_WAIT", "ExchangeRunner", "Owner"]

MAX_QUEUED_EXCHANGES = 64
"""Exchanges of ours that wait for their turn on one IKE SA."""
TEMPORARY_WAIT = 2.0
"""Seconds, and a random part of as many more, before a request that met TEMPORARY_FAILURE is tried again."""
MAX_TEMPORARY_FAILURES = 30
"""This often in a row (two to three minutes) means that the two sides are out of step (RFC 7296 2.25)."""


class Owner(Subject, Protocol):
    """The IKE SA as its runner sees it."""

    @property
    def state(self) -> State:
        """Where it stands."""
        ...

    @property
    def connection(self) -> Connection | None:
        """The connection it is for, as far as it is known."""
        ...

    def carrier(self) -> "ExchangeRunner":
        """Who runs the exchanges for the Child SAs of the same peer: this runner, or that of the successor."""
        ...

    def conclude(self, outcome: Outcome) -> None:
        """What an exchange means for the IKE SA as a whole."""
        ...

    def on_reply(self) -> None:
        """A response of ours is about to go out."""
        ...

    def on_gap(self) -> None:
        """No exchange of ours is open, and the next one has yet to start."""
        ...


class ExchangeRunner:
    """What is open, what waits, and what of the peer is being answered. What an exchange leads to is up to the owner."""

    __slots__ = ("_answering", "_asked", "_context", "_open", "_owner", "_queue", "_tickets", "channel")

    def __init__(self, context: Context, channel: Channel, owner: Owner) -> None:
        self._context = context
        self._owner = owner
        self.channel = channel
        self._open: Exchange | None = None
        self._queue: list[Exchange] = []
        self._answering: PeerExchange | None = None
        self._asked: Message | None = None
        """The peer's request that we work on."""
        self._tickets: list[Ticket] = []
        """Of questions that are open: one or two."""

    @property
    def open(self) -> Exchange | None:
        """Our exchange that has begun and is not over."""
        return self._open

    @property
    def _session(self) -> Session | None:
        return session_of(self._owner.state)

    # What the owner gives to run.

    def follow(self, exchange: Exchange, message: Message) -> None:
        """Go on with an exchange whose request went out before there was a session; its response is here."""
        session = self._session
        if session is not None:
            self._set_open(exchange)
            self._go_on(exchange, lambda: exchange.on_response(session, message))

    def answer(self, answering: PeerExchange) -> None:
        """Work on a request of the peer."""
        session = self._session
        if session is not None:
            self._set_answering(answering)
            self._go_on(answering, lambda: answering.start(session, self.doing))

    def note_asked(self, message: Message) -> None:
        """The request of the peer that is worked on: a failure tells what it said."""
        self._asked = message

    def on_response(self, message: Message) -> None:
        """The response to our open request."""
        exchange, session = self._open, self._session
        if exchange is not None and session is not None:
            self._go_on(exchange, lambda: exchange.on_response(session, check(message, exchange.phase)))
        else:
            self.pump()  # its exchange was given up meanwhile

    def abandon(self, reason: DownReason) -> Done:
        """Give up our open exchange, which gives back what it holds."""
        exchange, session = self._open, self._session
        self._set_open(None)
        return exchange.end(session, reason) if exchange is not None and session is not None else Done()

    def abandon_answer(self) -> None:
        """Give up the request of the peer that we work on: it gets no answer."""
        answering, session = self._answering, self._session
        self._set_answering(None)
        self._asked = None
        if answering is not None and session is not None:
            answering.end(session)
        self.channel.window.abandon_answer()

    def take_waiting(self) -> list[Exchange]:
        """What waits for its turn, and does so no longer."""
        waiting, self._queue = self._queue, []
        return waiting

    def forget_questions(self) -> None:
        """Answers that are still to come lead to nothing."""
        for ticket in self._tickets:
            self._context.forget(ticket)
        self._tickets.clear()

    # Steps of exchanges.

    def ask(self, question: Callable[[Ticket], Question], then: Callable[[Answer], None]) -> None:
        """Put a question for this IKE SA."""

        def go_on(answer: Answer) -> None:
            self._context.subject = self._owner
            if answer.ticket in self._tickets:
                self._tickets.remove(answer.ticket)
            try:
                then(answer)
            except ProtocolError as error:
                # A message of the handshake led to this, after some questions.
                if self.channel.is_initiator:
                    self.fail_response(error)
                else:
                    self.fail_request(error)

        self._tickets.append(self._context.ask(question, go_on))

    def _go_on(self, exchange: Exchange | PeerExchange, take: Callable[[], Step]) -> None:
        """Take the next step of an exchange."""
        try:
            step = take()
        except ProtocolError as error:
            if isinstance(exchange, Exchange):
                self.fail_response(error)
            else:
                self.fail_request(error)
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
                if exchange is self._open:
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
        self.await_response()

    def _reply(self, payloads: Sequence[Payload]) -> None:
        kind = self._asked.header.exchange if self._asked is not None else ExchangeType.INFORMATIONAL
        self._owner.on_reply()
        self.channel.respond(kind, payloads)
        self._set_answering(None)

    def _finish(self, done: Done, *, ends_ours: bool = False) -> None:
        """An exchange is over: tell why if it failed, see to what follows, and start the next one."""
        self.report(done.failure)
        if ends_ours:
            self._set_open(None)
        self.want_all(done)
        if done.outcome is not None:
            self._owner.conclude(done.outcome)
        self.pump()

    def want_all(self, done: Done) -> None:
        """Queue what an exchange wants to follow it."""
        if not done.wants:
            return
        carrier = self._owner.carrier()
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
            self._set_open(None)
            text = "the peer answers TEMPORARY_FAILURE for minutes"
            self._owner.conclude(Close(DownReason.PEER_MISBEHAVED, text, tells=True))
            return
        carrier = self._owner.carrier()
        carrier.pause(TEMPORARY_WAIT * (1 + self._context.random_fraction()))
        carrier._queue.append(exchange)
        self._finish(Done(), ends_ours=True)

    def _set_open(self, exchange: Exchange | None) -> None:
        self._open = exchange
        if exchange is not None:
            exchange.theirs = self._answering
        if self._answering is not None:
            self._answering.ours = exchange

    def _set_answering(self, answering: PeerExchange | None) -> None:
        self._answering = answering
        if answering is not None:
            answering.ours = self._open
        if self._open is not None:
            self._open.theirs = answering

    def doing(self, spi: int | None) -> Ours:
        """What we are at, seen from the Child SA with this SPI of ours, or from none."""
        exchange, session = self._open, self._session
        ours = exchange.ours(spi) if exchange is not None and exchange.is_sent else Ours.NOTHING
        if ours is Ours.CLOSING_THIS_CHILD:
            return ours
        if is_over(self._owner.state) or session is None or not session.is_carrier:
            # Not the carrier: a successor about which both sides' nonces have yet to decide. The peer must wait for that.
            return Ours.CLOSING_IKE
        child = session.peer.children.get(spi) if spi is not None else None
        if child is not None and (child.is_closing or child.is_replaced):
            return Ours.LEAVING_THIS_CHILD
        return ours

    # Sending again.

    def await_response(self) -> None:
        """The request has gone out: if no response comes in time, it goes out again."""
        sent = self.channel.window.sent
        if sent is not None:
            wait = self._open.wait(sent.sent) if self._open is not None else None
            if wait is None:
                wait = self._context.config.retransmission.wait(sent.sent)
            self._context.timers.set((Timer.RETRANSMIT, self.channel.own_spi), self._context.now + wait)

    def send_again(self) -> bool:
        """No response has come in time: send the same octets again, unless that has been done often enough."""
        sent, session = self.channel.window.sent, self._session
        if sent is None:
            return True
        if sent.sent >= self._context.config.retransmission.tries:
            return False
        sent.sent += 1
        if self._open is not None and session is not None:
            self._open.on_again(session, sent.sent)
        self._context.counts[Count.RETRANSMITTED] += 1
        self.channel.transmit_request()
        self.await_response()
        return True

    # Errors.

    def fail_request(self, error: ProtocolError, kind: ExchangeType | None = None) -> None:
        """The peer's request that we work on cannot be carried out: answer it, and end the IKE SA where that follows."""
        self._context.count_malformed(error)
        state = self._owner.state
        if isinstance(state, Closed):
            self.channel.window.abandon_answer()  # nothing that is asked of it is done, so nothing can fail
            return
        if kind is None:
            kind = self._asked.header.exchange if self._asked is not None else dispatch.KINDS[type(state)]
        session, answering = self._session, self._answering
        if answering is not None and session is not None:
            answering.end(session)
        self.report(Failure(kind, error.notify, reason_of(error), str(error), notify_sent=True))
        self._asked = None
        self._set_answering(None)
        if error.notify is None:
            self.channel.window.abandon_answer()
            return
        self.channel.respond(kind, [Notify(error.notify, error.data)])
        if scope_of(error, kind, is_response=False) is Scope.CLOSE:
            self._owner.conclude(Close(reason_of(error), str(error)))
        else:
            self.pump()

    def fail_response(self, error: ProtocolError) -> None:
        """The response to our request is of no use."""
        self._context.count_malformed(error)
        kind, reason, session = self.kind_of_ours(), reason_of(error), self._session
        deletes = scope_of(error, kind, is_response=True) is Scope.DELETE
        # It is we who reject it: the notify, if any, goes out with the Delete, and none has come in.
        self.report(Failure(kind, error.notify if deletes else None, reason, str(error), notify_sent=True))
        if deletes:
            self._owner.conclude(Close(reason, str(error), tells=True, error=error))
        elif self._open is not None and session is not None:
            self._finish(self._open.fail(session, reason), ends_ours=True)

    def kind_of_ours(self) -> ExchangeType:
        """Which exchange our open request belongs to."""
        if self._open is not None:
            return self._open.kind
        return dispatch.KINDS.get(type(self._owner.state), ExchangeType.INFORMATIONAL)

    def report(self, failure: Failure | None) -> None:
        """Tell why a negotiation came to nothing."""
        if failure is not None:
            session = self._session
            connection = self._owner.connection
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
        state = self._owner.state
        if is_over(state) and not isinstance(state, Superseded):
            return
        waiting = [*self._queue] if self._open is None else [self._open, *self._queue]
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
        if self.channel.window.is_used_up and (self._queue or is_over(self._owner.state)):
            self._owner.conclude(Forget(DownReason.EXPIRED, "the Message IDs are used up"))
            return
        if self._open is None:
            self._owner.on_gap()
        while self._open is None and self._queue and self.is_free:
            session = self._session
            exchange = self._queue.pop(0)
            self._set_open(exchange)
            if session is not None:
                self._go_on(exchange, lambda exchange=exchange, session=session: exchange.start(session))  # type: ignore[misc]

    @property
    def is_free(self) -> bool:
        """Nothing stands in the way of a request of ours."""
        if not self.channel.window.is_open or (Timer.RESUME, self.channel.own_spi) in self._context.timers:
            return False
        if self._answering is not None and self._answering.delays_ours:
            return False
        return isinstance(self._owner.state, (Established, Superseded, Deleting, Rejecting))

    def pause(self, seconds: float) -> None:
        """Let queued exchanges wait (RFC 7296 2.25)."""
        self._context.timers.set((Timer.RESUME, self.channel.own_spi), self._context.now + seconds)
