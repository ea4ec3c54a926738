from openmoat.ike.events import Activity
from openmoat.ike.liveness import IDLE_PROBES, Liveness


def test_a_peer_to_which_packets_go_and_of_which_nothing_comes_is_asked_after_the_time() -> None:
    liveness = Liveness(100.0)
    assert not liveness.must_ask(Activity(1, 0, 5), 110.0, 15.0)
    assert liveness.must_ask(Activity(2, 0, 6), 115.0, 15.0)
    assert not liveness.must_ask(Activity(3, 0, 6), 116.0, 15.0)  # once, until more is sent


def test_packets_of_the_peer_count_as_a_sign_of_life() -> None:
    liveness = Liveness(100.0)
    assert not liveness.must_ask(Activity(1, 1, 5), 120.0, 15.0)
    assert liveness.heard == 120.0


def test_a_silent_link_is_asked_about_seldom() -> None:
    liveness = Liveness(0.0)
    assert not liveness.must_ask(Activity(1, 0, 0), 15.0 * IDLE_PROBES - 1, 15.0)
    assert liveness.must_ask(Activity(2, 0, 0), 15.0 * IDLE_PROBES, 15.0)


def test_a_message_of_the_peer_begins_the_time_anew() -> None:
    liveness = Liveness(0.0)
    liveness.note(10.0)
    assert not liveness.must_ask(Activity(1, 0, 3), 20.0, 15.0)
    assert liveness.must_ask(Activity(2, 0, 3), 25.0, 15.0)
