"""What the kernel tells of changes, and that the host's state is mended after them."""

import ipaddress
import os
import select
from collections.abc import Iterator

import pytest

from interop.hosts import Host, hosts, link
from openmoat.system.firewall import is_own_process
from openmoat.system.netlink import Netlink
from openmoat.system.reconcile import HostState, Reconciler, TunnelRoute
from openmoat.system.routes import read_routes, route_to
from openmoat.system.sockets import open_tun
from openmoat.system.watch import AddressChanged, Change, GuardTouched, LinkChanged, RouteChanged, Watch

pytestmark = pytest.mark.namespaces
OFFICE = ipaddress.ip_network("10.2.0.0/16")
LOCAL = ipaddress.ip_address("10.1.0.1")
STATE = HostState(
    routes=(TunnelRoute(prefix=OFFICE, mtu=1400, advmss=1340, source=LOCAL),),
    guarded=(OFFICE, ipaddress.ip_network("fd02::/16")),
)


@pytest.fixture
def gateway() -> Iterator[Host]:
    with hosts("gw", "isp") as (gateway, isp):
        link(gateway, "eth0", isp, "eth0")
        gateway.run("ip addr add 10.1.0.1/24 dev eth0; ip link set eth0 down")
        with gateway.inside():
            yield gateway


def heard(watch: Watch) -> list[Change]:
    changes: list[Change] = []
    while select.select([watch], [], [], 0.3)[0]:
        changes += watch.drain()
    return changes


def test_links_addresses_and_routes_are_told(gateway: Host) -> None:
    with Watch(is_own_process) as watch, Netlink() as netlink:
        peer = ipaddress.ip_address("203.0.113.1")
        assert route_to(netlink, peer) is None
        gateway.run(
            "ip link set eth0 up; ip addr add 198.51.100.1/24 dev eth0; ip route add default via 198.51.100.254"
        )
        changes = heard(watch)
        assert LinkChanged("eth0", True) in changes
        assert AddressChanged(ipaddress.ip_address("198.51.100.1"), True) in changes
        assert RouteChanged(ipaddress.ip_network("0.0.0.0/0"), True) in changes
        assert route_to(netlink, peer) == ipaddress.ip_address("198.51.100.1")
        gateway.run("ip addr del 198.51.100.1/24 dev eth0; ip link set eth0 down")
        changes = heard(watch)
        assert AddressChanged(ipaddress.ip_address("198.51.100.1"), False) in changes
        assert LinkChanged("eth0", False) in changes


def test_our_own_changes_of_the_guard_are_not_told_and_those_of_others_are(gateway: Host) -> None:
    with Watch(is_own_process) as watch:
        reconciler = Reconciler()
        reconciler.apply(STATE)
        reconciler.apply(HostState(guarded=(OFFICE,)))
        assert heard(watch) == []
        gateway.run("nft add table inet other; nft delete table inet other")
        assert heard(watch) == []
        gateway.run("nft flush ruleset")
        assert heard(watch) == [GuardTouched()]


def test_nothing_is_missed_while_we_change_ten_thousand_prefixes_at_once(gateway: Host) -> None:
    tun = open_tun()
    # Every second one, so that no two become one range.
    prefixes = [ipaddress.ip_network((0x0B000000 + (number << 9), 24)) for number in range(10_000)]
    state = HostState(
        routes=tuple(TunnelRoute(prefix=prefix, mtu=1400, advmss=1340) for prefix in prefixes), guarded=tuple(prefixes)
    )
    with Watch(is_own_process) as watch:
        reconciler = Reconciler()
        assert reconciler.apply(state).written > 20_000
        assert heard(watch) == []
        gateway.run("nft flush ruleset")
        assert heard(watch) == [GuardTouched()]
        gateway.run("ip route add 192.0.2.0/24 dev lo")
        assert heard(watch) == [RouteChanged(ipaddress.ip_network("192.0.2.0/24"), True)]
    os.close(tun[0])


def test_a_guard_that_a_firewall_restart_has_flushed_comes_back(gateway: Host) -> None:
    with Watch(is_own_process) as watch:
        reconciler = Reconciler()
        reconciler.apply(STATE)
        before = gateway.run("nft list ruleset")
        gateway.run("nft flush ruleset")
        assert reconciler.handle_changes(watch.drain())
        assert reconciler.apply(STATE).written == 1
        assert gateway.run("nft list ruleset") == before


@pytest.mark.parametrize("harm", ["flush chain inet openmoat leaving", "add rule inet openmoat judge_leaving accept"])
def test_a_guard_somebody_has_bored_a_hole_in_is_made_anew(gateway: Host, harm: str) -> None:
    with Watch(is_own_process) as watch:
        reconciler = Reconciler()
        reconciler.apply(STATE)
        before = gateway.run("nft list ruleset")
        gateway.run(f"nft {harm}")
        assert reconciler.handle_changes(watch.drain())
        assert reconciler.apply(STATE).written == 1
        assert gateway.run("nft list ruleset") == before
        assert reconciler.apply(STATE).written == 0


def test_routes_that_went_with_an_address_come_back_with_it(gateway: Host) -> None:
    gateway.run("ip link set eth0 up")
    tun = open_tun()
    with Watch(is_own_process) as watch, Netlink() as netlink:
        reconciler = Reconciler()
        assert reconciler.apply(STATE).notes == ()
        gateway.run("ip addr del 10.1.0.1/24 dev eth0")
        assert reconciler.handle_changes(heard(watch))
        assert "source 10.1.0.1 is no address of this host yet" in reconciler.apply(STATE).notes[0]
        [route] = [route for route in read_routes(netlink, [7700]) if route.index]
        assert route.source is None
        gateway.run("ip addr add 10.1.0.1/24 dev eth0")
        assert reconciler.handle_changes(heard(watch))
        assert reconciler.apply(STATE).notes == ()
        [route] = [route for route in read_routes(netlink, [7700]) if route.index]
        assert route.source == LOCAL
    os.close(tun[0])


def test_foreign_rules_that_would_catch_tunnel_packets_are_named_with_the_rule_to_add(gateway: Host) -> None:
    gateway.run(
        "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }';"
        "nft add table ip nat; nft add chain ip nat POSTROUTING '{ type nat hook postrouting priority 100; }';"
        "nft add rule ip nat POSTROUTING ip saddr 10.1.0.0/24 masquerade"
    )
    reconciler = Reconciler()
    reconciler.apply(STATE)
    notes = reconciler.inspect()
    assert len(notes) == 2
    for note in notes:
        for command in note.split("add: ")[1].split("; "):
            gateway.run(command.replace('"', '\\"'))
    assert reconciler.inspect() == ()
