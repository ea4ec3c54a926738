"""A turn of the event loop is measured from one wait to the next."""

import asyncio
import gc
import time

import pytest

from openmoat.daemon.status.turns import LONGEST_TURN, Turns, WatchedSelector, watch_collections


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def run(*works: float, sleeps: float = 0.0) -> Turns:
    turns = Turns()

    def step(seconds: float) -> None:
        spin(seconds)
        time.sleep(sleeps)

    async def work() -> None:
        await asyncio.sleep(0)
        for seconds in works:
            step(seconds)
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(WatchedSelector(turns))) as runner:
        runner.run(work())
    return turns


def test_the_longest_turn_is_told_and_those_beyond_the_bound_are_counted() -> None:
    turns = run(0.001, LONGEST_TURN + 0.01, 0.001)
    assert turns.count >= 3
    assert turns.longest > LONGEST_TURN + 0.01
    assert turns.too_long == 1
    assert turns.longest_pause >= turns.longest - 0.001


def test_time_in_which_the_thread_does_not_run_is_a_pause_and_no_work() -> None:
    turns = run(0.0, sleeps=2 * LONGEST_TURN)
    assert turns.longest_pause >= 2 * LONGEST_TURN
    assert turns.too_long == 0


def test_reset_forgets_everything() -> None:
    turns = run(LONGEST_TURN + 0.01)
    turns.reset()
    assert turns == Turns()


def test_collections_of_everything_are_counted_and_timed() -> None:
    turns = Turns()
    times = iter([0.0, 1.0, 1.5, 2.0, 2.25])
    stop = watch_collections(turns, lambda: next(times))
    gc.disable()
    try:
        gc.collect(2)
        gc.collect(0)
    finally:
        stop()
        gc.enable()
    gc.collect()
    assert turns.collections == 1
    assert turns.longest_collection == pytest.approx(0.5)
