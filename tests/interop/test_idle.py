"""What the benchmark says of a daemon that does nothing, and of `moat status`, beside their goals."""

import pytest

from openmoat_lab.bench.idle import idle_rows
from openmoat_lab.bench.results import Ratio, Result

pytestmark = pytest.mark.namespaces


def test_an_idle_daemon_and_the_status_are_reported_against_their_goals() -> None:
    rows = list(idle_rows(seconds=1.0))
    ratios = [row for row in rows if isinstance(row, Ratio)]
    assert [(row.goal, row.at_least, row.unit) for row in ratios] == [
        (40.0, False, "MB"),
        (0.2, False, "%"),
        (0.15, False, "s"),
    ]
    memory, load, status = (row.value for row in ratios)
    assert memory > 1
    assert load >= 0  # in a second it may do nothing at all
    assert status > 0
    assert [row.work for row in rows if isinstance(row, Result)] == [row.work for row in ratios]
