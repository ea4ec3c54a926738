"""The host's plan, followed prefix by prefix, against the one made anew from all that is protected."""

import ipaddress
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec import structs

from openmoat.daemon.host.prefixes import MAX_TOUCHED, Prefixes, Protected
from openmoat.daemon.host.state import host_state, state_change
from openmoat.mtu.plan import MtuPlan
from openmoat.net import Network
from openmoat.policy.selectors import Selectors, TrafficSelector
from openmoat.system import ranges
from openmoat.system.links import InterfaceAddress, Link
from openmoat.system.names import ROUTE_TABLE
from openmoat.system.plan import HostView, Plan, PlanChange, Planner, needs_routes
from openmoat.system.routes import HostRoute, Route, RouteKind
from openmoat.system.state import HostState

PLAN = MtuPlan(outer_size=1500, inner_room=1400, mss_v4=1360, mss_v6=1340)
ADDRESSES = (
    InterfaceAddress(ipaddress.ip_address("198.51.100.1"), 24, 2),
    InterfaceAddress(ipaddress.ip_address("10.2.0.1"), 16, 3),
    InterfaceAddress(ipaddress.ip_address("fd02::1"), 64, 3),
)
LINKS = {1: Link(1, "lo", True), 2: Link(2, "eth0", True), 3: Link(3, "eth1", True), 9: Link(9, "moat0", True)}


def net(text: str) -> Network:
    return ipaddress.ip_network(text)


HOST = tuple(
    HostRoute(net(text), index, is_connected)
    for text, index, is_connected in (
        ("0.0.0.0/0", 2, False),
        ("198.51.100.0/24", 2, True),
        ("10.2.0.0/16", 3, True),
        ("10.8.0.0/13", 3, False),
        ("fd02::/64", 3, True),
    )
)
NEAR = ("10.2.0.0/16", "10.2.0.1/32", "10.2.8.0/24", "10.9.1.0/24", "fd02::/64", "0.0.0.0/0")
FAR = (
    *("10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/23", "10.1.0.0/16", "10.2.9.0/24", "10.0.0.0/8", "0.0.0.0/0"),
    *("10.9.0.0/24", "10.9.1.0/24", "fd01::/64", "fd01:0:0:1::/64", "fd01::/16", "::/0"),
)


def selectors(*texts: str) -> Selectors:
    return tuple(TrafficSelector.of(net(text)) for text in texts)


NEARS = st.lists(st.sampled_from(NEAR), min_size=1, max_size=2, unique=True).map(lambda texts: selectors(*texts))
FARS = st.lists(st.sampled_from(FAR), min_size=1, max_size=2, unique=True).map(lambda texts: selectors(*texts))
NAMES = st.integers(0, 7).map(str)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("protect"), NAMES, NEARS, FARS, st.sampled_from((1280, 1400, 1500))),
        st.tuples(st.just("resize"), NAMES, st.sampled_from((1280, 1400, 1500))),
        st.tuples(st.just("unprotect"), NAMES),
        st.tuples(st.just("reserve"), NAMES, NEARS, FARS),
        st.tuples(st.just("release"), NAMES),
        st.tuples(st.just("take")),
    ),
    max_size=30,
)


def take_step(prefixes: Prefixes, step: tuple[object, ...]) -> None:
    match step:
        case ("protect", str(name), local, remote, int(room)):
            prefixes.protect(name, Protected(local, remote, structs.replace(PLAN, inner_room=room)))  # type: ignore[arg-type]
        case ("resize", str(name), int(room)) if (before := prefixes.find(name)) is not None:
            prefixes.protect(name, replace(before, plan=structs.replace(PLAN, inner_room=room)))
        case ("unprotect", str(name)):
            prefixes.unprotect(name)
        case ("reserve", str(name), local, remote):
            prefixes.reserve(name, [(local, remote)])  # type: ignore[list-item]
        case ("release", str(name)):
            prefixes.reserve(name, [])


def whole_state(prefixes: Prefixes) -> HostState:
    return host_state("moat0", prefixes.protected(), ADDRESSES, prefixes.reserved())


def whole(state: HostState, has_ipv6: bool = True) -> Planner:
    routes = HOST if needs_routes(state) else ()
    return Planner(state, HostView(links=LINKS, addresses=ADDRESSES, routes=routes, has_ipv6=has_ipv6))


def kernel(plan: Plan) -> tuple[object, ...]:
    """All that the kernel is to hold."""
    sets = {name: set(found) for name, found in plan.guard.sets.items()}
    return set(plan.routes), plan.rules, sets, replace(plan.guard, sets=sets), plan.settings


def follow(routes: set[Route], sets: dict[str, set[ranges.Range]], todo: PlanChange) -> None:
    """What the kernel holds after a change; nothing is guarded twice, nor taken away that is not there."""
    for changes in (todo.guard_before, todo.guard_after):
        for name, change in changes.items():
            assert change.gone <= sets[name]
            assert not change.new & sets[name]
            sets[name] = sets[name] - change.gone | change.new
    places = {route.place for route in todo.put}
    routes -= {route for route in routes if route.place in places}
    routes |= set(todo.put)
    assert routes >= set(todo.gone)
    routes -= set(todo.gone)


@given(STEPS, st.booleans())
def test_what_comes_goes_and_changes_its_size_gives_the_plan_of_the_whole(
    steps: list[tuple[object, ...]], has_ipv6: bool
) -> None:
    prefixes = Prefixes()
    planner = whole(whole_state(prefixes), has_ipv6)
    for step in (*steps, ("take",)):
        take_step(prefixes, step)
        if step != ("take",):
            continue
        touched, state = prefixes.take_touched(), whole_state(prefixes)
        assert touched is not None
        routes, sets = set(planner.plan.routes), {name: set(found) for name, found in planner.plan.guard.sets.items()}
        todo = planner.change(state_change(prefixes, touched, ADDRESSES))
        fresh = whole(state, has_ipv6)
        event("planned anew" if todo is None else "followed")
        if todo is None:
            planner = fresh
            continue
        assert kernel(planner.plan) == kernel(fresh.plan)
        follow(routes, sets, todo)
        assert (routes, sets) == kernel(fresh.plan)[0:3:2]


@given(STEPS)
def test_the_touched_prefixes_give_the_state_of_the_whole(steps: list[tuple[object, ...]]) -> None:
    prefixes = Prefixes()
    state = whole_state(prefixes)
    for step in steps:
        take_step(prefixes, step)
        touched = prefixes.take_touched()
        assert touched is not None
        change = state_change(prefixes, touched, ADDRESSES)
        routes = {route.prefix: route for route in state.routes}
        routes = {p: r for p, r in (routes | dict(change.routes)).items() if r is not None}
        guarded = {prefix for prefix in state.guarded if change.guarded.get(prefix, True)}
        local = {prefix for prefix in state.local if change.local.get(prefix, True)}
        state = whole_state(prefixes)
        assert routes == {route.prefix: route for route in state.routes}
        assert guarded | {p for p, is_guarded in change.guarded.items() if is_guarded} == set(state.guarded)
        assert local | {p for p, is_ours in change.local.items() if is_ours} == set(state.local)
        assert change.forwards == state.forwards


def portal(sites: int) -> tuple[Prefixes, Planner]:
    """A template with a wide reserve, and the sites that are here."""
    prefixes = Prefixes()
    prefixes.reserve("sites", [(selectors("192.0.2.0/24"), selectors("10.0.0.0/12"))])
    for site in range(sites):
        far = selectors(f"10.{site // 250}.{site % 250}.0/25", f"172.{16 + site // 250}.{site % 250}.0/25")
        prefixes.protect(f"site {site}", Protected(selectors("192.0.2.0/24"), far, PLAN))
    prefixes.take_touched()
    return prefixes, whole(whole_state(prefixes))


def count_walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prefixes are looked at, each time that ranges are found."""
    walked: list[int] = []
    cover = ranges.cover

    def counted(rows: Iterable[tuple[int, int, ranges.Label]]) -> dict[ranges.Label, list[ranges.Range]]:
        listed = list(rows)
        walked.append(len(listed))
        return cover(listed)

    monkeypatch.setattr(ranges, "cover", counted)
    return walked


@pytest.mark.parametrize("step", ["added", "removed", "resized"])
def test_one_peer_among_many_is_the_work_of_one(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work: dict[int, list[object]] = {}
    for others in (10, 2_000):
        prefixes, planner = portal(others)
        walked = count_walked(monkeypatch)
        far = Protected(selectors("192.0.2.0/24"), selectors("10.14.7.0/25", "172.29.7.0/25"), PLAN)
        match step:
            case "added":
                prefixes.protect("new", far)
            case "removed":
                prefixes.unprotect("site 5")
            case _:
                before = prefixes.find("site 5")
                assert before is not None
                prefixes.protect("site 5", replace(before, plan=structs.replace(PLAN, inner_room=1280)))
        touched = prefixes.take_touched()
        assert touched is not None
        change = state_change(prefixes, touched, ADDRESSES)
        todo = planner.change(change)
        assert todo is not None
        monkeypatch.undo()
        changed = [
            (len(row.gone), len(row.new)) for rows in (todo.guard_before, todo.guard_after) for row in rows.values()
        ]
        work[others] = [len(touched.prefixes), len(touched.local), walked, len(todo.put), len(todo.gone), changed]
    assert work[10] == work[2_000]
    assert work[10][2] == ([] if step == "resized" else [1] if step == "added" else [0])


def test_more_than_the_bound_of_touched_prefixes_is_a_matter_for_the_whole() -> None:
    prefixes = Prefixes()
    for site in range(MAX_TOUCHED):
        prefixes.protect(f"{site}", Protected(selectors("192.0.2.0/24"), selectors(f"10.0.{site}.0/24"), PLAN))
    assert prefixes.take_touched() is None
    assert prefixes.take_touched() is not None


def test_a_peer_of_a_template_that_comes_is_guarded_by_the_reserve_and_routed() -> None:
    prefixes, planner = portal(3)
    prefixes.protect("new", Protected(selectors("192.0.2.0/24"), selectors("10.14.7.0/25"), PLAN))
    touched = prefixes.take_touched()
    assert touched is not None
    todo = planner.change(state_change(prefixes, touched, ADDRESSES))
    assert todo is not None
    assert not any(todo.guard_before.values())
    assert {(route.kind, route.table) for route in todo.put} == {
        (RouteKind.BLACKHOLE, ROUTE_TABLE),
        (RouteKind.UNICAST, ROUTE_TABLE),
    }
