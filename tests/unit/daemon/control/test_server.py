"""The control socket, asked by its own client and by callers who send anything at all."""

import asyncio
import contextlib
import grp
import ipaddress
import json
import logging
import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from openmoat.control.client import MAX_LOG, Client
from openmoat.control.messages import Access, Connections, ConnectionState, ConnectionStatus, ErrorCode
from openmoat.daemon.control.access import (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_USER,
    RESERVED,
    Caller,
    Policy,
    open_socket,
)
from openmoat.daemon.control.http import MAX_REQUEST
from openmoat.daemon.control.routes import MAX_DIGITS, SLICE_SECONDS, Listing
from openmoat.daemon.main import Daemon
from openmoat.daemon.status.journal import MAX_ENTRIES
from openmoat.daemon.status.reports import MAX_UNKNOWN_PEERS
from openmoat.errors import ControlError, SystemFault
from openmoat.ike.events import DownReason, NegotiationFailed
from openmoat.net import HostPort
from openmoat.net import Path as OuterPath
from unit.daemon.control.serving import answer_to, ask


def test_the_client_reads_what_the_server_writes(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        status = await asyncio.to_thread(client.status)
        assert status.configuration == str(tmp_path / "moat.toml")
        assert [row.name for row in status.connections] == ["cabin"]
        assert [row.name for row in (await asyncio.to_thread(client.connections)).connections] == ["cabin"]
        row = await asyncio.to_thread(client.connection, "cabin")
        assert (row.state, row.local, row.remote) == (ConnectionState.WAITING, "gate.example", "cabin.example")
        assert (await asyncio.to_thread(client.log)).entries[-1].kind == "started"
        assert (await asyncio.to_thread(client.version)).version

    ask(tmp_path, test)


def test_a_long_answer_lets_everything_else_have_its_turn() -> None:
    row = ConnectionStatus(
        name="cabin", state=ConnectionState.UP, since=0.0, start="auto", local="gate.example", remote="cabin.example"
    )
    row_seconds, count, turns = 0.001, 100, []

    def rows() -> Iterator[ConnectionStatus]:
        for _ in range(count):
            until = time.thread_time() + row_seconds
            while time.thread_time() < until:
                pass
            yield row

    async def others() -> None:
        while True:
            turns.append(time.thread_time())
            await asyncio.sleep(0)

    async def run() -> None:
        beside = asyncio.create_task(others())
        await asyncio.sleep(0)
        body = b"".join([piece async for piece in Listing(Connections(), rows()).slices()])
        beside.cancel()
        assert len(json.loads(body)["connections"]) == count
        held = [after - before for before, after in pairwise(turns)]
        assert len(turns) >= count * row_seconds / (2 * SLICE_SECONDS)
        assert max(held) < 10 * SLICE_SECONDS

    asyncio.run(run())


def test_an_unknown_connection_is_refused_with_a_near_name(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        with pytest.raises(ControlError) as caught:
            await asyncio.to_thread(client.up, "cabbin")
        assert (caught.value.code, caught.value.hint) == (ErrorCode.UNKNOWN_CONNECTION, "moat connections")
        assert str(caught.value) == 'no connection "cabbin". Did you mean "cabin"?'

    ask(tmp_path, test)


def test_a_reload_with_faults_tells_them_all(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        (tmp_path / "moat.toml").write_text("[connections.cabin]\nwrong = 1\nworse = 2\n")
        with pytest.raises(ControlError) as caught:
            await asyncio.to_thread(client.reload)
        assert caught.value.code == ErrorCode.CONFIGURATION
        assert "wrong" in str(caught.value)
        assert "worse" in str(caught.value)

    ask(tmp_path, test)


def test_events_reach_those_who_follow(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        def first() -> str:
            for entry in client.events():
                return entry.kind
            return ""

        heard = asyncio.create_task(asyncio.to_thread(first))
        number = 0
        while not heard.done():
            number += 1
            one.journal.note("test", 20, f"number {number}")
            await asyncio.sleep(0.005)
        assert await heard == "test"

    ask(tmp_path, test)


@pytest.mark.parametrize(
    ("caller", "access", "is_allowed"),
    [
        (Caller(0, frozenset()), "change", True),
        (Caller(4711, frozenset()), "read", False),
        (Caller(4711, frozenset({77})), "change", True),
        (Caller(4711, frozenset({77})), "read", True),
        (Caller(4711, frozenset({88})), "read", True),
        (Caller(4711, frozenset({88})), "change", False),
    ],
)
def test_reading_and_changing_are_permitted_apart(caller: Caller, access: str, is_allowed: bool) -> None:
    policy = Policy(changers=frozenset({77}), readers=frozenset({88}))
    if is_allowed:
        policy.check(caller, Access(access))
        return
    with pytest.raises(ControlError, match="may not"):
        policy.check(caller, Access(access))


def test_any_octets_are_answered_or_cut_off_and_the_next_caller_is_served(tmp_path: Path) -> None:
    chance = random.Random(1)  # noqa: S311  (a seed makes a failure happen again)
    seeds = [b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", b"POST /v1/reload HTTP/1.1\r\ncontent-length: 5\r\n\r\nab"]

    async def test(one: Daemon, client: Client) -> None:
        for number in range(150):
            octets = bytearray(chance.choice(seeds)) if number % 3 else bytearray(chance.randbytes(200))
            for _ in range(chance.randint(0, 6)):
                octets[chance.randrange(len(octets))] = chance.randrange(256)
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
            writer.write(bytes(octets[: chance.randint(1, len(octets))]))
            writer.write_eof()
            await asyncio.wait_for(reader.read(100), 5)
            writer.close()
        assert (await asyncio.to_thread(client.status)).connections

    ask(tmp_path, test)


def test_a_request_beyond_the_bound_is_refused_before_it_is_complete(tmp_path: Path) -> None:
    head = b"GET /v1/version HTTP/1.1\r\nhost: x\r\nfiller: "

    async def test(one: Daemon, client: Client) -> None:
        within = head.ljust(MAX_REQUEST - 4, b"x") + b"\r\n\r\n"
        assert await answer_to(tmp_path, within) == b"200 OK"
        assert await answer_to(tmp_path, head.ljust(MAX_REQUEST + 1, b"x")) == b"400 Bad Request"
        assert (await asyncio.to_thread(client.version)).version

    ask(tmp_path, test)


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (str(MAX_ENTRIES), b"200 OK"),
        (str(MAX_ENTRIES + 1), b"400 Bad Request"),
        ("1".rjust(MAX_DIGITS, "0"), b"200 OK"),
        ("1".rjust(MAX_DIGITS + 1, "0"), b"400 Bad Request"),
    ],
)
def test_more_lines_than_are_kept_are_not_asked_for(tmp_path: Path, last: str, status: bytes) -> None:
    async def test(one: Daemon, client: Client) -> None:
        request = f"GET /v1/log?last={last} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        assert await answer_to(tmp_path, request) == status

    assert MAX_LOG == MAX_ENTRIES
    ask(tmp_path, test)


def test_the_status_shows_the_newest_strangers_up_to_the_bound(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        for number in range(MAX_UNKNOWN_PEERS + 1):
            one.peers.failures.note(unknown_peer(number))
            unknown = (await asyncio.to_thread(client.status)).unknown_peers
            assert len(unknown) == min(number + 1, MAX_UNKNOWN_PEERS)
        assert unknown[0].peer == "198.51.100.16:500"
        assert unknown[-1].peer == "198.51.100.1:500"

    ask(tmp_path, test)


def unknown_peer(number: int) -> NegotiationFailed:
    """Somebody of whom nobody knows."""
    remote = HostPort(ipaddress.ip_address(f"198.51.100.{number}"), 500)
    return NegotiationFailed(
        at=0.0,
        ike=number + 1,
        connection=None,
        path=OuterPath(HostPort(ipaddress.ip_address("192.0.2.1"), 500), remote),
        is_initiator=False,
        exchange=35,
        notify=24,
        notify_sent=True,
        reason=DownReason.AUTHENTICATION_FAILED,
        text="nobody knows it",
    )


def test_more_callers_than_the_bound_are_cut_off_and_the_rest_are_served(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        await asyncio.to_thread(client.version)
        idle = [await asyncio.open_unix_connection(str(tmp_path / "control.sock")) for _ in range(MAX_CONNECTIONS)]
        cut = await asyncio.gather(*(closes(reader) for reader, _ in idle))
        assert cut.count(True) == 1
        assert (await asyncio.to_thread(client.version)).version
        for _, writer in idle:
            writer.close()

    ask(tmp_path, test)


@pytest.mark.parametrize(
    "octets", [b"", b"GET /v1/ver", b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/version HTTP/1.1\r\n"]
)
def test_a_caller_that_asks_nothing_or_only_half_is_cut_off(tmp_path: Path, octets: bytes) -> None:
    async def test(one: Daemon, client: Client) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        writer.write(octets)
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()

    ask(tmp_path, test, idle_seconds=0.05)


def test_who_follows_events_is_not_cut_off_for_silence(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        writer.write(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b": moatd"), 5)
        silent, second = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(silent.read(), 5)  # as long as the patience lasts
        one.journal.note("test", logging.INFO, "still here")
        await asyncio.wait_for(reader.readuntil(b"still here"), 5)
        second.close()
        writer.close()

    ask(tmp_path, test, idle_seconds=0.05)


@pytest.mark.parametrize(
    "asked", [b"GET /v1/log?last=1000 HTTP/1.1\r\nhost: x\r\n\r\n" * 2, b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n"]
)
def test_a_caller_that_does_not_fetch_its_answers_is_cut_off(tmp_path: Path, asked: bytes) -> None:
    async def test(one: Daemon, client: Client) -> None:
        for _ in range(MAX_ENTRIES):
            one.journal.note("test", logging.DEBUG, "x" * 4_000)
        with socket.socket(socket.AF_UNIX) as slow:
            slow.connect(str(tmp_path / "control.sock"))
            slow.sendall(asked)
            slow.setblocking(False)
            await asyncio.get_running_loop().sock_recv(slow, 1)  # it is being answered
            for _ in range(MAX_ENTRIES):
                one.journal.note("test", logging.DEBUG, "x" * 4_000)
                await asyncio.sleep(0)
            gone = select.poll()
            gone.register(slow, 0)  # tells of the end alone
            async with asyncio.timeout(5):
                while not gone.poll(0):
                    await asyncio.sleep(0.01)

    ask(tmp_path, test, idle_seconds=0.05)


def test_one_user_cannot_take_all_places_unless_it_is_root_or_our_own() -> None:
    policy = Policy()
    reader, root = Caller(12345, frozenset()), Caller(0, frozenset())
    assert policy.has_place(reader, [reader] * (MAX_CONNECTIONS_PER_USER - 1))
    assert not policy.has_place(reader, [reader] * MAX_CONNECTIONS_PER_USER)
    assert policy.has_place(root, [root] * MAX_CONNECTIONS_PER_USER)


def test_several_users_cannot_take_all_places_either() -> None:
    policy = Policy()
    there = [Caller(10_000 + number, frozenset()) for number in range(MAX_CONNECTIONS - RESERVED)]
    reader, root = Caller(12345, frozenset()), Caller(0, frozenset())
    assert policy.has_place(reader, there[1:])
    assert not policy.has_place(reader, there)
    assert policy.has_place(root, there)


@pytest.mark.parametrize("last", ["0", "1001", "000000001" + "9" * 5000, "%C2%B2", "-1"])
def test_a_wrong_number_of_entries_is_a_bad_request_and_no_fault(tmp_path: Path, last: str) -> None:
    async def test(one: Daemon, client: Client) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        writer.write(f"GET /v1/log?last={last} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()

    ask(tmp_path, test)


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    place = tmp_path / "control.sock"
    place.write_text("somebody's")
    with pytest.raises(SystemFault, match="something else"):
        open_socket(place)
    assert place.read_text() == "somebody's"


async def closes(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 0.05) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_socket_left_over_is_replaced_and_that_of_the_living_is_not(tmp_path: Path) -> None:
    place = tmp_path / "control.sock"
    open_socket(place).close()
    living = open_socket(place)
    with pytest.raises(SystemFault, match="another moatd listens"):
        open_socket(place)
    living.close()


def test_a_socket_with_readers_lets_everybody_connect_and_strangers_are_not_admitted(tmp_path: Path) -> None:
    with closing(open_socket(tmp_path / "one.sock")), closing(open_socket(tmp_path / "two.sock", has_readers=True)):
        modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("one.sock", "two.sock")]
    assert modes == [0o660, 0o666]

    reader = grp.getgrall()[0]
    policy = Policy.of("", reader.gr_name)
    assert policy.is_admitted(Caller(12345, frozenset({reader.gr_gid})))
    assert not policy.is_admitted(Caller(12345, frozenset({reader.gr_gid + 54321})))
    with pytest.raises(ControlError, match="may not change"):
        policy.check(Caller(12345, frozenset({reader.gr_gid})), Access.CHANGE)
