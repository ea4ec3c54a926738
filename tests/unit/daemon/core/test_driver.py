"""The driver carries everything out in the order in which the core said it."""

import asyncio
import ipaddress
from collections import deque
from collections.abc import Callable, Sequence

import pytest

from openmoat.daemon.core.driver import BATCH, Driver
from openmoat.daemon.core.installer import Installer
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.host.switches import Switches
from openmoat.daemon.peers import Peers
from openmoat.daemon.status.journal import Journal
from openmoat.dataplane.backend import Acquire, Activate, Command, Remove, SaCounters, Spi
from openmoat.dataplane.memory import MemoryBackend, MemoryWire
from openmoat.dataplane.wire import Datagram
from openmoat.ike.events import (
    ActivateOutbound,
    Answer,
    AskSpis,
    DownReason,
    Event,
    IkeSaDown,
    Question,
    RemoveChildSa,
    Transmit,
)
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import parse_selectors
from unit.daemon.kit import HOME_A, Deadlines, child_sa

PATH = Path(HostPort(ipaddress.ip_address("192.0.2.1"), 500), HostPort(ipaddress.ip_address("198.51.100.7"), 500))


class Script:
    """A core whose outputs a test writes down beforehand; it notes what it hears."""

    def __init__(self, *outputs: Transmit | Question | Event) -> None:
        self.outputs: deque[Transmit | Question | Event] = deque(outputs)
        self.heard: list[object] = []
        self.deadline: float | None = None

    def handle_datagram(self, datagram: bytes, path: Path, now: float) -> None:
        self.heard.append(datagram)

    def handle_timeout(self, now: float) -> None:
        self.heard.append("timeout")
        self.deadline = None

    def handle_answer(self, answer: Answer, now: float) -> None:
        self.heard.append(answer)

    def handle_first_packet(self, local_spi: int, now: float) -> None:
        self.heard.append(("first", local_spi))

    def handle_limit(self, local_spi: int, is_hard: bool, now: float) -> None:
        self.heard.append(("limit", local_spi, is_hard))

    def handle_new_path(self, local_spi: int, path: Path, now: float) -> None:
        self.heard.append(("path", local_spi, path))

    def poll_output(self) -> Transmit | Question | Event | None:
        return self.outputs.popleft() if self.outputs else None

    def poll_timeout(self) -> float | None:
        return self.deadline


class Backend(MemoryBackend):
    """Tells its bench which pairs a batch is about."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def apply(self, commands: Sequence[Command]) -> list[SaCounters]:
        kinds = {type(command).__name__ for command in commands}
        handles = ", ".join(f"{command.handle:x}" for command in commands if isinstance(command, (Activate, Remove)))
        if handles:
            self._note(f"{kinds.pop()} of {handles}")
        return [] if handles else super().apply(commands)


class Bench:
    def __init__(self, core: Script) -> None:
        self.wire = MemoryWire()
        self.asked: list[Question] = []
        self.order: list[str] = []
        self.peers = peers = Peers(lambda: 0.0)
        policies, journal = Policies(frozenset(), peers.path_mtu), Journal(lambda: 0.0)
        switches = Switches(policies.spd, journal, lambda: 0.0)
        installer = Installer(Backend(self.note), policies, switches, peers, Deadlines().later)
        self.driver = Driver(core, self.wire, installer, self.ask, self, clock=lambda: 100.0)

    def ask(self, question: Question, _answer: object) -> None:
        self.order.append(f"{type(question).__name__} after {len(self.wire.sent)}")

    def note(self, what: str) -> None:
        self.order.append(f"{what} after {len(self.wire.sent)}")

    def put_up(self, ike: int, spi: int) -> None:
        local, remote = parse_selectors(["10.2.0.0/16"]), parse_selectors(["10.1.0.0/16"])
        self.peers.install(child_sa(spi, "home", HOME_A, local, remote, ike=ike))

    # `core.driver.Listener`

    def handle_event(self, event: Event) -> None:
        self.order.append(f"{type(event).__name__} after {len(self.wire.sent)}")

    def handle_acquire(self, acquire: Acquire) -> None:
        self.order.append(f"acquire of {acquire.policy}")

    def handle_suspicion(self, handle: Spi) -> None:
        self.order.append(f"suspicion of {handle:x}")

    def handle_black_hole(self, handle: Spi) -> None:
        self.order.append(f"black hole of {handle:x}")

    def handle_ignored_df(self, handle: Spi) -> None:
        self.order.append(f"ignored DF of {handle:x}")


def test_transmits_leave_before_the_effects_that_follow_them() -> None:
    bench = Bench(
        Script(
            Transmit(b"one", PATH),
            AskSpis(1, 4),
            Transmit(b"two", PATH),
            Transmit(b"three", PATH),
            IkeSaDown(1, "home", None, DownReason.ASKED),
        )
    )
    bench.driver.flush()
    assert bench.order == ["AskSpis after 1", "IkeSaDown after 3"]
    assert [datagram.octets for datagram in bench.wire.sent] == [b"one", b"two", b"three"]


class Echoing(Script):
    """Says for each datagram what the test has put down for it."""

    def __init__(self, said: dict[bytes, list[Transmit | Question | Event]]) -> None:
        super().__init__()
        self.said = said

    def handle_datagram(self, datagram: bytes, path: Path, now: float) -> None:
        super().handle_datagram(datagram, path, now)
        self.outputs.extend(self.said[datagram])


def of_ike_sa(ike: int) -> Transmit:
    """A datagram of the IKE SA with this SPI of ours, which is the responder's."""
    return Transmit(bytes(8) + ike.to_bytes(8, "big"), PATH)


def test_what_a_turn_sends_leaves_together_and_pairs_send_after_it() -> None:
    peers = [(ike, 16 + ike) for ike in (1, 2, 3)]
    said: dict[bytes, list[Transmit | Question | Event]] = {
        b"%d" % ike: [AskSpis(ike, 4), of_ike_sa(ike), ActivateOutbound(spi)] for ike, spi in peers
    }

    async def run() -> None:
        bench = Bench(Echoing(said))
        for ike, spi in peers:
            bench.put_up(ike, spi)
            bench.wire.deliver(Datagram(b"%d" % ike, PATH))
        bench.driver.start()
        while len(bench.wire.sent) < len(peers):
            await asyncio.sleep(0)
        bench.driver.stop()
        assert bench.order == ["AskSpis after 0"] * 3 + ["Activate of 11, 12, 13 after 3"]

    asyncio.run(run())


def test_what_one_ike_sa_says_keeps_its_order_within_a_turn() -> None:
    said: dict[bytes, list[Transmit | Question | Event]] = {
        b"1": [of_ike_sa(1), ActivateOutbound(0x11), of_ike_sa(2), of_ike_sa(1), RemoveChildSa(0x11)]
    }

    async def run() -> None:
        bench = Bench(Echoing(said))
        bench.put_up(1, 0x11)
        bench.wire.deliver(Datagram(b"1", PATH))
        bench.driver.start()
        while len(bench.wire.sent) < 3:
            await asyncio.sleep(0)
        bench.driver.stop()
        assert bench.order == ["Activate of 11 after 2", "Remove of 11 after 3"]

    asyncio.run(run())


def test_a_full_batch_of_datagrams_is_read_and_the_rest_waits_for_the_next_turn() -> None:
    async def run() -> None:
        core = Script()
        bench = Bench(core)
        for n in range(BATCH + 3):
            bench.wire.deliver(Datagram(b"%d" % n, PATH))
        bench.driver.start()
        while len(core.heard) < BATCH + 3:
            await asyncio.sleep(0)
        bench.driver.stop()
        assert core.heard == [b"%d" % n for n in range(BATCH + 3)]

    asyncio.run(run())


def test_what_a_turn_has_no_time_for_makes_no_later_turn_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmoat.daemon.core.driver.TURN_SECONDS", -1.0)  # one datagram, and the turn is over

    async def run() -> None:
        core = Script()
        bench = Bench(core)
        for n in range(2 * BATCH):
            bench.wire.deliver(Datagram(b"%d" % n, PATH))
        bench.driver.start()
        while len(core.heard) < 2 * BATCH:
            before = len(core.heard)
            await asyncio.sleep(0)
            # The end of one batch and the beginning of the next.
            assert len(core.heard) - before <= 2
        bench.driver.stop()

    asyncio.run(run())


def test_a_deadline_that_has_passed_is_a_timeout_at_once() -> None:
    async def run() -> None:
        core = Script()
        core.deadline = 99.0
        bench = Bench(core)
        bench.driver.start()
        while not core.heard:
            await asyncio.sleep(0)
        bench.driver.stop()
        assert core.heard == ["timeout"]

    asyncio.run(run())


def test_a_fault_in_one_step_is_counted_and_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Script):
        def handle_datagram(self, datagram: bytes, path: Path, now: float) -> None:
            if datagram == b"bad":
                raise ZeroDivisionError
            super().handle_datagram(datagram, path, now)

    async def run() -> None:
        core = Faulty()
        bench = Bench(core)
        for octets in (b"bad", b"good"):
            bench.wire.deliver(Datagram(octets, PATH))
        bench.driver.start()
        while not core.heard:
            await asyncio.sleep(0)
        bench.driver.stop()
        assert core.heard == [b"good"]
        assert bench.driver.faults == 1

    asyncio.run(run())
    assert "ZeroDivisionError" in caplog.text


def test_the_timer_is_set_anew_only_where_the_deadline_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        core, loop, delays = Script(), asyncio.get_running_loop(), list[float]()
        core.deadline = 105.0
        bench = Bench(core)
        later = loop.call_later

        def call_later(delay: float, act: Callable[[], None]) -> asyncio.TimerHandle:
            delays.append(delay)
            return later(delay, act)

        monkeypatch.setattr(loop, "call_later", call_later)
        bench.driver.start()
        bench.driver.flush()
        core.deadline = 103.0
        bench.driver.flush()
        assert delays == [5.0, 3.0]
        core.deadline = 100.0
        bench.driver.flush()
        while "timeout" not in core.heard:
            await asyncio.sleep(0)
        core.deadline = 100.0  # once more the same: the timer of before has fired
        bench.driver.flush()
        assert delays == [5.0, 3.0, 0.0, 0.0]
        bench.driver.stop()

    asyncio.run(run())
