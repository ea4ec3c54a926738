"""Names and addresses become paths, and the reason is told where none is found."""

import asyncio
import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest

from openmoat.daemon.names.paths import LINES_PER_MINUTE, MAX_NAMES, MAX_PATHS, Names, PathFinder
from openmoat.ike.events import AskPath
from scenario.link import connection


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    file = tmp_path / "hosts"
    file.write_text(
        "# comment\n192.0.2.7  Portal.example portal # the portal\nnonsense portal\n2001:db8::7 portal.example\n"
    )
    return file


def test_the_hosts_file_is_asked_first(hosts: Path) -> None:
    names = Names(lambda: 0.0, hosts)
    found = asyncio.run(names.addresses("portal.EXAMPLE", False))
    assert found == (ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("2001:db8::7"))


def test_a_broken_line_of_the_hosts_file_is_passed_over(hosts: Path) -> None:
    assert asyncio.run(Names(lambda: 0.0, hosts).addresses("portal", False)) == (ipaddress.ip_address("192.0.2.7"),)


@pytest.mark.parametrize("beyond", [0, 1])
def test_addresses_beyond_the_bound_are_not_tried_and_named(caplog: pytest.LogCaptureFixture, beyond: int) -> None:
    first = ipaddress.ip_address("192.0.2.1")
    places = tuple(first + number for number in range(MAX_PATHS + beyond))
    home = connection("portal.example", "home.example", "192.0.2.1")
    home = replace(home, peer=replace(home.peer, addresses=places))
    finder = PathFinder(Names(lambda: 0.0), lambda _address: first)
    found = asyncio.run(finder.find(AskPath(1, "home", 0), home))
    assert [path.remote.address for path in found.paths] == list(places[:MAX_PATHS])
    line = f"connection home: not tried: {places[-1]}; a peer is tried at {MAX_PATHS} addresses, name fewer"
    assert caplog.messages == [line] * beyond


def test_lines_about_addresses_that_are_not_tried_are_bounded_and_then_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now, first = 0.0, ipaddress.ip_address("192.0.2.1")
    home = connection("portal.example", "home.example", "192.0.2.1")
    home = replace(home, peer=replace(home.peer, addresses=tuple(first + n for n in range(MAX_PATHS + 1))))
    finder = PathFinder(Names(lambda: now), lambda _address: first)
    for _ in range(LINES_PER_MINUTE + 7):
        asyncio.run(finder.find(AskPath(1, "home", 0), home))
    assert len(caplog.messages) == LINES_PER_MINUTE
    now = 60.0
    asyncio.run(finder.find(AskPath(1, "home", 0), home))
    assert caplog.messages[-1].endswith("(lines of this kind left out before: 7)")


def test_the_name_that_was_not_asked_for_longest_is_forgotten_and_named(caplog: pytest.LogCaptureFixture) -> None:
    names, known = Names(lambda: 0.0), (ipaddress.ip_address("192.0.2.1"),)
    for number in range(MAX_NAMES):
        names.remember(f"n{number}.example", known, until=1.0)
    assert caplog.messages == []
    names.remember("one-more.example", known, until=1.0)
    (line,) = caplog.messages
    assert line.startswith(f"name n0.example: its addresses are forgotten, those of {MAX_NAMES} names are kept")
    assert asyncio.run(names.addresses("n1.example", False)) == known
