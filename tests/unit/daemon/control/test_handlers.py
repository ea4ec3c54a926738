"""Verbs of the control socket: what each does, and what those are told who ask for what is not there."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from openmoat.control.messages import ConnectionState, ErrorCode
from openmoat.daemon.control.handlers import Handlers
from openmoat.errors import ControlError
from unit.daemon.test_reloader import Bench, record, run

TEMPLATE = record("homes", "10.0.0.0/8").replace('"homes.example"', '"*.homes.example"')


@pytest.mark.parametrize(
    ("ask", "code", "text"),
    [
        (lambda h: h.up("ofice"), ErrorCode.UNKNOWN_CONNECTION, 'no connection "ofice"'),
        (lambda h: h.up("homes"), ErrorCode.TEMPLATE, "its peers come by themselves"),
        (lambda h: h.rekey("office"), ErrorCode.BUSY, "it has no SAs to rekey"),
        (lambda h: h.probe("office"), ErrorCode.BUSY, "nothing can be probed"),
        (lambda h: h.delete("homes", "a.homes.example"), ErrorCode.UNKNOWN_PEER, "peer a.homes.example is not here"),
        (lambda h: h.rekey("homes", "a.homes.example"), ErrorCode.UNKNOWN_PEER, "peer a.homes.example is not here"),
        (lambda h: h.down("homes", "a.example"), ErrorCode.UNKNOWN_PEER, "a.example is not a peer of *.homes.example"),
        (lambda h: h.down("homes", "?"), ErrorCode.UNKNOWN_PEER, "peer: "),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    tmp_path: Path, ask: Callable[[Handlers], object], code: ErrorCode, text: str
) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(ControlError) as caught:
            ask(bench.daemon.handlers)
        assert caught.value.code == code
        assert text in str(caught.value)

    run(tmp_path, test, record("office", "10.1.0.0/16").replace("10.2.0.0/16", "10.99.0.0/16"), TEMPLATE)


def test_a_connection_that_is_down_says_so_and_comes_back_by_up(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        handlers = bench.daemon.handlers
        assert "down until: moat up office" in handlers.down("office").text
        assert handlers.connection("office").state is ConnectionState.STOPPED
        assert "waits for its peer" in handlers.up("office").text
        assert handlers.connection("office").state is ConnectionState.WAITING

    run(tmp_path, test, record("office", "10.1.0.0/16"))


def test_a_peer_of_a_template_can_be_kept_out_before_it_comes(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        assert "is down until: moat up homes" in bench.daemon.handlers.down("homes", "a.homes.example").text

    run(tmp_path, test, TEMPLATE)


def test_a_peer_of_a_refused_connection_can_be_taken_down_like_the_connection(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        handlers = bench.daemon.handlers
        (refused,) = bench.daemon.loaded.conflicts
        assert "is down until" in handlers.down(refused, f"{refused}.example").text

    run(tmp_path, test, record("cabin", "10.1.0.0/16"), record("office", "10.1.0.0/16"))


def test_the_log_is_followed_from_when_it_is_asked_for(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        entries = bench.daemon.handlers.follow()
        following = asyncio.ensure_future(anext(entries))
        await asyncio.sleep(0)
        bench.daemon.journal.note("test", 20, "words")
        assert (await following).text == "words"
        assert bench.daemon.handlers.log(1).entries[-1].text == "words"
        assert [row.name for row in bench.daemon.handlers.connections()] == ["office"]

    run(tmp_path, test, record("office", "10.1.0.0/16"))
