"""The client against a server of the test's own on a unix socket, and the tables both ends agree on."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmoat.control import messages
from openmoat.control.async_client import AsyncClient
from openmoat.control.client import MAX_LOG, Client
from openmoat.control.exchange import MAX_EVENT, MAX_HEAD, MAX_REPLY
from openmoat.control.messages import ROUTES, ConnectionState, ConnectionStatus, ErrorCode, Message, Routes, Status
from openmoat.control.reasons import REASONS, Reason
from openmoat.errors import ControlError
from openmoat.ike.events import DownReason
from unit.control.listener import Server, set_up


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "control.sock")
    yield server
    server.close()


def asked(server: Server) -> ControlError:
    with pytest.raises(ControlError) as caught, Client(server.path) as client:
        client.status()
    return caught.value


def test_a_reply_is_an_object_and_its_json_bears_schema_and_version(server: Server) -> None:
    status = Status(version="1", now=1.0, since=0.0, configuration="/etc/openmoat/moat.toml")
    server.says(200, status.to_json())
    with Client(server.path) as client:
        assert client.status() == status
    assert json.loads(status.to_json())["schema"] == "moat.status/1"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_be_another_path_is_no_connection(server: Server, name: str) -> None:
    with pytest.raises(ControlError, match="no connection") as caught, Client(server.path) as client:
        client.down(name)
    assert caught.value.code == ErrorCode.UNKNOWN_CONNECTION


def test_names_are_quoted_on_their_way(server: Server) -> None:
    server.says(200, '{"schema": "moat.done/1", "text": "going up"}')
    with Client(server.path) as client:
        client.up("a/../b")
        client.down("home")
    assert server.requests == [
        "POST /v1/connections/a%2F..%2Fb/up HTTP/1.1",
        "POST /v1/connections/home/down HTTP/1.1",
    ]


def test_a_refusal_keeps_code_text_and_hint(server: Server) -> None:
    server.says(
        404, '{"schema": "moat.error/1", "code": "unknown-connection", "text": "no hut", "hint": "moat connections"}'
    )
    error = asked(server)
    assert (error.code, str(error), error.hint) == ("unknown-connection", "no hut", "moat connections")


@pytest.mark.parametrize("body", ["", "<html>", '{"schema": "moat.error/1", "code": "odd", "text": ""}', b"\xff"])
def test_a_refusal_that_nobody_understands_is_a_bad_reply(server: Server, body: str | bytes) -> None:
    server.says(500, body)
    assert asked(server).code == ErrorCode.BAD_REPLY


@pytest.mark.parametrize("body", ["", "[]", '{"schema": "moat.status/2"}', b"\xff\xfe"])
def test_a_reply_of_another_schema_is_a_bad_reply(server: Server, body: str | bytes) -> None:
    server.says(200, body)
    assert asked(server).code == ErrorCode.BAD_REPLY


def test_without_a_daemon_the_next_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)
    with pytest.raises(ControlError) as caught, Client(str(tmp_path / "nobody.sock")) as client:
        client.version()
    assert caught.value.code == ErrorCode.NO_DAEMON
    assert caught.value.hint == "systemctl start moatd"


def test_events_come_one_by_one_until_the_daemon_ends(server: Server) -> None:
    entry = '{"number": %d, "at": 1.0, "level": "info", "kind": "ike-sa-up", "text": "up", "later": 1}'
    server.says(200, "".join(f": keep\nevent: entry\ndata: {entry % n}\n\n" for n in (1, 2)))
    with Client(server.path) as client:
        assert [event.number for event in client.events()] == [1, 2]


def test_an_endless_event_is_not_kept(server: Server) -> None:
    server.says(200, b"data: " + b"x" * (MAX_EVENT + 1))
    with pytest.raises(ControlError, match="octets") as caught, Client(server.path) as client:
        next(client.events())
    assert caught.value.code == ErrorCode.BAD_REPLY


def test_an_endless_reply_is_not_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_REPLY > 10 * 10_000 * 1_000
    monkeypatch.setattr("openmoat.control.exchange.MAX_REPLY", 1_000)
    server.says(200, b"x" * 1_001)
    error = asked(server)
    assert (error.code, "more than 1000 octets" in str(error)) == (ErrorCode.BAD_REPLY, True)


def test_a_head_without_end_is_not_kept(server: Server) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\na: " + b"x" * (MAX_HEAD + 1)
    assert asked(server).code == ErrorCode.BAD_REPLY


def test_a_reply_that_breaks_off_is_no_reply(server: Server) -> None:
    server.answer = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"schema": "moat'
    assert "closed the connection" in str(asked(server))


def test_a_daemon_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        with (
            pytest.raises(ControlError, match="answer") as caught,
            Client(silent.getsockname(), timeout=0.05) as client,
        ):
            client.status()
    assert caught.value.code == ErrorCode.NO_DAEMON


def test_both_clients_read_the_same_reply(server: Server) -> None:
    server.says(200, '{"schema": "moat.version/1", "version": "9"}')
    with Client(server.path) as client:
        assert asyncio.run(AsyncClient(server.path).ask(Routes.VERSION)) == client.version()


def test_the_async_client_tells_the_same_failures(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(tmp_path, monkeypatch)
    server.says(404, '{"schema": "moat.error/1", "code": "unknown-connection", "text": "no hut", "hint": "x"}')
    with pytest.raises(ControlError, match="no hut"):
        asyncio.run(AsyncClient(server.path).ask(Routes.UP, name="hut"))
    with pytest.raises(ControlError) as caught:
        asyncio.run(AsyncClient(str(tmp_path / "nobody.sock")).ask(Routes.STATUS))
    assert (caught.value.code, caught.value.hint) == (ErrorCode.NO_DAEMON, "systemctl start moatd")


def test_the_async_client_follows_events_until_the_daemon_ends(server: Server) -> None:
    entry = '{"number": 7, "at": 1.0, "level": "info", "kind": "ike-sa-up", "text": "up"}'
    server.says(200, f": hello\n\ndata: {entry}\n\n")

    async def numbers() -> list[int]:
        return [entry.number async for entry in AsyncClient(server.path).events()]

    assert asyncio.run(numbers()) == [7]


def test_a_field_from_the_future_is_ignored() -> None:
    text = '{"schema": "moat.version/1", "version": "9", "colour": "blue"}'
    assert messages.Version.from_json(text).version == "9"


def test_every_reply_names_its_schema_and_has_a_route() -> None:
    replies = {route.reply for route in ROUTES if not route.is_stream} | {messages.ErrorReply}
    assert replies == set(Message.__subclasses__())
    names = [reply.schema() for reply in replies]
    assert len(set(names)) == len(names)
    assert all(name.startswith("moat.") and name.endswith("/1") for name in names)


def test_every_reason_of_the_core_has_a_sentence_and_a_next_command() -> None:
    assert {reason.value for reason in DownReason} <= {reason.value for reason in Reason}
    assert set(REASONS) == set(Reason)
    assert all(row.sentence and row.hint for row in REASONS.values())


def test_a_state_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="state"):
        ConnectionStatus.from_json('{"name": "x", "state": "sideways", "since": 0, "local": "a", "remote": "b"}')
    assert ConnectionStatus(name="x", state=ConnectionState.UP, since=0, local="a", remote="b").reason is None


@pytest.mark.parametrize(("wanted", "asked_for"), [(MAX_LOG, MAX_LOG), (MAX_LOG + 1, MAX_LOG), (0, 1)])
def test_no_more_entries_are_asked_for_than_a_daemon_gives(server: Server, wanted: int, asked_for: int) -> None:
    server.says(200, '{"schema": "moat.log/1", "entries": []}')
    with Client(server.path) as client:
        client.log(wanted)
    assert server.requests == [f"GET /v1/log?last={asked_for} HTTP/1.1"]
