"""How far an error reaches, decided in one place (RFC 7296 2.21)."""

from enum import Enum, auto

from openmoat.ike.errors import AuthenticationFailed, MalformedMessage, NoCommonGround, PeerMisbehaved, ProtocolError
from openmoat.ike.events import DownReason
from openmoat.ike.wire.numbers import ExchangeType

__all__ = ["Scope", "reason_of", "scope_of"]


class Scope(Enum):
    """What becomes of the message, the exchange and the IKE SA."""

    DROP = auto()
    """As if the message had not come."""
    ANSWER = auto()
    """The exchange fails, a request is answered with the error's notify; the IKE SA goes on."""
    CLOSE = auto()
    """A request is answered; the IKE SA is gone on both sides without a Delete."""
    DELETE = auto()
    """The IKE SA is deleted by an exchange of ours: the peer cannot know that it is gone."""


def scope_of(error: ProtocolError, exchange: ExchangeType, *, is_response: bool) -> Scope:
    """Where `error` ends up that a message of this kind brought about; the message was authenticated, if it can be."""
    is_fatal = isinstance(error, (MalformedMessage, PeerMisbehaved, AuthenticationFailed))
    if exchange is ExchangeType.IKE_SA_INIT:
        # 2.21.1: nothing is authenticated yet. A response may be forged, so it is as if it had not come.
        return Scope.DROP if is_response else Scope.ANSWER
    if exchange is ExchangeType.IKE_AUTH:
        # 2.21.2: these three end the IKE SA; others fail the Child SA only. Our verdict on a response is news to the peer.
        if not is_fatal:
            return Scope.ANSWER
        return Scope.DELETE if is_response else Scope.CLOSE
    # 2.21.3: INVALID_SYNTAX ends an established IKE SA without Delete, UNSUPPORTED_CRITICAL_PAYLOAD only the exchange.
    if isinstance(error, (MalformedMessage, PeerMisbehaved)) and error.notify is MalformedMessage.notify:
        return Scope.DELETE if is_response else Scope.CLOSE
    return Scope.ANSWER


_REASONS: tuple[tuple[type[ProtocolError], DownReason], ...] = (
    (AuthenticationFailed, DownReason.AUTHENTICATION_FAILED),
    (NoCommonGround, DownReason.NO_COMMON_GROUND),
    (MalformedMessage, DownReason.PEER_MISBEHAVED),
    (PeerMisbehaved, DownReason.PEER_MISBEHAVED),
)


def reason_of(error: ProtocolError) -> DownReason:
    """The word of the journal for an error."""
    return next((reason for family, reason in _REASONS if isinstance(error, family)), DownReason.REFUSED)
