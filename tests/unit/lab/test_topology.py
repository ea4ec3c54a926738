"""Topologies are always sound: what cannot be raised cannot be written."""

import pytest

from openmoat_lab.networks import HOMES, NETWORKS
from openmoat_lab.topology import MAX_HOST_NAME, MAX_INTERFACE_NAME, End, Host, Link, Route, Topology

A, B = Host(name="a"), Host(name="b")
CABLE = Link(a=End.of("a", "eth0", "192.0.2.1/24"), b=End.of("b", "eth0", "192.0.2.2/24"))


def test_a_link_to_a_host_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="b:eth0: no such host"):
        Topology(name="half", hosts=(A,), links=(CABLE,))


def test_an_interface_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="a:eth0: interface stands twice"):
        Topology(name="double", hosts=(A, B), links=(CABLE, CABLE))


def test_a_route_through_a_neighbour_on_no_link_is_refused() -> None:
    lost = Host(name="a", routes=(Route.of("default", "198.51.100.1"),))
    with pytest.raises(ValueError, match=r"198\.51\.100\.1 is on no link"):
        Topology(name="lost", hosts=(lost, B), links=(CABLE,))


def test_a_nat_on_an_interface_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="masquerades 'wan'"):
        Topology(name="nat", hosts=(Host(name="a", masquerades=("wan",)), B), links=(CABLE,))


def test_a_default_route_takes_the_family_of_its_neighbour() -> None:
    assert str(Route.of("default", "2001:db8::1").to) == "::/0"
    assert str(Route.of("default", "192.0.2.1").to) == "0.0.0.0/0"


def test_addresses_are_found_by_host_interface_and_family() -> None:
    assert str(HOMES.address("portal", "wan")) == "203.0.113.10"
    assert str(HOMES.address("moat-c", "wan", version=6)) == "2001:db8:3::2"
    with pytest.raises(ValueError, match="no IPv4 address"):
        HOMES.address("moat-c", "wan")


def test_every_network_is_found_under_its_own_name() -> None:
    assert all(name == network.name for name, network in NETWORKS.items())


def test_names_of_hosts_and_interfaces_have_a_longest_length() -> None:
    def named(host: str, interface: str) -> Topology:
        cable = Link(a=End.of(host, interface, "192.0.2.1/24"), b=End.of("b", "eth0", "192.0.2.2/24"))
        return Topology(name="long", hosts=(Host(name=host), B), links=(cable,))

    longest = named("h" * MAX_HOST_NAME, "i" * MAX_INTERFACE_NAME)
    assert str(longest.address("h" * MAX_HOST_NAME, "i" * MAX_INTERFACE_NAME)) == "192.0.2.1"
    with pytest.raises(ValueError, match=f"long: host 'h+': up to {MAX_HOST_NAME} letters"):
        named("h" * (MAX_HOST_NAME + 1), "eth0")
    with pytest.raises(ValueError, match=f"long: a:i+: interface names have 1 to {MAX_INTERFACE_NAME} octets"):
        named("a", "i" * (MAX_INTERFACE_NAME + 1))
