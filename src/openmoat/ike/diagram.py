"""Draws the states of an IKE SA from `states.SUCCESSORS`, for the guide."""

from openmoat.ike.states import SUCCESSORS, Dead

__all__ = ["first_line", "state_diagram"]


def first_line(text: str | None) -> str:
    """The first sentence of a docstring."""
    return (text or "").strip().split("\n")[0].split(" Until ")[0].rstrip(".")


def state_diagram() -> str:
    """A Mermaid diagram and a table of all states. That each may end in `Dead` is not drawn."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for state, successors in SUCCESSORS.items():
        drawn = [following for following in SUCCESSORS if following in successors and following is not Dead]
        lines += [f"    {state.__name__} --> {following.__name__}" for following in drawn]
    lines += ["```", "", "| state | what it is |", "|---|---|"]
    lines += [f"| {state.__name__} | {first_line(state.__doc__)} |" for state in SUCCESSORS]
    return "\n".join(lines) + "\n"
