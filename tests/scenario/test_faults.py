"""Nothing waits for ever: whatever goes wrong with one answer, both hosts are soon established again."""

import pytest

from scenario.faults import CASES, PATIENCE, Fault, Place, run_case


@pytest.mark.parametrize(("place", "fault"), CASES, ids=lambda value: str(getattr(value, "value", value)))
def test_after_one_bad_answer_both_are_established_again_and_nothing_is_left_over(place: Place, fault: Fault) -> None:
    outcome = run_case(place, fault)
    assert outcome.state != "not asked"
    assert outcome.leftovers == []
    assert outcome.seconds is not None
    assert outcome.seconds <= PATIENCE
