"""`moat lab` and `moat bench` as people and scripts call them."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from openmoat.cli.common import ExitCode
from openmoat_lab.cli.bench import app as bench
from openmoat_lab.cli.lab import app as lab


def moat(app: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("app", [bench, lab], ids=["bench", "lab"])
def test_help_tells_what_there_is(app: click.Command) -> None:
    done = moat(app, "--help")
    assert done.exit_code == 0
    assert ("Exit codes: 0 done; 1 refused" in done.output) or ("Commands:" in done.output)


def test_a_bench_that_could_not_draw_is_refused_before_it_measures(tmp_path: Path) -> None:
    done = moat(bench, "--svg", str(tmp_path / "none" / "chart.svg"), "--json")
    assert done.exit_code == ExitCode.USAGE
    assert json.loads(done.stdout)["text"].endswith(f"there is no directory {tmp_path / 'none'}")


def test_a_zoo_of_nothing_is_refused() -> None:
    done = moat(lab, "zoo", "--path", "forged1500", "--outer", "IPv6", "--json")
    assert done.exit_code == ExitCode.USAGE
    assert "of forged1500: IPv4 moatd" in json.loads(done.stdout)["text"]


def test_a_zoo_without_root_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    done = moat(lab, "zoo", "--quick", "--json")
    assert done.exit_code == ExitCode.REFUSED
    assert json.loads(done.stdout)["schema"] == "moat.error/1"
