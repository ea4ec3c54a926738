"""CREATE_CHILD_SA for the IKE SA itself, both roles (RFC 7296 1.3.2, 2.8.2, 2.18)."""

from typing import assert_never

from openmoat.crypto.kex import seed_size
from openmoat.crypto.keymat import IkeKeymat, rekeyed_skeyseed
from openmoat.crypto.numbers import KeMethod
from openmoat.crypto.suites import IkeSuite
from openmoat.errors import Secret
from openmoat.ike.context import Timer
from openmoat.ike.errors import Busy, MalformedMessage, PeerMisbehaved, WrongKeyExchange
from openmoat.ike.events import (
    Answer,
    AskKeyPair,
    AskSharedSecret,
    DownReason,
    KeyPair,
    SharedSecret,
    WeakPublicValue,
)
from openmoat.ike.exchanges.answers import reason_of_notify, refusal_text, secret_error
from openmoat.ike.exchanges.collisions import Ours, Theirs, Verdict, answer, is_lowest
from openmoat.ike.exchanges.create_child import changed_method
from openmoat.ike.exchanges.exchange import (
    Again,
    Ask,
    Close,
    Doing,
    Done,
    Exchange,
    Failure,
    Offered,
    PeerExchange,
    Reply,
    Send,
    Step,
    Succeed,
    Successor,
    Yield,
)
from openmoat.ike.negotiate.choice import IkeChoice, accept_ike, choose_ike, offer_ike
from openmoat.ike.session import Session
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import NONCE_SIZE, KeyExchange, Nonce, Notify, Payload, SecurityAssociation
from openmoat.ike.wire.rules import Phase

__all__ = ["AnswerRekey", "RekeyIke"]

RETRY_REKEY = 30.0
"""Seconds after which a rekey that was refused is tried again, until the hard lifetime ends the IKE SA."""


class RekeyIke(Exchange):
    """Give the IKE SA a successor, which inherits its Child SAs."""

    __slots__ = ("_changes", "_method", "_new_spi", "_nonce", "_private", "rival")
    phase = Phase.REKEY_IKE
    delays_delete = True
    moves = False

    def __init__(self) -> None:
        super().__init__()
        self._changes = 0
        self._method: KeMethod | None = None
        self._new_spi = 0
        self._nonce = b""
        self._private = Secret()
        self.rival: Successor | None = None
        """Successor that an exchange of the peer has made meanwhile (RFC 7296 2.8.2)."""

    def ours(self, spi: int | None) -> Ours:
        """See `Exchange.ours`."""
        return Ours.REKEYING_IKE

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return isinstance(other, RekeyIke)

    def meet(self, successor: Successor) -> None:
        """The peer has made a successor, too."""
        self.rival = successor

    def start(self, session: Session) -> Step:
        """See `Exchange.start`."""
        if not session.is_carrier:
            return Done()
        method = self._method or session.peer.connection.proposals[0].key_exchanges[0].id
        self._method = method
        seed = Secret(session.context.random(seed_size(method)))
        return Ask(lambda t: AskKeyPair(t, method, seed), lambda a: self._on_key_pair(session, method, a))

    def _on_key_pair(self, session: Session, method: KeMethod, answer: Answer) -> Step:
        if not isinstance(answer, KeyPair):
            return self._fail(session, DownReason.LOCAL, None, refusal_text(answer))
        if not session.is_carrier:
            return Done()
        self._private = answer.private
        self._nonce = session.context.random(NONCE_SIZE)
        self._new_spi = session.host.fresh_spi()
        offered = offer_ike(session.peer.connection.proposals, self._new_spi.to_bytes(8, "big"))
        return Send([SecurityAssociation(offered), Nonce(self._nonce), KeyExchange(method, answer.public_value)])

    def on_response(self, session: Session, message: Message) -> Step:
        """See `Exchange.on_response`."""
        error = message.error()
        if error is not None:
            return self._on_error(session, error)
        answer, nonce, exchange = message.first(SecurityAssociation), message.first(Nonce), message.first(KeyExchange)
        if answer is None or nonce is None or exchange is None:
            raise MalformedMessage("CREATE_CHILD_SA response: SA, Nr and KE must be there")
        offered = offer_ike(session.peer.connection.proposals, self._new_spi.to_bytes(8, "big"))
        choice = accept_ike(answer.proposals, offered)
        peer_spi = int.from_bytes(choice.answer.spi, "big")
        if exchange.method is not self._method or choice.suite.key_exchange.id is not self._method or not peer_spi:
            raise PeerMisbehaved("CREATE_CHILD_SA response: SPI or key exchange method do not fit the request")
        method, private, nonces = exchange.method, self._private, (self._nonce, nonce.octets)
        return Ask(
            lambda t: AskSharedSecret(t, method, private, exchange.public_value),
            lambda a: self._on_secret(session, choice.suite, peer_spi, nonces, a),
        )

    def _on_secret(
        self, session: Session, suite: IkeSuite, peer_spi: int, nonces: tuple[bytes, bytes], answer: Answer
    ) -> Step:
        if isinstance(answer, WeakPublicValue):
            raise PeerMisbehaved(f"KE response: {answer.text}")
        if not isinstance(answer, SharedSecret):
            # The peer has a successor that we cannot have.
            return Done(outcome=Close(DownReason.LOCAL, refusal_text(answer), tells=True))
        spis = (self._new_spi, peer_spi)
        keymat = successor_keys(session, suite, spis, nonces, answer.secret)
        successor = Successor(spis, suite, keymat, nonces, is_ours=True)
        rival = self.rival
        if rival is not None and is_lowest(nonces, rival.nonces):
            return Done(outcome=Yield(rival.spis[0], successor))
        return Done(outcome=Succeed(successor, rival.spis[0] if rival is not None else None))

    def _on_error(self, session: Session, error: Notify) -> Step:
        if self.rival is not None:
            # 2.8.2: the peer has not noticed our attempt, so its successor is the only one.
            return Done(outcome=Yield(self.rival.spis[0]))
        text = f"CREATE_CHILD_SA: the peer answers {error.type.name} to the rekey of the IKE SA"
        match error.type:
            case NotifyType.TEMPORARY_FAILURE:
                return Again(is_busy=True)
            case NotifyType.INVALID_KE_PAYLOAD if self._change_method(session, error):
                return Again(is_busy=False)
            case NotifyType.INVALID_SYNTAX:
                # RFC 7296 2.21.3: the IKE SA is gone at the peer, without a Delete.
                failure = Failure(self.kind, int(error.type), DownReason.REFUSED, text)
                return Done(failure=failure, outcome=Close(DownReason.REFUSED, text))
            case _:
                return self._fail(session, reason_of_notify(error.type), int(error.type), text)

    def _change_method(self, session: Session, error: Notify) -> bool:
        offered = {row.id for proposal in session.peer.connection.proposals for row in proposal.key_exchanges}
        self._changes += 1
        wanted = changed_method(error, offered, self._method, self._changes)
        self._method = wanted or self._method
        return wanted is not None

    def _fail(self, session: Session, reason: DownReason, notify: int | None, text: str) -> Done:
        self._retry(session)
        return Done(failure=Failure(self.kind, notify, reason, text))

    def fail(self, session: Session, reason: DownReason) -> Done:
        """See `Exchange.fail`."""
        self._retry(session)
        return self.end(session, reason)

    def _retry(self, session: Session) -> None:
        context = session.context
        context.timers.set((Timer.REKEY_IKE, session.channel.own_spi), context.now + RETRY_REKEY)

    def end(self, session: Session, reason: DownReason) -> Done:
        """See `Exchange.end`."""
        return Done(outcome=Yield(self.rival.spis[0])) if self.rival is not None else Done()


class AnswerRekey(PeerExchange):
    """The peer wants to replace this IKE SA."""

    __slots__ = ("_doing", "_message")
    kind = ExchangeType.CREATE_CHILD_SA
    delays_ours = True

    def __init__(self, message: Message) -> None:
        super().__init__()
        self._message = message

    def start(self, session: Session, doing: Doing) -> Step:
        """See `PeerExchange.start`."""
        self._doing = doing
        self._check()
        message, context = self._message, session.context
        offered, nonce, exchange = message.first(SecurityAssociation), message.first(Nonce), message.first(KeyExchange)
        if offered is None or nonce is None or exchange is None:
            raise MalformedMessage("CREATE_CHILD_SA request: SA, Ni and KE must be there")
        own_spi = session.host.fresh_spi()
        proposals = session.peer.connection.proposals
        choice = choose_ike(offered.proposals, proposals, own_spi.to_bytes(8, "big"), exchange.method)
        method = choice.suite.key_exchange.id
        if exchange.method is not method:
            raise WrongKeyExchange(f"KE: {method.name} is wanted", int(method).to_bytes(2, "big"))
        spis = (own_spi, _received_spi(offered, choice))
        nonces = (nonce.octets, context.random(NONCE_SIZE))
        seed = Secret(context.random(seed_size(method)))
        return Ask(
            lambda t: AskKeyPair(t, method, seed),
            lambda a: self._on_key_pair(session, choice, spis, nonces, exchange.public_value, a),
        )

    def _check(self) -> None:
        """Raises where the table refuses a rekey now; a rekey of ours may have gone through since the request came."""
        ours = self._doing(None)
        match answer(Theirs.REKEY_IKE, ours):
            case Verdict.TEMPORARY_FAILURE | Verdict.CHILD_SA_NOT_FOUND:
                raise Busy(f"CREATE_CHILD_SA: rekey of the IKE SA while {ours.name}")
            case (
                Verdict.ANSWER
                | Verdict.ANSWER_AND_COMPARE
                | Verdict.ANSWER_WITHOUT_DELETE
                | Verdict.ANSWER_AND_REMEMBER
            ):
                pass
            case never:
                assert_never(never)

    def _on_key_pair(
        self,
        session: Session,
        choice: IkeChoice,
        spis: tuple[int, int],
        nonces: tuple[bytes, bytes],
        peer_value: bytes,
        answer: Answer,
    ) -> Step:
        if not isinstance(answer, KeyPair):
            raise Busy(f"key pair: {refusal_text(answer)}")
        self._check()
        method = choice.suite.key_exchange.id
        own = KeyExchange(method, answer.public_value)
        return Ask(
            lambda t: AskSharedSecret(t, method, answer.private, peer_value),
            lambda a: self._on_secret(session, choice, spis, nonces, own, a),
        )

    def _on_secret(
        self,
        session: Session,
        choice: IkeChoice,
        spis: tuple[int, int],
        nonces: tuple[bytes, bytes],
        own: KeyExchange,
        answer: Answer,
    ) -> Step:
        if not isinstance(answer, SharedSecret):
            raise secret_error(answer)
        self._check()
        keymat = successor_keys(session, choice.suite, (spis[1], spis[0]), nonces, answer.secret)
        successor = Successor(spis, choice.suite, keymat, nonces, is_ours=False)
        payloads: list[Payload] = [SecurityAssociation((choice.answer,)), Nonce(nonces[1]), own]
        return Reply(payloads, lambda: Done(outcome=Offered(successor)))


def _received_spi(offered: SecurityAssociation, choice: IkeChoice) -> int:
    for proposal in offered.proposals:
        if proposal.number == choice.answer.number and proposal.protocol is ProtocolId.IKE and any(proposal.spi):
            return int.from_bytes(proposal.spi, "big")
    raise PeerMisbehaved("SA: the rekey of an IKE SA carries an SPI of 8 octets that is not 0")


def successor_keys(
    session: Session, suite: IkeSuite, spis: tuple[int, int], nonces: tuple[bytes, bytes], shared: Secret
) -> IkeKeymat:
    """Keys of the new IKE SA (RFC 7296 2.18). SPIs and nonces are those of the initiator of this exchange first."""
    seed = rekeyed_skeyseed(session.suite.prf, session.sk_d, nonces[0], nonces[1], shared)
    return IkeKeymat.derive(suite, seed, nonces[0], nonces[1], *spis)
