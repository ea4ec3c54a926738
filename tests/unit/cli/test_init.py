"""What `moat init` leaves on a host."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from openmoat.cli.init import hidden_from_unit, initialize
from openmoat.cli.main import app
from openmoat.config.toml import load
from openmoat.crypto.keys import parse_public_line
from openmoat.errors import SystemFault


def uncommented(text: str) -> str:
    """The example of the first configuration, as somebody uses it."""
    lines = [
        line.removeprefix("# ")
        for line in text.splitlines()
        if line.startswith(("# [", "# identity", "# key", "# a", "# l", "# r"))
    ]
    return "\n".join(lines)


def test_a_fresh_host_gets_a_key_a_configuration_and_a_unit(tmp_path: Path) -> None:
    unit = tmp_path / "moatd.service"
    done = initialize(tmp_path / "etc", unit, "home.example", with_users=False)
    assert [step.rpartition("/")[2] for step in done.steps] == ["etc", "moat.key", "moat.toml", "moatd.service"]
    assert stat.S_IMODE((tmp_path / "etc/moat.key").stat().st_mode) == 0o600
    parse_public_line(done.public_key)
    assert f"--config {tmp_path}/etc/moat.toml" in unit.read_text()
    assert load(tmp_path / "etc/moat.toml").connections == {}


def test_its_example_is_a_connection_once_the_other_key_is_filled_in(tmp_path: Path) -> None:
    done = initialize(tmp_path, None, "home.example", with_users=False)
    file = tmp_path / "moat.toml"
    file.write_text(uncommented(file.read_text()).replace("MCowBQYDK2VwAyEA...", done.public_key))
    assert str(load(file).connections["office"].local_identity) == "home.example"


def test_a_second_time_nothing_is_touched(tmp_path: Path) -> None:
    first = initialize(tmp_path, tmp_path / "unit", "home.example", with_users=False)
    (tmp_path / "moat.toml").write_text("# mine\n")
    second = initialize(tmp_path, tmp_path / "unit", "home.example", with_users=False)
    assert (second.steps, second.public_key) == ((), first.public_key)
    assert (tmp_path / "moat.toml").read_text() == "# mine\n"


def test_a_second_time_without_an_identity_the_configured_one_is_shown(tmp_path: Path) -> None:
    initialize(tmp_path, None, "home.example", with_users=False)
    assert initialize(tmp_path, None, with_users=False).identity == "home.example"
    file = tmp_path / "moat.toml"
    file.write_text(
        "[connections.a.peer]\nidentity = 'portal.example'\n[connections.a.local]\nidentity = 'cabin.example' # us\n"
    )
    assert initialize(tmp_path, None, with_users=False).identity == "cabin.example"


def test_an_identity_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(SystemFault, match="give another with --identity"):
        initialize(tmp_path / "etc", None, "not a name", with_users=False)
    assert not (tmp_path / "etc").exists()


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemFault, match="file/etc"):
        initialize(tmp_path / "file/etc", None, "home.example", with_users=False)


def test_the_command_prints_what_the_other_side_needs(tmp_path: Path) -> None:
    arguments = ["init", "--directory", str(tmp_path), "--unit", "", "--no-users", "--identity", "home.example"]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0
    assert 'identity = "home.example"' in told.stdout
    fields = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert fields["schema"] == "moat.init/1"
    assert fields["key"] in told.stdout


def test_what_the_unit_cannot_see_is_told() -> None:
    seen, root, home = Path("/opt/openmoat/moatd"), Path("/root/openmoat/moatd"), Path("/home/anna/bin/python3")
    assert hidden_from_unit([seen, root, home]) == [root, home]
