"""The `ProtocolError` family: whose fault it is, and which notify tells the peer.

How far an error reaches (drop, answer, fail the Child SA, delete the IKE SA) belongs to the exchange, not to the class
(RFC 7296 2.21).
"""

from typing import ClassVar

from openmoat.errors import MoatError
from openmoat.ike.wire.numbers import NotifyType

__all__ = [
    "AuthenticationFailed",
    "Busy",
    "Declined",
    "MalformedMessage",
    "NoAdditionalSas",
    "NoCommonGround",
    "NoCommonProposal",
    "NoCommonSelectors",
    "PeerMisbehaved",
    "ProtocolError",
    "UnsupportedCriticalPayload",
    "UnsupportedVersion",
    "WrongKeyExchange",
]


class ProtocolError(MoatError):
    """A message, or what it asks for, cannot be accepted."""

    notify: ClassVar[NotifyType | None] = None
    """Error notify to send where the exchange answers at all; None: drop silently."""

    def __init__(self, text: str, data: bytes = b"") -> None:
        self.data = data
        """Notification data that goes with `notify`."""
        super().__init__(text)


class MalformedMessage(ProtocolError):
    """Octets do not follow the grammar of RFC 7296 3, or exceed a named bound."""

    notify = NotifyType.INVALID_SYNTAX


class UnsupportedVersion(MalformedMessage):
    """The major version is not 2 (RFC 7296 2.5). Answered only where the version is higher."""

    notify = NotifyType.INVALID_MAJOR_VERSION


class UnsupportedCriticalPayload(MalformedMessage):
    """An unknown payload has its critical bit set (RFC 7296 2.5); the data is its type, one octet."""

    notify = NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD


class PeerMisbehaved(ProtocolError):
    """A well-formed message says what it must not say, or not now."""

    notify = NotifyType.INVALID_SYNTAX


class AuthenticationFailed(ProtocolError):
    """The peer did not prove its identity, or we do not know it (RFC 7296 2.21.2)."""

    notify = NotifyType.AUTHENTICATION_FAILED


class NoCommonGround(ProtocolError):
    """Both sides are in order, and share nothing that would do."""


class NoCommonProposal(NoCommonGround):
    """No proposal of the peer is acceptable to us."""

    notify = NotifyType.NO_PROPOSAL_CHOSEN


class NoCommonSelectors(NoCommonGround):
    """The intersection of traffic selectors is empty (RFC 7296 2.9)."""

    notify = NotifyType.TS_UNACCEPTABLE


class WrongKeyExchange(NoCommonGround):
    """The KE payload is of another method than the one chosen; the data is ours, two octets (RFC 7296 1.2, 1.3)."""

    notify = NotifyType.INVALID_KE_PAYLOAD


class Declined(ProtocolError):
    """A request in order that we do not carry out now."""


class Busy(Declined):
    """It collides with another exchange; the peer may try again (RFC 7296 2.25)."""

    notify = NotifyType.TEMPORARY_FAILURE


class NoAdditionalSas(Declined):
    """The IKE SA takes no further Child SAs (RFC 7296 1.3)."""

    notify = NotifyType.NO_ADDITIONAL_SAS
