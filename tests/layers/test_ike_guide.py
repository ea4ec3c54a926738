from pathlib import Path

from openmoat.ike.diagram import state_diagram
from openmoat.ike.states import SUCCESSORS

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "ike.md"


def test_the_guide_shows_the_states_as_they_are() -> None:
    assert state_diagram() in GUIDE.read_text()


def test_every_state_is_described() -> None:
    assert all(state.__doc__ for state in SUCCESSORS)
