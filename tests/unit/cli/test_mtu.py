"""`moat mtu`."""

import json

import pytest
from typer.testing import CliRunner

from openmoat.cli.main import app
from openmoat.cli.mtu import MAX_OUTER, MIN_OUTER

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
