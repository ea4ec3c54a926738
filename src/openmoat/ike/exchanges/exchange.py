"""What an exchange on an authenticated IKE SA is, and the steps it takes. It never writes its IKE SA, which runs the steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec

from openmoat.crypto.keymat import IkeKeymat
from openmoat.crypto.suites import IkeSuite
from openmoat.ike.errors import ProtocolError
from openmoat.ike.events import Answer, DownReason, Question, Ticket
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.session import Session
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import Payload
from openmoat.ike.wire.rules import EXCHANGES, Phase

__all__ = [
    "Again",
    "Ask",
    "Close",
    "Doing",
    "Done",
    "Exchange",
    "Failure",
    "Forget",
    "Offered",
    "Outcome",
    "PeerExchange",
    "Reply",
    "Send",
    "Step",
    "Succeed",
    "Successor",
    "Then",
    "Want",
    "Yield",
]

# What becomes of the IKE SA.


class Failure(msgspec.Struct, frozen=True):
    """Why a negotiation came to nothing; the IKE SA makes a `NegotiationFailed` of it."""

    exchange: ExchangeType
    notify: int | None
    reason: DownReason
    text: str
    notify_sent: bool = False


class Successor(msgspec.Struct, frozen=True):
    """A new IKE SA that a rekey has made, before anything is done with it (RFC 7296 2.18)."""

    spis: tuple[int, int]
    """Ours and the peer's."""
    suite: IkeSuite
    keymat: IkeKeymat
    nonces: tuple[bytes, bytes]
    is_ours: bool
    """We began the exchange."""


class Succeed(msgspec.Struct, frozen=True):
    """Our successor takes over, and this IKE SA is deleted; one that the peer has made meanwhile is left to the peer."""

    successor: Successor
    rival: int | None


class Yield(msgspec.Struct, frozen=True):
    """The successor that the peer has made takes over; ours, where there is one, is deleted (RFC 7296 2.8.2)."""

    rival: int
    successor: Successor | None = None


class Offered(msgspec.Struct, frozen=True):
    """The peer has made a successor. It takes over, unless a rekey of ours is on its way."""

    successor: Successor


class Close(msgspec.Struct, frozen=True):
    """The IKE SA is over. `tells`: by a Delete of ours; else the peer knows it."""

    reason: DownReason
    text: str = ""
    tells: bool = False
    error: ProtocolError | None = None
    """In the last response of the peer, to be told instead of a Delete where it has a notify."""


class Forget(msgspec.Struct, frozen=True):
    """The IKE SA is over, and nobody can be told."""

    reason: DownReason
    text: str


Outcome = Succeed | Yield | Offered | Close | Forget

# Steps.

Doing = Callable[[int | None], Ours]
"""What our side is at, seen from the Child SA with this SPI of ours, or from none."""
Then = Callable[[Answer], "Step"]


class Ask(msgspec.Struct, frozen=True):
    """Put a question; its answer leads to the next step."""

    question: Callable[[Ticket], Question]
    then: Then


class Send(msgspec.Struct, frozen=True):
    """Send the request. Its response goes to `Exchange.on_response`."""

    payloads: Sequence[Payload]
    is_whole: bool = False
    """In one message, whatever its size."""
    df: bool = False
    """Don't Fragment, with `is_whole`."""


class Reply(msgspec.Struct, frozen=True):
    """Send the response to the peer's request, and then go on."""

    payloads: Sequence[Payload]
    then: Callable[[], "Done"]


class Want(msgspec.Struct, frozen=True):
    """Another exchange is to follow, on the IKE SA that carries the Child SAs."""

    exchange: "Exchange"
    first: bool = True
    """Before everything else that waits."""


class Done(msgspec.Struct, frozen=True):
    """The exchange is over."""

    wants: tuple[Want, ...] = ()
    failure: Failure | None = None
    outcome: Outcome | None = None


class Again(msgspec.Struct, frozen=True):
    """The same exchange once more: at once, or after a while because the peer is busy (RFC 7296 2.25)."""

    is_busy: bool


Step = Ask | Send | Reply | Done | Again


class Exchange(ABC):
    """At most one of ours is open on an IKE SA; others wait their turn."""

    __slots__ = ("attempts", "is_sent", "theirs")

    phase: ClassVar[Phase]
    """What it is for; its response is checked by these rules."""
    delays_delete: ClassVar[bool] = False
    """An IKE SA is not deleted while it is open: what would be deleted is not known before it is over."""
    is_bounded: ClassVar[bool] = True
    """Counts against `MAX_QUEUED_EXCHANGES`. Deletes do not: there are no more of them than Child SAs."""
    moves: ClassVar[bool] = True
    """It goes to the successor of the IKE SA while it waits for its turn."""

    def __init__(self) -> None:
        self.is_sent = False
        """Whether the request has gone out. Until then the exchange may be given up without a trace. Set by the IKE SA."""
        self.attempts = 0
        """How often the peer was too busy for it. Counted by the IKE SA."""
        self.theirs: PeerExchange | None = None
        """The request of the peer that is being answered. Kept by the IKE SA."""

    @property
    def kind(self) -> ExchangeType:
        """Its exchange type."""
        return EXCHANGES[self.phase]

    @abstractmethod
    def start(self, session: Session) -> Step:
        """Begin; also once more, after `Again`."""

    @abstractmethod
    def on_response(self, session: Session, message: Message) -> Step:
        """The response came, checked by the rules."""

    def wait(self, times: int) -> float | None:
        """Seconds to wait for the response after the request went out for the `times`-th time; None: as usual."""
        return None

    def on_again(self, session: Session, times: int) -> None:  # noqa: B027  most requests stay as they are
        """The request is about to be sent for the `times`-th time, the same octets unless they are exchanged now."""

    def end(self, session: Session, reason: DownReason) -> Done:
        """The exchange will not be finished, as its IKE SA ends: give back what it holds."""
        return Done()

    def fail(self, session: Session, reason: DownReason) -> Done:
        """The response is of no use, and the IKE SA goes on."""
        return self.end(session, reason)

    def ours(self, spi: int | None) -> Ours:
        """What this exchange is in the table of collisions, seen from the Child SA with this SPI of ours."""
        return Ours.NOTHING

    def note_deleted(self, remote_spi: int) -> None:  # noqa: B027  most exchanges make no Child SA
        """The peer deletes a Child SA that we do not know: perhaps the one we make."""

    def is_same(self, other: "Exchange") -> bool:
        """Whether queueing `other` too would be pointless."""
        return False


class PeerExchange(ABC):
    """A request of the peer that we work on."""

    __slots__ = ("ours",)
    kind: ClassVar[ExchangeType]
    delays_ours: ClassVar[bool] = False
    """Exchanges of ours wait until it is answered: it decides which IKE SA they belong on."""

    def __init__(self) -> None:
        self.ours: Exchange | None = None
        """Our own open exchange. Kept by the IKE SA."""

    @abstractmethod
    def start(self, session: Session, doing: Doing) -> Step:
        """Begin to work on it."""

    def rival(self, name: str, replaces: int | None) -> tuple[bytes, bytes] | None:
        """Nonces of this exchange, where it makes the same Child SA as an exchange of ours."""
        return None

    def lose(self, name: str, replaces: int | None) -> None:  # noqa: B027  most make no Child SA
        """An exchange of ours for the same Child SA was through first, and has won."""

    def end(self, session: Session) -> None:  # noqa: B027  most hold nothing
        """There will be no response: give back what it holds."""
