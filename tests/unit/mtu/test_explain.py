"""What is said about a packet is what the plan does with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmoat.mtu.explain import Explanation, Packet, explain
from openmoat.mtu.plan import Framing, MtuPlan, Rung, rung_of

ROOM = 1226
LADDER = (Rung.FRAGMENT_INNER, Rung.MINIMUM_OUTER, Rung.FRAGMENT_OUTER, Rung.FRAGMENT_ANYWAY, Rung.REFUSE)


def explained(packet: Packet, *ladder: Rung, slices: bool = False) -> Explanation:
    framing = Framing.AGGFRAG if slices else Framing.WHOLE
    plan = MtuPlan(outer_size=1280, inner_room=ROOM, framing=framing, slices=slices, oversize=ladder)
    return explain(plan, packet)


@pytest.mark.parametrize(
    ("packet", "ladder", "verdict", "is_carried", "is_whole"),
    [
        (Packet(4, ROOM, True), (Rung.REFUSE,), "fits: one outer packet", True, True),
        (Packet(4, 1500, False), (Rung.FRAGMENT_INNER,), "fragmented before ESP into 2 packets, as", True, False),
        (Packet(4, 1500, True), (Rung.FRAGMENT_ANYWAY,), "fragmented before ESP into 2 packets, alth", True, False),
        (Packet(6, 1280, True), (Rung.MINIMUM_OUTER, Rung.REFUSE), "sent whole", True, True),
        (Packet(6, 1281, True), (Rung.MINIMUM_OUTER, Rung.REFUSE), "refused: its sender is told", False, False),
        (Packet(4, 1500, True), (Rung.REFUSE,), "refused: its sender is told by ICMP (frag-needed)", False, False),
    ],
)
def test_the_verdict_is_that_of_the_rung_that_acts(
    packet: Packet, ladder: tuple[Rung, ...], verdict: str, is_carried: bool, is_whole: bool
) -> None:
    found = explained(packet, *ladder)
    assert found.verdict.startswith(verdict)
    assert (found.is_carried, found.is_whole) == (is_carried, is_whole)


def test_a_host_of_ipv6_is_never_told_less_than_1280_octets() -> None:
    assert explained(Packet(6, 1281, True), Rung.REFUSE).verdict.endswith("at most 1280 octets")
    assert explained(Packet(4, 1281, True), Rung.REFUSE).verdict.endswith(f"at most {ROOM} octets")


def test_the_largest_packet_is_sliced() -> None:
    found = explained(Packet(4, 65_535, True), slices=True)
    assert found.verdict.startswith("sliced by AGGFRAG over 54 or 55 outer packets")
    assert found.is_whole
    assert not found.steps


@given(
    st.sampled_from([4, 6]),
    st.integers(ROOM + 1, 65_535),
    st.booleans(),
    st.lists(st.sampled_from(LADDER[:-1]), unique=True),
)
def test_the_last_step_is_the_rung_that_acts_and_no_other_does(
    version: int, size: int, is_df: bool, ladder: list[Rung]
) -> None:
    plan = MtuPlan(outer_size=1280, inner_room=ROOM, oversize=(*ladder, Rung.REFUSE))
    steps = explain(plan, Packet(version, size, is_df)).steps
    assert steps[-1].rung is rung_of(plan, version, size, is_df=is_df)
    assert [step.acts for step in steps] == [*(False for _ in steps[:-1]), True]
