"""Work leaves the loop for a thread, comes back with its result or its error, and is bounded."""

import asyncio
import threading

import pytest

from openmoat.daemon.worker_threads import MAX_WAITING, Overloaded, WorkerThreads


def test_a_call_runs_in_another_thread_and_its_result_comes_back() -> None:
    async def run() -> None:
        threads = WorkerThreads(1)
        assert await threads.run(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 1, 0)
        assert threads.waiting == 0
        threads.close()

    asyncio.run(run())


def test_the_loop_goes_on_while_a_thread_works() -> None:
    async def run() -> None:
        threads, may_end = WorkerThreads(1), threading.Event()
        working = asyncio.ensure_future(threads.run(may_end.wait, 10.0))
        await asyncio.sleep(0)
        assert threads.waiting == 1
        may_end.set()
        assert await working
        threads.close()

    asyncio.run(run())


def test_more_calls_than_the_bound_are_refused() -> None:
    async def run() -> None:
        threads = WorkerThreads(1)
        threads.waiting = MAX_WAITING
        with pytest.raises(Overloaded, match=str(MAX_WAITING)):
            await threads.run(int)
        assert threads.waiting == MAX_WAITING
        threads.close()

    asyncio.run(run())
