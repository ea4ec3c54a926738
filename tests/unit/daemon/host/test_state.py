import ipaddress

from openmoat.daemon.host.keeper import MAX_CHANGES, bounded
from openmoat.daemon.host.prefixes import MAX_CACHED, Protected, prefixes_of
from openmoat.daemon.host.state import host_state
from openmoat.mtu.plan import MtuPlan
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


def test_prefixes_of_selectors_are_remembered_up_to_the_bound() -> None:
    assert prefixes_of.cache_info().maxsize == MAX_CACHED
