"""When the host is told, of what, and what a host that refuses brings about; the kernel stands apart."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import pytest

from openmoat.daemon.host.keeper import HostKeeper
from openmoat.daemon.host.prefixes import MAX_TOUCHED, Prefixes, Protected
from openmoat.daemon.status.journal import Journal
from openmoat.daemon.worker_threads import WorkerThreads
from openmoat.errors import SystemFault
from openmoat.model.settings import OnStop
from openmoat.mtu.plan import MtuPlan
from openmoat.policy.selectors import parse_selectors
from openmoat.system.links import InterfaceAddress
from openmoat.system.reconcile import Applied, Reconciler
from openmoat.system.state import HostState, StateChange
from openmoat.system.watch import Change

PLAN = MtuPlan(outer_size=1500, inner_room=1400)


class Paper(Reconciler):
    """A host on paper: it notes what it is asked for, and refuses when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[HostState] = []
        self.changes: list[StateChange] = []
        self.released: list[bool] = []
        self.fault = ""
        self.notes: tuple[str, ...] = ()

    def adopt(self) -> int:
        return 0

    def handle_changes(self, changes: Iterable[Change]) -> bool:
        return bool(list(changes))

    def apply(self, wanted: HostState) -> Applied:
        if self.fault:
            raise SystemFault(self.fault)
        self.states.append(wanted)
        return Applied(written=1, notes=self.notes)

    def change(self, change: StateChange) -> Applied | None:
        if self.fault:
            raise SystemFault(self.fault)
        self.changes.append(change)
        return Applied(written=1)

    def inspect(self, device: str = "moat0") -> tuple[str, ...]:
        return ()

    def release(self, *, keeps_guard: bool) -> Applied:
        self.released.append(keeps_guard)
        return Applied()


class Bench:
    """A keeper of a host on paper."""

    def __init__(self) -> None:
        self.host = Paper()
        self.prefixes = Prefixes()
        self.journal = Journal(lambda: 0.0)
        self.told: list[tuple[InterfaceAddress, ...]] = []
        self.threads = WorkerThreads()
        self.keeper = HostKeeper(self.host, "moat0", self.prefixes, self.threads, self.journal, self)

    def handle_addresses(self, rows: tuple[InterfaceAddress, ...]) -> None:
        self.told.append(rows)

    def protect(self, *numbers: int) -> None:
        for number in numbers:
            near, far = parse_selectors(["10.2.0.0/16"]), parse_selectors([f"10.1.{number}.0/24"])
            self.prefixes.protect(f"site {number}", Protected(near, far, PLAN))

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.journal.entries()]


def run(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench()
        try:
            await test(bench)
        finally:
            bench.threads.close()

    asyncio.run(main())


def test_the_first_time_everything_is_applied_and_later_what_was_touched() -> None:
    async def test(bench: Bench) -> None:
        bench.protect(1, 2)
        await bench.keeper.apply()
        (state,) = bench.host.states
        assert [str(route.prefix) for route in state.routes] == ["10.1.1.0/24", "10.1.2.0/24"]
        assert len(bench.told) == 1
        bench.protect(3)
        await bench.keeper.apply()
        (change,) = bench.host.changes
        assert [str(prefix) for prefix in change.routes] == ["10.1.3.0/24"]
        await bench.keeper.apply()
        assert (len(bench.host.states), len(bench.host.changes), len(bench.told)) == (1, 1, 1)

    run(test)


def test_more_than_is_remembered_one_by_one_is_planned_anew() -> None:
    async def test(bench: Bench) -> None:
        await bench.keeper.apply()
        for number in range(MAX_TOUCHED + 1):
            near, far = (
                parse_selectors(["10.2.0.0/16"]),
                parse_selectors([f"10.{10 + number // 256}.{number % 256}.0/24"]),
            )
            bench.prefixes.protect(f"site {number}", Protected(near, far, PLAN))
        await bench.keeper.apply()
        assert (len(bench.host.states), bench.host.changes) == (2, [])

    run(test)


def test_nothing_is_negotiated_while_there_never_was_a_guard() -> None:
    async def test(bench: Bench) -> None:
        bench.host.fault = "nft: not permitted"
        with pytest.raises(SystemFault, match="not permitted"):
            await bench.keeper.apply()

    run(test)


def test_a_later_fault_is_told_once_and_tried_again_from_the_whole() -> None:
    async def test(bench: Bench) -> None:
        await bench.keeper.apply()
        bench.host.fault = "nft: not permitted"
        bench.protect(1)
        for _ in range(3):
            await bench.keeper.apply()
        assert (bench.keeper.fault, bench.kinds()) == ("nft: not permitted", ["host-fault"])
        bench.host.fault = ""
        await bench.keeper.apply()
        assert (bench.keeper.fault, len(bench.host.states)) == ("", 2)

    run(test)


def test_a_note_of_the_host_is_told_once_as_long_as_it_lasts() -> None:
    async def test(bench: Bench) -> None:
        bench.host.notes = ("rp_filter drops what comes out of the tunnel",)
        await bench.keeper.apply()
        bench.protect(1)
        await bench.keeper.apply()
        assert bench.kinds() == ["host-note"]
        assert bench.keeper.notes == bench.host.notes

    run(test)


def test_after_the_end_nothing_is_applied_any_more() -> None:
    async def test(bench: Bench) -> None:
        await bench.keeper.apply()
        await bench.keeper.stop(OnStop.BLOCK)
        bench.protect(1)
        await bench.keeper.apply()
        assert (len(bench.host.states), bench.host.changes, bench.host.released) == (1, [], [True])

    run(test)
