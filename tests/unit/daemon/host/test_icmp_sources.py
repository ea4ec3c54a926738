"""From which of our addresses we say that the hops of a packet end here."""

import ipaddress

from openmoat.daemon.host.icmp_sources import MAX_ICMP_SOURCES, icmp_sources
from openmoat.net import Address
from openmoat.policy.selectors import parse_selectors
from openmoat.system.links import InterfaceAddress

WILD = ipaddress.ip_address("198.51.100.2")


def row(text: str, index: int) -> InterfaceAddress:
    interface = ipaddress.ip_interface(text)
    return InterfaceAddress(interface.ip, interface.network.prefixlen, index)


HOST = (
    row("127.0.0.1/8", 1),
    row("198.51.100.2/24", 2),
    row("10.2.0.1/16", 3),
    row("10.2.7.1/24", 4),
    row("192.168.9.1/24", 5),
    row("fe80::1/64", 3),
    row("fd02::1/64", 3),
)


def source(selectors: str, destination: str) -> str | None:
    """What the first row that holds `destination` says."""
    rows = icmp_sources(parse_selectors(selectors.split()), HOST, WILD)
    address: Address = ipaddress.ip_address(destination)
    return next((str(one.address) for one in rows if address in one.prefix), None)


def test_the_address_on_the_network_that_the_packet_goes_to_is_first() -> None:
    assert source("10.2.0.0/16", "10.2.7.9") == "10.2.7.1"
    assert source("10.2.0.0/16", "10.2.3.9") == "10.2.0.1"
    assert source("fd02::/16", "fd02::9") == "fd02::1"


def test_otherwise_any_inside_the_selectors_speaks_and_those_outside_do_not() -> None:
    assert source("10.2.0.0/16 10.99.0.0/16", "10.99.0.9") == "10.2.0.1"
    assert source("10.2.7.0/24", "10.2.0.9") == "10.2.7.1"


def test_without_one_inside_an_address_of_the_protected_side_speaks_and_never_the_wild_one() -> None:
    assert source("10.77.0.0/16", "10.77.0.9") == "10.2.0.1"
    assert icmp_sources(parse_selectors(["10.77.0.0/16"]), (HOST[0], HOST[1]), WILD) == ()
    # As long as nobody knows which interface is the outside one, nothing is said.
    assert icmp_sources(parse_selectors(["10.77.0.0/16"]), HOST[2:], WILD) == ()


def test_loopback_and_link_local_addresses_say_nothing() -> None:
    rows = icmp_sources(parse_selectors(["0.0.0.0/0", "::/0"]), HOST, WILD)
    assert {str(one.address) for one in rows} == {"198.51.100.2", "10.2.0.1", "10.2.7.1", "192.168.9.1", "fd02::1"}


def test_of_many_addresses_those_of_small_networks_and_the_last_resort_are_kept() -> None:
    many = tuple(row(f"10.2.{number}.1/24", number) for number in range(200)) + HOST
    rows = icmp_sources(parse_selectors(["10.2.0.0/16"]), many, WILD)
    assert len(rows) == MAX_ICMP_SOURCES
    assert rows[-2].prefix.prefixlen == 0 or rows[-1].prefix.prefixlen == 0
    assert all(one.prefix.prefixlen == 24 for one in rows[:62])


def test_an_address_named_for_it_speaks_where_no_own_one_is_inside_and_the_selectors_hold_it() -> None:
    named = (ipaddress.ip_address("10.77.0.1"), ipaddress.ip_address("fd77::1"))

    def speakers(*selectors: str) -> list[str]:
        return [str(one.address) for one in icmp_sources(parse_selectors(selectors), HOST, WILD, named)]

    assert speakers("10.77.0.0/16", "fd77::/64") == ["10.77.0.1", "fd77::1"]
    assert speakers("10.77.0.0/16", "10.2.7.0/24")[-2:] == ["10.2.7.1", "fd02::1"]
    assert speakers("10.77.1.0/24")[0] == "10.2.0.1"
