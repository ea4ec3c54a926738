"""Lines that others can cause are bounded, and those left out are counted."""

from openmoat.daemon.status.line_rate import LineRate
from unit.daemon.kit import Deadlines


def test_as_many_lines_as_the_bound_pass_in_a_stretch_and_the_rest_is_counted() -> None:
    time = Deadlines(now=100.0)
    rate = LineRate(3, 60.0, time.clock)
    assert [rate.permits() for _ in range(5)] == [True] * 3 + [False] * 2
    time.now += 59.0
    assert not rate.permits()
    assert rate.untold == 3
    time.now += 1.0
    assert rate.permits()
    assert "left out before: 3" in rate.gap()
    assert rate.gap() == ""


def test_a_clock_that_goes_back_begins_another_stretch() -> None:
    time = Deadlines(now=100.0)
    rate = LineRate(1, 60.0, time.clock)
    assert rate.permits()
    assert not rate.permits()
    time.now = 50.0
    assert rate.permits()
