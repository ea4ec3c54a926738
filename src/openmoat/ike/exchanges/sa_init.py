"""IKE_SA_INIT, both roles: algorithms, keys, cookies and NAT detection (RFC 7296 1.2, 2.6, 2.23). Nothing is trusted yet."""

from collections.abc import Iterable
from dataclasses import replace

from openmoat.crypto.kex import seed_size
from openmoat.crypto.keymat import IkeKeymat, skeyseed
from openmoat.crypto.numbers import HashAlgorithm, KeMethod
from openmoat.errors import Secret
from openmoat.ike import natt
from openmoat.ike.config import Count
from openmoat.ike.context import Context, Timer
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
)
from openmoat.ike.exchanges import auth
from openmoat.ike.exchanges.answers import refusal_text
from openmoat.ike.exchanges.handshake import (
    AskFirst,
    GiveUp,
    Handshake,
    HandshakeStep,
    ReadAgain,
    ReplyInit,
    SendInit,
    Wait,
)
from openmoat.ike.negotiate.choice import accept_ike, choose_ike, offer_ike
from openmoat.ike.states import (
    Agreed,
    AwaitingAuth,
    DerivingKeys,
    DerivingKeysLate,
    FindingPath,
    FirstRequest,
    InitAnswered,
    Initials,
    InitReceived,
    InitSent,
    MakingKeyPair,
    ProvingSelf,
)
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import CertEncoding, ExchangeType, NotifyType
from openmoat.ike.wire.payloads import (
    NONCE_SIZE,
    CertRequest,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    VendorId,
)
from openmoat.ike.wire.rules import Phase, check
from openmoat.model.connection import Child, Connection, IkeProposal
from openmoat.net import Path

__all__ = [
    "MAX_HELD",
    "MAX_HELD_OCTETS",
    "MAX_RESTARTS",
    "SIGNATURE_HASHES",
    "answer_request",
    "begin",
    "first_state",
    "hold",
    "on_response",
    "on_silence",
    "read_request",
]

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


def first_state(context: Context, connection: Connection, child: Child | None, attempt: int) -> FindingPath:
    """The first state of an initiator."""
    method = connection.proposals[0].key_exchanges[0].id
    return FindingPath(FirstRequest(child=child, attempt=attempt, nonce=context.random(NONCE_SIZE), method=method))


def begin(hs: Handshake, state: FindingPath) -> HandshakeStep:
    """Ask where the peer is, and go on from there."""
    name, first_request = hs.known().name, state.first_request
    hs.give_a_path_its_time()
    return AskFirst(lambda t: AskPath(t, name, first_request.attempt), lambda a: _on_paths(hs, first_request, a))


def _on_paths(hs: Handshake, first_request: FirstRequest, answer: Answer) -> HandshakeStep:
    if not isinstance(answer, Paths) or not answer.paths:
        text = answer.reason if isinstance(answer, Paths) else refusal_text(answer)
        return GiveUp.told(ExchangeType.IKE_SA_INIT, DownReason.NO_ROUTE, text or "no address to try")
    hs.channel.restart(answer.paths[0])
    return _make_key_pair(hs, replace(first_request, paths=answer.paths[1:]))


def _make_key_pair(hs: Handshake, first_request: FirstRequest) -> HandshakeStep:
    hs.step(MakingKeyPair(first_request))
    seed = Secret(hs.context.random(seed_size(first_request.method)))
    return AskFirst(lambda t: AskKeyPair(t, first_request.method, seed), lambda a: _on_key_pair(hs, first_request, a))


def _on_key_pair(hs: Handshake, first_request: FirstRequest, answer: Answer) -> HandshakeStep:
    if not isinstance(answer, KeyPair):
        return GiveUp.told(ExchangeType.IKE_SA_INIT, DownReason.LOCAL, refusal_text(answer))
    return _send(hs, first_request, answer.public_value, answer.private)


def _send(hs: Handshake, first_request: FirstRequest, public_value: bytes, private: Secret) -> HandshakeStep:
    connection, channel = hs.known(), hs.channel
    payloads: list[Payload] = [Notify(NotifyType.COOKIE, first_request.cookie)] if first_request.cookie else []
    payloads += [
        SecurityAssociation(offer_ike(connection.proposals)),
        KeyExchange(first_request.method, public_value),
        Nonce(first_request.nonce),
        *natt.notifies(channel.own_spi, 0, channel.path, forced=connection.force_encapsulation),
        *_abilities(hs, fragmentation=connection.fragmentation),
    ]
    header = Header(channel.own_spi, 0, ExchangeType.IKE_SA_INIT, is_initiator=True, is_response=False, message_id=0)
    request = Message(header, tuple(payloads)).emit()
    hs.step(InitSent(first_request, request, public_value, private))
    return SendInit(request)


def _abilities(hs: Handshake, *, fragmentation: bool) -> list[Payload]:
    """What else we can do, and who made us."""
    hashes = b"".join(number.to_bytes(2, "big") for number in SIGNATURE_HASHES)
    payloads: list[Payload] = [Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, hashes)]
    if fragmentation:
        payloads.insert(0, Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED))
    if hs.context.config.vendor_id:
        payloads.append(VendorId(hs.context.config.vendor_id))
    return payloads


def on_response(hs: Handshake, header: Header, datagram: bytes) -> HandshakeStep:
    """A response to IKE_SA_INIT. It may be forged: what is of no use is as if it had not come (RFC 7296 2.21.1)."""
    state = hs.state
    if not isinstance(state, InitSent):
        hs.context.counts[Count.UNEXPECTED_RESPONSE] += 1
        return Wait()
    try:
        message = check(Message.parse(datagram, header), Phase.INIT)
        return _read_response(hs, state, message, datagram)
    except ProtocolError as error:
        hs.context.counts[Count.UNAUTHENTICATED_ERROR] += 1
        return _note_refusal(hs, state, str(error), None)


def _read_response(hs: Handshake, state: InitSent, message: Message, datagram: bytes) -> HandshakeStep:
    cookie, error = message.notify(NotifyType.COOKIE), message.error()
    if cookie is not None:
        return _restart(hs, state, replace(state.first_request, cookie=cookie.data))
    if error is not None and error.type is NotifyType.INVALID_KE_PAYLOAD:
        return _change_method(hs, state, KeMethod(int.from_bytes(error.data, "big")))
    if error is not None:
        hs.context.counts[Count.UNAUTHENTICATED_ERROR] += 1
        return _note_refusal(hs, state, f"IKE_SA_INIT response: {error.type.name}", int(error.type))
    return _derive(hs, state, message, datagram)


def _restart(hs: Handshake, state: InitSent, first_request: FirstRequest) -> HandshakeStep:
    if state.first_request.restarts >= MAX_RESTARTS:
        hs.context.counts[Count.INIT_RESTART_LIMIT] += 1
        return Wait()
    first_request = replace(first_request, restarts=first_request.restarts + 1)
    if first_request.method is state.first_request.method:
        return _send(hs, first_request, state.public_value, state.private)
    return _make_key_pair(hs, first_request)


def _change_method(hs: Handshake, state: InitSent, method: KeMethod) -> HandshakeStep:
    """Begin again with the method the peer prefers, if it is one of ours (RFC 7296 1.2)."""
    offered = {row.id for proposal in hs.known().proposals for row in proposal.key_exchanges}
    if method not in offered or method is state.first_request.method:
        raise PeerMisbehaved(f"N(INVALID_KE_PAYLOAD): a method that was offered, not {method.name}")
    return _restart(hs, state, replace(state.first_request, method=method))


def _note_refusal(hs: Handshake, state: InitSent, text: str, kind: int | None) -> HandshakeStep:
    """Remember why it may fail, and do not wait as long for something better as for a silent peer."""
    first_request = replace(state.first_request, refusal=text, refusal_type=kind)
    hs.step(replace(state, first_request=first_request))
    if not state.first_request.refusal:
        hs.context.timers.set((Timer.REFUSAL, hs.channel.own_spi), hs.context.now + REFUSAL_SECONDS)
    return Wait()


def _derive(hs: Handshake, state: InitSent, message: Message, datagram: bytes) -> HandshakeStep:
    answer, exchange, nonce = message.first(SecurityAssociation), message.first(KeyExchange), message.first(Nonce)
    if answer is None or exchange is None or nonce is None or not message.header.responder_spi:
        raise MalformedMessage("IKE_SA_INIT response: SPIr, SA, KE and Nr must be there")
    suite = accept_ike(answer.proposals, offer_ike(hs.known().proposals)).suite
    method = state.first_request.method
    if exchange.method is not method or suite.key_exchange.id is not method:
        raise PeerMisbehaved(f"KE response: {method.name}, not {exchange.method.name}")
    channel, peer_spi = hs.channel, message.header.responder_spi
    initials = Initials(
        suite=suite,
        first_i=state.request,
        first_r=datagram,
        nonce_i=state.first_request.nonce,
        nonce_r=nonce.octets,
        peer_hashes=_hashes(message),
        has_our_vendor_id=_has_our_vendor_id(message, hs.context.config.vendor_id),
        nat=natt.detect(channel.own_spi, peer_spi, channel.path, message.every(Notify)),
    )
    fragments = message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
    hs.step(DerivingKeys(state, initials))
    return AskFirst(
        lambda t: AskSharedSecret(t, method, state.private, exchange.public_value),
        lambda a: _on_secret(hs, state, initials, peer_spi, fragments, a),
    )


def _on_secret(
    hs: Handshake, sent: InitSent, initials: Initials, peer_spi: int, fragments: bool, answer: Answer
) -> HandshakeStep:
    if not isinstance(answer, SharedSecret):
        hs.context.counts[Count.UNAUTHENTICATED_ERROR] += 1
        hs.step(sent)
        return _note_refusal(hs, sent, f"KE response: {refusal_text(answer)}", None)
    channel = hs.channel
    agreed = _agree(initials, (channel.own_spi, peer_spi), answer.secret)
    hs.context.timers.stop((Timer.REFUSAL, channel.own_spi))
    channel.accept_init(peer_spi, initials.nat, has_fragments=fragments and hs.known().fragmentation)
    channel.protect(initials.suite, agreed.keymat)
    hs.step(ProvingSelf(agreed, sent.first_request.child))
    return auth.prove_self(hs, agreed, sent.first_request.child)


def _agree(initials: Initials, spis: tuple[int, int], secret: Secret) -> Agreed:
    """The keys of the IKE SA (RFC 7296 2.14)."""
    seed = skeyseed(initials.suite.prf, initials.nonce_i, initials.nonce_r, secret)
    keymat = IkeKeymat.derive(initials.suite, seed, initials.nonce_i, initials.nonce_r, *spis)
    fields = {name: getattr(initials, name) for name in Initials.__dataclass_fields__}
    return Agreed(**fields, keymat=keymat)


def on_silence(hs: Handshake, state: InitSent) -> HandshakeStep:
    """No good response has come: try the next path, or give up."""
    first_request = state.first_request
    if first_request.paths:
        hs.channel.restart(first_request.paths[0])
        hs.give_a_path_its_time()
        return _make_key_pair(
            hs, replace(first_request, paths=first_request.paths[1:], cookie=b"", refusal="", refusal_type=None)
        )
    reason = DownReason.REFUSED if first_request.refusal else DownReason.PEER_SILENT
    if first_request.refusal_type == NotifyType.NO_PROPOSAL_CHOSEN:
        reason = DownReason.NO_COMMON_GROUND
    text = first_request.refusal or f"IKE_SA_INIT request: no response from {hs.channel.path.remote}"
    return GiveUp.told(ExchangeType.IKE_SA_INIT, reason, text, first_request.refusal_type)


# Responder.


def read_request(
    message: Message, datagram: bytes, path: Path, proposals: tuple[IkeProposal, ...], vendor_id: bytes
) -> InitReceived:
    """What an IKE_SA_INIT request leads to as responder; raises what the sender is to be told. Keeps nothing."""
    offered, exchange, nonce = message.first(SecurityAssociation), message.first(KeyExchange), message.first(Nonce)
    if offered is None or exchange is None or nonce is None:
        raise MalformedMessage("IKE_SA_INIT request: SA, KE and Ni must be there")
    suite = (choice := choose_ike(offered.proposals, proposals, method=exchange.method)).suite
    row = suite.key_exchange
    if row.id is not exchange.method:
        raise WrongKeyExchange(f"KE: {row.id.name}, not {exchange.method.name}", int(row.id).to_bytes(2, "big"))
    if len(exchange.public_value) != row.public:
        raise PeerMisbehaved(f"KE: a {row.name} value has {row.public} octets, not {len(exchange.public_value)}")
    return InitReceived(
        request=datagram,
        suite=suite,
        chosen=choice.answer,
        peer_value=exchange.public_value,
        nonce_i=nonce.octets,
        peer_hashes=_hashes(message),
        has_fragments=message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None,
        has_our_vendor_id=_has_our_vendor_id(message, vendor_id),
        nat=natt.detect(message.header.initiator_spi, 0, path, message.every(Notify)),
    )


def answer_request(hs: Handshake, state: InitReceived) -> HandshakeStep:
    """Make our key pair for an accepted request; the response follows."""
    channel = hs.channel
    channel.nat, channel.has_fragments = state.nat, state.has_fragments
    channel.window.accept(channel.path)
    method = state.suite.key_exchange.id
    seed = Secret(hs.context.random(seed_size(method)))
    return AskFirst(lambda t: AskKeyPair(t, method, seed), lambda a: _answer(hs, state, a))


def _answer(hs: Handshake, state: InitReceived, answer: Answer) -> HandshakeStep:
    if not isinstance(answer, KeyPair):
        return GiveUp(DownReason.LOCAL, refusal_text(answer))
    channel, nonce = hs.channel, hs.context.random(NONCE_SIZE)
    payloads: list[Payload] = [
        SecurityAssociation((state.chosen,)),
        KeyExchange(state.suite.key_exchange.id, answer.public_value),
        Nonce(nonce),
    ]
    if state.nat.is_supported:
        payloads += natt.notifies(channel.peer_spi, channel.own_spi, channel.path)
    payloads += _abilities(hs, fragmentation=channel.has_fragments)
    header = channel.header(ExchangeType.IKE_SA_INIT, 0, is_response=True)
    response = Message(header, tuple(payloads)).emit()
    room = AMPLIFICATION * len(state.request) - len(response) - CERTREQ_HEADER
    authorities = hs.host.connections.authorities()[: max(0, room) // AUTHORITY * AUTHORITY]
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
        has_our_vendor_id=state.has_our_vendor_id,
        nat=state.nat,
    )
    hs.step(InitAnswered(initials, answer.private, state.peer_value))
    return ReplyInit(response)


def hold(hs: Handshake, datagram: bytes, path: Path) -> HandshakeStep:
    """A first datagram after IKE_SA_INIT: compute the keys for it. It stays unread until they are there."""
    state = hs.state
    if isinstance(state, InitAnswered):
        hs.step(DerivingKeysLate(state.initials, ((datagram, path),)))
        method = state.initials.suite.key_exchange.id
        return AskFirst(
            lambda t: AskSharedSecret(t, method, state.private, state.peer_value),
            lambda a: _on_late_secret(hs, a),
        )
    if isinstance(state, DerivingKeysLate) and _has_room(state, datagram):
        hs.step(replace(state, held=(*state.held, (datagram, path))))
    else:
        hs.context.counts[Count.HELD_TOO_MANY] += 1
    return Wait()


def _has_room(state: DerivingKeysLate, datagram: bytes) -> bool:
    octets = sum(len(held) for held, _ in state.held)
    return len(state.held) < MAX_HELD and octets + len(datagram) <= MAX_HELD_OCTETS


def _on_late_secret(hs: Handshake, answer: Answer) -> HandshakeStep:
    state = hs.state
    if not isinstance(state, DerivingKeysLate):
        return Wait()
    if not isinstance(answer, SharedSecret):
        # Nobody who sent such a value can prove anything; it was not worth an answer before it was computed with.
        return GiveUp(DownReason.PEER_MISBEHAVED, refusal_text(answer))
    channel = hs.channel
    agreed = _agree(state.initials, (channel.peer_spi, channel.own_spi), answer.secret)
    channel.protect(agreed.suite, agreed.keymat)
    hs.step(AwaitingAuth(agreed))
    return ReadAgain(state.held)


# Both.


def _hashes(message: Message) -> frozenset[HashAlgorithm]:
    """What the peer can check signatures with (RFC 7427 4)."""
    notify = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
    return frozenset(HashAlgorithm(number) for number in _words(notify.data if notify else b""))


def _has_our_vendor_id(message: Message, vendor_id: bytes) -> bool:
    """Whether the peer announces our vendor ID. IKE_AUTH proves that the message is authentic."""
    return bool(vendor_id) and any(payload.octets == vendor_id for payload in message.every(VendorId))


def _words(octets: bytes) -> Iterable[int]:
    return (int.from_bytes(octets[at : at + 2], "big") for at in range(0, len(octets) - 1, 2))
