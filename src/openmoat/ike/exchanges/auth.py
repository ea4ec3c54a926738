"""IKE_AUTH, both roles: who is who, and the first Child SA (RFC 7296 1.2, 2.15, 2.21.2)."""

from collections.abc import Callable
from dataclasses import replace

from openmoat.crypto.keymat import signed_octets
from openmoat.errors import Secret
from openmoat.ike.errors import AuthenticationFailed, MalformedMessage
from openmoat.ike.events import Answer, AskOwnAuth, AskPeerAuth, Certificate, DownReason, OwnAuth, PeerAccepted
from openmoat.ike.exchanges.answer_child import AnswerFirst
from openmoat.ike.exchanges.answers import refusal_text
from openmoat.ike.exchanges.create_child import FirstChild
from openmoat.ike.exchanges.exchange import Failure
from openmoat.ike.exchanges.handshake import (
    AskFirst,
    Authenticated,
    GiveUp,
    Handshake,
    HandshakeStep,
    SendAuth,
    Wait,
)
from openmoat.ike.negotiate.child_sa import offer_payloads
from openmoat.ike.states import Agreed, Authorizing, AuthSent, AwaitingAuth, CheckingPeer, ProvingBack
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import CertEncoding, ExchangeType, NotifyType
from openmoat.ike.wire.payloads import Auth, Cert, CertRequest, IdInitiator, IdResponder, Notify, Payload
from openmoat.model.connection import Authority, Child, Connection, RawKey

__all__ = ["on_request", "on_response", "prove_self"]


# Initiator.


def prove_self(hs: Handshake, agreed: Agreed, child: Child | None) -> HandshakeStep:
    """Ask for our AUTH payload; the request follows."""
    identity = IdInitiator(hs.known().local_identity)
    return _ask_own_auth(hs, agreed, hs.known(), identity, lambda a: _on_own_auth(hs, agreed, child, a))


def _on_own_auth(hs: Handshake, agreed: Agreed, child: Child | None, answer: Answer) -> HandshakeStep:
    if not isinstance(answer, OwnAuth):
        text = refusal_text(answer)
        failure = Failure(ExchangeType.IKE_AUTH, None, DownReason.LOCAL, f"own AUTH: {text}")
        return GiveUp(DownReason.LOCAL, text, failure)
    connection = hs.known()
    payloads: list[Payload] = [IdInitiator(connection.local_identity)]
    payloads += _certificates(answer)
    payloads += _certificate_requests(connection)
    expected = connection.peer.identity.identity
    if not connection.is_template and expected is not None:
        payloads.append(IdResponder(expected))
    payloads.append(Auth(answer.method, answer.octets))
    spi = hs.context.take_spi() if child is not None else None
    if child is not None and spi is not None:
        payloads += offer_payloads(child, spi, with_key_exchange=False)
    if expected is not None and not hs.host.has_others(hs.channel.own_spi, connection.name, expected):
        # RFC 7296 2.4: said only where it is true at this moment.
        payloads.append(Notify(NotifyType.INITIAL_CONTACT))
    hs.step(AuthSent(agreed, answer.method, child if spi is not None else None, spi or 0))
    return SendAuth(payloads)


def on_response(hs: Handshake, state: AuthSent, message: Message) -> HandshakeStep:
    """The responder's proof, or its refusal."""
    error, auth, identity = message.error(), message.first(Auth), message.first(IdResponder)
    if auth is None or identity is None:
        return _on_refusal(error)
    connection = hs.known()
    if not connection.peer.identity.matches(identity.identity):
        raise AuthenticationFailed(f"IDr: expected {connection.peer.identity}, received {identity.identity}")
    hs.step(CheckingPeer(state, message, identity.identity, auth.method))
    return _ask_peer_auth(hs, state.agreed, connection, identity, message, lambda a: _on_peer_checked(hs, a))


def _on_refusal(error: Notify | None) -> HandshakeStep:
    """2.21.2: the responder is not authenticated, but these octets came from the one with whom the keys were agreed."""
    if error is None:
        raise MalformedMessage("IKE_AUTH response: neither AUTH nor an error")
    is_refusal = error.type is NotifyType.AUTHENTICATION_FAILED
    reason = DownReason.AUTHENTICATION_FAILED if is_refusal else DownReason.REFUSED
    return GiveUp.told(ExchangeType.IKE_AUTH, reason, f"IKE_AUTH: the peer answers {error.type.name}", int(error.type))


def _on_peer_checked(hs: Handshake, answer: Answer) -> HandshakeStep:
    state = hs.state
    if not isinstance(state, CheckingPeer):
        return Wait()
    if not isinstance(answer, PeerAccepted):
        raise AuthenticationFailed(f"AUTH of {state.identity}: {refusal_text(answer)}")
    sent = state.sent
    first = FirstChild(sent.child, sent.child_spi, sent.agreed.nonces) if sent.child is not None else None
    return Authenticated(
        sent.agreed,
        state.identity,
        (sent.own_method, state.method),
        (first, state.response) if first is not None else None,
    )


# Responder.


def on_request(hs: Handshake, state: AwaitingAuth, message: Message) -> HandshakeStep:
    """The initiator's proof: find the connections it may be meant for, and have it checked."""
    auth, identity = message.first(Auth), message.first(IdInitiator)
    if identity is None:
        raise MalformedMessage("IKE_AUTH request: IDi must be there")
    if auth is None:
        raise AuthenticationFailed(f"IKE_AUTH request: {identity.identity}: EAP is not offered")
    wanted = message.first(IdResponder)
    candidates = hs.host.connections.candidates(
        identity.identity, wanted.identity if wanted else None, state.agreed.suite
    )
    hs.step(Authorizing(state.agreed, message, identity.identity, auth.method, candidates))
    return _ask_about_next(hs)


def _ask_about_next(hs: Handshake) -> HandshakeStep:
    state = hs.state
    if not isinstance(state, Authorizing):
        return Wait()
    auth, identity = state.request.first(Auth), state.request.first(IdInitiator)
    if auth is None or identity is None or not state.candidates:
        wanted = state.request.first(IdResponder)
        asked = f" for {wanted.identity}" if wanted else ""
        why = "; ".join(state.refusals) or "no connection accepts it"
        raise AuthenticationFailed(f"IKE_AUTH request: {state.identity}{asked}: {why}")
    connection = state.candidates[0]
    return _ask_peer_auth(hs, state.agreed, connection, identity, state.request, lambda a: _on_initiator_checked(hs, a))


def _on_initiator_checked(hs: Handshake, answer: Answer) -> HandshakeStep:
    state = hs.state
    if not isinstance(state, Authorizing):
        return Wait()
    connection = state.candidates[0]
    if not isinstance(answer, PeerAccepted):
        refused = f"{connection.name}: {refusal_text(answer)}"
        hs.step(replace(state, candidates=state.candidates[1:], refusals=(*state.refusals, refused)))
        return _ask_about_next(hs)
    hs.use(connection)
    hs.step(ProvingBack(state.agreed, connection, state.request, state.identity, state.method))
    identity = IdResponder(connection.local_identity)
    return _ask_own_auth(hs, state.agreed, connection, identity, lambda a: _on_own_auth_back(hs, a))


def _on_own_auth_back(hs: Handshake, answer: Answer) -> HandshakeStep:
    state = hs.state
    if not isinstance(state, ProvingBack):
        return Wait()
    if not isinstance(answer, OwnAuth):
        raise AuthenticationFailed(f"own AUTH: {refusal_text(answer)}")
    message = state.request
    proof: list[Payload] = [IdResponder(state.connection.local_identity), *_certificates(answer)]
    proof.append(Auth(answer.method, answer.octets))
    return Authenticated(
        state.agreed,
        state.identity,
        (answer.method, state.peer_method),
        AnswerFirst(message, state.agreed.nonces, proof),
        message.notify(NotifyType.INITIAL_CONTACT) is not None,
    )


# Both.


def _signed(agreed: Agreed, identity: IdInitiator | IdResponder, *, is_initiator: bool) -> Secret:
    """What the AUTH payload of that side covers (RFC 7296 2.15)."""
    if is_initiator:
        parts = (agreed.keymat.sk_pi, agreed.first_i, agreed.nonce_r)
    else:
        parts = (agreed.keymat.sk_pr, agreed.first_r, agreed.nonce_i)
    return signed_octets(agreed.suite.prf, *parts, identity.emit())


def _ask_own_auth(
    hs: Handshake,
    agreed: Agreed,
    connection: Connection,
    identity: IdInitiator | IdResponder,
    then: Callable[[Answer], HandshakeStep],
) -> HandshakeStep:
    octets = _signed(agreed, identity, is_initiator=hs.channel.is_initiator)
    return AskFirst(
        lambda t: AskOwnAuth(
            ticket=t,
            connection=connection.name,
            identity=identity.identity,
            prf=agreed.suite.prf,
            signed_octets=octets,
            peer_hashes=agreed.peer_hashes,
        ),
        then,
    )


def _ask_peer_auth(
    hs: Handshake,
    agreed: Agreed,
    connection: Connection,
    identity: IdInitiator | IdResponder,
    message: Message,
    then: Callable[[Answer], HandshakeStep],
) -> HandshakeStep:
    auth = message.first(Auth)
    if auth is None:
        raise MalformedMessage("IKE_AUTH: AUTH must be there")
    method, proof = auth.method, auth.octets
    octets = _signed(agreed, identity, is_initiator=not hs.channel.is_initiator)
    certificates = tuple(Certificate(int(cert.encoding), cert.octets) for cert in message.every(Cert))
    return AskFirst(
        lambda t: AskPeerAuth(
            ticket=t,
            connection=connection.name,
            identity=identity.identity,
            prf=agreed.suite.prf,
            signed_octets=octets,
            method=method,
            octets=proof,
            certificates=certificates,
        ),
        then,
    )


def _certificates(answer: OwnAuth) -> list[Payload]:
    return [Cert(CertEncoding(cert.encoding), cert.octets) for cert in answer.certificates]


def _certificate_requests(connection: Connection) -> list[Payload]:
    """What the peer should show us (RFC 7296 3.7, RFC 7670 3)."""
    credential = connection.peer.credential
    if isinstance(credential, RawKey):
        return [CertRequest(CertEncoding.RAW_PUBLIC_KEY, b"")]
    if isinstance(credential, Authority):
        from openmoat.crypto.x509 import authority_hash  # with certificates only: it takes 2 MB

        return [CertRequest(CertEncoding.X509_SIGNATURE, b"".join(map(authority_hash, credential.roots)))]
    return []
