import ipaddress
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from openmoat.daemon.host import MAX_CHANGES, bounded
from openmoat.daemon.hoststate import host_state, resized_routes
from openmoat.daemon.policies import MAX_CACHED, Policies, Protected, _prefixes
from openmoat.mtu.plan import MAX_PACKET, MtuPlan
from openmoat.net import Network
from openmoat.policy.selectors import Selectors, TrafficSelector
from openmoat.system.links import InterfaceAddress
from openmoat.system.watch import Change, EverythingChanged, LinkChanged

PLAN = MtuPlan(outer_size=1500, inner_room=1400, mss_v4=1360, mss_v6=1340)
ADDRESSES = (InterfaceAddress(ipaddress.ip_address("10.2.0.1"), 16, 3),)


def selectors(*texts: str) -> Selectors:
    return tuple(TrafficSelector.of(ipaddress.ip_network(text)) for text in texts)


def test_a_protected_prefix_has_a_route_with_a_source_inside_the_selectors_and_is_guarded() -> None:
    state = host_state("moat0", [Protected(selectors("10.2.0.0/16"), selectors("10.1.0.0/24"), PLAN)], ADDRESSES)
    [route] = state.routes
    assert (str(route.prefix), str(route.source)) == ("10.1.0.0/24", "10.2.0.1")
    assert [str(prefix) for prefix in state.guarded] == ["10.1.0.0/24"]
    assert [str(prefix) for prefix in state.local] == ["10.2.0.0/16"]


def test_what_peers_of_a_template_may_bring_is_guarded_while_none_of_them_is_here() -> None:
    state = host_state("moat0", [], ADDRESSES, [(selectors("10.2.0.0/16"), selectors("10.0.0.0/12", "fd00::/16"))])
    assert state.routes == ()
    assert [str(prefix) for prefix in state.guarded] == ["10.0.0.0/12", "fd00::/16"]
    assert [str(prefix) for prefix in state.local] == ["10.2.0.0/16"]


def test_a_template_for_any_address_reserves_nothing() -> None:
    state = host_state("moat0", [], ADDRESSES, [(selectors("10.2.0.0/16"), selectors("0.0.0.0/0", "::/0"))])
    assert state.guarded == ()


def test_a_host_that_protects_itself_alone_forwards_nothing() -> None:
    alone = Protected(selectors("10.2.0.1/32"), selectors("10.1.0.0/24"), PLAN)
    gateway = Protected(selectors("10.2.0.0/16"), selectors("10.1.0.0/24"), PLAN)
    assert not host_state("moat0", [alone], ADDRESSES).forwards
    assert host_state("moat0", [alone, gateway], ADDRESSES).forwards


def test_more_changes_than_the_bound_are_one_that_everything_may_have_changed() -> None:
    changes: list[Change] = [LinkChanged(f"lan{number}", True) for number in range(MAX_CHANGES)]
    assert bounded(changes) == changes
    assert bounded([*changes, LinkChanged("wan", True)]) == [EverythingChanged()]


SITES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(("10.1.0.0/24", "10.1.1.0/24", "fd01::/64")), st.integers(1280, 1500)),
    min_size=1,
    max_size=30,
)


@given(SITES)
def test_sizes_that_change_one_by_one_give_the_routes_of_the_whole(changes: list[tuple[int, str, int]]) -> None:
    policies = Policies(frozenset())
    routes: dict[Network, tuple[int, int]] = {}
    for site, far, room in changes:
        local = selectors(f"10.2.{site}.0/24", f"fd02:{site}::/64")
        plan = replace(PLAN, inner_room=room, outer_size=room + 80)
        policies._protect(f"{site} to {far}", Protected(local, selectors(far), plan))
        whole = host_state("moat0", policies.protected(), ADDRESSES).routes
        resized = policies.take_resized()
        if resized is None:
            routes = {route.prefix: (route.mtu, route.advmss) for route in whole}
        else:
            routes |= resized_routes(resized, policies.sharing)
        assert routes == {route.prefix: (route.mtu, route.advmss) for route in whole}
    assert policies.take_resized() == []


def test_one_size_among_many_policies_is_work_for_one() -> None:
    policies = Policies(frozenset())
    for site in range(2_000):
        far = selectors(f"10.{site // 250}.{site % 250}.0/24")
        policies._protect(f"site {site}", Protected(selectors("192.0.2.0/24"), far, PLAN))
    assert policies.take_resized() is None
    changed = Protected(selectors("192.0.2.0/24"), selectors("10.0.7.0/24"), replace(PLAN, inner_room=1300))
    policies._protect("site 7", changed)
    resized = policies.take_resized()
    assert resized == [changed]
    assert resized_routes(resized, policies.sharing) == {ipaddress.ip_network("10.0.7.0/24"): (MAX_PACKET, 1260)}
    policies._unprotect("site 7")
    assert policies.take_resized() is None


def test_prefixes_of_selectors_are_remembered_up_to_the_bound() -> None:
    assert _prefixes.cache_info().maxsize == MAX_CACHED
