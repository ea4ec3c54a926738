import random

from openmoat.ike.timers import SMALL, STALE_FACTOR, Timers


def test_timers_fire_in_order_and_once() -> None:
    timers: Timers[str] = Timers()
    timers.set("b", 2.0)
    timers.set("a", 1.0)
    timers.set("c", 3.0)
    assert timers.next() == 1.0
    assert timers.pop_due(0.5) is None
    assert [timers.pop_due(2.5) for _ in range(3)] == ["a", "b", None]
    assert "c" in timers
    assert len(timers) == 1


def test_a_timer_set_again_moves_and_a_stopped_one_is_silent() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.set("a", 5.0)
    timers.set("b", 2.0)
    timers.stop("b")
    timers.stop("never set")
    assert timers.next() == 5.0
    assert timers.deadline("a") == 5.0
    assert timers.deadline("b") is None


def test_timers_behave_as_a_sorted_list_would_and_the_heap_stays_small() -> None:
    rng = random.Random(7)  # noqa: S311
    timers: Timers[int] = Timers()
    naive: dict[int, float] = {}
    now = 0.0
    for _ in range(20_000):
        key = rng.randrange(50)
        if rng.random() < 0.9:
            timers.set(key, at := now + rng.random() * 10)
            naive[key] = at
        else:
            timers.stop(key)
            naive.pop(key, None)
        now += rng.random() * 0.05
        while (fired := timers.pop_due(now)) is not None:
            assert naive.pop(fired) <= now
        assert timers.next() == (min(naive.values()) if naive else None)
        assert len(timers._heap) <= max(SMALL, STALE_FACTOR * 50) + 1
