"""Child SAs as initiator: CREATE_CHILD_SA for new ones and rekeys, and the Child SA of IKE_AUTH (RFC 7296 1.3, 2.8)."""

from typing import TYPE_CHECKING

from openmoat.crypto.kex import seed_size
from openmoat.crypto.numbers import KeMethod
from openmoat.errors import Secret
from openmoat.ike.context import Timer
from openmoat.ike.errors import (
    MalformedMessage,
    NoCommonGround,
    PeerMisbehaved,
)
from openmoat.ike.events import (
    Answer,
    AskKeyPair,
    AskSharedSecret,
    ChildSa,
    DownReason,
    Installed,
    KeyPair,
    RemoveChildSa,
    SharedSecret,
    WeakPublicValue,
)
from openmoat.ike.exchanges.collisions import Ours, is_lowest
from openmoat.ike.exchanges.exchange import Exchange
from openmoat.ike.exchanges.informational import DeleteChildren
from openmoat.ike.exchanges.installation import (
    AnswerChild,
    ask_install,
    check_fault,
    check_owner,
    child_sa,
    close_old,
    give_up,
    let_go,
    lineage_of,
    reason_of_notify,
    refreshed,
    refusal_text,
    temporary_failure,
)
from openmoat.ike.negotiate.child_sa import (
    ChildTerms,
    LiveChild,
    accept_response,
    child_keys,
    offer_payloads,
)
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import KeyExchange, Nonce, Notify, Payload
from openmoat.model.connection import Aggfrag, Child

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["Creation", "FirstChild", "NewChild"]

NONCE_SIZE = 32
MAX_METHOD_CHANGES = 2
"""Times one exchange of ours begins again with the method that INVALID_KE_PAYLOAD names; the next such answer fails it."""
RETRY_REKEY = 20.0
"""Seconds after which a rekey that failed is tried again, while the old SA lives."""


class Creation(Exchange):
    """What the first Child SA and further ones have in common: terms, keys, installation."""

    __slots__ = ("deleted", "installing", "replaces", "rivals", "spec", "spi")

    def __init__(self, spec: Child, spi: int, replaces: int | None) -> None:
        super().__init__()
        self.spec = spec
        self.spi = spi
        self.replaces = replaces
        self.installing: ChildSa | None = None
        self.rivals: list[tuple[bytes, bytes]] = []
        """Nonces of exchanges of the peer with the same purpose. They decide even when its Child SA is gone again."""
        self.deleted: set[int] = set()
        """SPIs the peer has deleted before our response came: it may have made and deleted what we still wait for."""

    def ours(self, spi: int | None) -> Ours:
        """See `Exchange.ours`."""
        if spi is not None and spi == self.replaces:
            return Ours.REKEYING_THIS_CHILD
        return Ours.CREATING_CHILD

    def install(self, sa: "IkeSa", terms: ChildTerms, nonces: tuple[bytes, bytes], shared: bytes = b"") -> None:
        """Have both halves installed; sending begins afterwards."""
        if sa.channel.suite is None or sa.keymat is None:
            raise ValueError("IKE SA: no keys")
        try:
            check_owner(sa, terms)
            check_fault(terms)
        except NoCommonGround as error:
            # A responder may narrow as it likes, also to what is another's. It has the SA, and must learn that we do not.
            lineage_of(sa).carrier.want(DeleteChildren((self.spi,)), first=True)
            self._give_up(sa, terms, str(error))
            return
        keys = child_keys(terms, sa.channel.suite.prf, sa.keymat.sk_d, nonces, shared)
        child = child_sa(sa, terms)
        self.installing = child
        ask_install(sa, child, keys, lambda a: self._on_installed(sa, terms, nonces, a), for_peer=False)

    def _give_up(self, sa: "IkeSa", terms: ChildTerms, text: str) -> None:
        """The Child SA is made at the peer, and is no good; the same without AGGFRAG may be, where that is only preferred."""
        lineage = lineage_of(sa)
        if terms.fault and terms.aggfrag and terms.spec.aggfrag is Aggfrag.PREFER:
            lineage.demanding |= {terms.spec.name}
            self.tell_failure(sa, DownReason.NO_COMMON_GROUND, None, text)
            self._return_spi(sa)
            sa.finish(self)
            lineage.carrier.want(NewChild(self.spec, self.replaces))
        else:
            self.fail(sa, DownReason.NO_COMMON_GROUND, None, text)

    def _on_installed(self, sa: "IkeSa", terms: ChildTerms, nonces: tuple[bytes, bytes], answer: Answer) -> None:
        child, self.installing = self.installing, None
        if child is None:
            return
        if not isinstance(answer, Installed):
            # The peer has it already, and must learn that nobody receives.
            lineage_of(sa).carrier.want(DeleteChildren((self.spi,)), first=True)
            let_go(sa, child, answer)
            self.spi = 0
            self.fail(sa, DownReason.LOCAL, None, refusal_text(answer))
            return
        live = LiveChild(sa=refreshed(sa, child), spec=self.spec, nonces=nonces, is_ours=True)
        self.conclude(sa, live)

    def conclude(self, sa: "IkeSa", child: LiveChild) -> None:
        """The new SA is installed: send with it, unless the peer's exchange has won (RFC 7296 2.8.1)."""
        lineage = lineage_of(sa)
        old = lineage.children.get(self.replaces or 0)
        if old is not None:
            child.origin = old.first
        lineage.add(child)
        self.spi = 0
        if old is not None and old.is_lost:
            give_up(sa, child)
        elif child.sa.remote_spi in self.deleted:
            lineage.remove(child.sa.local_spi, DownReason.PEER_DELETED)
        elif any(is_lowest(child.nonces, rival) for rival in self._all_rivals(sa)):
            give_up(sa, child)
        else:
            lineage.activate(child)
            close_old(sa, self.replaces)
            if isinstance(sa.answering, AnswerChild) and sa.answering.is_for(self.spec, self.replaces):
                sa.answering.is_lost = True
        sa.finish(self)

    def _all_rivals(self, sa: "IkeSa") -> list[tuple[bytes, bytes]]:
        """Also the one whose request we are still answering."""
        if isinstance(sa.answering, AnswerChild) and sa.answering.is_for(self.spec, self.replaces):
            return [*self.rivals, sa.answering.nonces]
        return self.rivals

    def meet(self, child: LiveChild) -> None:
        """The peer has made a Child SA: is it for the same purpose, while our request is on its way?"""
        is_successor = self.replaces is not None and child.sa.replaces == self.replaces
        is_twin = self.replaces is None and child.sa.replaces is None and child.spec.name == self.spec.name
        if self.is_sent and (is_successor or is_twin):
            self.rivals.append(child.nonces)

    def tell_failure(self, sa: "IkeSa", reason: DownReason, notify: int | None, text: str) -> None:
        """Tell why there is no such Child SA."""
        exchange = ExchangeType.IKE_AUTH if isinstance(self, FirstChild) else ExchangeType.CREATE_CHILD_SA
        sa.report_failure(exchange, notify, notify_sent=False, reason=reason, text=text)

    def fail(self, sa: "IkeSa", reason: DownReason, notify: int | None, text: str) -> None:
        """Tell why, and let whoever looks after the connection try again."""
        self.tell_failure(sa, reason, notify, text)
        self._return_spi(sa)
        lineage = lineage_of(sa)
        if self.replaces in lineage.children:
            sa.context.timers.set((Timer.REKEY_CHILD, self.replaces), sa.context.now + RETRY_REKEY)
        else:
            sa.registry.child_failed(lineage, self.spec.name, reason, text)
        sa.finish(self)

    def on_end(self, sa: "IkeSa", reason: DownReason) -> None:
        """See `Exchange.on_end`."""
        if self.installing is not None:
            sa.context.emit(RemoveChildSa(self.installing.local_spi))
            self.installing = None
            self.spi = 0
        self._return_spi(sa)
        if self.replaces is not None and sa.lineage is not None and self.replaces in sa.lineage.children:
            sa.context.timers.set((Timer.REKEY_CHILD, self.replaces), sa.context.now + RETRY_REKEY)
        elif sa.lineage is not None:
            sa.registry.child_failed(sa.lineage, self.spec.name, reason, "")

    def _return_spi(self, sa: "IkeSa") -> None:
        if self.spi:
            sa.context.return_spi(self.spi)
            self.spi = 0


class FirstChild(Creation):
    """The Child SA of IKE_AUTH, from its response on (RFC 7296 1.2)."""

    __slots__ = ("nonces",)

    def __init__(self, spec: Child, spi: int, nonces: tuple[bytes, bytes]) -> None:
        super().__init__(spec, spi, None)
        self.nonces = nonces

    def start(self, sa: "IkeSa") -> None:
        """The request was part of IKE_AUTH."""

    def on_response(self, sa: "IkeSa", message: Message) -> None:
        """See `Exchange.on_response`."""
        error = message.error()
        if error is not None:
            self.fail(
                sa, reason_of_notify(error.type), int(error.type), f"IKE_AUTH: the peer answers {error.type.name}"
            )
            return
        terms = accept_response(message, self.spec, self.spi, with_key_exchange=False)
        self.install(sa, terms, self.nonces)


class NewChild(Creation):
    """A Child SA by CREATE_CHILD_SA; `replaces` names, by our SPI, the one it rekeys."""

    __slots__ = ("attempts", "changes", "method", "nonce", "private")

    def __init__(self, spec: Child, replaces: int | None = None) -> None:
        super().__init__(spec, 0, replaces)
        self.method: KeMethod | None = next((m.id for row in spec.proposals for m in row.key_exchanges), None)
        self.nonce = b""
        self.private = Secret()
        self.attempts = 0
        self.changes = 0

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return isinstance(other, NewChild) and (other.spec.name, other.replaces) == (self.spec.name, self.replaces)

    def start(self, sa: "IkeSa") -> None:
        """See `Exchange.start`."""
        if not self._is_wanted(sa):
            sa.finish(self)
            return
        self.spi = sa.context.take_spi() or 0
        if not self.spi:
            self.fail(sa, DownReason.LOCAL, None, "no SPI is at hand")
        elif self.method is None:
            self._send(sa, None)
        else:
            method, seed = self.method, Secret(sa.context.random(seed_size(self.method)))
            sa.ask(lambda t: AskKeyPair(t, method, seed), lambda a: self._on_key_pair(sa, a), for_peer=False)

    def _is_wanted(self, sa: "IkeSa") -> bool:
        """Whether there is still something to do when our turn comes."""
        lineage = lineage_of(sa)
        if self.replaces is None:
            return lineage.lasting(self.spec.name) is None
        old = lineage.children.get(self.replaces)
        return old is not None and not old.is_closing and not old.is_replaced

    def _on_key_pair(self, sa: "IkeSa", answer: Answer) -> None:
        if not isinstance(answer, KeyPair):
            self.fail(sa, DownReason.LOCAL, None, refusal_text(answer))
        elif not self._is_wanted(sa):
            self._return_spi(sa)
            sa.finish(self)
        else:
            self.private = answer.private
            self._send(sa, answer.public_value)

    def _send(self, sa: "IkeSa", public_value: bytes | None) -> None:
        self.nonce = sa.context.random(NONCE_SIZE)
        payloads: list[Payload] = []
        if self.replaces is not None:
            old = self.replaces.to_bytes(4, "big")
            payloads.append(Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=old))
        offered = lineage_of(sa).offered(self.spec)
        sa_payload, *selectors = offer_payloads(offered, self.spi, with_key_exchange=True)
        payloads += [sa_payload, Nonce(self.nonce)]
        if public_value is not None and self.method is not None:
            payloads.append(KeyExchange(self.method, public_value))
        sa.request(ExchangeType.CREATE_CHILD_SA, [*payloads, *selectors])

    def on_response(self, sa: "IkeSa", message: Message) -> None:
        """See `Exchange.on_response`."""
        error = message.error()
        if error is not None:
            self._on_error(sa, error)
            return
        nonce = message.first(Nonce)
        if nonce is None:
            raise MalformedMessage("CREATE_CHILD_SA response: Nr must be there")
        offered = lineage_of(sa).offered(self.spec)
        terms = accept_response(message, offered, self.spi, with_key_exchange=True, replaces=self.replaces)
        nonces = (self.nonce, nonce.octets)
        if terms.method is None:
            self.install(sa, terms, nonces)
            return
        exchange = message.first(KeyExchange)
        if exchange is None or exchange.method is not terms.method or terms.method is not self.method:
            raise PeerMisbehaved(f"KE response: a value of {terms.method.name} must be there")
        method, private = terms.method, self.private
        sa.ask(
            lambda t: AskSharedSecret(t, method, private, exchange.public_value),
            lambda a: self._on_secret(sa, terms, nonces, a),
            for_peer=False,
        )

    def _on_secret(self, sa: "IkeSa", terms: ChildTerms, nonces: tuple[bytes, bytes], answer: Answer) -> None:
        if isinstance(answer, WeakPublicValue):
            raise PeerMisbehaved(f"KE response: {answer.text}")
        if not isinstance(answer, SharedSecret):
            # The peer has the Child SA, and must learn that we do not.
            lineage_of(sa).carrier.want(DeleteChildren((self.spi,)), first=True)
            self.fail(sa, DownReason.LOCAL, None, refusal_text(answer))
            return
        self.install(sa, terms, nonces, answer.secret)

    def _on_error(self, sa: "IkeSa", error: Notify) -> None:
        lineage = lineage_of(sa)
        if self._all_rivals(sa) or (self.replaces is not None and not self._is_wanted(sa)):
            # RFC 7296 2.8.1: the peer has done it before us, or what we wanted to rekey is gone.
            self._return_spi(sa)
            sa.finish(self)
        elif error.type is NotifyType.INVALID_KE_PAYLOAD and self._change_method(error):
            again(sa, self)
        elif error.type is NotifyType.TEMPORARY_FAILURE:
            self._return_spi(sa)
            temporary_failure(sa, self)
        elif error.type is NotifyType.CHILD_SA_NOT_FOUND and self.replaces is not None:
            # RFC 7296 2.25: the peer has lost it, so it is no use to us; begin from scratch.
            self._return_spi(sa)
            lineage.remove(self.replaces, DownReason.PEER_DELETED, "the peer does not know it")
            sa.finish(self)
        else:
            text = f"CREATE_CHILD_SA: the peer answers {error.type.name}"
            self.fail(sa, reason_of_notify(error.type), int(error.type), text)

    def _change_method(self, error: Notify) -> bool:
        """Whether to try again with the method the peer prefers (RFC 7296 1.3)."""
        wanted = KeMethod(int.from_bytes(error.data, "big"))
        offered = {row.id for proposal in self.spec.proposals for row in proposal.key_exchanges}
        self.changes += 1
        if wanted not in offered or wanted is self.method or self.changes > MAX_METHOD_CHANGES:
            return False
        self.method = wanted
        return True


def again(sa: "IkeSa", exchange: "NewChild") -> None:
    """The same once more, before everything else that waits."""
    exchange._return_spi(sa)
    exchange.is_sent = False
    sa.exchange = None
    sa.queue.insert(0, exchange)
    sa.pump()
