import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmoat.daemon.watchdog import Watchdog


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def test_a_state_reaches_the_socket_that_the_environment_names(listener: socket.socket) -> None:
    assert Watchdog({"NOTIFY_SOCKET": listener.getsockname()}).tell("READY=1")
    assert listener.recv(100) == b"READY=1"


def test_an_abstract_socket_is_written_with_an_at() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0openmoat-test-{os.getpid()}")
        sock.settimeout(5)
        assert Watchdog({"NOTIFY_SOCKET": f"@openmoat-test-{os.getpid()}"}).tell("STOPPING=1")
        assert sock.recv(100) == b"STOPPING=1"


def test_without_a_socket_or_a_listener_it_is_silent(tmp_path: Path) -> None:
    assert not Watchdog({}).tell("READY=1")
    assert not Watchdog({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).tell("READY=1")


def test_signs_of_life_come_twice_in_the_time_allowed(listener: socket.socket) -> None:
    watchdog = Watchdog({"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "20000"})
    assert watchdog.interval == 0.01

    async def run() -> None:
        listener.setblocking(False)
        task = asyncio.create_task(watchdog.run())
        loop = asyncio.get_running_loop()
        assert [await loop.sock_recv(listener, 100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        task.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "a lot"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}]
)
def test_signs_of_life_are_sent_only_where_they_are_wanted_of_us(environment: dict[str, str]) -> None:
    watchdog = Watchdog(environment)
    assert watchdog.interval == 0
    asyncio.run(watchdog.run())
