"""The guide says of every option, algorithm, command and code what the code has."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest

from openmoat.cli.common import ExitCode
from openmoat.cli.lazy import ELSEWHERE, EXTENSIONS
from openmoat.cli.main import app
from openmoat.config.options import TABLES
from openmoat.config.reference import render, render_algorithms
from openmoat.config.rows import Table
from openmoat.control.messages import ROUTES, ErrorCode

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
MAN = GUIDE.parent / "man"
COMMANDS = GUIDE / "commands.md"
CONFIGURATION = GUIDE / "configuration.md"
REMEDY = "write it anew: python -m openmoat.config.reference > /tmp/reference.md"


def test_every_option_is_documented_as_the_schema_says() -> None:
    assert render() in CONFIGURATION.read_text(), REMEDY


def test_every_algorithm_is_documented() -> None:
    assert render_algorithms() in CONFIGURATION.read_text(), REMEDY


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_option_has_a_sentence(table: Table[Any]) -> None:
    assert [name for name, row in table.rows.items() if not row.sentence] == []


@pytest.mark.parametrize(
    "file", sorted((GUIDE / "example").rglob("*.toml")), ids=lambda file: f"{file.parent.name}/{file.name}"
)
def test_the_examples_are_printed_in_the_guide(file: Path) -> None:
    assert file.read_text() in CONFIGURATION.read_text()


def test_every_error_code_of_the_control_socket_is_documented() -> None:
    text = COMMANDS.read_text()
    assert [code.value for code in ErrorCode if f"| `{code.value}` |" not in text] == []


def test_every_request_of_the_control_socket_is_documented() -> None:
    text = COMMANDS.read_text()
    for route in ROUTES:
        assert f"`{route.method} {route.path.replace('{name}', 'NAME').replace('{peer}', 'PEER')}" in text


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each command that does something, by its whole name."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            yield from commands(command.get_command(context, word), f"{name} {word}")
    else:
        yield name, command


def all_commands() -> Iterator[tuple[str, Any]]:
    """Of the product, then of the laboratory: of its entry points as they are declared, whether it is installed or not."""
    yield from commands(app, "moat")
    for name, value in entry_points().items():
        yield from commands(EntryPoint(name, value, EXTENSIONS).load()(), f"moat {name}")


def entry_points() -> dict[str, str]:
    declared = tomllib.loads((GUIDE.parents[1] / "lab" / "pyproject.toml").read_text())
    return dict(declared["project"]["entry-points"][EXTENSIONS])


def test_the_commands_of_the_laboratory_are_those_that_the_product_knows_of() -> None:
    assert entry_points().keys() == ELSEWHERE.keys()


def test_no_text_names_a_command_that_there_is_not() -> None:
    root = GUIDE.parents[1]
    known = {name.split()[1] for name, _ in all_commands()}
    texts = [
        root / "README.md",
        root / "ARCHITECTURE.md",
        *(root / "docs").rglob("*.md"),
        *(root / "changes").iterdir(),
    ]
    for file in (*texts, *(root / "src").rglob("*.py"), *(root / "lab").rglob("*.py")):
        for word in re.findall(r"`moat ([a-z]+)", file.read_text()):
            assert word in known, (file, word)


def test_every_command_and_exit_code_is_documented() -> None:
    text, page = COMMANDS.read_text(), re.sub(r"\\f[BIR]", "", (MAN / "moat.1").read_text()).replace("\\-", "-")
    for name, command in all_commands():
        assert f"`{name}" in text
        assert name in page.replace("mtu [show]", "mtu show")
        for option in {word for parameter in command.params for word in parameter.opts if word.startswith("--")}:
            assert option in page or option.replace("--", "--no-") in page, (name, option)
    for code in ExitCode:
        assert f"| {code.value} |" in text


def test_the_unit_gives_exactly_the_three_capabilities() -> None:
    unit = (GUIDE.parents[1] / "src" / "openmoat" / "daemon" / "moatd.service").read_text().splitlines()
    three = "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE"
    assert f"AmbientCapabilities={three}" in unit
    assert f"CapabilityBoundingSet={three}" in unit
    assert {"Type=notify", "WatchdogSec=30", "User=moatd"} <= set(unit)


def test_the_unit_gives_up_only_where_the_configuration_has_faults() -> None:
    unit = (GUIDE.parents[1] / "src" / "openmoat" / "daemon" / "moatd.service").read_text().splitlines()
    assert {"Restart=always", "StartLimitIntervalSec=0", "RestartPreventExitStatus=2"} <= set(unit)
