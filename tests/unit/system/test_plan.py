import ipaddress
from dataclasses import replace

import pytest

from openmoat.net import Network
from openmoat.policy.selectors import TrafficSelector
from openmoat.system.links import InterfaceAddress, Link, address_inside
from openmoat.system.names import ROUTE_TABLE, SOURCE_TABLE
from openmoat.system.plan import HostView, Plan, Planner, needs_routes
from openmoat.system.routes import HostRoute, Route, RouteKind
from openmoat.system.rules import RuleAction
from openmoat.system.state import HostState, SourceRoute, StateChange, TunnelRoute
from openmoat.system.sysctls import Setting

LINKS = {1: Link(1, "lo", True), 2: Link(2, "eth0", True), 3: Link(3, "eth1", True), 9: Link(9, "moat0", True)}


def net(text: str) -> Network:
    return ipaddress.ip_network(text)


def tunnel(text: str, source: str | None = None, mtu: int = 1400) -> TunnelRoute:
    return TunnelRoute(prefix=net(text), mtu=mtu, advmss=1340, source=ipaddress.ip_address(source) if source else None)


VIEW = HostView(
    links=LINKS,
    addresses=(
        InterfaceAddress(ipaddress.ip_address("127.0.0.1"), 8, 1),
        InterfaceAddress(ipaddress.ip_address("198.51.100.1"), 24, 2),
        InterfaceAddress(ipaddress.ip_address("10.1.0.1"), 24, 3),
    ),
    routes=(
        HostRoute(net("0.0.0.0/0"), 2, False),
        HostRoute(net("198.51.100.0/24"), 2, True),
        HostRoute(net("192.168.7.0/24"), 2, True),
        HostRoute(net("10.1.0.0/24"), 3, True),
        HostRoute(net("10.1.7.0/24"), 3, False),
        HostRoute(net("fe80::/64"), 3, True),
    ),
)
WHOLE_HOUSE = HostState(routes=(tunnel("0.0.0.0/0"),), guarded=(net("0.0.0.0/0"),))
OFFICE = HostState(
    routes=(tunnel("10.0.0.0/8", "10.1.0.1"),), guarded=(net("10.0.0.0/8"),), local=(net("10.1.0.0/16"),)
)


def plan(state: HostState, view: HostView) -> Plan:
    return Planner(state, view).plan


def thrown(made: Plan, table: int = ROUTE_TABLE) -> set[str]:
    return {str(r.prefix) for r in made.routes if r.kind is RouteKind.THROW and r.table == table}


def kept(made: Plan) -> set[tuple[str, str]]:
    return {(row.device, str(ipaddress.ip_address(row.first))) for row in made.guard.kept}


def of_kind(made: Plan, kind: RouteKind) -> list[Route]:
    return [route for route in made.routes if route.kind is kind]


def test_every_guarded_prefix_has_a_blackhole_that_is_worse_than_its_route() -> None:
    made = plan(OFFICE, VIEW)
    [route], [blackhole] = of_kind(made, RouteKind.UNICAST), of_kind(made, RouteKind.BLACKHOLE)
    assert route.prefix == blackhole.prefix == net("10.0.0.0/8")
    assert route.metric < blackhole.metric
    assert (route.index, route.mtu, route.advmss, str(route.source)) == (9, 1400, 1340, "10.1.0.1")


def test_without_a_device_the_guard_stands_alone() -> None:
    made = plan(OFFICE, replace(VIEW, links={2: LINKS[2]}))
    assert of_kind(made, RouteKind.UNICAST) == []
    assert len(of_kind(made, RouteKind.BLACKHOLE)) == 1
    assert made.guard == replace(plan(OFFICE, VIEW).guard, kept=())


def test_our_own_networks_inside_a_guarded_prefix_stay_reachable_and_no_others() -> None:
    made = plan(OFFICE, VIEW)
    assert thrown(made) == {"10.1.0.0/24", "10.1.7.0/24"}
    assert kept(made) == {("eth1", "10.1.0.0"), ("eth1", "10.1.7.0")}


def test_a_network_a_stranger_names_outside_takes_nothing_from_a_guarded_prefix() -> None:
    hostile = replace(VIEW, routes=(*VIEW.routes, HostRoute(net("10.2.0.0/24"), 2, True)))
    for local in ("10.0.0.0/8", "0.0.0.0/0", "10.1.0.0/16"):
        assert "10.2.0.0/24" not in thrown(plan(replace(OFFICE, local=(net(local),)), hostile))


def test_an_interface_with_a_router_to_half_the_internet_is_outside_too() -> None:
    # DHCP option 121 without a default route (CVE-2024-3661), and a network claimed beside it.
    claimed = HostRoute(net("203.0.113.0/24"), 2, True)
    halves = (HostRoute(net("0.0.0.0/1"), 2, False), HostRoute(net("128.0.0.0/1"), 2, False))
    assert "203.0.113.0/24" not in thrown(plan(WHOLE_HOUSE, replace(VIEW, routes=(claimed, *halves))))
    assert not {"0.0.0.0/1", "128.0.0.0/1"} & thrown(plan(WHOLE_HOUSE, replace(VIEW, routes=(claimed, *halves))))


def test_before_there_is_any_way_out_only_private_networks_stay() -> None:
    early = replace(VIEW, routes=(HostRoute(net("198.51.100.0/24"), 2, True), HostRoute(net("10.1.0.0/24"), 3, True)))
    early = replace(early, settings={f"net/ipv4/conf/{name}/rp_filter": 1 for name in ("all", "eth0", "eth1", "moat0")})
    made = plan(WHOLE_HOUSE, early)
    assert {"10.1.0.0/24", "198.51.100.0/24"} & thrown(made) == {"10.1.0.0/24"}
    assert [setting.name for setting in made.settings] == ["net/ipv4/conf/moat0/rp_filter"]


def test_a_gateway_with_one_interface_keeps_the_network_its_operator_calls_local() -> None:
    one_armed = replace(VIEW, routes=(HostRoute(net("0.0.0.0/0"), 2, False), HostRoute(net("10.1.0.0/16"), 2, True)))
    made = plan(OFFICE, one_armed)
    assert thrown(made) == {"10.1.0.0/16"}
    assert kept(made) == {("eth0", "10.1.0.0")}


def test_a_whole_house_tunnel_keeps_inside_networks_and_private_ones_outside() -> None:
    made = plan(WHOLE_HOUSE, VIEW)
    assert {"10.1.0.0/24", "10.1.7.0/24", "192.168.7.0/24"} <= thrown(made)
    assert "198.51.100.0/24" not in thrown(made)


def test_a_whole_house_tunnel_throws_multicast_and_broadcast_back() -> None:
    assert {"224.0.0.0/4", "255.255.255.255/32", "169.254.0.0/16", "fe80::/10", "ff00::/8"} <= thrown(
        plan(WHOLE_HOUSE, VIEW)
    )


def test_a_whole_house_tunnel_for_ipv4_alone_refuses_ipv6_and_not_the_other_way_round() -> None:
    [refused] = of_kind(plan(WHOLE_HOUSE, VIEW), RouteKind.UNREACHABLE)
    assert str(refused.prefix) == "::/0"
    only_ipv6 = HostState(routes=(tunnel("::/0"),), guarded=(net("::/0"),))
    assert {route.prefix.version for route in plan(only_ipv6, VIEW).routes} == {6}


def test_a_kernel_without_ipv6_gets_no_ipv6_routes_and_rules() -> None:
    made = plan(WHOLE_HOUSE, replace(VIEW, has_ipv6=False))
    assert {route.prefix.version for route in made.routes} == {4}
    assert {rule.version for rule in made.rules} == {4}


def test_a_whole_house_tunnel_lets_dhcp_around_by_a_rule() -> None:
    rules = plan(WHOLE_HOUSE, VIEW).rules
    assert {rule.action for rule in rules if rule.own_dhcp} == {RuleAction.GOTO}
    assert not any(rule.own_dhcp for rule in plan(OFFICE, VIEW).rules)


def test_a_network_that_is_here_and_protected_at_once_is_noted_and_protected() -> None:
    made = plan(HostState(guarded=(net("10.1.0.0/24"),), local=(net("10.1.0.0/24"),)), VIEW)
    assert thrown(made) == set()
    assert "network 10.1.0.0/24 is on eth1 and protected at once" in made.notes[0]


def test_a_source_that_is_no_address_of_ours_is_left_out_and_noted() -> None:
    made = plan(HostState(routes=(tunnel("10.2.0.0/16", "10.9.9.9"),)), VIEW)
    assert [route.source for route in made.routes] == [None]
    assert "source 10.9.9.9 is no address of this host yet" in made.notes[0]


def test_of_two_routes_in_one_place_the_smaller_sizes_hold() -> None:
    made = plan(HostState(routes=(tunnel("10.2.0.0/16", mtu=1300), tunnel("10.2.0.0/16", mtu=1400))), VIEW)
    assert [route.mtu for route in made.routes] == [1300]


@pytest.mark.parametrize("order", [(65_535, 1400), (1400, 65_535)])
def test_a_route_for_packets_of_every_size_has_the_mtu_of_the_device(order: tuple[int, int]) -> None:
    made = plan(HostState(routes=(tunnel("10.2.0.0/16", mtu=65_535),)), VIEW)
    assert [route.mtu for route in made.routes] == [0]
    made = plan(HostState(routes=tuple(tunnel("10.2.0.0/16", mtu=mtu) for mtu in order)), VIEW)
    assert [route.mtu for route in made.routes] == [1400]


def test_a_source_rule_has_a_table_of_its_own_with_the_same_exceptions() -> None:
    state = HostState(source_routes=(SourceRoute(source=net("10.1.0.0/24"), route=tunnel("0.0.0.0/0")),))
    made = plan(state, VIEW)
    assert {route.table for route in made.routes} == {SOURCE_TABLE}
    assert {"10.1.0.0/24", "192.168.7.0/24", "224.0.0.0/4"} <= thrown(made, SOURCE_TABLE)
    assert made.guard.pairs == ((net("10.1.0.0/24"), net("0.0.0.0/0")),)
    assert not any(made.guard.sets.values())
    assert {(rule.table, str(rule.source)) for rule in made.rules if rule.table} == {(SOURCE_TABLE, "10.1.0.0/24")}


def test_the_main_table_is_read_only_where_networks_of_ours_may_lie_inside_protected_ones() -> None:
    assert needs_routes(OFFICE)
    assert needs_routes(WHOLE_HOUSE)
    assert not needs_routes(replace(OFFICE, local=(net("192.168.0.0/16"),)))


def test_forwarding_is_switched_on_for_a_gateway_and_not_for_a_host() -> None:
    view = replace(VIEW, settings={"net/ipv4/ip_forward": 0})
    assert plan(OFFICE, view).settings == (Setting("net/ipv4/ip_forward", 0, 1),)
    assert plan(replace(OFFICE, forwards=False), view).settings == ()
    assert plan(OFFICE, replace(VIEW, settings={"net/ipv4/ip_forward": 1})).settings == ()


def test_router_advertisements_are_still_heard_once_ipv6_is_forwarded() -> None:
    state = HostState(guarded=(net("fd02::/16"),))
    view = replace(VIEW, settings={"net/ipv6/conf/all/forwarding": 0, "net/ipv6/conf/eth0/accept_ra": 1})
    assert [str(setting) for setting in plan(state, view).settings] == [
        "net/ipv6/conf/eth0/accept_ra: 1 -> 2",
        "net/ipv6/conf/all/forwarding: 0 -> 1",
    ]


def test_a_strict_filter_is_loosened_where_outer_packets_come_in_and_only_for_a_whole_house() -> None:
    settings = {"net/ipv4/conf/all/rp_filter": 1, "net/ipv4/conf/eth0/rp_filter": 0, "net/ipv4/conf/moat0/rp_filter": 0}
    changed = {setting.name for setting in plan(WHOLE_HOUSE, replace(VIEW, settings=settings)).settings}
    assert changed == {"net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/moat0/rp_filter"}
    changed = {setting.name for setting in plan(OFFICE, replace(VIEW, settings=settings)).settings}
    assert changed == {"net/ipv4/conf/moat0/rp_filter"}
    assert plan(WHOLE_HOUSE, replace(VIEW, settings=dict.fromkeys(settings, 0))).settings == ()


def test_the_address_inside_the_selectors_is_that_of_the_narrowest_range() -> None:
    wide, narrow = TrafficSelector.of(net("0.0.0.0/0")), TrafficSelector.of(net("10.1.0.0/24"))
    assert str(address_inside((wide, narrow), VIEW.addresses, 4)) == "10.1.0.1"
    assert str(address_inside((wide,), VIEW.addresses, 4)) == "198.51.100.1"
    assert address_inside((TrafficSelector.of(net("10.9.0.0/16")),), VIEW.addresses, 4) is None
    assert address_inside((wide,), VIEW.addresses, 6) is None


def added(text: str) -> StateChange:
    return StateChange(routes={net(text): tunnel(text)}, guarded={net(text): True})


def test_a_prefix_that_holds_a_network_of_the_host_is_not_followed_but_planned_anew() -> None:
    apart = HostState(routes=(tunnel("10.9.0.0/24"),), guarded=(net("10.9.0.0/24"),), local=(net("10.1.0.0/16"),))
    assert not needs_routes(apart)
    planner = Planner(apart, replace(VIEW, routes=()))
    before = set(planner.plan.routes)
    assert planner.change(added("10.0.0.0/8")) is None
    assert planner.plan.routes == before
    assert planner.change(added("10.9.1.0/24")) is not None
    assert planner.plan.routes > before
    assert planner.change(StateChange(local={net("10.9.0.0/16"): True})) is None


def test_a_prefix_inside_a_network_that_stays_reachable_is_planned_anew() -> None:
    assert Planner(WHOLE_HOUSE, VIEW).change(added("10.1.0.128/25")) is None
    assert Planner(WHOLE_HOUSE, VIEW).change(added("203.0.113.0/24")) is not None


def test_a_route_whose_source_the_host_has_not_is_planned_anew_for_its_note() -> None:
    change = StateChange(routes={net("10.0.0.0/8"): tunnel("10.0.0.0/8", "10.7.7.7")})
    assert Planner(OFFICE, VIEW).change(change) is None
