"""One IKE SA: its state, and what messages, exchanges and silence mean for it as a whole. It runs its handshake; an
`ExchangeRunner` of its own runs what comes after.
"""

from dataclasses import replace
from typing import assert_never

from openmoat.ike import dispatch, lifecycle
from openmoat.ike.channel import Channel, Malformed, Unread
from openmoat.ike.config import Count
from openmoat.ike.context import Context, Timer
from openmoat.ike.errors import ProtocolError
from openmoat.ike.events import DownReason, PeerMoved, PeerSilent
from openmoat.ike.exchange_runner import ExchangeRunner
from openmoat.ike.exchanges import sa_init
from openmoat.ike.exchanges.collisions import Theirs, Verdict, answer
from openmoat.ike.exchanges.exchange import (
    Close,
    Exchange,
    Failure,
    Forget,
    Offered,
    Outcome,
    PeerExchange,
    Succeed,
    Successor,
    Yield,
)
from openmoat.ike.exchanges.handshake import (
    AskFirst,
    Authenticated,
    GiveUp,
    Handshake,
    HandshakeStep,
    ReadAgain,
    ReplyInit,
    SendAuth,
    SendInit,
    Wait,
)
from openmoat.ike.exchanges.rekey_ike import RekeyIke
from openmoat.ike.liveness import Liveness
from openmoat.ike.news import HandshakeDone
from openmoat.ike.registry import Registry
from openmoat.ike.session import Session
from openmoat.ike.states import (
    Closed,
    Dead,
    Deleting,
    Established,
    FindingPath,
    InitReceived,
    InstallingFirst,
    Rejecting,
    State,
    Superseded,
    check_step,
    is_over,
    session_of,
)
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import Delete, Notify, Payload
from openmoat.ike.wire.rules import check
from openmoat.model.connection import Connection
from openmoat.net import Path

__all__ = ["DELETE_SECONDS", "SILENT_AFTER", "IkeSa"]

DELETE_SECONDS = 60.0
"""A deleted IKE SA is forgotten after this time, whether its Delete could be sent or not."""
SILENT_AFTER = 5
"""Times that a request is sent, in four seconds, before it is told that the peer does not answer. The probe of a size is sent
three times as large as what it asks for; what follows is small."""
ERROR_TEXT = "an error in moatd; its log has the traceback"


class IkeSa:
    """One IKE SA, from its first message to its end."""

    __slots__ = (
        "_context",
        "_end_wanted",
        "_handshake",
        "_is_leaving",
        "_last_notice",
        "_registry",
        "_state",
        "channel",
        "created",
        "exchanges",
        "liveness",
    )

    def __init__(
        self,
        context: Context,
        registry: "Registry[IkeSa]",
        channel: Channel,
        state: State,
        connection: Connection | None = None,
    ) -> None:
        self._context = context
        self.channel = channel
        self.exchanges = ExchangeRunner(context, channel, self)
        self._registry = registry
        self._state: State = state
        self._handshake: Handshake | None = None
        """Until both ends are authenticated; it holds the state until then."""
        if not isinstance(state, Established):
            self._handshake = Handshake(context, registry, channel, state, connection)
        if connection is not None:
            channel.forces_udp = connection.force_encapsulation
        self.created = context.now
        self.liveness = Liveness(context.now)
        self._end_wanted: tuple[DownReason, str] | None = None
        """Delete it, or rather its successor, once our open rekey has shown which IKE SA that is."""
        self._last_notice: Payload | None = None
        """What tells the peer that this IKE SA is over, until it has gone out."""
        self._is_leaving = False
        """The open request is the last notice."""
        registry.add(self)

    # What others ask about it.

    @property
    def own_spi(self) -> int:
        """Its handle on this host."""
        return self.channel.own_spi

    @property
    def is_idle(self) -> bool:
        """No request of ours waits for its response."""
        return self.channel.window.sent is None

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._handshake.state if self._handshake is not None else self._state

    @property
    def session(self) -> Session | None:
        """What exists from authentication on."""
        return session_of(self._state)

    @property
    def connection(self) -> Connection | None:
        """The connection it is for, as far as it is known."""
        if self._handshake is not None:
            return self._handshake.connection
        session = self.session
        return session.peer.connection if session is not None else None

    @property
    def is_over(self) -> bool:
        """Nothing is negotiated here any more."""
        return is_over(self.state)

    @property
    def is_carrier(self) -> bool:
        """Whether the Child SAs of its peer hang on this IKE SA."""
        session = self.session
        return session is not None and session.is_carrier

    @property
    def is_rekeying(self) -> bool:
        """A successor is being negotiated by us."""
        return isinstance(self.exchanges.open, RekeyIke)

    def is_attempt(self, states: tuple[type[State], ...] | None = None) -> bool:
        """Whether it is on its way to be established by us, and in one of these states."""
        handshake = self._handshake
        if handshake is None or not self.channel.is_initiator:
            return False
        return states is None or isinstance(handshake.state, states)

    def use(self, connection: Connection) -> None:
        """The connection has changed in ways that this IKE SA can bear."""
        self.channel.forces_udp = connection.force_encapsulation
        if self._handshake is not None:
            self._handshake.connection = connection

    def want(self, exchange: Exchange) -> None:
        """Queue an exchange; it starts when those before it are over."""
        self.exchanges.want(exchange)

    # The handshake.

    def begin(self, state: FindingPath | InitReceived) -> None:
        """Start as initiator, or answer an IKE_SA_INIT request."""
        handshake = self._handshake
        if handshake is None:
            raise ValueError("IKE SA: it has begun before")
        self._context.subject = self
        if isinstance(state, FindingPath):
            self._run_handshake(sa_init.begin(handshake, state))
        else:
            self._run_handshake(sa_init.answer_request(handshake, state))

    def _run_handshake(self, step: HandshakeStep) -> None:
        match step:
            case AskFirst(question=question, then=then):
                self.exchanges.ask(question, lambda answer: self._run_handshake(then(answer)))
            case SendInit(message=message):
                self.channel.request_init(message, again=self.channel.window.sent is not None)
                self.exchanges.await_response()
            case ReplyInit(message=message):
                self.channel.respond_init(message)
            case SendAuth(payloads=payloads):
                self.channel.request(ExchangeType.IKE_AUTH, payloads)
                self.exchanges.await_response()
            case ReadAgain(held=held):
                for datagram, path in held:
                    self.receive(Header.parse(datagram), datagram, path)
            case Authenticated():
                self._authenticate(step)
            case GiveUp(reason=reason, text=text, failure=failure):
                self.exchanges.report(failure)
                self.forget(reason, text)
            case Wait():
                pass
            case never:
                assert_never(never)

    def _authenticate(self, step: Authenticated) -> None:
        """Both ends are authenticated: from now on there is a session."""
        handshake, context = self._handshake, self._context
        if handshake is None:
            raise ValueError("IKE SA: authenticated without a handshake")
        session = handshake.make_session(step)
        self._step(Established(session) if self.channel.is_initiator else InstallingFirst(session))
        lifecycle.authenticated(context, self._registry, self, session, is_initial_contact=step.is_initial_contact)
        if isinstance(step.first, PeerExchange):
            self.exchanges.answer(step.first)
            return
        if step.first is not None:
            self.exchanges.follow(*step.first)
        context.report(HandshakeDone(self.own_spi))

    def on_reply(self) -> None:
        """See `exchange_runner.Owner`: with the response to IKE_AUTH it is established."""
        if isinstance(self._state, InstallingFirst):
            self._step(Established(self._state.session))
            self._context.report(HandshakeDone(self.own_spi))

    def _step(self, following: State) -> None:
        self._state = check_step(self.state, following)
        self._handshake = None
        if not isinstance(following, InstallingFirst):
            self._context.timers.stop((Timer.HANDSHAKE, self.own_spi))

    # What exchanges lead to.

    def _carrier(self) -> "IkeSa":
        session = self.session
        return self._registry.sas.get(session.peer.carrier, self) if session is not None else self

    def carrier(self) -> ExchangeRunner:
        """See `exchange_runner.Owner`."""
        return self._carrier().exchanges

    def on_gap(self) -> None:
        """See `exchange_runner.Owner`: the end that had to wait for a rekey, and what tells the peer of it."""
        if self._end_wanted is not None and self.session is not None:
            (reason, text), self._end_wanted = self._end_wanted, None
            self._carrier().delete(reason, text)
        if self._last_notice is not None and self.is_over and self.exchanges.is_free:
            notice, self._last_notice, self._is_leaving = self._last_notice, None, True
            self.channel.request(ExchangeType.INFORMATIONAL, [notice])
            self.exchanges.await_response()

    # A successor (RFC 7296 2.8.2, 2.18).

    def conclude(self, outcome: Outcome) -> None:
        """See `exchange_runner.Owner`."""
        match outcome:
            case Close(reason=reason, text=text, tells=True, error=error):
                self.delete(reason, text, error)
            case Forget(reason=reason, text=text):
                self.forget(reason, text)
            case Close(reason=reason, text=text):
                self.close(reason, text)
            case Succeed(successor=successor, rival=rival):
                self._hand_over(self._make(successor))
                loser = self._registry.sas.get(rival or 0)
                if loser is not None:
                    # Its creator deletes it; if that news is lost with the old IKE SA, we forget it by ourselves.
                    loser._expire()
                self._last_notice = Delete.ike()
            case Yield(rival=rival, successor=successor):
                if successor is not None:
                    self._make(successor).delete(DownReason.COLLISION)
                self._yield_to(self._registry.sas.get(rival))
            case Offered(successor=successor):
                self._take(successor)
            case never:
                assert_never(never)

    def _take(self, successor: Successor) -> None:
        """The peer has made a successor."""
        verdict = answer(Theirs.REKEY_IKE, self.exchanges.doing(None))
        new, rekey = self._make(successor), self.exchanges.open
        match verdict:
            case Verdict.ANSWER_AND_COMPARE if isinstance(rekey, RekeyIke):
                before = self._registry.sas.get(rekey.rival.spis[0]) if rekey.rival else None
                rekey.meet(successor)
                if before is not None:  # the nonces decide about one; a peer that makes more gets no more
                    before.forget(DownReason.COLLISION)
            case (
                Verdict.ANSWER
                | Verdict.ANSWER_AND_COMPARE
                | Verdict.ANSWER_WITHOUT_DELETE
                | Verdict.ANSWER_AND_REMEMBER
            ):
                self._hand_over(new)
            case Verdict.TEMPORARY_FAILURE | Verdict.CHILD_SA_NOT_FOUND:
                new.forget(DownReason.COLLISION)
            case never:
                assert_never(never)

    def _make(self, successor: Successor) -> "IkeSa":
        """The new IKE SA. It carries nothing yet."""
        session = self.session
        if session is None:
            raise ValueError("IKE SA: a successor before there was a session")
        channel = self.channel.sibling(*successor.spis, is_initiator=successor.is_ours)
        channel.protect(successor.suite, successor.keymat)
        sk_d = successor.keymat.sk_d
        following = replace(session, channel=channel, suite=successor.suite, sk_d=sk_d, nonces=successor.nonces)
        return IkeSa(self._context, self._registry, channel, Established(following))

    def _hand_over(self, new: "IkeSa") -> None:
        """From now on `new` stands for this IKE SA, which only waits for its Delete."""
        session = self.session
        if session is not None:
            self._adopt(session, new)
            self._step(Superseded(session, new.own_spi))
            self._expire()

    def _adopt(self, session: Session, new: "IkeSa") -> None:
        """Children and plans go over to `new`."""
        session.peer.carry(new.own_spi)
        new.liveness.is_silent = self.liveness.is_silent  # as it was told of these children
        lifecycle.replaced(self._context, self._registry, self, new)
        for exchange in self.exchanges.take_waiting():
            if exchange.moves:
                new.want(exchange)

    def _yield_to(self, rival: "IkeSa | None") -> None:
        """The peer's successor is the one; if the peer has deleted it already, all of it is over."""
        if rival is None or isinstance(rival.state, (Deleting, Closed, Dead)):
            self.delete(DownReason.PEER_DELETED)
        else:
            self._hand_over(rival)

    def on_silence(self) -> None:
        """Nothing of use has come in answer to our request."""
        handshake = self._handshake
        if handshake is not None and (handler := dispatch.SILENCE.get(type(handshake.state))) is not None:
            self._run_handshake(handler(handshake))
            return
        kind = self.exchanges.kind_of_ours()
        text = f"{kind.name} request: no response from {self.channel.path.remote}"
        if handshake is not None:
            self.exchanges.report(Failure(kind, None, DownReason.PEER_SILENT, text))
        self.forget(DownReason.PEER_SILENT, text)

    def retransmit(self) -> None:
        """No response has come in time: send again, or conclude that the peer is silent, of which it is told once before."""
        if not self.exchanges.send_again():
            self.on_silence()
            return
        sent = self.channel.window.sent
        if sent is not None and sent.sent == SILENT_AFTER and self.is_carrier:
            self._tell_silence(is_silent=True)

    def _tell_silence(self, *, is_silent: bool) -> None:
        if self.liveness.is_silent is not is_silent:
            self.liveness.is_silent = is_silent
            self._context.emit(PeerSilent(self.own_spi, is_silent))

    # Receiving.

    def receive(self, header: Header, datagram: bytes, path: Path) -> None:
        """A datagram whose SPIs name this IKE SA."""
        received = self.channel.receive(header, datagram, path)
        match received:
            case None:
                pass
            case Unread():
                self._receive_early(header, datagram, path)
            case Message() if header.is_response:
                self._accept_response(path)
                self._on_response(received)
            case Message():
                self._accept(path)
                self._on_request(received)
            case Malformed(error=error) if header.is_response:
                self._accept_response(path)
                self.exchanges.fail_response(error)
            case Malformed(error=error):
                self._accept(path)
                self.exchanges.fail_request(error, header.exchange)
            case never:
                assert_never(never)

    def _accept(self, path: Path) -> None:
        """An authenticated, fresh message came in on `path` (RFC 7296 2.4, 2.23)."""
        self._context.subject = self
        self.liveness.note(self._context.now)
        self._tell_silence(is_silent=False)
        if self.session is None:
            self._follow_handshake(path)
        elif not self.is_over:
            self.follow(path)

    def _follow_handshake(self, path: Path) -> None:
        """An initiator goes over to port 4500 with IKE_AUTH. Where no NAT stands before the peer only its port may change: a
        copy of its message from another address, sent by somebody on the path, must not draw our packets there.
        """
        channel = self.channel
        if channel.nat.peer or (not channel.is_initiator and path.remote.address == channel.path.remote.address):
            channel.path = path

    def _accept_response(self, path: Path) -> None:
        self._context.timers.stop((Timer.RETRANSMIT, self.own_spi))
        self._accept(path)

    def _receive_early(self, header: Header, datagram: bytes, path: Path) -> None:
        """A message of IKE_SA_INIT, or an encrypted request before there are keys."""
        handshake = self._handshake
        handler = dispatch.EARLY_REQUESTS.get((type(self.state), header.exchange))
        if header.is_response and handshake is not None:
            self._run_handshake(sa_init.on_response(handshake, header, datagram))
        elif handshake is None or handler is None or header.message_id != 1:
            self._context.counts[Count.UNEXPECTED_REQUEST] += 1
        else:
            self._run_handshake(handler(handshake, datagram, path))

    def _on_response(self, message: Message) -> None:
        """The response to our open request, under good keys."""
        handshake = self._handshake
        if self._is_leaving:
            self.forget(DownReason.ASKED)
        elif handshake is not None:
            handler = dispatch.HANDSHAKE_RESPONSES.get((type(handshake.state), message.header.exchange))
            if handler is not None:
                try:
                    self._run_handshake(handler(handshake, message))
                except ProtocolError as error:
                    self.exchanges.fail_response(error)
        else:
            self.exchanges.on_response(message)

    def _on_request(self, message: Message) -> None:
        """A fresh request under good keys. Before its sender is authenticated only IKE_AUTH counts."""
        place, handshake = (type(self.state), message.header.exchange), self._handshake
        first, handler = dispatch.HANDSHAKE_REQUESTS.get(place), dispatch.REQUESTS.get(place)
        self.exchanges.note_asked(message)
        try:
            if handshake is not None and first is not None:
                self._run_handshake(first(handshake, message))
            elif handshake is None and handler is not None:
                request = handler(message)
                self.exchanges.answer(request.answer(check(message, request.phase)))
            else:
                self._context.counts[Count.UNEXPECTED_REQUEST] += 1
                self.channel.window.abandon_answer()
        except ProtocolError as error:
            self.exchanges.fail_request(error, message.header.exchange)

    def follow(self, path: Path) -> None:
        """Use another path where a NAT stands before the peer; without one its address is what it is (RFC 7296 2.23)."""
        channel, session = self.channel, self.session
        if path == channel.path or not channel.nat.peer:
            return
        channel.path = path
        if session is not None and session.is_carrier:
            for child in session.peer.children.values():
                child.sa = replace(child.sa, path=channel.esp_path)
            children = tuple(session.peer.children)
            self._context.emit(PeerMoved(self.own_spi, channel.esp_path, channel.uses_udp, children))

    # The end.

    def delete(self, reason: DownReason, text: str = "", error: ProtocolError | None = None) -> None:
        """Tell the peer that this IKE SA is over, also that `error` in its last response is why; forget it in any case."""
        if isinstance(self.state, (Deleting, Rejecting, Closed, Dead)):
            return
        exchange, session = self.exchanges.open, self.session
        if error is None and exchange is not None and exchange.is_sent and exchange.delays_delete:
            self._end_wanted = (reason, text)
            return
        self._release(reason, text)
        self._step(Rejecting() if session is None else Deleting(session))
        at = self._context.now + DELETE_SECONDS
        self._context.timers.set((Timer.LINGER, self.own_spi), at)
        self._last_notice = Delete.ike()
        if error is not None and error.notify is not None:
            self._last_notice = Notify(error.notify, error.data)
        self.exchanges.pump()

    def close(self, reason: DownReason, text: str = "") -> None:
        """The peer knows that this IKE SA is over; its last request may come again."""
        self._release(reason, text)
        self._step(Closed())
        self._stop_timers()
        lifecycle.linger(self._context, self._registry, self)

    def forget(self, reason: DownReason, text: str = "") -> None:
        """Forget everything at once."""
        if isinstance(self.state, Dead):
            return
        self._release(reason, text)
        self._step(Dead())
        self._stop_timers()
        self._context.timers.stop((Timer.LINGER, self.own_spi))
        self._registry.remove(self)

    def expire_handshake(self) -> None:
        """It is not established in time: give it up, whatever is waited for."""
        if not self.channel.is_initiator:
            self._context.counts[Count.HALF_OPEN_EXPIRED] += 1
            self.forget(DownReason.PEER_SILENT)
            return
        reason = DownReason.PEER_SILENT if self.channel.window.sent is not None else DownReason.LOCAL
        text = f"no IKE SA within {self._context.config.handshake_life:g} s"
        self.exchanges.report(Failure(self.exchanges.kind_of_ours(), None, reason, text))
        self.forget(reason, text)

    def break_off(self) -> None:
        """A handler has raised an exception: the peer is told that this IKE SA is over, if that still works."""
        session = self.session
        try:
            if session is not None and isinstance(self._state, Established):
                self._end_exchange(session, DownReason.ERROR)
                self.delete(DownReason.ERROR, ERROR_TEXT)
            else:
                self.forget(DownReason.ERROR, ERROR_TEXT)
        except Exception:
            lifecycle.expel(self._context, self._registry, self)
            raise

    def _expire(self) -> None:
        """Another IKE SA has its place: forget it after a while, even if it is not deleted."""
        for timer in (Timer.REKEY_IKE, Timer.HARD_IKE, Timer.LIVENESS):
            self._context.timers.stop((timer, self.own_spi))
        lifecycle.linger(self._context, self._registry, self)

    def _release(self, reason: DownReason, text: str) -> None:
        """Children, exchanges and questions of this IKE SA end here; once."""
        if isinstance(self.state, (Deleting, Rejecting, Closed)):
            return
        session = self.session
        if session is not None:
            self._end_exchange(session, reason)
        self.exchanges.take_waiting()
        self.exchanges.abandon_answer()
        self.exchanges.forget_questions()
        lifecycle.ending(self._context, self._registry, self, reason, text)

    def _end_exchange(self, session: Session, reason: DownReason) -> None:
        """Our open exchange will not be finished. What the peer has made in a rekey of its own may carry on (2.8.2)."""
        done = self.exchanges.abandon(reason)
        rival = self._registry.sas.get(done.outcome.rival) if isinstance(done.outcome, Yield) else None
        if rival is not None and not isinstance(rival.state, (Deleting, Closed, Dead)):
            if session.is_carrier and reason in {DownReason.PEER_DELETED, DownReason.PEER_SILENT}:
                self._adopt(session, rival)
                if self._end_wanted is not None:
                    rival.delete(*self._end_wanted)
            else:
                rival.forget(reason)
        self.exchanges.want_all(done)

    def _stop_timers(self) -> None:
        for timer in _OWN_TIMERS:
            self._context.timers.stop((timer, self.own_spi))


_OWN_TIMERS = (
    Timer.RETRANSMIT,
    Timer.HANDSHAKE,
    Timer.REFUSAL,
    Timer.REKEY_IKE,
    Timer.HARD_IKE,
    Timer.LIVENESS,
    Timer.RESUME,
)
