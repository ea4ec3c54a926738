"""What the IKE SAs of one `Endpoint` share: time, randomness, the ordered queue, timers, tickets, SPIs and counts."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import IntEnum, auto
from typing import Protocol, TypeVar

from openmoat.ike.config import Count, IkeConfig
from openmoat.ike.errors import MalformedMessage, ProtocolError
from openmoat.ike.events import Answer, AskSpis, Event, Question, Spis, Ticket, Transmit, Unanswerable
from openmoat.ike.news import ChildFailed, ChildInstalled, HandshakeDone, News
from openmoat.ike.timers import Timers
from openmoat.net import Path

__all__ = ["Context", "Output", "Subject", "Timer", "TimerKey"]

Output = Transmit | Question | Event
Asked = TypeVar("Asked", bound=Question)


class Timer(IntEnum):
    """Kinds of timer; with an SPI or a name they are the keys of `Context.timers`."""

    RETRANSMIT = auto()
    HANDSHAKE = auto()
    """An IKE SA that is not established by then is given up, in both roles."""
    REFUSAL = auto()
    """No better response has come after an unauthenticated refusal (RFC 7296 2.21.1)."""
    QUESTION = auto()
    """A question that is not answered by then counts as one that cannot be answered."""
    REKEY_IKE = auto()
    HARD_IKE = auto()
    LIVENESS = auto()
    RESUME = auto()
    """Queued exchanges that had to wait go on (RFC 7296 2.25: a TEMPORARY_FAILURE MUST NOT be retried at once)."""
    LINGER = auto()
    """What is left of a closed or replaced IKE SA is forgotten."""
    REKEY_CHILD = auto()
    HARD_CHILD = auto()
    KEEP_UP = auto()
    """A connection is looked after: what it wants and does not have is negotiated."""


TimerKey = tuple[Timer, int | str]


class Subject(Protocol):
    """What is being worked on: an IKE SA, or a connection."""

    def break_off(self) -> None:
        """A handler of it has raised an exception that is no `ProtocolError`: end it, and nothing else."""
        ...


class Context:
    """Shared by all IKE SAs of an `Endpoint`. Nothing here blocks."""

    __slots__ = ("_handlers", "_is_asking_spis", "_next_ticket", "_spis", "config", "counts", "news", "now", "outputs", "random", "subject", "timers")  # fmt: skip

    def __init__(self, config: IkeConfig, random: Callable[[int], bytes]) -> None:
        self.config = config
        self.random = random
        self.now = 0.0
        self.outputs: deque[Output] = deque()
        self.news: deque[News] = deque()
        """What `Upkeep` has yet to handle."""
        self.timers: Timers[TimerKey] = Timers()
        self.counts: Counter[Count] = Counter()
        self._handlers: dict[Ticket, Callable[[Answer], None]] = {}
        self._next_ticket = 1
        self._spis: deque[int] = deque()
        self._is_asking_spis = False
        self.subject: Subject | None = None
        """What an exception ends that comes up now; None while nothing is known to be authentic."""

    def emit(self, output: Output) -> None:
        """Put it at the end of the one ordered queue."""
        self.outputs.append(output)

    def report(self, news: News) -> None:
        """Emit an event that `Upkeep` handles, too, at the end of this call."""
        self.news.append(news)
        if not isinstance(news, (ChildInstalled, ChildFailed, HandshakeDone)):
            self.outputs.append(news)

    def transmit_all(self, datagrams: Sequence[bytes], path: Path, *, df: bool = False) -> None:
        """One message, or its fragments."""
        for octets in datagrams:
            self.outputs.append(Transmit(octets, path, df))

    def count_malformed(self, error: ProtocolError) -> None:
        """Count what an authenticated peer has written against the grammar, as it is counted of an unknown peer."""
        if isinstance(error, MalformedMessage):
            self.counts[Count.MALFORMED] += 1

    def random_fraction(self) -> float:
        """A random number from 0 up to, not including, 1."""
        return int.from_bytes(self.random(4), "big") / 2**32

    # Questions.

    def ask(self, make: Callable[[Ticket], Question], on_answer: Callable[[Answer], None]) -> Ticket:
        """Emit the question that `make` builds for a fresh ticket; its answer goes to `on_answer`, once.

        Without an answer after `IkeConfig.question_life` seconds it is `Unanswerable`.
        """
        ticket = self._next_ticket
        self._next_ticket += 1
        self._handlers[ticket] = on_answer
        self.timers.set((Timer.QUESTION, ticket), self.now + self.config.question_life)
        self.emit(make(ticket))
        return ticket

    def forget(self, ticket: Ticket | None) -> None:
        """Nobody waits for this answer any more."""
        if ticket is not None:
            self._handlers.pop(ticket, None)
            self.timers.stop((Timer.QUESTION, ticket))

    def give_up(self, ticket: Ticket) -> None:
        """No answer has come in time."""
        self.deliver(Unanswerable(ticket, f"no answer within {self.config.question_life:g} s"))

    @property
    def open_questions(self) -> int:
        """Questions that wait for an answer."""
        return len(self._handlers)

    def deliver(self, answer: Answer) -> None:
        """Hand the answer to its handler; one that comes too late, or twice, is counted."""
        handler = self._handlers.pop(answer.ticket, None)
        if handler is None:
            self.counts[Count.LATE_ANSWER] += 1
        else:
            self.timers.stop((Timer.QUESTION, answer.ticket))
            handler(answer)

    # Inbound ESP SPIs.

    def refill_spis(self) -> None:
        """Ask for more where the stock has run down to half."""
        if self._is_asking_spis or len(self._spis) > self.config.spi_stock // 2:
            return
        self._is_asking_spis = True
        count = self.config.spi_stock - len(self._spis)
        self.ask(lambda ticket: AskSpis(ticket, count), self._on_spis)

    def _on_spis(self, answer: Answer) -> None:
        self._is_asking_spis = False
        if isinstance(answer, Spis):
            self._spis.extend(answer.spis)

    def take_spi(self) -> int | None:
        """A reserved SPI for a new Child SA; None where the stock is empty."""
        spi = self._spis.popleft() if self._spis else None
        if spi is None:
            self.counts[Count.SPI_STOCK_EMPTY] += 1
        self.refill_spis()
        return spi

    def return_spi(self, spi: int) -> None:
        """Take back an SPI under which nothing was installed; it is used again after all others."""
        self._spis.append(spi)
