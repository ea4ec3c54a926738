"""The shell round one `Endpoint`: datagrams, timers, answers and backend news in; transmits, questions and effects out.

Everything the core says leaves it in one ordered queue, and is carried out here in that order. Nothing here decides.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVarTuple, get_args

from openmoat.daemon.core.installer import Installer
from openmoat.dataplane.backend import Acquire, BackendEvent, SaFlag, SaState, Spi
from openmoat.dataplane.wire import Datagram, Wire
from openmoat.ike.events import (
    ActivateOutbound,
    Answer,
    Event,
    PeerMoved,
    Question,
    RemoveChildSa,
    StopOutbound,
    Transmit,
)
from openmoat.net import Path

__all__ = ["BATCH", "LONGEST_SLEEP", "TURN_SECONDS", "Asked", "Core", "Driver", "Listener", "boottime"]

BATCH = 64
"""Datagrams or backend events handled in one turn of the loop."""
TURN_SECONDS = 0.005
"""A turn ends after so long, whatever waits; the rest goes on in the next one."""
LONGEST_SLEEP = 30.0
"""The loop's clock stands still while the machine sleeps; so long after waking at most, SAs have aged."""

log = logging.getLogger("openmoat.daemon.core.driver")

Arguments = TypeVarTuple("Arguments")
QUESTIONS = frozenset(get_args(Question))
SILENT = frozenset({*QUESTIONS, ActivateOutbound, StopOutbound, RemoveChildSa})
"""Outputs that are no news."""
EFFECTS = frozenset({StopOutbound, RemoveChildSa, PeerMoved})
"""What must find all that was said before it carried out."""

Asked = Callable[[Question, Callable[[Answer], None]], None]
"""Answers a question: calls back with the answer, at once or later in the same thread."""


def boottime() -> float:
    """Seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Core(Protocol):
    """What the driver needs of `ike.endpoint.Endpoint`."""

    def handle_datagram(self, datagram: bytes, path: Path, now: float) -> None:
        """One IKE message came by this path."""
        ...

    def handle_timeout(self, now: float) -> None:
        """The deadline of `poll_timeout` has passed."""
        ...

    def handle_answer(self, answer: Answer, now: float) -> None:
        """An answer to one of its questions."""
        ...

    def handle_first_packet(self, local_spi: int, now: float) -> None:
        """An authenticated packet came in on a Child SA."""
        ...

    def handle_limit(self, local_spi: int, is_hard: bool, now: float) -> None:
        """A Child SA has carried as much as it should, or as much as it may."""
        ...

    def handle_new_path(self, local_spi: int, path: Path, now: float) -> None:
        """Authenticated packets of a Child SA come from elsewhere."""
        ...

    def poll_output(self) -> Transmit | Question | Event | None:
        """The next thing to carry out; None when there is none."""
        ...

    def poll_timeout(self) -> float | None:
        """When to call `handle_timeout`, by the clock of `now`; None is never."""
        ...


class Listener(Protocol):
    """Follows what the core tells and what the backend notices: `daemon.distribution.Distribution`."""

    def handle_event(self, event: Event) -> None:
        """The core tells news."""
        ...

    def handle_acquire(self, acquire: Acquire) -> None:
        """A packet met a trapping policy that no SA serves."""
        ...

    def handle_suspicion(self, handle: Spi) -> None:
        """Large packets of a pair seem to be lost."""
        ...

    def handle_black_hole(self, handle: Spi) -> None:
        """The peer of a pair gets small packets, and none as large as possible."""
        ...

    def handle_ignored_df(self, handle: Spi) -> None:
        """A pair fragments packets although their senders forbid it."""
        ...


class Driver:
    """Joins an `Endpoint` to its wire, its backend and what answers its questions. Lives in one event loop."""

    def __init__(
        self,
        endpoint: Core,
        wire: Wire,
        installer: Installer,
        ask: Asked,
        listener: Listener,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.endpoint = endpoint
        self.clock = clock
        self._wire = wire
        self._installer = installer
        self._ask = ask
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0
        """By our clock: what the timer was set for."""
        self._waiting: deque[Datagram] = deque()
        self._transmits: list[Datagram] = []
        self._activations: list[ActivateOutbound] = []
        """Pairs that can send, once the peer knows of them."""
        self._starting: set[int] = set()
        """SPIs of ours of the IKE SAs that carry them."""
        self._is_carrying_out = False
        self._gathers = False
        """Datagrams leave together at the end of a turn, not one by one: a call for each would wake a peer for each."""
        self._goes_on = False
        """Datagrams wait for a next turn that is already asked for."""
        questions: dict[type, Callable[[Any], None]] = dict.fromkeys(
            QUESTIONS, lambda question: ask(question, self.answer)
        )
        self._effects: Mapping[type, Callable[[Any], None]] = {
            **questions,
            ActivateOutbound: self._activate,
            StopOutbound: installer.stop,
            RemoveChildSa: installer.remove,
            PeerMoved: installer.move,
        }
        """What is to be done about an output; where nothing is, it is only told."""
        self.faults = 0
        """Exceptions that should not have been; each is in the log with its traceback."""

    def start(self) -> None:
        """Begin to listen; the running loop is ours from here on."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._wire.fileno(), self.wire_readable)
        self._loop.add_reader(self._installer.fileno(), self.backend_readable)
        self.flush()

    def stop(self) -> None:
        """Listen no more; what is still queued in the core stays there."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._wire.fileno())
        self._loop.remove_reader(self._installer.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None

    def wire_readable(self) -> None:
        """Handle up to a batch of datagrams, or as many as a turn has time for."""
        # While some wait, the wire is readable as well: without this one turn would do the work of several.
        if not self._goes_on:
            self._handle_datagrams()

    def _go_on(self) -> None:
        self._goes_on = False
        if self._loop is not None:
            self._handle_datagrams()

    def _handle_datagrams(self) -> None:
        began = time.monotonic()
        if not self._waiting:
            self._waiting.extend(self._wire.receive_batch(BATCH))
        self._gathers = True
        while self._waiting:
            datagram = self._waiting.popleft()
            self._guarded(self.endpoint.handle_datagram, datagram.octets, datagram.path, self.clock())
            self._carry_out_all()
            if time.monotonic() - began > TURN_SECONDS:
                break
        self._gathers = False
        self.flush()
        if self._waiting and self._loop is not None:
            self._goes_on = True
            self._loop.call_soon(self._go_on)

    def backend_readable(self) -> None:
        """Handle up to a batch of what the backend has noticed."""
        for event in self._installer.drain(BATCH):
            self._guarded(self._handle_backend_event, event)
        self.flush()

    def answer(self, answer: Answer) -> None:
        """Hand an answer that came later to the core."""
        self._guarded(self.endpoint.handle_answer, answer, self.clock())
        self.flush()

    def flush(self) -> None:
        """Carry out everything the core has to say, in its order, and set the one timer."""
        if self._is_carrying_out:
            return
        self._carry_out_all()
        self._finish()
        self._set_timer()

    def _carry_out_all(self) -> None:
        """Carry out everything the core has to say, but for what waits for `_finish`."""
        self._is_carrying_out = True
        try:
            while (output := self.endpoint.poll_output()) is not None:
                self._guarded(self._carry_out, output)
        finally:
            self._is_carrying_out = False

    def _carry_out(self, output: Transmit | Question | Event) -> None:
        kind = type(output)
        if kind is Transmit:
            self._transmit(output)  # type: ignore[arg-type]
            return
        if not self._gathers or kind in EFFECTS:
            self._finish()
        effect = self._effects.get(kind)
        if effect is not None:
            effect(output)
        if kind not in SILENT:
            self._listener.handle_event(output)  # type: ignore[arg-type]

    def _transmit(self, output: Transmit) -> None:
        if self._activations and not self._starting.isdisjoint(_spis_of(output.octets)):
            self._finish()  # what one IKE SA says keeps its order
        self._transmits.append(Datagram(output.octets, output.path, output.df, output.dscp))

    def _activate(self, event: ActivateOutbound) -> None:
        self._activations.append(event)
        self._starting.add(self._installer.carrier(event.local_spi))
        if not self._gathers:
            self._finish()

    def _finish(self) -> None:
        """Send what waits to be sent; after it let pairs send, whose peers have to hear of them first."""
        if self._transmits:
            transmits, self._transmits = self._transmits, []
            self._guarded(self._wire.send_batch, transmits)
        if self._activations:
            activations, self._activations = self._activations, []
            self._starting.clear()
            self._guarded(self._installer.activate, *activations)

    def _handle_backend_event(self, event: BackendEvent) -> None:
        now = self.clock()
        match event:
            case SaState(handle=handle, flags=flags, path=path):
                if SaFlag.FIRST_PACKET in flags:
                    self.endpoint.handle_first_packet(handle, now)
                if flags & (SaFlag.SOFT_LIMIT | SaFlag.HARD_LIMIT):
                    self.endpoint.handle_limit(handle, SaFlag.HARD_LIMIT in flags, now)
                if SaFlag.NEW_PATH in flags and path is not None:
                    self.endpoint.handle_new_path(handle, path, now)
                if SaFlag.SUSPECT in flags:
                    self._listener.handle_suspicion(handle)
                if SaFlag.BLACK_HOLE in flags:
                    self._listener.handle_black_hole(handle)
                if SaFlag.DF_IGNORED in flags:
                    self._listener.handle_ignored_df(handle)
            case Acquire():
                self._listener.handle_acquire(event)

    def _set_timer(self) -> None:
        if self._loop is None:
            return
        deadline = self.endpoint.poll_timeout()
        if deadline is None:
            return
        # The loop's timer may fire too early, and is set again then: most deadlines only ever move away.
        if self._timer is not None:
            if self._fires_at <= deadline:
                return
            self._timer.cancel()
        now = self.clock()
        delay = min(max(0.0, deadline - now), LONGEST_SLEEP)
        self._fires_at = now + delay
        self._timer = self._loop.call_later(delay, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        self._guarded(self.endpoint.handle_timeout, self.clock())
        self.flush()

    def _guarded(self, step: Callable[[*Arguments], object], *args: *Arguments) -> None:
        """One step for one peer: whatever goes wrong in it is logged with its traceback, and ends nothing else.

        Where it goes wrong in the core, the core has ended the IKE SA whose step it was, and says so by an event.
        """
        try:
            step(*args)
        except Exception:
            self.faults += 1
            log.exception("an error in moatd; the IKE SA in whose work it came up is ended and negotiated again")


def _spis_of(message: bytes) -> tuple[int, int]:
    """Both SPIs of an IKE message, one of which is ours (RFC 7296 3.1)."""
    return int.from_bytes(message[:8], "big"), int.from_bytes(message[8:16], "big")
