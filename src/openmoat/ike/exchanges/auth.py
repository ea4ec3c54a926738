"""IKE_AUTH, both roles: who is who, and the first Child SA (RFC 7296 1.2, 2.15, 2.21.2)."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from openmoat.crypto.keymat import signed_octets
from openmoat.errors import Secret
from openmoat.ike.errors import AuthenticationFailed, MalformedMessage, ProtocolError
from openmoat.ike.events import (
    Answer,
    AskOwnAuth,
    AskPeerAuth,
    Certificate,
    DownReason,
    OwnAuth,
    PeerAccepted,
    PeerRefused,
    Unanswerable,
)
from openmoat.ike.exchanges import answer_child, create_child
from openmoat.ike.negotiate.child_sa import offer_payloads
from openmoat.ike.states import (
    Authorizing,
    AuthSent,
    AwaitingAuth,
    CheckingPeer,
    Established,
    Initials,
    InstallingFirst,
    ProvingBack,
)
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import CertEncoding, ExchangeType, NotifyType
from openmoat.ike.wire.payloads import (
    Auth,
    Cert,
    CertRequest,
    IdInitiator,
    IdResponder,
    Notify,
    Payload,
    SecurityAssociation,
)
from openmoat.model.connection import Authority, Child, Connection, RawKey

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["connection_of", "on_request", "on_response", "prove_self"]

FATAL = frozenset(
    {NotifyType.AUTHENTICATION_FAILED, NotifyType.INVALID_SYNTAX, NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD}
)
"""Error notifies that mean that there is no IKE SA (RFC 7296 2.21.2)."""


def connection_of(sa: "IkeSa") -> Connection:
    """The connection of an IKE SA that has one."""
    if sa.connection is None:
        raise ValueError("IKE SA: no connection is known yet")
    return sa.connection


# Initiator.


def prove_self(sa: "IkeSa", initials: Initials, child: Child | None) -> None:
    """Ask for our AUTH payload; the request follows."""
    identity = connection_of(sa).local_identity
    _ask_own_auth(sa, initials, IdInitiator(identity), lambda a: _on_own_auth(sa, initials, child, a))


def _on_own_auth(sa: "IkeSa", initials: Initials, child: Child | None, answer: Answer) -> None:
    if not isinstance(answer, OwnAuth):
        text = answer.text if isinstance(answer, Unanswerable) else type(answer).__name__
        sa.report_failure(
            ExchangeType.IKE_AUTH, None, notify_sent=False, reason=DownReason.LOCAL, text=f"own AUTH: {text}"
        )
        sa.forget(DownReason.LOCAL, text)
        return
    connection = connection_of(sa)
    spi = sa.context.take_spi() if child is not None else None
    payloads: list[Payload] = [IdInitiator(connection.local_identity)]
    payloads += _certificates(answer)
    payloads += _certificate_requests(connection)
    expected = connection.peer.identity.identity
    if not connection.is_template and expected is not None:
        payloads.append(IdResponder(expected))
    payloads.append(Auth(answer.method, answer.octets))
    if child is not None and spi is not None:
        payloads += offer_payloads(child, spi, with_key_exchange=False)
    if expected is not None and not sa.registry.has_others(sa, connection.name, expected):
        # RFC 7296 2.4: said only where it is true at this moment.
        payloads.append(Notify(NotifyType.INITIAL_CONTACT))
    sa.step(AuthSent(initials, answer.method, child if spi is not None else None, spi or 0))
    sa.request(ExchangeType.IKE_AUTH, payloads)


def on_response(sa: "IkeSa", state: AuthSent, message: Message) -> None:
    """The responder's proof, or its refusal."""
    error, auth, identity = message.error(), message.first(Auth), message.first(IdResponder)
    if auth is None or identity is None:
        _on_refusal(sa, error)
        return
    connection = connection_of(sa)
    if not connection.peer.identity.matches(identity.identity):
        raise AuthenticationFailed(f"IDr: {connection.peer.identity} is wanted, {identity.identity} came")
    sa.step(CheckingPeer(state, message, identity.identity, auth.method))
    initials = state.initials
    _ask_peer_auth(sa, initials, connection, identity, message, lambda a: _on_peer_checked(sa, a))


def _on_refusal(sa: "IkeSa", error: Notify | None) -> None:
    """2.21.2: the responder is not authenticated, but these octets came from whoever it is that we speak with."""
    if error is None:
        raise MalformedMessage("IKE_AUTH response: neither AUTH nor an error")
    reason = DownReason.REFUSED
    if error.type is NotifyType.AUTHENTICATION_FAILED:
        reason = DownReason.AUTHENTICATION_FAILED
    text = f"IKE_AUTH: the peer answers {error.type.name}"
    sa.report_failure(ExchangeType.IKE_AUTH, int(error.type), notify_sent=False, reason=reason, text=text)
    sa.forget(reason, text)


def _on_peer_checked(sa: "IkeSa", answer: Answer) -> None:
    state = sa.state
    if not isinstance(state, CheckingPeer):
        return
    if not isinstance(answer, PeerAccepted):
        raise AuthenticationFailed(f"AUTH of {state.identity}: {_refusal(answer)}")
    sent, message = state.sent, state.response
    sa.step(Established())
    sa.registry.authenticated(sa, state.identity, sent.own_method, state.method)
    if sent.child is None:
        sa.registry.settle(sa)
        return
    sa.exchange = create_child.FirstChild(sent.child, sent.child_spi, (sent.initials.nonce_i, sent.initials.nonce_r))
    sa.exchange.is_sent = True
    try:
        sa.exchange.on_response(sa, message)
    except ProtocolError as error:
        sa.fail_response(error)
    sa.registry.settle(sa)


# Responder.


def on_request(sa: "IkeSa", state: AwaitingAuth, message: Message) -> None:
    """The initiator's proof: find the connections it may be meant for, and have it checked."""
    auth, identity = message.first(Auth), message.first(IdInitiator)
    if identity is None:
        raise MalformedMessage("IKE_AUTH request: IDi must be there")
    if auth is None:
        raise AuthenticationFailed(f"IKE_AUTH request: {identity.identity}: EAP is not offered")
    wanted = message.first(IdResponder)
    candidates = sa.registry.candidates(identity.identity, wanted.identity if wanted else None, state.initials.suite)
    sa.step(Authorizing(state.initials, message, identity.identity, auth.method, candidates))
    _ask_about_next(sa)


def _ask_about_next(sa: "IkeSa") -> None:
    state = sa.state
    if not isinstance(state, Authorizing):
        return
    auth, identity = state.request.first(Auth), state.request.first(IdInitiator)
    if auth is None or identity is None or not state.candidates:
        wanted = state.request.first(IdResponder)
        asked = f" for {wanted.identity}" if wanted else ""
        why = "; ".join(state.refusals) or "no connection accepts it"
        raise AuthenticationFailed(f"IKE_AUTH request: {state.identity}{asked}: {why}")
    connection = state.candidates[0]
    _ask_peer_auth(sa, state.initials, connection, identity, state.request, lambda a: _on_initiator_checked(sa, a))


def _on_initiator_checked(sa: "IkeSa", answer: Answer) -> None:
    state = sa.state
    if not isinstance(state, Authorizing):
        return
    if not isinstance(answer, PeerAccepted):
        refused = f"{state.candidates[0].name}: {_refusal(answer)}"
        sa.step(replace(state, candidates=state.candidates[1:], refusals=(*state.refusals, refused)))
        _ask_about_next(sa)
        return
    sa.connection = state.candidates[0]
    sa.channel.forces_udp = sa.connection.force_encapsulation
    sa.channel.has_fragments = sa.channel.has_fragments and sa.connection.fragmentation
    sa.step(ProvingBack(state.initials, state.request, state.identity, state.method))
    identity = IdResponder(sa.connection.local_identity)
    _ask_own_auth(sa, state.initials, identity, lambda a: _on_own_auth_back(sa, a), for_peer=True)


def _on_own_auth_back(sa: "IkeSa", answer: Answer) -> None:
    state = sa.state
    if not isinstance(state, ProvingBack):
        return
    if not isinstance(answer, OwnAuth):
        raise AuthenticationFailed(f"own AUTH: {_refusal(answer)}")
    sa.step(InstallingFirst(state.peer_method))
    message = state.request
    payloads: list[Payload] = [IdResponder(connection_of(sa).local_identity), *_certificates(answer)]
    payloads.append(Auth(answer.method, answer.octets))
    initial_contact = message.notify(NotifyType.INITIAL_CONTACT) is not None
    sa.registry.authenticated(sa, state.identity, answer.method, state.peer_method, drop_older=initial_contact)
    nonces = (state.initials.nonce_i, state.initials.nonce_r)
    if message.first(SecurityAssociation) is None:
        _answer(sa, payloads, [])
        sa.registry.settle(sa)
        return
    answer_child.answer_first(sa, message, nonces, lambda extra: _answer(sa, payloads, extra))


def _answer(sa: "IkeSa", payloads: list[Payload], child: list[Payload]) -> None:
    """Send the response; what failed of the Child SA does not fail the IKE SA (RFC 7296 2.21.2)."""
    sa.step(Established())
    sa.respond(ExchangeType.IKE_AUTH, [*payloads, *child])
    sa.pump()  # what was wanted of it since it was told that it is up


# Both.


def _signed(sa: "IkeSa", initials: Initials, identity: IdInitiator | IdResponder, *, is_initiator: bool) -> Secret:
    """What the AUTH payload of that side covers (RFC 7296 2.15)."""
    if sa.keymat is None:
        raise ValueError("IKE SA: AUTH needs keys")
    if is_initiator:
        parts = (sa.keymat.sk_pi, initials.first_i, initials.nonce_r)
    else:
        parts = (sa.keymat.sk_pr, initials.first_r, initials.nonce_i)
    return signed_octets(initials.suite.prf, *parts, identity.emit())


def _ask_own_auth(
    sa: "IkeSa",
    initials: Initials,
    identity: IdInitiator | IdResponder,
    on_answer: Callable[[Answer], None],
    *,
    for_peer: bool = False,
) -> None:
    connection = connection_of(sa)
    octets = _signed(sa, initials, identity, is_initiator=sa.channel.is_initiator)
    sa.ask(
        lambda t: AskOwnAuth(
            ticket=t,
            connection=connection.name,
            identity=identity.identity,
            prf=initials.suite.prf,
            signed_octets=octets,
            peer_hashes=initials.peer_hashes,
        ),
        on_answer,
        for_peer=for_peer,
    )


def _ask_peer_auth(
    sa: "IkeSa",
    initials: Initials,
    connection: Connection,
    identity: IdInitiator | IdResponder,
    message: Message,
    on_answer: Callable[[Answer], None],
) -> None:
    auth = message.first(Auth)
    if auth is None:
        raise MalformedMessage("IKE_AUTH: AUTH must be there")
    method, proof = auth.method, auth.octets
    octets = _signed(sa, initials, identity, is_initiator=not sa.channel.is_initiator)
    certificates = tuple(Certificate(int(cert.encoding), cert.octets) for cert in message.every(Cert))
    sa.ask(
        lambda t: AskPeerAuth(
            ticket=t,
            connection=connection.name,
            identity=identity.identity,
            prf=initials.suite.prf,
            signed_octets=octets,
            method=method,
            octets=proof,
            certificates=certificates,
        ),
        on_answer,
        for_peer=not sa.channel.is_initiator,
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


def _refusal(answer: Answer) -> str:
    return answer.text if isinstance(answer, (PeerRefused, Unanswerable)) else type(answer).__name__
