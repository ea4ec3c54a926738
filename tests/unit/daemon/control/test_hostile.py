"""Callers of the control socket who break rules of HTTP, or use rare ones: each is answered or cut off, and others are served."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from pathlib import Path

import pytest

from openmoat.control.client import Client
from openmoat.control.messages import ErrorCode
from openmoat.daemon.control.access import MAX_CONNECTIONS
from openmoat.daemon.control.http import MAX_REQUEST, MAX_UNSENT
from openmoat.daemon.control.routes import MAX_PARAMETERS
from openmoat.daemon.main import Daemon
from openmoat.daemon.status.journal import MAX_ENTRIES
from unit.daemon.control.serving import ask

HOST = b"host: x\r\n"
VERSION = b"GET /v1/version HTTP/1.1\r\n" + HOST + b"\r\n"


async def all_of(tmp_path: Path, octets: bytes, *, half_closes: bool = True) -> bytes:
    """Everything that the server says to these octets until it closes."""
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
    writer.write(octets)
    if half_closes:
        writer.write_eof()
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


def body(answer: bytes) -> dict[str, object]:
    found = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert isinstance(found, dict)
    return found


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        log = b"GET /v1/log?last=1 HTTP/1.1\r\n" + HOST + b"\r\n"
        answer = await all_of(tmp_path, VERSION + log + VERSION)
        places = [answer.index(b"moat.version/1"), answer.index(b"moat.log/1"), answer.rindex(b"moat.version/1")]
        assert places == sorted(places)
        assert answer.count(b"HTTP/1.1 200 OK") == 3

    ask(tmp_path, test)


def test_hundreds_of_pipelined_requests_do_not_hold_the_loop(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        answer = await all_of(tmp_path, VERSION * 300)
        beside.cancel()
        assert answer.count(b"200 OK") == 300
        assert turns > 300

    ask(tmp_path, test)


def test_who_closes_its_half_still_gets_the_whole_answer(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        assert body(await all_of(tmp_path, VERSION))["schema"] == "moat.version/1"

    ask(tmp_path, test)


@pytest.mark.parametrize("ending", [b"", b"connection: keep-alive\r\n"])
def test_http_1_0_is_answered_without_chunks_and_closed(tmp_path: Path, ending: bytes) -> None:
    async def test(one: Daemon, client: Client) -> None:
        answer = await all_of(tmp_path, b"GET /v1/status HTTP/1.0\r\n" + ending + b"\r\n", half_closes=False)
        assert b"chunked" not in answer.lower()
        assert body(answer)["schema"] == "moat.status/1"

    ask(tmp_path, test)


@pytest.mark.parametrize("target", ["/v1/version", "/v1/status", "/v1/events"])
def test_head_is_get_without_content(tmp_path: Path, target: str) -> None:
    async def test(one: Daemon, client: Client) -> None:
        answer = await all_of(tmp_path, f"HEAD {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert content == b""

    ask(tmp_path, test)


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS", "CONNECT", "BREW", "M" * 3000])
def test_another_method_is_refused_with_those_that_there_are(tmp_path: Path, method: str) -> None:
    async def test(one: Daemon, client: Client) -> None:
        answer = await all_of(tmp_path, f"{method} /v1/reload HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed")
        assert b"\r\nAllow: POST\r\n" in answer
        assert body(answer)["code"] == ErrorCode.UNKNOWN_METHOD

    ask(tmp_path, test)


@pytest.mark.parametrize(
    "target", ["/", "/v1", "/v1/", "//v1/version", "/v1/version/", "/v1/connections/cabin/up/x", "*"]
)
def test_another_path_is_refused(tmp_path: Path, target: str) -> None:
    async def test(one: Daemon, client: Client) -> None:
        answer = await all_of(tmp_path, f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert body(answer)["code"] == ErrorCode.UNKNOWN_PATH

    ask(tmp_path, test)


@pytest.mark.parametrize("name", ["a%2F..%2Fb", "%00", "%FF%FE", "..", "cabin%2Fup", "%", "x" * 8000])
def test_no_name_becomes_another_path(tmp_path: Path, name: str) -> None:
    async def test(one: Daemon, client: Client) -> None:
        answer = await all_of(tmp_path, f"GET /v1/connections/{name} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert body(answer)["code"] == ErrorCode.UNKNOWN_CONNECTION

    ask(tmp_path, test)


@pytest.mark.parametrize(
    "octets",
    [
        b"GET /v1/version\r\n\r\n",
        b"GET /v1/version HTTP/3.0\r\n" + HOST + b"\r\n",
        b"GET /v1/version HTTP/1.1\r\n\r\n",  # without a host
        b"GET /v1/version HTTP/1.1\r\n" + HOST + b"a b: c\r\n\r\n",
        b"GET  /v1/version HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST /v1/reload HTTP/1.1\r\n" + HOST + b"content-length: -1\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\n" + HOST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /v1/reload HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"POST /v1/reload HTTP/1.1\r\n" + HOST + b"transfer-encoding: gzip\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\n" + HOST + b"content-length: 100\r\n\r\nand then nothing",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_bad_framing_is_a_bad_request_and_the_end_of_the_connection(tmp_path: Path, octets: bytes) -> None:
    async def test(one: Daemon, client: Client) -> None:
        reloads = len([line for line in one.journal.entries() if line.kind == "reloaded"])
        answer = await all_of(tmp_path, octets + VERSION[: 0 if b"content-length: 100" in octets else None])
        assert answer.startswith((b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 505 "))
        assert answer.count(b"Content-Length:") == 1
        assert body(answer)["code"] == ErrorCode.BAD_REQUEST
        assert len([line for line in one.journal.entries() if line.kind == "reloaded"]) == reloads

    ask(tmp_path, test)


def test_a_chunked_request_is_understood(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        chunks = b"3\r\nabc\r\n2;extension=1\r\nde\r\n0\r\ntrailer: x\r\n\r\n"
        answer = await all_of(
            tmp_path, b"POST /v1/reload HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n" + chunks + VERSION
        )
        assert b"moat.reloaded/1" in answer
        assert b"moat.version/1" in answer

    ask(tmp_path, test)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_more_content_than_the_bound_is_refused(tmp_path: Path, is_chunked: bool) -> None:
    async def test(one: Daemon, client: Client) -> None:
        framing = b"transfer-encoding: chunked" if is_chunked else b"content-length: 999999999"
        chunk = b"%x\r\n%s\r\n" % (4096, b"x" * 4096) if is_chunked else b"x" * 4096
        head = b"POST /v1/reload HTTP/1.1\r\n" + HOST + framing + b"\r\n\r\n"
        answer = await all_of(tmp_path, head + chunk * (MAX_REQUEST // 4096 + 1), half_closes=False)
        assert answer.startswith(b"HTTP/1.1 413 ")

    ask(tmp_path, test)


def test_a_client_that_waits_for_leave_to_send_content_gets_it(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        writer.write(b"POST /v1/reload HTTP/1.1\r\n" + HOST + b"content-length: 2\r\nexpect: 100-continue\r\n\r\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 100 \r\n"
        writer.write(b"ab")
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"moat.reloaded/1"), 5)
        writer.close()

    ask(tmp_path, test)


def test_many_small_headers_are_bounded_as_one_large_is(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        octets = b"GET /v1/version HTTP/1.1\r\n" + HOST + b"a:b\r\n" * MAX_REQUEST
        assert (await all_of(tmp_path, octets, half_closes=False)).startswith(b"HTTP/1.1 400 Bad Request")

    ask(tmp_path, test)


def test_a_query_of_too_many_parameters_is_a_bad_request(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        query = "&".join(f"a{number}=1" for number in range(MAX_PARAMETERS + 1))
        answer = await all_of(tmp_path, f"GET /v1/log?{query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert body(answer)["code"] == ErrorCode.BAD_REQUEST

    ask(tmp_path, test)


def test_a_request_octet_by_octet_gets_no_more_time_than_any_other(tmp_path: Path) -> None:
    """Slow loris: each octet is news, and still the whole request is late."""

    async def test(one: Daemon, client: Client) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        began, closed = time.monotonic(), asyncio.ensure_future(reader.read())
        for octet in VERSION * 100:
            writer.write(bytes([octet]))
            if (await asyncio.wait([closed], timeout=0.01))[0]:
                break
        with contextlib.suppress(ConnectionResetError):  # what it had not read yet makes the end a reset
            assert await closed == b""
        assert time.monotonic() - began < 2
        writer.close()

    ask(tmp_path, test, idle_seconds=0.1)


def test_one_slow_reader_holds_nobody_else(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        for _ in range(MAX_ENTRIES):
            one.journal.note("test", logging.DEBUG, "x" * 4_000)
        with socket.socket(socket.AF_UNIX) as slow:
            slow.connect(str(tmp_path / "control.sock"))
            slow.sendall(b"GET /v1/log?last=1000 HTTP/1.1\r\n" + HOST + b"\r\n")
            slow.setblocking(False)
            await asyncio.get_running_loop().sock_recv(slow, 1)  # it is being answered, and reads no more
            assert len((await asyncio.to_thread(client.log, MAX_ENTRIES)).entries) == MAX_ENTRIES

    ask(tmp_path, test)


def test_what_waits_for_a_slow_reader_is_bounded(tmp_path: Path) -> None:
    """The rest of an answer is not even made before there is room for it."""

    async def test(one: Daemon, client: Client) -> None:
        made = 0
        version = one.handlers.version()

        async def pieces() -> object:
            nonlocal made
            while True:
                made += 1
                yield version.to_json() * 1000

        from openmoat.daemon.control.http import HttpConnection

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            http = HttpConnection(reader, writer, write_seconds=0.2)
            await http.request()
            with pytest.raises(TimeoutError):
                await http.stream("text/plain", pieces())  # type: ignore[arg-type]
            http.abort()
            done.set()

        done = asyncio.Event()
        server = await asyncio.start_unix_server(serve, tmp_path / "bare.sock")
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "bare.sock"), limit=1)
        writer.write(VERSION)
        await asyncio.wait_for(done.wait(), 5)
        assert made * len(version.to_json()) * 1000 < 8 * MAX_UNSENT + 2_000_000  # what the kernel keeps of a socket
        server.close()
        writer.close()

    ask(tmp_path, test)


def test_a_follower_that_goes_away_is_forgotten_at_once(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        for _ in range(3 * MAX_CONNECTIONS):  # each would keep its place, were it not noticed
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
            writer.write(b"GET /v1/events HTTP/1.1\r\n" + HOST + b"\r\n")
            await asyncio.wait_for(reader.readuntil(b": moatd"), 5)
            writer.close()
            await writer.wait_closed()

    ask(tmp_path, test)


def test_a_thousand_connections_at_once_leave_the_bound_served_and_the_rest_cut_off(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        await asyncio.to_thread(client.version)
        served = 0
        held = []
        for _ in range(1000):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
            try:
                writer.write(VERSION)
                first = await asyncio.wait_for(reader.read(12), 5)
            except ConnectionError:
                first = b""
            if first:
                served += 1
                held.append(writer)
            else:
                writer.close()
        assert served == MAX_CONNECTIONS - 1  # the client has a place
        assert (await asyncio.to_thread(client.version)).version
        for writer in held:
            writer.close()
        await asyncio.sleep(0.01)
        assert (await all_of(tmp_path, VERSION)).startswith(b"HTTP/1.1 200 OK")

    assert os.sysconf("SC_OPEN_MAX") > 2 * MAX_CONNECTIONS
    ask(tmp_path, test)


def test_an_error_of_ours_is_a_500_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(one: Daemon, client: Client) -> None:
        monkeypatch.setattr(one.handlers, "version", lambda: 1 / 0)
        answer = await all_of(tmp_path, VERSION)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert body(answer)["code"] == ErrorCode.INTERNAL
        assert "ZeroDivisionError" not in answer.decode()

    ask(tmp_path, test)
    assert "ZeroDivisionError" in caplog.text


def test_an_error_in_the_middle_of_a_listing_never_looks_like_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(one: Daemon, client: Client) -> None:
        whole = one.handlers.connections

        def rows() -> object:
            yield from whole()
            raise ZeroDivisionError

        monkeypatch.setattr("openmoat.daemon.control.routes.SLICE_SECONDS", 0.0)
        monkeypatch.setattr(one.handlers, "connections", rows)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        writer.write(b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n")
        try:
            answer = await asyncio.wait_for(reader.read(), 5)
        except ConnectionError:
            answer = b""
        assert not answer.endswith(b"0\r\n\r\n")
        writer.close()

    ask(tmp_path, test)
