"""What is printed as a remedy is carried out, on a daemon that runs: it works as it stands."""

import ast
import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openmoat.cli.common import ExitCode
from openmoat.cli.main import app
from openmoat.control.client import Client
from openmoat.control.reasons import REASONS, Reason
from openmoat.control.remedies import NOTHING, Remedy
from openmoat.daemon.main import Daemon
from unit.daemon.control.serving import ask

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "openmoat"
OF_MOAT = [remedy for remedy in Remedy if remedy.startswith("moat ") and remedy is not Remedy.INIT]
OF_SYSTEMD = [remedy for remedy in Remedy if remedy.startswith("systemctl ")]
FILES = sorted(file for folder in ("cli", "control", "daemon/control") for file in (SOURCE / folder).glob("*.py"))
COMMAND = re.compile(r"\b(moat|systemctl|journalctl|usermod|pip|ping|ip route)\b")


async def carry_out(command: str, tmp_path: Path) -> Result:
    """A command of `moat`, on the daemon that listens in this directory."""
    key = tmp_path / "moat.key"
    if not key.exists():
        CliRunner().invoke(app, ["keys", "generate", str(key)])
    words = [{"FILE": str(key)}.get(word, word) for word in command.format(name="cabin").split()]
    assert words[0] == "moat"
    arguments = ["--socket", str(tmp_path / "control.sock"), *words[1:]]
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


@pytest.mark.parametrize("remedy", OF_MOAT)
def test_a_command_of_moat_that_is_a_remedy_works(tmp_path: Path, remedy: Remedy) -> None:
    async def test(one: Daemon, client: Client) -> None:
        done = await carry_out(remedy, tmp_path)
        assert done.stderr == ""
        assert done.exit_code in {ExitCode.OK, ExitCode.NOT_UP}
        assert done.stdout

    ask(tmp_path, test)


def test_up_ends_what_down_began(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        await carry_out("moat down {name}", tmp_path)
        stopped = await asyncio.to_thread(client.connection, "cabin")
        assert stopped.reason is Reason.ASKED
        await carry_out(f"{REASONS[stopped.reason].hint} --wait 0", tmp_path)
        assert (await asyncio.to_thread(client.connection, "cabin")).reason is not Reason.ASKED

    ask(tmp_path, test)


def test_an_unknown_connection_is_found_by_the_command_that_is_printed(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        refused = await carry_out("moat status cabbin", tmp_path)
        assert refused.exit_code == ExitCode.REFUSED
        hint = refused.stderr.splitlines()[-1].removeprefix("next: ")
        assert "cabin" in (await carry_out(hint, tmp_path)).stdout

    ask(tmp_path, test)


def test_nothing_to_probe_leads_to_the_sizes(tmp_path: Path) -> None:
    async def test(one: Daemon, client: Client) -> None:
        refused = await carry_out("moat mtu probe cabin", tmp_path)
        hint = refused.stderr.splitlines()[-1].removeprefix("next: ")
        shown = await carry_out(hint, tmp_path)
        assert shown.exit_code == ExitCode.NOT_UP
        assert shown.stdout == "cabin: not up; see: moat status cabin\n"

    ask(tmp_path, test)


@pytest.mark.parametrize("remedy", OF_SYSTEMD)
def test_the_unit_that_is_named_is_the_one_that_init_makes(remedy: Remedy) -> None:
    assert remedy.split()[-1] == "moatd"
    assert (SOURCE / "daemon" / "moatd.service").is_file()
    made = next(option for option in app.commands["init"].params if option.name == "unit")
    assert made.default == "/etc/systemd/system/moatd.service"


def test_a_route_to_an_address_is_told() -> None:
    command = Remedy.ROUTE.replace("ADDRESS", "127.0.0.1").split()
    if shutil.which(command[0]) is None:
        pytest.skip("without iproute2")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_laboratory_is_where_the_remedy_looks_for_it() -> None:
    place = Remedy.INSTALL_LAB.split()[-1]
    assert 'name = "openmoat-lab"' in (ROOT / place / "pyproject.toml").read_text()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_ends_in_a_command_or_in_nothing_to_do(reason: Reason) -> None:
    hint = REASONS[reason].hint
    assert hint == NOTHING or any(remedy in hint for remedy in Remedy)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_command_is_written_outside_the_list_of_remedies(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Call(func=ast.Name(id="ControlError"), args=[_, _, hint]):
                parts = [one.value for one in ast.walk(hint) if isinstance(one, ast.Constant)]
                written = [part for part in parts if isinstance(part, str) and COMMAND.search(part)]
                assert [part for part in written if not part.startswith("moat and moatd must")] == [], ast.dump(node)
            case _:
                pass
