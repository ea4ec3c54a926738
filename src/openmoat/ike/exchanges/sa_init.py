"""IKE_SA_INIT, both roles: algorithms, keys, cookies and NAT detection (RFC 7296 1.2, 2.6, 2.23). Nothing is trusted yet."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from openmoat.crypto.kex import seed_size
from openmoat.crypto.keymat import IkeKeymat, skeyseed
from openmoat.crypto.numbers import HashAlgorithm, KeMethod
from openmoat.errors import Secret
from openmoat.ike import natt
from openmoat.ike.config import Count
from openmoat.ike.context import Timer
from openmoat.ike.errors import MalformedMessage, PeerMisbehaved, ProtocolError, WrongKeyExchange
from openmoat.ike.events import (
    Answer,
    AskKeyPair,
    AskPath,
    AskSharedSecret,
    DownReason,
    KeyPair,
    Paths,
    SharedSecret,
    Unanswerable,
    WeakPublicValue,
)
from openmoat.ike.exchanges import auth
from openmoat.ike.negotiate.choice import accept_ike, choose_ike, offer_ike
from openmoat.ike.states import (
    AwaitingAuth,
    DerivingKeys,
    DerivingKeysLate,
    FindingPath,
    InitAnswered,
    Initials,
    InitReceived,
    InitSent,
    MakingKeyPair,
    Opening,
    ProvingSelf,
)
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import CertEncoding, ExchangeType, NotifyType
from openmoat.ike.wire.payloads import CertRequest, KeyExchange, Nonce, Notify, Payload, SecurityAssociation, VendorId
from openmoat.ike.wire.rules import check
from openmoat.model.connection import Child, Connection, IkeProposal
from openmoat.net import Path

if TYPE_CHECKING:
    from openmoat.ike.context import Context
    from openmoat.ike.ike_sa import IkeSa

__all__ = [
    "MAX_HELD",
    "MAX_HELD_OCTETS",
    "MAX_RESTARTS",
    "NONCE_SIZE",
    "SIGNATURE_HASHES",
    "answer_request",
    "begin",
    "hold",
    "on_response",
    "on_silence",
    "opening_of",
    "read_request",
]

NONCE_SIZE = 32
"""At least half the key size of the PRF (RFC 7296 2.10)."""
MAX_RESTARTS = 5
"""Times a COOKIE or INVALID_KE_PAYLOAD, which anybody can forge, makes us begin again."""
MAX_HELD = 16
"""Datagrams of an IKE_AUTH request that are held while the keys for it are computed."""
MAX_HELD_OCTETS = 65_535
"""Octets of them in all, beyond the first one."""
AMPLIFICATION = 3
"""An IKE_SA_INIT response is at most so many times as long as its request: the request may have a forged source."""
CERTREQ_HEADER = 5
AUTHORITY = 20
"""Octets of the hash of one authority (RFC 7296 3.7)."""
REFUSAL_SECONDS = 4.0
"""How long a better response is waited for after an unauthenticated refusal (RFC 7296 2.21.1)."""
SIGNATURE_HASHES = (
    HashAlgorithm.SHA2_256,
    HashAlgorithm.SHA2_384,
    HashAlgorithm.SHA2_512,
    HashAlgorithm.IDENTITY,
)


# Initiator.


def opening_of(context: "Context", connection: Connection, child: Child | None, attempt: int) -> FindingPath:
    """The first state of an initiator."""
    method = connection.proposals[0].key_exchanges[0].id
    return FindingPath(Opening(child=child, attempt=attempt, nonce=context.random(NONCE_SIZE), method=method))


def begin(sa: "IkeSa", state: FindingPath) -> None:
    """Ask where the peer is, and go on from there."""
    _restart_clock(sa)
    name, opening = auth.connection_of(sa).name, state.opening
    sa.ask(lambda t: AskPath(t, name, opening.attempt), lambda a: _on_paths(sa, opening, a), for_peer=False)


def _restart_clock(sa: "IkeSa") -> None:
    """Each path has the time of a whole handshake."""
    sa.context.timers.set((Timer.HANDSHAKE, sa.own_spi), sa.context.now + sa.context.config.handshake_life)


def _on_paths(sa: "IkeSa", opening: Opening, answer: Answer) -> None:
    if not isinstance(answer, Paths) or not answer.paths:
        text = answer.reason if isinstance(answer, Paths) else _text(answer)
        _give_up(sa, DownReason.NO_ROUTE, text or "no address to try")
        return
    sa.channel.path = answer.paths[0]
    _make_key_pair(sa, replace(opening, paths=answer.paths[1:]))


def _make_key_pair(sa: "IkeSa", opening: Opening) -> None:
    sa.step(MakingKeyPair(opening))
    seed = Secret(sa.context.random(seed_size(opening.method)))
    sa.ask(lambda t: AskKeyPair(t, opening.method, seed), lambda a: _on_key_pair(sa, opening, a), for_peer=False)


def _on_key_pair(sa: "IkeSa", opening: Opening, answer: Answer) -> None:
    if not isinstance(answer, KeyPair):
        _give_up(sa, DownReason.LOCAL, _text(answer))
        return
    _send(sa, opening, answer.public_value, answer.private)


def _send(sa: "IkeSa", opening: Opening, public_value: bytes, private: Secret) -> None:
    connection = auth.connection_of(sa)
    payloads: list[Payload] = [Notify(NotifyType.COOKIE, opening.cookie)] if opening.cookie else []
    payloads += [
        SecurityAssociation(offer_ike(connection.proposals)),
        KeyExchange(opening.method, public_value),
        Nonce(opening.nonce),
        *natt.notifies(sa.own_spi, 0, sa.channel.path, forced=connection.force_encapsulation),
        *_abilities(sa, fragmentation=connection.fragmentation),
    ]
    header = Header(sa.own_spi, 0, ExchangeType.IKE_SA_INIT, is_initiator=True, is_response=False, message_id=0)
    request = Message(header, tuple(payloads)).emit()
    sa.step(InitSent(opening, request, public_value, private))
    sa.request_init(request, again=sa.channel.window.sent is not None)


def _abilities(sa: "IkeSa", *, fragmentation: bool) -> list[Payload]:
    """What else we can do, and who made us."""
    hashes = b"".join(number.to_bytes(2, "big") for number in SIGNATURE_HASHES)
    payloads: list[Payload] = [Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, hashes)]
    if fragmentation:
        payloads.insert(0, Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED))
    if sa.context.config.vendor_id:
        payloads.append(VendorId(sa.context.config.vendor_id))
    return payloads


def on_response(sa: "IkeSa", header: Header, datagram: bytes) -> None:
    """A response to IKE_SA_INIT. It may be forged: what is of no use is as if it had not come (RFC 7296 2.21.1)."""
    state = sa.state
    if not isinstance(state, InitSent):
        sa.context.counts[Count.UNEXPECTED_RESPONSE] += 1
        return
    try:
        message = check(Message.parse(datagram, header))
        _read_response(sa, state, message, datagram)
    except ProtocolError as error:
        sa.context.counts[Count.UNAUTHENTICATED_ERROR] += 1
        _note_refusal(sa, state, str(error), None)


def _read_response(sa: "IkeSa", state: InitSent, message: Message, datagram: bytes) -> None:
    cookie, error = message.notify(NotifyType.COOKIE), message.error()
    if cookie is not None:
        _restart(sa, state, replace(state.opening, cookie=cookie.data))
    elif error is not None and error.type is NotifyType.INVALID_KE_PAYLOAD:
        _change_method(sa, state, KeMethod(int.from_bytes(error.data, "big")))
    elif error is not None:
        sa.context.counts[Count.UNAUTHENTICATED_ERROR] += 1
        _note_refusal(sa, state, f"IKE_SA_INIT response: {error.type.name}", int(error.type))
    else:
        _derive(sa, state, message, datagram)


def _restart(sa: "IkeSa", state: InitSent, opening: Opening) -> None:
    if state.opening.restarts >= MAX_RESTARTS:
        sa.context.counts[Count.INIT_RESTART_LIMIT] += 1
        return
    opening = replace(opening, restarts=opening.restarts + 1)
    if opening.method is state.opening.method:
        _send(sa, opening, state.public_value, state.private)
    else:
        _make_key_pair(sa, opening)


def _change_method(sa: "IkeSa", state: InitSent, method: KeMethod) -> None:
    """Begin again with the method the peer prefers, if it is one of ours (RFC 7296 1.2)."""
    offered = {row.id for proposal in auth.connection_of(sa).proposals for row in proposal.key_exchanges}
    if method not in offered or method is state.opening.method:
        raise PeerMisbehaved(f"N(INVALID_KE_PAYLOAD): a method that was offered, {method.name} came")
    _restart(sa, state, replace(state.opening, method=method))


def _note_refusal(sa: "IkeSa", state: InitSent, text: str, kind: int | None) -> None:
    """Remember why it may fail, and do not wait as long for something better as for a silent peer."""
    opening = replace(state.opening, refusal=text, refusal_type=kind)
    sa.step(replace(state, opening=opening))
    if not state.opening.refusal:
        sa.context.timers.set((Timer.REFUSAL, sa.own_spi), sa.context.now + REFUSAL_SECONDS)


def _derive(sa: "IkeSa", state: InitSent, message: Message, datagram: bytes) -> None:
    answer, exchange, nonce = message.first(SecurityAssociation), message.first(KeyExchange), message.first(Nonce)
    if answer is None or exchange is None or nonce is None or not message.header.responder_spi:
        raise MalformedMessage("IKE_SA_INIT response: SPIr, SA, KE and Nr must be there")
    offered = offer_ike(auth.connection_of(sa).proposals)
    suite = accept_ike(answer.proposals, offered).suite
    method = state.opening.method
    if exchange.method is not method or suite.key_exchange.id is not method:
        raise PeerMisbehaved(f"KE response: {method.name}, {exchange.method.name} came")
    notifies = message.every(Notify)
    initials = Initials(
        suite=suite,
        first_i=state.request,
        first_r=datagram,
        nonce_i=state.opening.nonce,
        nonce_r=nonce.octets,
        peer_hashes=_hashes(message),
        is_kin=_is_kin(message, sa.context.config.vendor_id),
        nat=natt.detect(sa.own_spi, message.header.responder_spi, sa.channel.path, notifies),
    )
    fragments = message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
    sa.step(DerivingKeys(state, initials))
    sa.ask(
        lambda t: AskSharedSecret(t, method, state.private, exchange.public_value),
        lambda a: _on_secret(sa, state, initials, message.header.responder_spi, fragments, a),
        for_peer=False,
    )


def _on_secret(sa: "IkeSa", sent: InitSent, initials: Initials, peer_spi: int, fragments: bool, answer: Answer) -> None:
    if not isinstance(answer, SharedSecret):
        sa.context.counts[Count.UNAUTHENTICATED_ERROR] += 1
        sa.step(sent)
        _note_refusal(sa, sent, f"KE response: {_text(answer)}", None)
        return
    connection = auth.connection_of(sa)
    sa.context.timers.stop((Timer.REFUSAL, sa.own_spi))
    sa.complete_request()
    sa.channel.peer_spi = peer_spi
    sa.channel.nat = initials.nat
    sa.channel.has_fragments = fragments and connection.fragmentation
    if initials.nat.is_supported and sa.channel.uses_udp:
        sa.channel.path = natt.on_natt_port(sa.channel.path)
    _set_keys(sa, initials, answer.secret)
    sa.step(ProvingSelf(initials, sent.opening.child))
    auth.prove_self(sa, initials, sent.opening.child)


def _set_keys(sa: "IkeSa", initials: Initials, secret: Secret) -> None:
    seed = skeyseed(initials.suite.prf, initials.nonce_i, initials.nonce_r, secret)
    spis = (sa.channel.initiator_spi, sa.channel.responder_spi)
    keymat = IkeKeymat.derive(initials.suite, seed, initials.nonce_i, initials.nonce_r, *spis)
    sa.nonces = (initials.nonce_i, initials.nonce_r)
    sa.is_kin = initials.is_kin
    sa.set_keys(initials.suite, keymat)


def _give_up(sa: "IkeSa", reason: DownReason, text: str) -> None:
    sa.report_failure(ExchangeType.IKE_SA_INIT, None, notify_sent=False, reason=reason, text=text)
    sa.forget(reason, text)


def on_silence(sa: "IkeSa", state: InitSent) -> None:
    """No good response has come: try the next path, or give up."""
    opening = state.opening
    if opening.paths:
        sa.complete_request()
        sa.channel.window.next_id = 0
        sa.channel.path = opening.paths[0]
        sa.context.timers.stop((Timer.REFUSAL, sa.own_spi))
        _restart_clock(sa)
        _make_key_pair(sa, replace(opening, paths=opening.paths[1:], cookie=b"", refusal="", refusal_type=None))
        return
    reason = DownReason.REFUSED if opening.refusal else DownReason.PEER_SILENT
    if opening.refusal_type == NotifyType.NO_PROPOSAL_CHOSEN:
        reason = DownReason.NO_COMMON_GROUND
    text = opening.refusal or f"IKE_SA_INIT request: no response from {sa.channel.path.remote}"
    sa.report_failure(ExchangeType.IKE_SA_INIT, opening.refusal_type, notify_sent=False, reason=reason, text=text)
    sa.forget(reason, text)


# Responder.


def read_request(
    message: Message, datagram: bytes, path: Path, proposals: tuple[IkeProposal, ...], vendor_id: bytes
) -> InitReceived:
    """What an IKE_SA_INIT request leads to as responder; raises what the stranger is to be told. Keeps nothing."""
    offered, exchange, nonce = message.first(SecurityAssociation), message.first(KeyExchange), message.first(Nonce)
    if offered is None or exchange is None or nonce is None:
        raise MalformedMessage("IKE_SA_INIT request: SA, KE and Ni must be there")
    suite = (choice := choose_ike(offered.proposals, proposals, method=exchange.method)).suite
    row = suite.key_exchange
    if row.id is not exchange.method:
        raise WrongKeyExchange(f"KE: {row.id.name}, {exchange.method.name} came", int(row.id).to_bytes(2, "big"))
    if len(exchange.public_value) != row.public:
        raise PeerMisbehaved(f"KE: a {row.name} value has {row.public} octets, {len(exchange.public_value)} came")
    return InitReceived(
        request=datagram,
        suite=suite,
        chosen=choice.answer,
        peer_value=exchange.public_value,
        nonce_i=nonce.octets,
        peer_hashes=_hashes(message),
        has_fragments=message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None,
        is_kin=_is_kin(message, vendor_id),
        nat=natt.detect(message.header.initiator_spi, 0, path, message.every(Notify)),
    )


def answer_request(sa: "IkeSa", state: InitReceived) -> None:
    """Make our key pair for an accepted request; the response follows."""
    sa.channel.nat = state.nat
    sa.channel.has_fragments = state.has_fragments
    sa.channel.window.accept(sa.channel.path)
    method = state.suite.key_exchange.id
    seed = Secret(sa.context.random(seed_size(method)))
    sa.ask(lambda t: AskKeyPair(t, method, seed), lambda a: _answer(sa, state, a), for_peer=False)


def _answer(sa: "IkeSa", state: InitReceived, answer: Answer) -> None:
    if not isinstance(answer, KeyPair):
        sa.forget(DownReason.LOCAL, _text(answer))
        return
    nonce = sa.context.random(NONCE_SIZE)
    payloads: list[Payload] = [
        SecurityAssociation((state.chosen,)),
        KeyExchange(state.suite.key_exchange.id, answer.public_value),
        Nonce(nonce),
    ]
    if state.nat.is_supported:
        payloads += natt.notifies(sa.channel.peer_spi, sa.own_spi, sa.channel.path)
    payloads += _abilities(sa, fragmentation=sa.channel.has_fragments)
    header = sa.channel.header(ExchangeType.IKE_SA_INIT, 0, is_response=True)
    response = Message(header, tuple(payloads)).emit()
    room = AMPLIFICATION * len(state.request) - len(response) - CERTREQ_HEADER
    authorities = sa.registry.connections.authorities()[: max(0, room) // AUTHORITY * AUTHORITY]
    if authorities:
        # Without it many peers do not send their certificate. Which connection is meant shows in IKE_AUTH only.
        payloads.append(CertRequest(CertEncoding.X509_SIGNATURE, authorities))
        response = Message(header, tuple(payloads)).emit()
    initials = Initials(
        suite=state.suite,
        first_i=state.request,
        first_r=response,
        nonce_i=state.nonce_i,
        nonce_r=nonce,
        peer_hashes=state.peer_hashes,
        is_kin=state.is_kin,
        nat=state.nat,
    )
    sa.step(InitAnswered(initials, answer.private, state.peer_value))
    sa.channel.respond_init(response)


def hold(sa: "IkeSa", datagram: bytes, path: Path) -> None:
    """A first datagram after IKE_SA_INIT: compute the keys for it. It stays unread until they are there."""
    state = sa.state
    if isinstance(state, InitAnswered):
        sa.step(DerivingKeysLate(state.initials, ((datagram, path),)))
        method = state.initials.suite.key_exchange.id
        sa.ask(
            lambda t: AskSharedSecret(t, method, state.private, state.peer_value),
            lambda a: _on_late_secret(sa, a),
            for_peer=False,
        )
    elif isinstance(state, DerivingKeysLate) and _has_room(state, datagram):
        sa.step(replace(state, held=(*state.held, (datagram, path))))
    else:
        sa.context.counts[Count.HELD_TOO_MANY] += 1


def _has_room(state: DerivingKeysLate, datagram: bytes) -> bool:
    octets = sum(len(held) for held, _ in state.held)
    return len(state.held) < MAX_HELD and octets + len(datagram) <= MAX_HELD_OCTETS


def _on_late_secret(sa: "IkeSa", answer: Answer) -> None:
    state = sa.state
    if not isinstance(state, DerivingKeysLate):
        return
    if not isinstance(answer, SharedSecret):
        # Nobody who sent such a value can prove anything; it was not worth an answer before it was computed with.
        sa.forget(DownReason.PEER_MISBEHAVED, _text(answer))
        return
    _set_keys(sa, state.initials, answer.secret)
    sa.step(AwaitingAuth(state.initials))
    for datagram, path in state.held:
        sa.receive(Header.parse(datagram), datagram, path)


# Both.


def _hashes(message: Message) -> frozenset[HashAlgorithm]:
    """What the peer can check signatures with (RFC 7427 4)."""
    notify = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
    return frozenset(HashAlgorithm(number) for number in _words(notify.data if notify else b""))


def _is_kin(message: Message, vendor_id: bytes) -> bool:
    """Whether the peer is of our make. Whoever says so must prove it with the rest of the message, in IKE_AUTH."""
    return bool(vendor_id) and any(payload.octets == vendor_id for payload in message.every(VendorId))


def _words(octets: bytes) -> Iterable[int]:
    return (int.from_bytes(octets[at : at + 2], "big") for at in range(0, len(octets) - 1, 2))


def _text(answer: Answer) -> str:
    return answer.text if isinstance(answer, (Unanswerable, WeakPublicValue)) else type(answer).__name__
