"""What answers to our questions, and error notifies of the peer, mean for an exchange."""

from openmoat.ike.errors import Busy, PeerMisbehaved, ProtocolError
from openmoat.ike.events import (
    Answer,
    DownReason,
    PeerRefused,
    Refused,
    Unanswerable,
    WeakPublicValue,
)
from openmoat.ike.wire.numbers import NotifyType

__all__ = ["reason_of_notify", "refusal_text", "secret_error"]


def refusal_text(answer: Answer) -> str:
    """Why a question was not answered as hoped."""
    if isinstance(answer, (PeerRefused, Refused, Unanswerable, WeakPublicValue)):
        return answer.text
    return f"answered with {type(answer).__name__}"


def secret_error(answer: Answer) -> ProtocolError:
    """Why a request is refused for want of a shared secret: the peer's value is no good, or we cannot compute it now."""
    text = f"key exchange: {refusal_text(answer)}"
    return PeerMisbehaved(text) if isinstance(answer, WeakPublicValue) else Busy(text)


def reason_of_notify(kind: NotifyType) -> DownReason:
    """What an error notify of the peer means for an SA."""
    common = {NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.TS_UNACCEPTABLE, NotifyType.INVALID_KE_PAYLOAD}
    return DownReason.NO_COMMON_GROUND if kind in common else DownReason.REFUSED
