"""CREATE_CHILD_SA for Child SAs, both roles, new ones and rekeys; also the Child SA that IKE_AUTH makes (RFC 7296 1.3, 2.8)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from openmoat.crypto.kex import seed_size
from openmoat.crypto.numbers import KeMethod
from openmoat.errors import Secret
from openmoat.ike.config import Count
from openmoat.ike.context import Timer
from openmoat.ike.errors import (
    Busy,
    MalformedMessage,
    NoAdditionalSas,
    NoCommonGround,
    PeerMisbehaved,
    ProtocolError,
    WrongKeyExchange,
)
from openmoat.ike.events import (
    Answer,
    AskKeyPair,
    AskSharedSecret,
    ChildSa,
    DownReason,
    Installed,
    KeyPair,
    Refused,
    RemoveChildSa,
    SharedSecret,
)
from openmoat.ike.exchanges.collisions import Ours, Theirs, Verdict, is_lowest, judge
from openmoat.ike.exchanges.exchange import Exchange, PeerExchange
from openmoat.ike.exchanges.informational import DeleteChildren
from openmoat.ike.exchanges.installation import (
    ask_install,
    check_fault,
    check_owner,
    child_sa,
    close_old,
    give_up,
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
    answer_payloads,
    child_keys,
    choose_child,
    offer_payloads,
)
from openmoat.ike.negotiate.choice import EspChoice
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import KeyExchange, Nonce, Notify, Payload
from openmoat.model.connection import Aggfrag, Child

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = [
    "FirstChild",
    "NewChild",
    "answer_first",
    "on_request",
    "ours",
]

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
        if sa.suite is None or sa.keymat is None:
            raise ValueError("IKE SA: no keys")
        try:
            check_owner(sa, terms)
            check_fault(terms)
        except NoCommonGround as error:
            # A responder may narrow as it likes, also to what is another's. It has the SA, and must learn that we do not.
            lineage_of(sa).carrier.want(DeleteChildren((self.spi,)), first=True)
            self._give_up(sa, terms, str(error))
            return
        keys = child_keys(terms, sa.suite.prf, sa.keymat.sk_d, nonces, shared)
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
            self.spi = 0  # the data plane has let it go with the rest
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
            if isinstance(sa.answering, AnswerChild) and sa.answering.is_for(self):
                sa.answering.is_lost = True
        sa.finish(self)

    def _all_rivals(self, sa: "IkeSa") -> list[tuple[bytes, bytes]]:
        """Also the one whose request we are still answering."""
        if isinstance(sa.answering, AnswerChild) and sa.answering.is_for(self):
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
        if not isinstance(answer, SharedSecret):
            raise PeerMisbehaved(f"KE response: {refusal_text(answer)}")
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


# Responder.


def ours(sa: "IkeSa", spi: int | None) -> Ours:
    """What we are at, seen from the Child SA with this SPI of ours."""
    if sa.is_over or not sa.is_carrier:
        # Not the carrier: a successor about which both sides' nonces have yet to decide. The peer must wait for that.
        return Ours.CLOSING_IKE
    child = sa.lineage.children.get(spi) if sa.lineage is not None and spi is not None else None
    if child is not None and (child.is_closing or child.is_replaced):
        return Ours.CLOSING_THIS_CHILD
    if sa.exchange is None or not sa.exchange.is_sent:
        return Ours.NOTHING
    return sa.exchange.ours(spi)


class AnswerChild(PeerExchange):
    """A request for a Child SA, on its way through key exchange and installation to the response."""

    __slots__ = ("choice", "installing", "is_lost", "nonces", "on_refused", "spi", "terms")

    def __init__(
        self,
        terms: ChildTerms,
        choice: EspChoice,
        nonces: tuple[bytes, bytes],
        on_refused: Callable[[ProtocolError], None] | None = None,
    ) -> None:
        self.terms = terms
        self.on_refused = on_refused
        self.choice = choice
        self.nonces = nonces
        self.spi = terms.local_spi
        self.installing: ChildSa | None = None
        self.is_lost = False
        """An exchange of ours with the same purpose was through first, and has won."""

    def is_for(self, exchange: Creation) -> bool:
        """Whether it serves the same purpose as an exchange of ours."""
        if self.terms.replaces is not None or exchange.replaces is not None:
            return self.terms.replaces == exchange.replaces
        return self.terms.spec.name == exchange.spec.name

    def install(self, sa: "IkeSa", shared: bytes, respond: Callable[[LiveChild], None]) -> None:
        """Have it installed before the response lets the peer send."""
        if sa.suite is None or sa.keymat is None:
            raise ValueError("IKE SA: no keys")
        keys = child_keys(self.terms, sa.suite.prf, sa.keymat.sk_d, self.nonces, shared)
        self.installing = child_sa(sa, self.terms)
        ask_install(sa, self.installing, keys, lambda a: self._on_installed(sa, respond, a), for_peer=True)

    def _on_installed(self, sa: "IkeSa", respond: Callable[[LiveChild], None], answer: Answer) -> None:
        child, self.installing = self.installing, None
        if child is None:
            return
        if not isinstance(answer, Installed):
            self.spi = 0  # the data plane has let it go with the rest
            is_temporary = not isinstance(answer, Refused) or answer.is_temporary
            error = (Busy if is_temporary else NoAdditionalSas)(f"data plane: {refusal_text(answer)}")
            if self.on_refused is None:
                raise error
            self.on_refused(error)
            return
        live = LiveChild(sa=refreshed(sa, child), spec=self.terms.spec, nonces=self.nonces, is_ours=False)
        self.spi = 0
        respond(live)

    def on_end(self, sa: "IkeSa") -> None:
        """See `Exchange.on_end`."""
        if self.installing is not None:
            sa.context.emit(RemoveChildSa(self.installing.local_spi))
            self.installing = None
        elif self.spi:
            sa.context.return_spi(self.spi)
        self.spi = 0


def on_request(sa: "IkeSa", message: Message) -> None:
    """The peer wants a Child SA, or to rekey one."""
    lineage = lineage_of(sa)
    rekey = message.notify(NotifyType.REKEY_SA)
    old = _rekeyed(sa, rekey) if rekey is not None else None
    verdict = _judge(sa, rekey, old)
    if rekey is not None and verdict is Verdict.CHILD_SA_NOT_FOUND:
        # RFC 7296 2.25: the SPI is copied from the request.
        gone = Notify(NotifyType.CHILD_SA_NOT_FOUND, protocol=rekey.protocol, spi=rekey.spi)
        sa.respond(message.header.exchange, [gone])
        return
    if len(lineage.children) >= sa.context.config.max_children:
        sa.context.counts[Count.CHILDREN_LIMIT] += 1
        raise NoAdditionalSas(
            f"CREATE_CHILD_SA: at most {sa.context.config.max_children} Child SAs, one more asked for"
        )
    nonce = message.first(Nonce)
    if nonce is None:
        raise MalformedMessage("CREATE_CHILD_SA request: Ni must be there")
    specs = (old.spec,) if old is not None else sa.registry.children_of(lineage.connection.name)
    replaces = old.sa.local_spi if old is not None else None
    terms, choice = _choose(sa, message, specs, replaces, with_key_exchange=True)
    answering = AnswerChild(terms, choice, (nonce.octets, sa.context.random(NONCE_SIZE)))
    sa.answering = answering
    if terms.method is None:
        answering.install(sa, b"", lambda live: _respond(sa, answering, live, None))
        return
    exchange = message.first(KeyExchange)
    if exchange is None or exchange.method is not terms.method:
        raise WrongKeyExchange(f"KE: {terms.method.name} is wanted", int(terms.method).to_bytes(2, "big"))
    method, seed = terms.method, Secret(sa.context.random(seed_size(terms.method)))
    sa.ask(
        lambda t: AskKeyPair(t, method, seed),
        lambda a: _on_key_pair(sa, answering, method, exchange.public_value, a),
        for_peer=True,
    )


def _rekeyed(sa: "IkeSa", rekey: Notify) -> LiveChild | None:
    """The Child SA a REKEY_SA names by the peer's inbound SPI."""
    lineage = lineage_of(sa)
    if rekey.protocol is not ProtocolId.ESP or len(rekey.spi) != 4:
        return None
    return lineage.children.get(lineage.by_remote.get(int.from_bytes(rekey.spi, "big"), 0))


def _judge(sa: "IkeSa", rekey: Notify | None, old: LiveChild | None) -> Verdict:
    """Whether the request goes through, by the table of RFC 7296 2.25."""
    if rekey is None:
        theirs = Theirs.CREATE_CHILD
    else:
        theirs = Theirs.REKEY_CHILD if old is not None else Theirs.REKEY_MISSING_CHILD
    doing = ours(sa, old.sa.local_spi if old is not None else None)
    verdict = judge(doing, theirs)
    if verdict is Verdict.TEMPORARY_FAILURE:
        raise Busy(f"CREATE_CHILD_SA: {theirs.name} while {doing.name}")
    return verdict


def _choose(
    sa: "IkeSa", message: Message, specs: tuple[Child, ...], replaces: int | None, *, with_key_exchange: bool
) -> tuple[ChildTerms, EspChoice]:
    spi = sa.context.take_spi()
    if spi is None:
        raise Busy("CREATE_CHILD_SA: no SPI is at hand")
    try:
        terms, choice = choose_child(message, specs, spi, with_key_exchange=with_key_exchange, replaces=replaces)
        check_owner(sa, terms)
    except ProtocolError:
        sa.context.return_spi(spi)
        raise
    return terms, choice


def _on_key_pair(sa: "IkeSa", answering: AnswerChild, method: KeMethod, peer_value: bytes, answer: Answer) -> None:
    if not isinstance(answer, KeyPair):
        raise Busy(f"key pair: {refusal_text(answer)}")
    own = KeyExchange(method, answer.public_value)
    sa.ask(
        lambda t: AskSharedSecret(t, method, answer.private, peer_value),
        lambda a: _on_secret(sa, answering, own, a),
        for_peer=True,
    )


def _on_secret(sa: "IkeSa", answering: AnswerChild, own: KeyExchange, answer: Answer) -> None:
    if not isinstance(answer, SharedSecret):
        raise PeerMisbehaved(f"KE request: {refusal_text(answer)}")
    check_owner(sa, answering.terms)  # another peer may have come while the keys were computed
    answering.install(sa, answer.secret, lambda live: _respond(sa, answering, live, own))


def _respond(sa: "IkeSa", answering: AnswerChild, child: LiveChild, own: KeyExchange | None) -> None:
    sa_payload, *selectors = answer_payloads(answering.terms, answering.choice)
    payloads: list[Payload] = [sa_payload, Nonce(answering.nonces[1])]
    if own is not None:
        payloads.append(own)
    sa.respond(ExchangeType.CREATE_CHILD_SA, [*payloads, *selectors])
    adopt(sa, child, is_lost=answering.is_lost)


def adopt(sa: "IkeSa", child: LiveChild, *, is_lost: bool = False) -> None:
    """A Child SA the peer has made is installed. A new one is used at once, a rekeyed one when the peer does (2.8)."""
    lineage = lineage_of(sa)
    old = lineage.children.get(child.sa.replaces or 0)
    twin = lineage.lasting(child.spec.name) if child.sa.replaces is None else None
    if old is not None:
        child.origin = old.first
    lineage.add(child)
    if isinstance(sa.exchange, Creation):
        sa.exchange.meet(child)
    if is_lost:
        return  # the peer will close it
    if child.sa.replaces is not None:
        if old is None:
            lineage.activate(child)
        return
    rival, is_rival_ours = twin.first if twin is not None else (child.nonces, False)
    if is_rival_ours and is_lowest(child.nonces, rival):
        return  # the peer has begun the same as we had, and will close its own
    lineage.activate(child)
    if twin is not None and is_rival_ours:
        give_up(sa, twin)


def answer_first(
    sa: "IkeSa", message: Message, nonces: tuple[bytes, bytes], respond: Callable[[list[Payload]], None]
) -> None:
    """The Child SA an IKE_AUTH request asks for; an error of it becomes a notify beside our AUTH (RFC 7296 2.21.2)."""
    specs = sa.registry.children_of(lineage_of(sa).connection.name)
    try:
        terms, choice = _choose(sa, message, specs, None, with_key_exchange=False)
    except (MalformedMessage, PeerMisbehaved):
        raise
    except ProtocolError as error:
        _refuse_first(sa, error, respond)
        return
    answering = AnswerChild(terms, choice, nonces, lambda error: _refuse_first(sa, error, respond))
    sa.answering = answering

    def on_live(child: LiveChild) -> None:
        respond(list(answer_payloads(terms, choice)))
        adopt(sa, child)
        sa.registry.settle(sa)

    answering.install(sa, b"", on_live)


def _refuse_first(sa: "IkeSa", error: ProtocolError, respond: Callable[[list[Payload]], None]) -> None:
    sa.report(error, ExchangeType.IKE_AUTH, notify_sent=True)
    respond([Notify(error.notify, error.data)] if error.notify is not None else [])
    sa.registry.settle(sa)
