"""Of alternatives the first in order that is up sends, whatever comes and goes in whatever order."""

from hypothesis import given
from hypothesis import strategies as st

from openmoat.policy.groups import Alternatives, Member

FIRST, SECOND, THIRD = Member(0, "gate-a"), Member(1, "gate-b"), Member(1, "gate-c")


def test_the_lowest_order_that_is_up_sends_and_gets_it_back() -> None:
    alternatives = Alternatives()
    assert alternatives.add(1, SECOND) == (1,)
    assert alternatives.add(2, FIRST) == (2,)
    assert alternatives.active == FIRST
    assert alternatives.remove(2) == (1,)
    assert alternatives.active == SECOND
    assert alternatives.add(3, FIRST) == (3,)
    assert alternatives.remove(1) == ()
    assert alternatives.remove(3) == ()
    assert not alternatives
    assert alternatives.members == frozenset()


def test_of_equal_orders_the_first_by_name_sends() -> None:
    alternatives = Alternatives()
    alternatives.add(1, THIRD)
    assert alternatives.add(2, SECOND) == (2,)
    assert alternatives.add(3, THIRD) == ()


def test_a_rekey_of_the_sender_sends_by_the_successor_and_one_of_a_standby_changes_nothing() -> None:
    alternatives = Alternatives()
    alternatives.add(1, FIRST)
    alternatives.add(2, SECOND)
    assert alternatives.add(3, FIRST) == (3,)
    assert alternatives.remove(1) == ()
    assert alternatives.add(4, SECOND) == ()
    assert alternatives.remove(2) == ()
    assert alternatives.remove(3) == (4,)


def test_all_pairs_of_a_connection_that_takes_over_are_activated_oldest_first() -> None:
    alternatives = Alternatives()
    alternatives.add(1, FIRST)
    for pair in (3, 2):
        assert alternatives.add(pair, SECOND) == ()
    assert alternatives.remove(1) == (3, 2)


def test_a_peer_that_does_not_answer_sends_only_while_there_is_no_other() -> None:
    alternatives = Alternatives()
    alternatives.add(1, FIRST)
    assert alternatives.suspect(1, is_silent=True) == ()
    assert alternatives.active == FIRST
    assert alternatives.add(2, SECOND) == (2,)
    assert alternatives.suspect(2, is_silent=True) == (1,)
    assert alternatives.suspect(2, is_silent=False) == (2,)
    assert alternatives.suspect(1, is_silent=False) == (1,)
    assert alternatives.suspect(7, is_silent=True) == ()


def test_another_order_moves_what_sends_at_once() -> None:
    alternatives = Alternatives()
    alternatives.add(1, FIRST)
    alternatives.add(2, SECOND)
    assert alternatives.rank(Member(7, "gate-a")) == (2,)
    assert alternatives.rank(Member(8, "gate-a")) == ()
    assert alternatives.rank(Member(0, "gate-a")) == (1,)
    assert alternatives.members == {"gate-a", "gate-b"}


STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=40)


@given(STEPS)
def test_what_was_activated_last_is_the_newest_pair_of_the_first_in_order(steps: list[tuple[bool, int]]) -> None:
    members = (FIRST, SECOND, THIRD)
    alternatives, ready, sent = Alternatives(), list[int](), list[int]()
    for is_added, pair in steps:
        if is_added:
            ready = [one for one in ready if one != pair] + [pair]
            sent += alternatives.add(pair, members[pair % 3])
        else:
            ready = [one for one in ready if one != pair]
            sent += alternatives.remove(pair)
        least = min((members[one % 3] for one in ready), default=None)
        assert alternatives.active == least
        mine = [one for one in ready if members[one % 3] == least]
        # As the engine does: of the pairs that are left, the one that was activated last.
        serving = next((one for one in reversed(sent) if one in ready), None)
        assert serving in mine or serving is None
        assert (serving is None) == (not ready)
