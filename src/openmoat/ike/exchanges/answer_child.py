"""Child SAs as responder: new ones, rekeys, and the Child SA of an IKE_AUTH request (RFC 7296 1.3, 2.8)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from openmoat.crypto.kex import seed_size
from openmoat.crypto.numbers import KeMethod
from openmoat.errors import Secret
from openmoat.ike.config import Count
from openmoat.ike.errors import (
    Busy,
    MalformedMessage,
    NoAdditionalSas,
    PeerMisbehaved,
    ProtocolError,
    WrongKeyExchange,
)
from openmoat.ike.events import (
    Answer,
    AskKeyPair,
    AskSharedSecret,
    KeyPair,
    SharedSecret,
)
from openmoat.ike.exchanges.collisions import Ours, Theirs, Verdict, is_lowest, judge
from openmoat.ike.exchanges.create_child import NONCE_SIZE, Creation
from openmoat.ike.exchanges.installation import (
    AnswerChild,
    check_owner,
    give_up,
    lineage_of,
    refusal_text,
    secret_error,
)
from openmoat.ike.negotiate.child_sa import (
    ChildTerms,
    LiveChild,
    answer_payloads,
    choose_child,
)
from openmoat.ike.negotiate.choice import EspChoice
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import KeyExchange, Nonce, Notify, Payload
from openmoat.model.connection import Child

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["adopt", "answer_first", "on_request", "ours"]


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
        raise secret_error(answer)
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
