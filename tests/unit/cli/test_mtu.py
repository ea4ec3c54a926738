"""`moat mtu`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import convert

from openmoat.cli.common import ExitCode
from openmoat.cli.main import app
from openmoat.cli.mtu import MAX_OUTER, MIN_OUTER, progress
from openmoat.control.messages import OutsideSize
from unit.control.listener import Server

RUNNER = CliRunner()


def test_the_table_is_one_object_for_programs() -> None:
    done = RUNNER.invoke(app, ["mtu", "table", "--outer", "1280", "--json"])
    table = json.loads(done.stdout)
    assert table["schema"] == "moat.mtu-table/1"
    rows = [row for row in table["rows"] if row["suite"] == "aes256gcm16" and row["outer_version"] == 4]
    assert [(row["udp"], row["inner"]) for row in rows] == [(False, 1226), (True, 1218)]


def test_suites_of_equal_size_share_a_block_and_lines_fit_a_screen() -> None:
    done = RUNNER.invoke(app, ["mtu", "table"])
    assert "aes128-sha256, aes192-sha256, aes256-sha256\n" in done.stdout
    assert "  IPv6, UDP    1280           85   1198    1158    1138    1194\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(("outer", "code"), [(MIN_OUTER, 0), (MIN_OUTER - 1, 2), (MAX_OUTER, 0), (MAX_OUTER + 1, 2)])
def test_outer_sizes_that_no_packet_has_are_refused(outer: int, code: int) -> None:
    assert RUNNER.invoke(app, ["mtu", "table", "--outer", str(outer)]).exit_code == code


OUTSIDE = {
    "size": 1400,
    "learned": "probe",
    "at": 1.0,
    "phase": "complete",
    "fragments_pass": False,
    "black_hole": {"at": 1.0, "before": 1500, "after": 1400},
}
IKE = {
    "spi": "01", "peer_spi": "02", "is_initiator": True, "suite": "", "path": "", "behind_nat": False,
    "peer_behind_nat": False, "own_method": "psk", "peer_method": "psk", "since": 1.0, "outside": OUTSIDE,
}  # fmt: skip
CHILD = {
    "name": "lan", "local_spi": "03", "remote_spi": "04", "suite": "", "encapsulation": "raw", "local": "", "remote": "",
    "since": 1.0, "sizes": {"outer_size": 1400, "is_configured": False, "inner_room": 1346, "whole": 7,
                            "deeds": {"refuse": 2}, "ladder": ["fragment-inner", "minimum-outer", "refuse"]},
}  # fmt: skip
HOME = {
    "schema": "moat.connection/1", "name": "home", "state": "up", "since": 1.0, "local": "", "remote": "",
    "peers": [{"identity": "portal.example", "ike": IKE, "children": [CHILD]}],
}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "control.sock")
    yield server
    server.close()


@pytest.mark.parametrize("words", [["mtu", "home"], ["mtu", "show", "home"]])
def test_the_sizes_of_a_connection_are_shown_with_how_they_were_learned(server: Server, words: list[str]) -> None:
    server.says(200, json.dumps(HOME))
    lines = RUNNER.invoke(app, ["--socket", server.path, *words]).stdout.splitlines()
    assert lines[0] == "home: portal.example"
    assert lines[1].startswith("  path     1400 octets, proved by a probe")
    assert lines[1].endswith("IP fragments are lost")
    assert lines[2].strip().startswith("1500 octets were lost")
    assert lines[3:] == [
        "  lan      ESP, outer packets of 1400 octets, room for 1346",
        "           packets: 7 whole",
        "           did not fit: refuse 2",
    ]


def test_marks_of_congestion_are_told_where_there_are_any(server: Server) -> None:
    sizes = {"outer_size": 1400, "is_configured": False, "inner_room": 1346, "marks": 3}
    child = {**CHILD, "aggfrag": True, "sizes": sizes}
    server.says(200, json.dumps({**HOME, "peers": [{"identity": "portal.example", "ike": IKE, "children": [child]}]}))
    shown = RUNNER.invoke(app, ["--socket", server.path, "mtu", "home"]).stdout
    assert "0 reassembled, 3 received with a congestion mark" in shown


def test_programs_get_the_sizes_of_a_connection_as_one_object(server: Server) -> None:
    server.says(200, json.dumps(HOME))
    told = json.loads(RUNNER.invoke(app, ["--socket", server.path, "mtu", "home", "--json"]).stdout)
    assert told["schema"] == "moat.mtu/1"
    [peer] = told["connections"][0]["peers"]
    assert (peer["outside"]["size"], peer["children"][0]["inner_room"]) == (1400, 1346)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ({"probing": 1500}, "1400 octets in use, probing 1500"),
        ({"probing_fragments": True}, "1400 octets in use, probing whether IP fragments pass"),
        ({}, "1400 octets, IP fragments are lost"),
    ],
)
def test_the_progress_of_a_probe_is_one_line(path: dict[str, object], said: str) -> None:
    assert progress(convert({**OUTSIDE, **path}, OutsideSize)) == said


def test_without_a_word_all_connections_are_asked_for_and_help_is_still_help() -> None:
    assert RUNNER.invoke(app, ["--socket", "/nonexistent/socket", "mtu"]).exit_code == ExitCode.NO_DAEMON
    assert "probe" in RUNNER.invoke(app, ["mtu", "--help"]).stdout


def test_what_becomes_of_a_packet_is_explained_rung_by_rung(server: Server) -> None:
    server.says(200, json.dumps(HOME))
    shown = RUNNER.invoke(app, ["--socket", server.path, "mtu", "explain", "home", "1500", "--df"]).stdout
    assert shown.splitlines() == [
        "home: portal.example",
        "  lan      IPv4, 1500 octets, DF: refused: its sender is told by ICMP",
        "           (frag-needed) to send at most 1346 octets",
        "             fragment-inner  no:   only for IPv4 packets without DF",
        "             minimum-outer   no:   only for IPv6 packets of up to 1280 octets",
        "             refuse          acts: for all",
    ]


def test_an_explanation_is_one_object_for_programs(server: Server) -> None:
    server.says(200, json.dumps(HOME))
    told = RUNNER.invoke(app, ["--socket", server.path, "mtu", "explain", "home", "1500", "--json"]).stdout
    [row] = json.loads(told)["children"]
    assert (row["peer"], row["child"], row["is_carried"], row["is_whole"]) == ("portal.example", "lan", True, False)
    assert row["steps"] == [{"rung": "fragment-inner", "acts": True, "why": "for packets like this one"}]


@pytest.mark.parametrize("words", [["0"], ["19"], ["65536"], ["39", "--ipv6"]])
def test_a_size_that_no_packet_has_is_refused(words: list[str]) -> None:
    assert RUNNER.invoke(app, ["mtu", "explain", "home", *words]).exit_code == 2


def test_of_two_words_the_first_is_meant_to_be_a_command() -> None:
    done = RUNNER.invoke(app, ["mtu", "prob", "home"])
    assert done.exit_code == 2
    assert "No such command 'prob'" in done.stderr


def test_outer_sizes_that_no_path_may_have_are_refused() -> None:
    assert RUNNER.invoke(app, ["mtu", "table", "--outer", "575"]).exit_code == 2


@pytest.mark.parametrize("words", [["home"], ["explain", "home", "1500"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_of_a_connection_that_is_not_up_the_exit_code_says_so(
    server: Server, words: list[str], form: list[str]
) -> None:
    server.says(200, json.dumps({**HOME, "state": "stopped", "peers": []}))
    assert RUNNER.invoke(app, ["--socket", server.path, "mtu", *words, *form]).exit_code == ExitCode.NOT_UP


def test_who_has_no_address_is_told_beside_the_others() -> None:
    done = RUNNER.invoke(app, ["mtu", "survey", "..", "a..b", "--json"])
    assert done.exit_code == 0
    rows = json.loads(done.stdout)["rows"]
    assert [(row["host"], row["address"], row["kind"]) for row in rows] == [
        ("..", None, "unreachable"),
        ("a..b", None, "unreachable"),
    ]
