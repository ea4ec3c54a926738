"""Message IDs, retransmission and kept responses of one IKE SA (RFC 7296 2.1 to 2.3), with a window of one."""

from dataclasses import dataclass
from enum import Enum, auto

from openmoat.ike.wire.numbers import ExchangeType
from openmoat.net import Path

__all__ = ["MAX_MESSAGE_ID", "Arrival", "KeptResponse", "RetransmissionSchedule", "SentRequest", "Window"]

MAX_MESSAGE_ID = 2**32 - 1
"""An IKE SA whose next request would go beyond is closed (RFC 7296 2.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetransmissionSchedule:
    """When an unanswered request is sent again, and when the peer counts as silent. Times in seconds.

    With the defaults a request goes out 8 times within 15.9 s and is given up after 24.6 s: a lossy line (30 % each way)
    fails one exchange in two hundred, and a peer that was restarted is found out within a minute.
    """

    first: float = 0.5
    factor: float = 1.5
    """RFC 7296 2.4: the times MUST increase exponentially."""
    tries: int = 8
    """Times a request is sent in all."""

    def __post_init__(self) -> None:
        if self.first <= 0 or self.factor <= 1 or self.tries < 1:
            raise ValueError(f"retransmission: times must grow from above 0, {self} does not")

    def wait(self, sent: int) -> float:
        """How long to wait for the response after a request was sent `sent` times."""
        return self.first * self.factor ** (sent - 1)

    @property
    def total(self) -> float:
        """After how long a request is given up."""
        return sum(self.wait(sent) for sent in range(1, self.tries + 1))


@dataclass(slots=True)
class SentRequest:
    """Our open request: kept as it was sent, bit by bit, until its response comes (RFC 7296 2.1)."""

    message_id: int
    exchange: ExchangeType
    datagrams: tuple[bytes, ...]
    """One message, or its fragments (RFC 7383)."""
    df: bool = False
    """Don't Fragment, where the size of its datagrams is what is asked (RFC 7383 2.5.2)."""
    sent: int = 1


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """Our last response: sent again when its request comes again, until the next request comes."""

    message_id: int
    datagrams: tuple[bytes, ...]


class Arrival(Enum):
    """What a request is by its Message ID."""

    NEW = auto()
    BUSY = auto()
    """The one we are working on has come again: its answer will come by itself."""
    REPEATED = auto()
    """Answered before; the kept response goes out again."""
    STALE = auto()
    """Older than the kept response: MUST be ignored (RFC 7296 2.1)."""
    AHEAD = auto()
    """Beyond the window of one."""


class Window:
    """Both directions of one IKE SA. It knows numbers and octets, not what the messages say."""

    __slots__ = ("_answering", "expected_id", "kept", "next_id", "sent")

    def __init__(self) -> None:
        self.next_id = 0
        self.expected_id = 0
        self.sent: SentRequest | None = None
        self.kept: KeptResponse | None = None
        self._answering: Path | None = None

    # Our requests.

    @property
    def is_open(self) -> bool:
        """Whether a request of ours may be sent now."""
        return self.sent is None and self.next_id <= MAX_MESSAGE_ID

    @property
    def is_used_up(self) -> bool:
        """Whether no further request of ours can ever be sent, a Delete neither."""
        return self.sent is None and self.next_id > MAX_MESSAGE_ID

    def send(self, exchange: ExchangeType, datagrams: tuple[bytes, ...], *, df: bool = False) -> SentRequest:
        """Keep our request, whose Message ID is `next_id`."""
        if not self.is_open:
            raise ValueError(f"window: request {self.next_id} must wait for the one before it")
        self.sent = SentRequest(self.next_id, exchange, datagrams, df)
        return self.sent

    def replace(self, datagrams: tuple[bytes, ...]) -> SentRequest:
        """Exchange the open request for another with the same Message ID: IKE_SA_INIT again (RFC 7296 2.2)."""
        if self.sent is None:
            raise ValueError("window: there is no request to replace")
        self.sent = SentRequest(self.sent.message_id, self.sent.exchange, datagrams)
        return self.sent

    def is_response_expected(self, message_id: int, exchange: ExchangeType) -> bool:
        """Whether a response answers our open request."""
        sent = self.sent
        return sent is not None and sent.message_id == message_id and sent.exchange is exchange

    def complete(self) -> None:
        """The response to our open request was accepted."""
        if self.sent is None:
            raise ValueError("window: no request is open")
        self.next_id = self.sent.message_id + 1
        self.sent = None

    def restart(self) -> None:
        """Nothing has come of IKE_SA_INIT: forget the open request, and begin again with the first Message ID."""
        self.sent = None
        self.next_id = 0

    # The peer's requests.

    def classify(self, message_id: int) -> Arrival:
        """What to do with a request. Nothing moves before it has been authenticated and `accept` is called."""
        if message_id == self.expected_id:
            return Arrival.BUSY if self._answering else Arrival.NEW
        if self.kept is not None and message_id == self.kept.message_id:
            return Arrival.REPEATED
        return Arrival.STALE if message_id < self.expected_id else Arrival.AHEAD

    def accept(self, path: Path) -> None:
        """Begin to work on the request `expected_id`; its response goes back on `path` (RFC 7296 2.11)."""
        if self._answering:
            raise ValueError(f"window: request {self.expected_id} is being answered")
        self._answering = path

    def answer(self, datagrams: tuple[bytes, ...]) -> Path:
        """Keep our response to the accepted request and forget the one before; gives the path it goes out on."""
        if self._answering is None:
            raise ValueError("window: no request waits for a response")
        path, self._answering = self._answering, None
        self.kept = KeptResponse(self.expected_id, datagrams)
        self.expected_id += 1
        return path

    def abandon_answer(self) -> None:
        """Give the accepted request no response, as if it had not come."""
        self._answering = None
