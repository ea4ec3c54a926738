"""Search of the path MTU, in virtual time."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmoat.mtu.discovery import (
    CONFIRM_SECONDS,
    RAISE_SECONDS,
    STEPS,
    BlackHole,
    Bounds,
    Discovery,
    Learned,
    Phase,
)
from openmoat.mtu.plan import BASE, MIN_PATH_MTU

PROBE_SECONDS = 2.0


@dataclass
class Road:
    """A path that carries what it carries, and what was tried on it."""

    carries: int
    discovery: Discovery
    now: float = 0.0
    probes: list[int] = field(default_factory=list)

    def settle(self) -> None:
        """Until the search has come to an end."""
        while (size := self.discovery.probe) is not None:
            self.probes.append(size)
            if size <= self.carries:
                self.now += 0.05
                self.discovery.handle_arrived(size, self.now)
            else:
                self.now += PROBE_SECONDS
                self.discovery.handle_lost(size, self.now)

    def pass_time(self, seconds: float, *, is_used: bool = True) -> None:
        """Let deadlines come and go."""
        end = self.now + seconds
        while (deadline := self.discovery.poll_timeout()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.discovery.handle_timeout(self.now, is_used=is_used)
            self.settle()
        self.now = max(self.now, end)


def road(carries: int, *, version: int = 4, maximum: int = 1500) -> Road:
    """A path on which nothing has been tried."""
    return Road(carries, Discovery(Bounds(version, maximum)))


def test_a_path_begins_with_what_every_path_carries() -> None:
    fresh = road(1500)
    assert (fresh.discovery.size, fresh.discovery.phase, fresh.discovery.probe) == (BASE, Phase.BASE, 1500)
    assert fresh.discovery.learned_at is None


def test_an_ethernet_path_is_found_by_one_probe() -> None:
    ethernet = road(1500)
    ethernet.settle()
    assert ethernet.probes == [1500]
    assert (ethernet.discovery.size, ethernet.discovery.phase) == (1500, Phase.COMPLETE)


@pytest.mark.parametrize("carries", [1492, 1460, 1400, 1300, 1280])
def test_a_known_size_is_found_exactly_and_soon(carries: int) -> None:
    path = road(carries)
    path.settle()
    assert path.discovery.size == carries
    assert len(path.probes) <= 7


def test_a_size_between_two_steps_is_used_at_the_lower_one() -> None:
    path = road(1415)
    path.settle()
    assert path.discovery.size == 1400


def test_a_path_below_the_base_is_found_over_ipv4() -> None:
    path = road(1200)
    path.settle()
    assert (path.discovery.size, path.discovery.phase) == (1124, Phase.COMPLETE)


def test_over_ipv6_nothing_smaller_than_its_minimum_is_tried() -> None:
    path = road(1000, version=6)
    path.settle()
    assert min(path.probes) == MIN_PATH_MTU[6]
    assert (path.discovery.size, path.discovery.phase) == (MIN_PATH_MTU[6], Phase.ERROR)


def test_a_dead_path_ends_in_error_and_is_tried_again_later() -> None:
    path = road(0)
    path.settle()
    assert (path.discovery.size, path.discovery.phase) == (MIN_PATH_MTU[4], Phase.ERROR)
    path.carries = 1500
    path.pass_time(RAISE_SECONDS)
    assert (path.discovery.size, path.discovery.phase) == (1500, Phase.COMPLETE)


def test_a_path_that_shrinks_is_used_at_the_base_before_its_new_size_is_known() -> None:
    path = road(1500)
    path.settle()
    path.carries = 1400
    path.now = CONFIRM_SECONDS + 1.0
    path.discovery.handle_timeout(path.now, is_used=True)
    assert path.discovery.probe == 1500
    path.discovery.handle_lost(1500, path.now)
    assert path.discovery.size == BASE
    found_at = path.now
    assert path.discovery.black_hole == BlackHole(found_at, 1500, BASE)
    path.settle()
    assert path.discovery.size == 1400
    assert path.discovery.black_hole == BlackHole(found_at, 1500, 1400)


def test_a_size_is_not_confirmed_while_nothing_is_sent() -> None:
    path = road(1500)
    path.settle()
    path.pass_time(10 * CONFIRM_SECONDS, is_used=False)
    assert path.probes == [1500]
    path.pass_time(CONFIRM_SECONDS, is_used=True)
    assert path.probes == [1500, 1500]


def test_a_path_that_grows_is_found_out_after_the_raise_timer() -> None:
    path = road(1400)
    path.settle()
    path.carries = 1500
    path.pass_time(RAISE_SECONDS - 1.0, is_used=False)
    assert path.discovery.size == 1400
    path.pass_time(2.0, is_used=False)
    assert path.discovery.size == 1500
    assert path.discovery.black_hole is None


def test_passage_of_fragments_is_asked_after_the_size_and_again_when_the_path_may_be_another() -> None:
    path = road(1500)
    is_asked = [path.discovery.probes_fragments]
    path.settle()
    is_asked.append(path.discovery.probes_fragments)
    path.discovery.handle_fragments(passed=True)
    for seconds, is_used in ((RAISE_SECONDS, False), (RAISE_SECONDS, True)):
        path.pass_time(seconds, is_used=is_used)
        is_asked.append(path.discovery.probes_fragments)
    assert is_asked == [False, True, False, True]
    path.discovery.handle_fragments(passed=True)
    path.carries = 1400
    path.pass_time(CONFIRM_SECONDS)
    assert path.discovery.probes_fragments
    assert path.discovery.fragments_pass is None


def test_a_suspicion_is_a_question_where_shrinking_costs() -> None:
    path = road(1500)
    path.settle()
    path.discovery.handle_suspicion(5.0, shrinks=False)
    assert (path.discovery.size, path.discovery.probe, path.discovery.poll_timeout()) == (1500, 1500, None)
    path.settle()
    assert (path.probes, path.discovery.black_hole) == ([1500, 1500], None)
    path.carries = 1400
    path.discovery.handle_suspicion(6.0, shrinks=False)
    path.settle()
    assert path.discovery.size == 1400


def test_a_suspicion_shrinks_first_where_that_costs_little() -> None:
    path = road(1500)
    path.settle()
    path.discovery.handle_suspicion(5.0, shrinks=True)
    assert (path.discovery.size, path.discovery.learned_at, path.discovery.probe) == (BASE, None, 1500)
    path.settle()
    assert (path.discovery.size, path.discovery.phase) == (1500, Phase.COMPLETE)
    assert path.discovery.black_hole is None


def test_a_suspicion_that_was_unfounded_makes_the_next_ones_questions_for_a_while() -> None:
    path = road(1500)
    path.settle()
    path.discovery.handle_suspicion(5.0, shrinks=True)
    path.settle()
    path.discovery.handle_suspicion(path.now + 2.0, shrinks=True)
    assert (path.discovery.size, path.discovery.probe) == (1500, 1500)
    path.settle()
    path.carries = 1400
    path.now += CONFIRM_SECONDS
    found_at = path.now
    path.discovery.handle_suspicion(found_at, shrinks=True)
    assert path.discovery.size == BASE
    path.settle()
    assert path.discovery.black_hole == BlackHole(found_at, 1500, 1400)


def test_a_black_hole_that_the_peer_tells_of_shrinks_at_once_even_while_a_probe_is_under_way() -> None:
    path = road(1500)
    path.settle()
    path.pass_time(CONFIRM_SECONDS - 1.0)
    path.now += 2.0
    path.discovery.handle_timeout(path.now, is_used=True)
    assert path.discovery.probe == 1500
    path.carries = 1400
    found_at = path.now
    path.discovery.handle_black_hole(found_at)
    assert (path.discovery.size, path.discovery.learned_at) == (BASE, None)
    path.discovery.handle_black_hole(found_at)
    path.settle()
    assert (path.discovery.size, path.discovery.black_hole) == (1400, BlackHole(found_at, 1500, 1400))


def test_a_peer_is_believed_the_second_time_where_probes_go_another_way_than_its_packets() -> None:
    path = road(1500)
    path.settle()
    path.discovery.handle_black_hole(5.0)
    path.settle()
    assert path.discovery.size == 1500
    found_at = path.now
    path.discovery.handle_black_hole(found_at)
    path.settle()
    assert (path.discovery.size, path.discovery.black_hole) == (1492, BlackHole(found_at, 1500, 1492))


def test_what_the_peer_says_to_have_come_needs_no_probe() -> None:
    path = road(1500)
    path.settle()
    for number in range(1, 4):
        path.now += CONFIRM_SECONDS
        path.discovery.handle_timeout(path.now, is_used=True, is_proved=True)
        assert (path.discovery.probe, path.discovery.learned_at) == (None, path.now), number
    path.pass_time(CONFIRM_SECONDS)
    assert path.probes == [1500, 1500]


@pytest.mark.parametrize(("carries", "probed"), [(1500, 1500), (1400, 1500)])
def test_who_wants_to_know_now_has_larger_sizes_tried_or_the_one_in_use_confirmed(carries: int, probed: int) -> None:
    path = road(carries)
    path.settle()
    path.discovery.handle_fragments(passed=True)
    path.discovery.handle_wish(path.now)
    assert path.discovery.probe == probed
    path.discovery.handle_wish(path.now)
    path.settle()
    assert (path.discovery.size, path.discovery.probes_fragments) == (carries, True)
    assert path.discovery.black_hole is None


@pytest.mark.parametrize("shrinks", [True, False])
def test_a_suspicion_is_nothing_before_anything_was_proved_or_while_a_probe_is_under_way(shrinks: bool) -> None:
    path = road(1500)
    path.discovery.handle_suspicion(1.0, shrinks=shrinks)
    assert (path.discovery.size, path.discovery.probe) == (BASE, 1500)
    small = road(1280)
    small.settle()
    small.discovery.handle_suspicion(1.0, shrinks=shrinks)
    assert (small.discovery.size, small.discovery.probe) == (1280, None)


def test_a_result_nobody_waits_for_changes_nothing() -> None:
    path = road(1500)
    path.discovery.handle_arrived(9000, 1.0)
    path.discovery.handle_lost(576, 1.0)
    assert (path.discovery.size, path.discovery.probe) == (BASE, 1500)


def test_a_link_smaller_than_the_base_is_where_the_search_begins() -> None:
    path = road(1500, maximum=1000)
    assert path.discovery.size == 1000
    path.settle()
    assert path.discovery.size == 1000


@pytest.mark.parametrize(("version", "maximum"), [(4, 575), (6, 1279), (4, 65_536)])
def test_bounds_outside_of_what_paths_have_are_refused(version: int, maximum: int) -> None:
    with pytest.raises(ValueError, match="path MTU"):
        Bounds(version, maximum)


@given(
    carries=st.lists(st.integers(576, 9000), min_size=1, max_size=4),
    maximum=st.integers(1280, 9000),
    version=st.sampled_from((4, 6)),
)
def test_whatever_a_path_becomes_its_largest_step_is_found_and_nothing_larger_is_used(
    carries: list[int], maximum: int, version: int
) -> None:
    path = road(carries[0], version=version, maximum=maximum)
    for now_carries in carries:
        path.carries = now_carries
        path.settle()
        path.pass_time(2 * RAISE_SECONDS)
        possible = {size for size in (*STEPS, maximum) if MIN_PATH_MTU[version] <= size <= min(now_carries, maximum)}
        assert path.discovery.size == (max(possible) if possible else MIN_PATH_MTU[version])


def known(carries: int = 1500) -> Road:
    """A path that is found out."""
    path = road(carries)
    path.settle()
    path.probes.clear()
    return path


@pytest.mark.parametrize("shrinks", [False, True])
def test_a_hint_that_is_true_finds_the_very_size_with_two_probes(shrinks: bool) -> None:
    path = known()
    path.discovery.handle_fragments(passed=True)
    path.carries = 1396
    assert path.discovery.handle_hint(1396, path.now, shrinks=shrinks)
    path.settle()
    assert (path.discovery.fragments_pass, path.discovery.probes_fragments) == (None, True)
    assert path.probes == [1396, 1500]
    assert (path.discovery.size, path.discovery.learned, path.discovery.phase) == (1396, Learned.HINT, Phase.COMPLETE)
    assert path.discovery.black_hole is not None
    assert (path.discovery.black_hole.before, path.discovery.black_hole.after) == (1500, 1396)
    path.pass_time(CONFIRM_SECONDS * 2)
    assert (path.discovery.size, path.discovery.learned) == (1396, Learned.HINT)
    path.carries = 1500
    path.pass_time(RAISE_SECONDS)
    assert (path.discovery.size, path.discovery.learned) == (1500, Learned.PROBE)


def test_without_a_hint_the_same_takes_more_probes_and_finds_less() -> None:
    path = known()
    path.carries = 1396
    path.discovery.handle_suspicion(path.now, shrinks=False)
    path.settle()
    assert len(path.probes) > 2
    assert path.discovery.size < 1396


@pytest.mark.parametrize("told", [0, 68, 552, 1280, 1400, 1499])
@pytest.mark.parametrize("shrinks", [False, True])
def test_a_hint_that_is_false_costs_two_probes_and_changes_nothing(told: int, shrinks: bool) -> None:
    path = known()
    path.discovery.handle_fragments(passed=True)
    assert path.discovery.handle_hint(told, path.now, shrinks=shrinks)
    path.settle()
    assert path.probes == [max(told, BASE), 1500]
    assert (path.discovery.fragments_pass, path.discovery.probes_fragments) == (True, False)
    assert (path.discovery.size, path.discovery.learned, path.discovery.black_hole) == (1500, Learned.PROBE, None)
    # And for a while nothing shrinks before it was asked.
    path.discovery.handle_hint(told, path.now, shrinks=True)
    path.discovery.handle_arrived(max(told, BASE), path.now)
    assert path.discovery.size == 1500


@pytest.mark.parametrize("told", [1500, 1501, 65535])
def test_a_hint_that_names_no_less_than_is_in_use_is_no_news(told: int) -> None:
    path = known()
    assert not path.discovery.handle_hint(told, path.now, shrinks=True)
    assert not path.discovery.handle_trusted(told, path.now)
    assert (path.discovery.probe, path.discovery.size) == (None, 1500)


def test_a_hint_during_the_question_whether_the_size_is_lost_is_asked_next() -> None:
    path = known()
    path.carries = 1396
    path.discovery.handle_suspicion(path.now, shrinks=False)
    assert path.discovery.handle_hint(1396, path.now, shrinks=False)
    assert not path.discovery.handle_hint(1300, path.now, shrinks=False)
    path.settle()
    assert path.probes == [1500, 1396, 1452]
    assert path.discovery.size == 1396


def test_a_hint_that_still_names_too_much_falls_back_to_what_every_path_carries() -> None:
    path = known()
    path.carries = 1300
    path.discovery.handle_hint(1400, path.now, shrinks=True)
    size = path.discovery.probe
    assert size == 1400
    path.discovery.handle_lost(size, path.now)
    assert path.discovery.size == BASE
    path.settle()
    assert path.discovery.size == 1300


@pytest.mark.parametrize(("version", "told", "used"), [(4, 1400, 1400), (4, 68, 576), (6, 68, 1280), (4, 0, 1280)])
def test_trusted_icmp_is_used_unasked_but_for_a_floor_and_ages(version: int, told: int, used: int) -> None:
    path = road(1500, version=version)
    path.settle()
    assert path.discovery.handle_trusted(told, path.now)
    assert (path.discovery.size, path.discovery.learned) == (used, Learned.ICMP)
    path.pass_time(RAISE_SECONDS)
    assert (path.discovery.size, path.discovery.learned) == (1500, Learned.PROBE)


@given(
    carries=st.integers(1280, 1500),
    hints=st.lists(st.tuples(st.integers(0, 70_000), st.booleans(), st.floats(0, 40)), max_size=20),
)
def test_no_hints_keep_a_path_below_what_it_carries(carries: int, hints: list[tuple[int, bool, float]]) -> None:
    path = known(carries)
    before = path.discovery.size
    for told, shrinks, pause in hints:
        path.discovery.handle_hint(told, path.now, shrinks=shrinks)
        assert path.discovery.size >= BASE
        path.settle()
        assert before <= path.discovery.size <= carries
        path.pass_time(pause)
