import random
from weakref import finalize

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


class Key:
    """Equal to every key of its number; `alive` counts those that something still holds."""

    alive = 0

    def __init__(self, number: int) -> None:
        self.number = number
        Key.alive += 1
        finalize(self, self.gone)

    @staticmethod
    def gone() -> None:
        Key.alive -= 1

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.number == self.number


def test_timers_behave_as_a_sorted_list_would_and_the_heap_stays_small() -> None:
    rng = random.Random(7)  # noqa: S311
    timers: Timers[Key] = Timers()
    naive: dict[int, float] = {}
    now = 0.0
    for _ in range(20_000):
        number = rng.randrange(50)
        if rng.random() < 0.9:
            timers.set(Key(number), at := now + rng.random() * 10)
            naive[number] = at
        else:
            timers.stop(Key(number))
            naive.pop(number, None)
        now += rng.random() * 0.05
        while (fired := timers.pop_due(now)) is not None:
            assert naive.pop(fired.number) <= now
        assert timers.next() == (min(naive.values()) if naive else None)
        # An entry of the heap holds its key, stale or not.
        assert Key.alive <= max(SMALL, STALE_FACTOR * 50) + 50 + 1
