"""The command as people and scripts call it: texts, JSON, exit codes, and what it costs to start."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec import convert

from openmoat import __version__
from openmoat.cli.common import ExitCode, complete_connection
from openmoat.cli.lazy import ELSEWHERE, EXTENSIONS, GROUPS
from openmoat.cli.main import app
from openmoat.control.messages import Connections, ConnectionState, ConnectionStatus, Done, Entry, Failure, Log
from openmoat.control.reasons import Reason
from openmoat.places import CONTROL_SOCKET
from unit.control.listener import Server, set_up

HEAVY = {
    "pydantic",
    "h11",
    "msgspec",
    "rich",
    "typer",
    "cryptography",
    "openmoat.control.messages",
    "openmoat.config.toml",
    "asyncio",
}

MORE = """
import click


@click.command()
def more() -> None:
    "More than this."
    print("more of it")


def build():
    return more
"""


@pytest.fixture(autouse=True)
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a unit for moatd."""
    return set_up(tmp_path, monkeypatch)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "control.sock")
    yield server
    server.close()


def moat(*arguments: str, socket: str = "/nonexistent/control.sock") -> Result:
    return CliRunner().invoke(app, ["--socket", socket, *arguments])


def status(state: ConnectionState, **more: object) -> ConnectionStatus:
    fields = {
        "name": "office",
        "state": state,
        "since": time.time(),
        "local": "home.example",
        "remote": "portal.example",
    }
    return convert({**fields, **more}, ConnectionStatus)


def test_the_version_needs_no_command() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (ExitCode.OK, f"moat {__version__}\n")


def test_help_costs_no_heavy_library() -> None:
    code = "import sys; from openmoat.cli.main import app\ntry: app(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Exit codes:" in done.stdout
    assert HEAVY & set(done.stdout.split()) == set()


@pytest.mark.parametrize("command", sorted(app.commands))
def test_every_command_tells_its_exit_codes(command: str) -> None:
    done = moat(command, "--help")
    assert done.exit_code == 0
    assert "Exit codes: 0 done; 1 refused" in done.output


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_what_a_command_does_fits_its_line(group: str) -> None:
    listed = moat(*([group] if group else []), "--help").output.partition("Commands:")[2]
    assert listed
    assert "..." not in listed


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_shows_its_own_commands(group: str) -> None:
    done = moat(group, "--help")
    assert done.exit_code == 0
    assert "\nCommands:\n" in done.output


def test_without_a_daemon_the_exit_code_is_3_and_the_next_command_is_told() -> None:
    done = moat("status")
    assert done.exit_code == ExitCode.NO_DAEMON
    assert "no moatd listens there" in done.stderr
    assert "next: systemctl start moatd" in done.stderr


def test_a_host_that_is_not_set_up_is_told_how(unit: Path) -> None:
    unit.unlink()
    asked = moat("status", socket=CONTROL_SOCKET)
    assert asked.stderr.splitlines()[0].endswith("no moatd listens there; this host is not set up yet")
    assert asked.stderr.splitlines()[1] == "next: as root: moat init"


def test_a_socket_that_is_named_is_told_where_moatd_gets_it_from(unit: Path) -> None:
    assert f"it listens on {CONTROL_SOCKET}, or on the control-socket" in moat("status").stderr
    unit.unlink()
    hint = moat("status").stderr.splitlines()[-1]
    assert hint.startswith("next: as root: moatd --config FILE")
    assert 'control-socket = "/nonexistent/control.sock"' in hint


def test_check_before_init_names_init(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = str(tmp_path / "moat.toml")
    monkeypatch.setattr("openmoat.cli.main.CONFIGURATION", file)
    done = moat("check", file)
    assert done.exit_code == ExitCode.FAULTY
    assert done.stderr == "next: this host is not set up yet; as root: moat init\n"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("up", "0 done; 1 refused; 2 wrong command line; 3 no moatd answers; 5 the connection is not up"),
        ("reload", "0 done; 1 refused; 2 wrong command line; 3 no moatd answers; 4 errors in the configuration"),
        ("check", "0 done; 1 refused; 2 wrong command line; 4 errors in the configuration"),
        ("init", "0 done; 1 refused; 2 wrong command line"),
    ],
)
def test_help_names_only_the_exit_codes_that_can_occur(command: str, expected: str) -> None:
    assert " ".join(moat(command, "--help").output.split()).endswith(f"Exit codes: {expected}.")


@pytest.mark.parametrize("command", ["mtu explain office abc", "log --last abc"])
def test_a_word_where_a_number_is_wanted_is_told(command: str) -> None:
    assert '"abc" is not a whole number.' in moat(*command.split()).output


def test_a_misspelt_command_of_a_group_is_not_taken_for_a_connection_alone(server: Server) -> None:
    server.says(404, '{"schema": "moat.error/1", "code": "unknown-connection", "text": "no connection", "hint": "x"}')
    for socket in (server.path, "/nonexistent/control.sock"):
        assert 'Did you mean "moat mtu table"?' in moat("mtu", "tabel", socket=socket).stderr


def test_an_error_is_an_object_where_objects_are_wanted() -> None:
    done = moat("status", "--json")
    assert done.exit_code == ExitCode.NO_DAEMON
    told = json.loads(done.stdout)
    assert (told["schema"], told["code"], told["hint"]) == ("moat.error/1", "no-daemon", "systemctl start moatd")


def test_a_connection_that_is_up_is_exit_code_0(server: Server) -> None:
    server.says(200, status(ConnectionState.UP).to_json())
    done = moat("status", "office", socket=server.path)
    assert done.exit_code == 0
    assert done.stdout.startswith("office: up for ")


def test_a_connection_that_is_not_up_is_exit_code_5(server: Server) -> None:
    server.says(200, status(ConnectionState.DOWN, reason=Reason.PEER_SILENT).to_json())
    done = moat("status", "office", socket=server.path)
    assert done.exit_code == ExitCode.NOT_UP
    assert "the peer does not answer" in done.stdout


def test_a_refusal_is_exit_code_1_with_its_text(server: Server) -> None:
    server.says(404, '{"schema": "moat.error/1", "code": "unknown-connection", "text": "no connection \\"hut\\""}')
    done = moat("down", "hut", socket=server.path)
    assert done.exit_code == ExitCode.REFUSED
    assert 'moat: no connection "hut"' in done.stderr


def test_faults_found_by_a_reload_are_exit_code_4(server: Server) -> None:
    server.says(422, '{"schema": "moat.error/1", "code": "configuration", "text": "moat.toml:1: not TOML"}')
    assert moat("reload", socket=server.path).exit_code == ExitCode.FAULTY


def test_up_without_waiting_says_what_moatd_said(server: Server) -> None:
    server.says(200, Done(text="office: going up").to_json())
    done = moat("up", "office", "--wait", "0", socket=server.path)
    assert (done.exit_code, done.stdout) == (0, "office: going up\n")


def test_json_of_a_reply_is_the_reply(server: Server) -> None:
    server.says(200, Connections(connections=(status(ConnectionState.UP),)).to_json())
    told = json.loads(moat("connections", "--json", socket=server.path).stdout)
    assert told["schema"] == "moat.connections/1"
    assert told["connections"][0]["state"] == "up"


def test_the_log_is_one_line_an_entry(server: Server) -> None:
    entry = Entry(number=1, at=0.0, level="info", kind="x", text="IKE SA is up")
    server.says(200, Log(entries=(entry, entry)).to_json())
    done = moat("log", "--last", "2", socket=server.path)
    assert len(done.stdout.splitlines()) == 2
    assert server.requests == ["GET /v1/log?last=2 HTTP/1.1"]


def test_events_are_followed_until_the_daemon_ends(server: Server) -> None:
    entry = Entry(number=1, at=0.0, level="error", kind="x", text="no more keys").to_json().decode()
    server.says(200, f"data: {entry}\n\n")
    assert "error: no more keys" in moat("events", socket=server.path).stdout
    assert json.loads(moat("events", "--json", socket=server.path).stdout)["text"] == "no more keys"


def test_waiting_ends_at_a_failure_that_came_after_the_wish(server: Server) -> None:
    failed = Failure(number=1, at=time.time() + 60, peer="-", reason=Reason.REFUSED, summary="the peer said no")
    body = json.loads(status(ConnectionState.CONNECTING, failure=failed).to_json())
    server.says(200, json.dumps({**body, "schema": "moat.connection/1", "text": "x"}))
    # The server answers `up` and `status` alike, so the reply to `up` must be read first.
    from openmoat.cli.asking import wait_until_up
    from openmoat.control.client import Client

    with Client(server.path) as client:
        found = wait_until_up(client, "office", time.time(), 30.0)
    assert found.failure == failed


def test_connections_are_completed_by_name(server: Server) -> None:
    server.says(200, Connections(connections=(status(ConnectionState.UP),)).to_json())
    moat("version", socket=server.path)
    assert complete_connection("of") == ["office"]
    assert complete_connection("x") == []


def test_version_names_both_sides() -> None:
    done = moat("version", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["daemon"] is None


def test_check_tells_all_faults_and_exit_code_4(tmp_path: Path) -> None:
    file = tmp_path / "moat.toml"
    file.write_text('[daemon]\ndevise = 1\non-stop = "x"\n')
    done = moat("check", str(file))
    assert done.exit_code == ExitCode.FAULTY
    assert done.stdout.splitlines()[-1] == "2 errors"
    assert f"{file}:2: daemon: devise: no such option" in done.stdout
    told = json.loads(moat("check", str(file), "--json").stdout)
    assert (told["schema"], told["ok"], len(told["faults"])) == ("moat.check/1", False, 2)
    assert told["faults"][0]["path"] == ["daemon", "devise"]


def test_check_of_a_good_file_is_exit_code_0(tmp_path: Path) -> None:
    file = tmp_path / "moat.toml"
    file.write_text("")
    done = moat("check", str(file))
    assert (done.exit_code, done.stdout) == (0, f"{file}: no errors; 0 connections\n")
    assert done.stderr.startswith("next: write a connection into it")


def test_cleanup_while_the_daemon_answers_is_refused(server: Server) -> None:
    server.says(200, '{"schema": "moat.version/1", "version": "1"}')
    done = moat("cleanup", socket=server.path)
    assert done.exit_code == ExitCode.REFUSED
    assert "systemctl stop moatd" in done.stderr


def test_output_that_cannot_be_written_is_told_in_one_line() -> None:
    code = "from openmoat.cli.main import main; main()"
    for unbuffered in ((), ("-u",)):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, *unbuffered, "-c", code, "mtu", "table"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert (done.returncode, done.stderr) == (ExitCode.REFUSED, "moat: output: No space left on device\n")


def test_a_command_of_another_distribution_is_found_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "moat_more-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: moat-more\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{EXTENSIONS}]\nmore = moat_more:build\nstatus = moat_more:build\n")
    (tmp_path / "moat_more.py").write_text(MORE)
    monkeypatch.syspath_prepend(tmp_path)
    assert moat("more").stdout == "more of it\n"
    assert "More than this." in moat("--help").output
    assert moat("status").exit_code == ExitCode.NO_DAEMON  # our own names are ours


@pytest.mark.parametrize("command", ELSEWHERE)
def test_a_command_that_is_not_installed_tells_in_one_line_what_to_install(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    done = moat(command, "--help")
    assert done.exit_code == ExitCode.REFUSED
    what = f"moat {command} is part of openmoat-lab, which is not installed"
    assert done.stderr == f"moat: {what}; remedy, in the source tree: {sys.executable} -m pip install ./lab\n"
    assert f" {command} " not in moat("--help").output
