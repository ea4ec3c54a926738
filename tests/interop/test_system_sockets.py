"""Descriptors, links and routes in a real kernel."""

import fcntl
import ipaddress
import os
import socket
from collections.abc import Iterator

import pytest

from interop.hosts import Host, hosts, link
from openmoat.errors import DeviceError, SystemFault
from openmoat.system.links import read_addresses, read_links
from openmoat.system.names import OUTER_MARK, ROUTE_TABLE
from openmoat.system.netlink import Netlink
from openmoat.system.routes import Route, RouteKind, change_routes, read_host_routes, read_routes, route_to
from openmoat.system.sockets import MAX_DEVICE_NAME, open_all, open_tun, open_udp

pytestmark = pytest.mark.namespaces


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with hosts("gw", "peer") as (gateway, peer):
        link(gateway, "eth0", peer, "eth0")
        gateway.run("ip addr add 198.51.100.1/24 dev eth0; ip -6 addr add 2001:db8:1::1/64 dev eth0")
        peer.run("ip addr add 198.51.100.2/24 dev eth0; ip -6 addr add 2001:db8:1::2/64 dev eth0")
        with gateway.inside():
            yield gateway, peer


def test_open_all_gives_marked_non_blocking_descriptors_of_both_families(pair: tuple[Host, Host]) -> None:
    opened = open_all("moat0", queues=2)
    try:
        everything = [*opened.tun, *opened.raw, *(descriptor for descriptor, _ in opened.udp)]
        assert len(opened.tun) == 2
        # Of port 4500 one a queue and one for IKE, of both families.
        assert sorted(port for _, port in opened.udp) == [500] * 2 + [4500] * 6
        assert len(opened.raw) == 4
        assert all(not os.get_blocking(descriptor) for descriptor in everything)
        assert all(fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for descriptor in everything)
        for descriptor in (*opened.raw, *(descriptor for descriptor, _ in opened.udp)):
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                assert sock.getsockopt(socket.SOL_SOCKET, 36) == OUTER_MARK
    finally:
        opened.close()


def test_the_tun_device_takes_packets_of_any_size_and_vanishes_with_its_descriptors(pair: tuple[Host, Host]) -> None:
    gateway, _ = pair
    tun = open_tun("moat7")
    shown = gateway.run("ip -d addr show moat7")
    assert "mtu 65535" in shown
    assert "UP" in shown
    assert "vnet_hdr on" in shown
    assert "multi_queue" in shown
    assert "inet6" not in shown
    os.close(tun[0])
    assert "moat7" not in gateway.run("ip link")


def test_the_tun_device_has_ipv6_although_the_host_gives_it_to_no_interface(pair: tuple[Host, Host]) -> None:
    gateway, _ = pair
    gateway.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    [tun] = open_tun("moat0")
    gateway.run("ip -6 route add fd02::/16 dev moat0 table 7700")
    assert "inet6" not in gateway.run("ip addr show moat0")
    os.close(tun)


def test_a_taken_port_500_names_the_likely_culprit_and_the_remedy(pair: tuple[Host, Host]) -> None:
    first = open_udp(500)
    try:
        with pytest.raises(SystemFault, match=r"UDP port 500: taken by another program.*IKE daemon.*ss -ulpn"):
            open_all("moat0")
        assert "moat0" not in pair[0].run("ip link")
    finally:
        os.close(first)


def test_a_device_of_another_kind_is_not_taken_over(pair: tuple[Host, Host]) -> None:
    with pytest.raises(DeviceError, match="eth0: a device of this name is there and of another kind"):
        open_tun("eth0")


def test_packet_info_tells_which_address_was_meant(pair: tuple[Host, Host]) -> None:
    descriptor = open_udp(500)
    _, peer = pair
    peer.run("bash -c 'echo -n hello > /dev/udp/198.51.100.1/500'")
    with socket.socket(fileno=descriptor) as sock:
        octets, ancillary, _flags, sender = sock.recvmsg(100, 200)
    assert octets == b"hello"
    assert sender[0] == "198.51.100.2"
    [packet_info] = [value for level, kind, value in ancillary if (level, kind) == (socket.IPPROTO_IP, 8)]
    assert packet_info[8:12] == ipaddress.ip_address("198.51.100.1").packed


def test_route_to_finds_the_source_address_or_says_that_there_is_no_route(pair: tuple[Host, Host]) -> None:
    with Netlink() as netlink:
        assert route_to(netlink, ipaddress.ip_address("198.51.100.2")) == ipaddress.ip_address("198.51.100.1")
        assert route_to(netlink, ipaddress.ip_address("2001:db8:1::2")) == ipaddress.ip_address("2001:db8:1::1")
        assert route_to(netlink, ipaddress.ip_address("203.0.113.1")) is None
        assert route_to(netlink, ipaddress.ip_address("2001:db8:2::1")) is None


def test_links_addresses_and_host_routes_are_read(pair: tuple[Host, Host]) -> None:
    pair[0].run("ip route add default via 198.51.100.2")
    with Netlink() as netlink:
        links = read_links(netlink)
        [eth0] = [found for found in links.values() if found.name == "eth0"]
        assert eth0.is_up
        addresses = {(str(found.address), found.prefix_length) for found in read_addresses(netlink)}
        assert {("198.51.100.1", 24), ("2001:db8:1::1", 64), ("127.0.0.1", 8)} <= addresses
        routes = {(str(route.prefix), route.index, route.is_connected) for route in read_host_routes(netlink)}
        assert ("0.0.0.0/0", eth0.index, False) in routes
        assert ("198.51.100.0/24", eth0.index, True) in routes
        assert ("2001:db8:1::/64", eth0.index, True) in routes


def test_routes_come_back_from_the_kernel_as_they_went_in(pair: tuple[Host, Host]) -> None:
    [tun] = open_tun("moat0")
    index = socket.if_nametoindex("moat0")
    wanted = set()
    for text, source in (
        ("10.2.0.0/16", "198.51.100.1"),
        ("fd02::/32", "2001:db8:1::1"),
        ("0.0.0.0/0", None),
        ("::/0", None),
    ):
        prefix = ipaddress.ip_network(text)
        address = ipaddress.ip_address(source) if source else None
        wanted |= {
            Route(table=ROUTE_TABLE, prefix=prefix, kind=RouteKind.BLACKHOLE, metric=4000),
            Route(
                table=ROUTE_TABLE,
                prefix=prefix,
                kind=RouteKind.UNICAST,
                metric=100,
                index=index,
                mtu=1400,
                advmss=1340,
                source=address,
            ),
        }
    wanted.add(Route(table=ROUTE_TABLE, prefix=ipaddress.ip_network("10.2.3.0/24"), kind=RouteKind.THROW, metric=50))
    try:
        with Netlink() as netlink:
            change_routes(netlink, wanted, [])
            assert read_routes(netlink, [ROUTE_TABLE]) == wanted
            change_routes(netlink, wanted, [])
            assert read_routes(netlink, [ROUTE_TABLE]) == wanted
            change_routes(netlink, [], wanted)
            assert read_routes(netlink, [ROUTE_TABLE]) == frozenset()
    finally:
        os.close(tun)


def test_a_route_the_kernel_refuses_is_named_with_its_reason(pair: tuple[Host, Host]) -> None:
    route = Route(
        table=ROUTE_TABLE, prefix=ipaddress.ip_network("10.2.0.0/16"), kind=RouteKind.UNICAST, metric=100, index=999
    )
    with (
        Netlink() as netlink,
        pytest.raises(SystemFault, match=r"route 10.2.0.0/16 in table 7700: cannot be put: .*device"),
    ):
        change_routes(netlink, [route], [])


def test_the_name_of_a_device_is_opened_up_to_its_bound_and_refused_beyond_it(pair: tuple[Host, Host]) -> None:
    longest = "m" * MAX_DEVICE_NAME
    [tun] = open_tun(longest)
    assert f"{longest}:" in pair[0].run("ip link")
    os.close(tun)
    with pytest.raises(DeviceError, match=f"'m+': a name has 1 to {MAX_DEVICE_NAME} octets"):
        open_tun(longest + "m")
