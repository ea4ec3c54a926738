"""CREATE_CHILD_SA for the IKE SA itself, both roles (RFC 7296 1.3.2, 2.8.2, 2.18)."""

from typing import TYPE_CHECKING

from openmoat.crypto.kex import seed_size
from openmoat.crypto.keymat import IkeKeymat, rekeyed_skeyseed
from openmoat.crypto.numbers import KeMethod
from openmoat.crypto.suites import IkeSuite
from openmoat.errors import Secret
from openmoat.ike.context import Timer
from openmoat.ike.errors import Busy, MalformedMessage, PeerMisbehaved, WrongKeyExchange
from openmoat.ike.events import Answer, AskKeyPair, AskSharedSecret, DownReason, KeyPair, SharedSecret
from openmoat.ike.exchanges.answer_child import ours
from openmoat.ike.exchanges.collisions import Ours, Theirs, Verdict, is_lowest, judge
from openmoat.ike.exchanges.create_child import MAX_METHOD_CHANGES, NONCE_SIZE
from openmoat.ike.exchanges.exchange import Exchange, PeerExchange
from openmoat.ike.exchanges.informational import DeleteIke
from openmoat.ike.exchanges.installation import (
    lineage_of,
    reason_of_notify,
    refusal_text,
    secret_error,
    temporary_failure,
)
from openmoat.ike.negotiate.choice import IkeChoice, accept_ike, choose_ike, offer_ike
from openmoat.ike.states import Closed, Dead, Deleting, Established, Superseded
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import KeyExchange, Nonce, Notify, SecurityAssociation

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["RekeyIke", "on_request"]

RETRY_REKEY = 30.0
"""Seconds after which a rekey that was refused is tried again, until the hard lifetime ends the IKE SA."""


class RekeyIke(Exchange):
    """Give the IKE SA a successor, which inherits its Child SAs."""

    __slots__ = ("attempts", "changes", "method", "new_spi", "nonce", "private", "rival")
    delays_delete = True

    def __init__(self) -> None:
        super().__init__()
        self.attempts = 0
        self.changes = 0
        self.method: KeMethod | None = None
        self.new_spi = 0
        self.nonce = b""
        self.private = Secret()
        self.rival: IkeSa | None = None
        """Successor that an exchange of the peer has made meanwhile (RFC 7296 2.8.2)."""

    def ours(self, spi: int | None) -> Ours:
        """See `Exchange.ours`."""
        return Ours.REKEYING_IKE

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return isinstance(other, RekeyIke)

    def start(self, sa: "IkeSa") -> None:
        """See `Exchange.start`."""
        if not isinstance(sa.state, Established) or not sa.is_carrier:
            sa.finish(self)
            return
        method = self.method or lineage_of(sa).connection.proposals[0].key_exchanges[0].id
        self.method = method
        seed = Secret(sa.context.random(seed_size(method)))
        sa.ask(lambda t: AskKeyPair(t, method, seed), lambda a: self._on_key_pair(sa, a), for_peer=False)

    def _on_key_pair(self, sa: "IkeSa", answer: Answer) -> None:
        if not isinstance(answer, KeyPair) or self.method is None:
            self._fail(sa, DownReason.LOCAL, None, refusal_text(answer))
            return
        if not isinstance(sa.state, Established):
            sa.finish(self)
            return
        self.private = answer.private
        self.nonce = sa.context.random(NONCE_SIZE)
        self.new_spi = sa.registry.fresh_spi()
        offered = offer_ike(lineage_of(sa).connection.proposals, self.new_spi.to_bytes(8, "big"))
        exchange = KeyExchange(self.method, answer.public_value)
        sa.request(ExchangeType.CREATE_CHILD_SA, [SecurityAssociation(offered), Nonce(self.nonce), exchange])

    def on_response(self, sa: "IkeSa", message: Message) -> None:
        """See `Exchange.on_response`."""
        error = message.error()
        if error is not None:
            self._on_error(sa, error)
            return
        answer, nonce, exchange = message.first(SecurityAssociation), message.first(Nonce), message.first(KeyExchange)
        if answer is None or nonce is None or exchange is None:
            raise MalformedMessage("CREATE_CHILD_SA response: SA, Nr and KE must be there")
        offered = offer_ike(lineage_of(sa).connection.proposals, self.new_spi.to_bytes(8, "big"))
        choice = accept_ike(answer.proposals, offered)
        peer_spi = int.from_bytes(choice.answer.spi, "big")
        if exchange.method is not self.method or choice.suite.key_exchange.id is not self.method or not peer_spi:
            raise PeerMisbehaved("CREATE_CHILD_SA response: SPI or key exchange method do not fit the request")
        method, private, nonces = exchange.method, self.private, (self.nonce, nonce.octets)
        sa.ask(
            lambda t: AskSharedSecret(t, method, private, exchange.public_value),
            lambda a: self._on_secret(sa, choice.suite, peer_spi, nonces, a),
            for_peer=False,
        )

    def _on_secret(
        self, sa: "IkeSa", suite: IkeSuite, peer_spi: int, nonces: tuple[bytes, bytes], answer: Answer
    ) -> None:
        if not isinstance(answer, SharedSecret):
            raise secret_error(answer, PeerMisbehaved)
        spis = (self.new_spi, peer_spi)
        keymat = successor_keys(sa, suite, spis, nonces, answer.secret)
        new = successor(sa, spis, suite, keymat, nonces, is_initiator=True)
        rival = self.rival
        if rival is not None and is_lowest(nonces, rival.nonces):
            new.delete(DownReason.COLLISION)
            self._yield(sa)
            return
        inherit(sa, new)
        if rival is not None:
            # Its creator deletes it; if that news is lost with the old IKE SA, we forget it by ourselves.
            rival.expire()
        sa.want(DeleteIke(), first=True)
        sa.finish(self)

    def _on_error(self, sa: "IkeSa", error: Notify) -> None:
        if self.rival is not None:
            # 2.8.2: the peer has not noticed our attempt, so its successor is the only one.
            self._yield(sa)
        elif error.type is NotifyType.TEMPORARY_FAILURE:
            temporary_failure(sa, self)
        elif error.type is NotifyType.INVALID_KE_PAYLOAD and self._change_method(sa, error):
            self.is_sent = False
            sa.exchange = None
            sa.queue.insert(0, self)
            sa.pump()
        else:
            text = f"CREATE_CHILD_SA: the peer answers {error.type.name} to the rekey of the IKE SA"
            self._fail(sa, reason_of_notify(error.type), int(error.type), text)

    def _yield(self, sa: "IkeSa") -> None:
        """The peer's successor is the one; if the peer has deleted it already, all of it is over."""
        rival, self.rival = self.rival, None
        if rival is not None and not is_gone(rival):
            inherit(sa, rival)
            sa.finish(self)
        else:
            self.is_sent = False  # answered: nothing is left to wait for
            sa.delete(DownReason.PEER_DELETED)

    def _change_method(self, sa: "IkeSa", error: Notify) -> bool:
        wanted = KeMethod(int.from_bytes(error.data, "big"))
        offered = {row.id for proposal in lineage_of(sa).connection.proposals for row in proposal.key_exchanges}
        self.changes += 1
        if wanted not in offered or wanted is self.method or self.changes > MAX_METHOD_CHANGES:
            return False
        self.method = wanted
        return True

    def _fail(self, sa: "IkeSa", reason: DownReason, notify: int | None, text: str) -> None:
        sa.report_failure(ExchangeType.CREATE_CHILD_SA, notify, notify_sent=False, reason=reason, text=text)
        sa.context.timers.set((Timer.REKEY_IKE, sa.own_spi), sa.context.now + RETRY_REKEY)
        sa.finish(self)

    def on_end(self, sa: "IkeSa", reason: DownReason) -> None:
        """See `Exchange.on_end`."""
        rival, self.rival = self.rival, None
        if rival is None or is_gone(rival):
            return
        if sa.is_carrier and reason in {DownReason.PEER_DELETED, DownReason.PEER_SILENT}:
            # The old IKE SA ends while both sides rekey it: what the peer made carries on (2.8.2).
            adopt(sa, rival)
            if sa.end_wanted is not None:
                rival.delete(*sa.end_wanted)
        else:
            rival.forget(reason)


def is_gone(sa: "IkeSa") -> bool:
    """Whether it cannot carry anything any more."""
    return isinstance(sa.state, (Deleting, Closed, Dead))


class AnswerRekey(PeerExchange):
    """A rekey of the IKE SA that waits for our key exchange."""

    __slots__ = ()
    delays_ours = True

    def on_end(self, sa: "IkeSa") -> None:
        """It holds nothing that anybody else knows of."""


def on_request(sa: "IkeSa", message: Message) -> None:
    """The peer wants to replace this IKE SA."""
    doing = ours(sa, None)
    verdict = judge(doing, Theirs.REKEY_IKE)
    if verdict is Verdict.TEMPORARY_FAILURE:
        raise Busy(f"CREATE_CHILD_SA: rekey of the IKE SA while {doing.name}")
    offered, nonce, exchange = message.first(SecurityAssociation), message.first(Nonce), message.first(KeyExchange)
    if offered is None or nonce is None or exchange is None:
        raise MalformedMessage("CREATE_CHILD_SA request: SA, Ni and KE must be there")
    own_spi = sa.registry.fresh_spi()
    proposals = lineage_of(sa).connection.proposals
    choice = choose_ike(offered.proposals, proposals, own_spi.to_bytes(8, "big"), exchange.method)
    method = choice.suite.key_exchange.id
    if exchange.method is not method:
        raise WrongKeyExchange(f"KE: {method.name} is wanted", int(method).to_bytes(2, "big"))
    peer_spi = _received_spi(offered, choice)
    nonces = (nonce.octets, sa.context.random(NONCE_SIZE))
    sa.answering = AnswerRekey()
    seed = Secret(sa.context.random(seed_size(method)))
    sa.ask(
        lambda t: AskKeyPair(t, method, seed),
        lambda a: _on_key_pair(sa, choice, (own_spi, peer_spi), nonces, exchange.public_value, a),
        for_peer=True,
    )


def _received_spi(offered: SecurityAssociation, choice: IkeChoice) -> int:
    for proposal in offered.proposals:
        if proposal.number == choice.answer.number and proposal.protocol is ProtocolId.IKE and any(proposal.spi):
            return int.from_bytes(proposal.spi, "big")
    raise PeerMisbehaved("SA: the rekey of an IKE SA carries an SPI of 8 octets that is not 0")


def _on_key_pair(
    sa: "IkeSa",
    choice: IkeChoice,
    spis: tuple[int, int],
    nonces: tuple[bytes, bytes],
    peer_value: bytes,
    answer: Answer,
) -> None:
    if not isinstance(answer, KeyPair):
        raise Busy(f"key pair: {refusal_text(answer)}")
    _refuse_if_replaced(sa)
    method = choice.suite.key_exchange.id
    own = KeyExchange(method, answer.public_value)
    sa.ask(
        lambda t: AskSharedSecret(t, method, answer.private, peer_value),
        lambda a: _on_secret(sa, choice, spis, nonces, own, a),
        for_peer=True,
    )


def _on_secret(
    sa: "IkeSa",
    choice: IkeChoice,
    spis: tuple[int, int],
    nonces: tuple[bytes, bytes],
    own: KeyExchange,
    answer: Answer,
) -> None:
    if not isinstance(answer, SharedSecret):
        raise secret_error(answer)
    _refuse_if_replaced(sa)
    keymat = successor_keys(sa, choice.suite, (spis[1], spis[0]), nonces, answer.secret)
    sa.respond(ExchangeType.CREATE_CHILD_SA, [SecurityAssociation((choice.answer,)), Nonce(nonces[1]), own])
    new = successor(sa, spis, choice.suite, keymat, nonces, is_initiator=False)
    exchange = sa.exchange
    if isinstance(exchange, RekeyIke) and exchange.is_sent:
        exchange.rival = new
        return
    inherit(sa, new)


def _refuse_if_replaced(sa: "IkeSa") -> None:
    """While we worked on the request a rekey of ours has gone through: the peer knows of it, and will yield (2.8.2)."""
    if sa.is_over or not sa.is_carrier:
        raise Busy("CREATE_CHILD_SA: the IKE SA has been replaced meanwhile")


def successor_keys(
    sa: "IkeSa", suite: IkeSuite, spis: tuple[int, int], nonces: tuple[bytes, bytes], shared: Secret
) -> IkeKeymat:
    """Keys of the new IKE SA (RFC 7296 2.18). SPIs and nonces are those of the initiator of this exchange first."""
    if sa.channel.suite is None or sa.keymat is None:
        raise ValueError("IKE SA: no keys")
    seed = rekeyed_skeyseed(sa.channel.suite.prf, sa.keymat.sk_d, nonces[0], nonces[1], shared)
    return IkeKeymat.derive(suite, seed, nonces[0], nonces[1], *spis)


def successor(
    sa: "IkeSa",
    spis: tuple[int, int],
    suite: IkeSuite,
    keymat: IkeKeymat,
    nonces: tuple[bytes, bytes],
    *,
    is_initiator: bool,
) -> "IkeSa":
    """The new IKE SA, with our SPI and the peer's. It carries nothing yet."""
    new = sa.sibling(*spis, is_initiator=is_initiator)
    new.nonces = nonces
    new.set_keys(suite, keymat)
    return new


def inherit(sa: "IkeSa", new: "IkeSa") -> None:
    """From now on `new` stands for this IKE SA, which only waits for its Delete."""
    adopt(sa, new)
    sa.step(Superseded(new.own_spi))
    sa.expire()


def adopt(sa: "IkeSa", new: "IkeSa") -> None:
    """Children and plans go over to `new`."""
    lineage_of(sa).inherit(new)
    new.registry.replaced(sa, new)
    while sa.queue:
        exchange = sa.queue.pop(0)
        if not isinstance(exchange, (RekeyIke, DeleteIke)):
            new.want(exchange)
