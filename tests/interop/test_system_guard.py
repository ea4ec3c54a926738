"""The guard in a real kernel: what goes around the tunnel, with the device there, gone, and never there."""

import asyncio
import ipaddress
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import pytest

from interop.hosts import Host, hosts, link
from openmoat.daemon.names.dns import outer_backend
from openmoat.errors import SystemFault
from openmoat.net import Network
from openmoat.system.elements import MAX_RANGES
from openmoat.system.firewall import is_own_process
from openmoat.system.names import OUTER_MARK
from openmoat.system.reconcile import HostState, Reconciler, SourceRoute, StateChange, TunnelRoute
from openmoat.system.sockets import open_raw, open_tun
from openmoat.system.watch import GuardTouched, Watch

pytestmark = pytest.mark.namespaces


def net(text: str) -> Network:
    return ipaddress.ip_network(text)


def route(text: str, source: str | None = None) -> TunnelRoute:
    return TunnelRoute(prefix=net(text), mtu=1400, advmss=1340, source=ipaddress.ip_address(source) if source else None)


OFFICE = HostState(
    routes=(route("10.2.0.0/16", "10.1.0.1"), route("fd02::/32", "fd01::1")),
    guarded=(net("10.2.0.0/16"), net("fd02::/32")),
    local=(net("10.1.0.0/24"), net("fd01::/64")),
)
WHOLE_HOUSE = HostState(
    routes=(route("0.0.0.0/0", "10.1.0.1"),), guarded=(net("0.0.0.0/0"),), local=(net("10.1.0.0/24"),)
)


@dataclass(frozen=True)
class Street:
    """A PC behind a gateway behind a provider, who also plays everybody beyond."""

    pc: Host
    gateway: Host
    isp: Host

    def dump(self) -> str:
        """Everything of the gateway that could have been changed."""
        commands = (
            "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset; ip addr; "
            "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.eth0.rp_filter net.ipv6.conf.eth0.accept_ra"
        )
        return "\n".join(
            line
            for line in self.gateway.run(commands).splitlines()
            if "valid_lft" not in line and "expires" not in line
        )


@pytest.fixture
def street() -> Iterator[Street]:
    with hosts("pc", "gw", "isp") as (pc, gateway, isp):
        link(pc, "eth0", gateway, "eth1")
        link(gateway, "eth0", isp, "eth0")
        pc.run("ip addr add 10.1.0.2/24 dev eth0; ip -6 addr add fd01::2/64 dev eth0")
        pc.run("ip route add default via 10.1.0.1; ip -6 route add default via fd01::1")
        gateway.run("ip addr add 10.1.0.1/24 dev eth1; ip -6 addr add fd01::1/64 dev eth1")
        gateway.run("ip addr add 198.51.100.1/24 dev eth0; ip -6 addr add 2001:db8:1::1/64 dev eth0")
        gateway.run("ip route add default via 198.51.100.254; ip -6 route add default via 2001:db8:1::fe")
        gateway.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        isp.run("ip addr add 198.51.100.254/24 dev eth0; ip -6 addr add 2001:db8:1::fe/64 dev eth0")
        isp.run("ip addr add 10.2.0.5/32 dev lo; ip -6 addr add fd02::5/128 dev lo")
        isp.run("ip addr add 203.0.113.5/32 dev lo; ip -6 addr add 2001:db8:9::5/128 dev lo")
        isp.run("ip route add 10.1.0.0/24 via 198.51.100.1; ip -6 route add fd01::/64 via 2001:db8:1::1")
        yield Street(pc, gateway, isp)


def reaches(host: Host, address: str, options: str = "") -> bool:
    return "1 received" in host.run(f"ping -n -c1 -W1 {options} {address}", check=False)


def guarded_tun(state: HostState) -> int:
    """As the daemon does it: the guard first, then the device, then what leads into it."""
    Reconciler().apply(state)
    [tun] = open_tun()
    Reconciler().apply(state)
    return tun


def frames(seen: Path) -> list[str]:
    return [line for line in seen.read_text().splitlines() if line]


@contextmanager
def capture(host: Host, device: str, filter_: str, folder: Path) -> Iterator[Path]:
    """Text of the frames that match, one a line, complete when the block is left."""
    seen = folder / "frames.txt"
    argv = ["ip", "netns", "exec", host.name, "tcpdump", "-lnni", device, "--immediate-mode", filter_]
    with seen.open("wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=subprocess.PIPE)
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.readline()
        try:
            yield seen
        finally:
            host.run("ping -n -c1 -W1 -p 656e64 198.51.100.1", check=False)
            process.terminate()
            process.communicate()


@pytest.mark.parametrize("address", ["10.2.0.5", "fd02::5"])
def test_without_the_guard_protected_addresses_are_reached_in_clear(street: Street, address: str) -> None:
    assert reaches(street.pc, address)
    assert reaches(street.gateway, address)


@pytest.mark.parametrize("address", ["10.2.0.5", "fd02::5"])
def test_the_guard_holds_before_there_is_any_device(street: Street, address: str, tmp_path: Path) -> None:
    with street.gateway.inside():
        Reconciler().apply(OFFICE)
    with capture(street.isp, "eth0", f"host {address}", tmp_path) as seen:
        assert not reaches(street.pc, address)
        assert not reaches(street.gateway, address)
        assert not reaches(street.gateway, address, "-I eth0")
    assert frames(seen) == []
    assert reaches(street.pc, "203.0.113.5")
    assert reaches(street.gateway, "2001:db8:9::5")


def test_protected_packets_go_into_the_device_with_a_source_inside_the_selectors(street: Street) -> None:
    with street.gateway.inside():
        tun = guarded_tun(OFFICE)
        try:
            assert not reaches(street.gateway, "10.2.0.5")
            packet = os.read(tun, 65_600)[10:]
            assert packet[12:20] == bytes([10, 1, 0, 1, 10, 2, 0, 5])
            assert not reaches(street.pc, "fd02::5")
            packet = os.read(tun, 65_600)[10:]
            assert packet[8:24] == ipaddress.ip_address("fd01::2").packed
            # A packet larger than the route allows, and with DF, is refused on this side already.
            assert "mtu" in street.pc.run("ping -n -M do -s 1450 -c1 -W1 10.2.0.5", check=False)
        finally:
            os.close(tun)


@pytest.mark.parametrize("layer", ["routes", "nft"])
@pytest.mark.parametrize("address", ["10.2.0.5", "fd02::5"])
def test_routes_and_nft_each_hold_alone_when_the_process_is_gone(street: Street, address: str, layer: str) -> None:
    with street.gateway.inside():
        [tun] = open_tun()
        Reconciler().apply(OFFICE)
        os.close(tun)
    if layer == "nft":
        street.gateway.run("ip route flush table 7700; ip -6 route flush table 7700")
    else:
        street.gateway.run("nft delete table inet openmoat")
    assert not reaches(street.pc, address)
    assert not reaches(street.gateway, address)


@pytest.mark.parametrize(("source", "ours"), [("10.2.0.5", "10.1.0.2"), ("fd02::5", "fd01::2")])
def test_clear_packets_that_claim_a_protected_source_are_dropped_before_they_reach_anybody(
    street: Street, source: str, ours: str, tmp_path: Path
) -> None:
    with capture(street.pc, "eth0", f"host {source}", tmp_path) as seen:
        assert reaches(street.isp, ours, f"-I {source}")
    assert source in seen.read_text()
    with street.gateway.inside():
        Reconciler().apply(OFFICE)
        with capture(street.pc, "eth0", f"host {source}", tmp_path) as seen:
            assert not reaches(street.isp, ours, f"-I {source}")
            assert not reaches(street.isp, "198.51.100.1", "-I 10.2.0.5")
        assert frames(seen) == []
        assert Reconciler().counters()["clear_in"] >= 2


def test_outer_packets_pass_although_the_peer_itself_is_protected(street: Street) -> None:
    state = HostState(guarded=(net("198.51.100.254/32"),), routes=(route("198.51.100.254/32"),))
    with street.gateway.inside():
        Reconciler().apply(state)
        assert not reaches(street.gateway, "198.51.100.254")
        marked = (
            "import socket as s; k = s.socket(s.AF_INET, s.SOCK_DGRAM); k.bind(('', 4500)); k.settimeout(3);"
            f"k.setsockopt(s.SOL_SOCKET, 36, {OUTER_MARK}); k.sendto(b'x' * 3000, ('198.51.100.254', 4500));"
            "print(len(k.recv(9000)))"
        )
        echo = (
            "import socket as s; k = s.socket(s.AF_INET, s.SOCK_DGRAM); k.bind(('', 4500)); k.settimeout(5);"
            "m, a = k.recvfrom(9000); k.sendto(m, a)"
        )
        server = subprocess.Popen(["ip", "netns", "exec", street.isp.name, "python3", "-c", echo])
        for _ in range(50):
            if "4500" in street.isp.run("ss -ulnH"):
                break
            time.sleep(0.05)
        # 3000 octets: the later fragments carry no ports, and must not be taken for strangers.
        assert street.gateway.run(f'python3 -c "{marked}"').strip() == "3000"
        assert server.wait() == 0


@pytest.mark.parametrize(("family", "peer"), [(socket.AF_INET, "198.51.100.254"), (socket.AF_INET6, "2001:db8:1::fe")])
def test_raw_esp_passes_both_ways_although_everything_is_protected(street: Street, family: int, peer: str) -> None:
    everything = (net("0.0.0.0/0"), net("::/0"))
    echo = (
        f"import socket as s; k = s.socket({family}, s.SOCK_RAW, 50); k.settimeout(9); print(flush=True);"
        "m, a = k.recvfrom(9000); k.sendto(m[-1000:], a)"
    )
    with street.gateway.inside():
        tun = guarded_tun(HostState(guarded=everything, routes=tuple(route(str(prefix)) for prefix in everything)))
        argv = ["ip", "netns", "exec", street.isp.name, "python3", "-c", echo]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as server, socket.socket(fileno=open_raw(family)) as esp:
            assert server.stdout is not None
            server.stdout.readline()
            esp.settimeout(5)
            # Larger than the line: it leaves in fragments.
            esp.sendto(bytes(1000) + bytes(range(250)) * 4, (peer, 0))
            assert esp.recv(9000)[-1000:] == bytes(range(250)) * 4
            assert server.wait() == 0
        os.close(tun)


def test_a_whole_house_tunnel_keeps_the_local_network_and_stops_everything_else(street: Street, tmp_path: Path) -> None:
    with street.gateway.inside():
        Reconciler().apply(WHOLE_HOUSE)
    with capture(street.isp, "eth0", "not arp and not (icmp6 and ip6[40] > 129) and not ip6[6] == 0", tmp_path) as seen:
        assert reaches(street.gateway, "10.1.0.2")
        assert reaches(street.pc, "10.1.0.1")
        assert reaches(street.gateway, "fd01::2")
        for host in (street.pc, street.gateway):
            for address in ("203.0.113.5", "2001:db8:9::5", "198.51.100.254"):
                assert not reaches(host, address)
    assert [line for line in frames(seen) if "656e64" not in line and "198.51.100.254 > " not in line] == []


def test_a_whole_house_tunnel_goes_into_the_device_and_outer_packets_go_out(street: Street) -> None:
    with street.gateway.inside():
        tun = guarded_tun(WHOLE_HOUSE)
        try:
            assert not reaches(street.pc, "203.0.113.5")
            assert os.read(tun, 65_600)[10:][12:20] == bytes([10, 1, 0, 2, 203, 0, 113, 5])
            assert reaches(street.pc, "10.1.0.1")
            shown = street.gateway.run(f"ip route get 203.0.113.5 mark {OUTER_MARK}; ip route get 203.0.113.5")
            assert "198.51.100.254 dev eth0" in shown.splitlines()[0]
            assert "moat0" in shown.splitlines()[2]
        finally:
            os.close(tun)


def test_a_whole_house_tunnel_keeps_dhcp(street: Street, tmp_path: Path) -> None:
    with street.gateway.inside():
        Reconciler().apply(WHOLE_HOUSE)
    renew = (
        "import socket as s; k = s.socket(s.AF_INET, s.SOCK_DGRAM); k.bind(('198.51.100.1', 68));"
        "k.sendto(b'renew', ('203.0.113.5', 67)); k.settimeout(3); print(k.recv(99))"
    )
    serve = (
        "import socket as s; k = s.socket(s.AF_INET, s.SOCK_DGRAM); k.bind(('203.0.113.5', 67)); k.settimeout(5);"
        "m, a = k.recvfrom(99); k.sendto(b'lease', a)"
    )
    server = subprocess.Popen(["ip", "netns", "exec", street.isp.name, "python3", "-c", serve])
    for _ in range(50):
        if "203.0.113.5:67" in street.isp.run("ss -ulnH"):
            break
        time.sleep(0.05)
    assert "lease" in street.gateway.run(f'python3 -c "{renew}"')
    assert server.wait() == 0


def test_a_whole_house_tunnel_lets_our_own_look_up_of_a_peer_out_and_no_other(street: Street) -> None:
    serve = (
        "import socket as s, dns.message as m, dns.rrset as r; k = s.socket(s.AF_INET, s.SOCK_DGRAM);"
        "k.bind(('203.0.113.5', 53)); k.settimeout(9); o, a = k.recvfrom(999); q = m.from_wire(o); x = m.make_response(q);"
        "x.answer = [r.from_text(q.question[0].name, 60, 'IN', 'A', '192.0.2.7')]; k.sendto(x.to_wire(), a)"
    )
    street.gateway.run("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    question = dns.message.make_query("portal.example", "A")
    with street.gateway.inside():
        tun = guarded_tun(WHOLE_HOUSE)
        server = subprocess.Popen(["ip", "netns", "exec", street.isp.name, sys.executable, "-c", serve])
        for _ in range(100):
            if "203.0.113.5:53 " in street.isp.run("ss -ulnH"):
                break
            time.sleep(0.05)
        with pytest.raises(dns.exception.Timeout):
            asyncio.run(dns.asyncquery.udp(question, "203.0.113.5", timeout=0.5))
        answer = asyncio.run(dns.asyncquery.udp(question, "203.0.113.5", timeout=5, backend=outer_backend()))
        assert "192.0.2.7" in answer.to_text()
        assert server.wait() == 0
        os.close(tun)


def test_a_private_network_outside_stays_but_a_public_one_a_stranger_gave_does_not(street: Street) -> None:
    street.gateway.run("ip addr add 192.168.7.1/24 dev eth0")
    street.isp.run("ip addr add 192.168.7.2/24 dev eth0")
    with street.gateway.inside():
        Reconciler().apply(WHOLE_HOUSE)
    assert reaches(street.gateway, "192.168.7.2")
    assert not reaches(street.gateway, "198.51.100.254")


def test_a_pass_goes_around_and_leaves_no_hole_for_others(street: Street) -> None:
    street.isp.run("ip addr add 10.2.9.9/32 dev lo")
    with street.gateway.inside():
        Reconciler().apply(replace(OFFICE, passes=(net("10.2.9.0/24"),)))
    assert reaches(street.pc, "10.2.9.9")
    assert reaches(street.isp, "10.1.0.2", "-I 10.2.9.9")
    assert not reaches(street.pc, "10.2.0.5")


def test_a_source_rule_guards_its_source_alone(street: Street) -> None:
    street.gateway.run("ip addr add 10.1.9.1/24 dev eth1")
    street.pc.run("ip addr add 10.1.9.2/24 dev eth0")
    street.isp.run("ip route add 10.1.9.0/24 via 198.51.100.1")
    state = HostState(source_routes=(SourceRoute(source=net("10.1.9.0/24"), route=route("0.0.0.0/0")),))
    with street.gateway.inside():
        tun = guarded_tun(state)
        assert not reaches(street.pc, "203.0.113.5", "-I 10.1.9.2")
        assert os.read(tun, 65_600)[10:][12:20] == bytes([10, 1, 9, 2, 203, 0, 113, 5])
        assert reaches(street.pc, "203.0.113.5", "-I 10.1.0.2")
        assert reaches(street.pc, "10.1.9.1", "-I 10.1.9.2")
        os.close(tun)
        assert not reaches(street.pc, "203.0.113.5", "-I 10.1.9.2")
        assert not reaches(street.isp, "10.1.9.2", "-I 203.0.113.5")
        assert reaches(street.pc, "203.0.113.5", "-I 10.1.0.2")


def test_a_flow_that_was_masqueraded_before_goes_into_the_tunnel_as_itself(street: Street) -> None:
    street.gateway.run(
        "nft add table ip nat; nft add chain ip nat post '{ type nat hook postrouting priority 100; }';"
        "nft add rule ip nat post ip saddr 10.1.0.0/24 oifname eth0 snat to 198.51.100.1"
    )
    speak = (
        "import socket as s; k = s.socket(s.AF_INET, s.SOCK_DGRAM); k.bind(('10.1.0.2', 5060));"
        "k.sendto(b'register', ('10.2.0.5', 5060))"
    )
    street.pc.run(f'python3 -c "{speak}"')
    with street.gateway.inside():
        tun = guarded_tun(OFFICE)
        street.pc.run(f'python3 -c "{speak}"')
        assert os.read(tun, 65_600)[10:][12:20] == bytes([10, 1, 0, 2, 10, 2, 0, 5])
        os.close(tun)


def test_what_is_foreign_is_the_same_after_apply_adopt_and_cleanup(street: Street) -> None:
    street.gateway.run(
        "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 net.ipv4.conf.eth0.rp_filter=1;"
        "ip rule add pref 77 from 10.9.0.0/16 lookup 99; ip route add 10.9.0.0/16 dev eth0 table 7700 metric 7;"
        "ip rule add pref 30000 to 10.8.0.0/16 lookup 7700; ip route add blackhole 10.2.0.0/16 proto static metric 9000;"
        "ip -6 route add 2001:db8:7::/48 via 2001:db8:1::fe proto 12;"
        "nft add table inet foreign; nft add chain inet foreign f '{ type filter hook forward priority 0; policy drop; }';"
        "nft add table ip openmoat; nft add chain ip openmoat c"
    )
    before = street.dump()
    with street.gateway.inside():
        [tun] = open_tun()
        applied = Reconciler().apply(replace(WHOLE_HOUSE, routes=WHOLE_HOUSE.routes + OFFICE.routes))
        assert applied.written > 0
        assert "net/ipv4/ip_forward: 0 -> 1" in applied.settings
        assert "net/ipv4/conf/eth0/rp_filter: 1 -> 2" in applied.settings
        os.close(tun)
        later = Reconciler()
        assert later.adopt() > 0
        later.apply(OFFICE)
        assert street.dump() != before
        later.cleanup()
    assert street.dump() == before


def test_the_second_apply_writes_nothing_nor_does_that_of_the_next_process(street: Street) -> None:
    with street.gateway.inside():
        [tun] = open_tun()
        state = replace(
            WHOLE_HOUSE,
            routes=(*WHOLE_HOUSE.routes, *OFFICE.routes),
            passes=(net("10.2.9.0/24"), net("192.0.2.1/32")),
            addresses=(ipaddress.ip_address("10.7.7.7"), ipaddress.ip_address("fd07::7")),
            source_routes=(
                SourceRoute(source=net("10.1.9.0/24"), route=route("10.5.0.0/16")),
                SourceRoute(source=net("fd09::/64"), route=route("::/0")),
            ),
        )
        first, second = Reconciler(), Reconciler()
        assert first.apply(state).written > 10
        before = street.dump()
        assert first.apply(state).written == 0
        assert second.apply(state).written == 0
        first.mistrust(routes=True, guard=True)
        assert first.apply(state).written == 0
        assert street.dump() == before
        os.close(tun)


def test_sizes_change_on_the_routes_they_name_and_nothing_is_looked_at_besides(street: Street) -> None:
    with street.gateway.inside():
        [tun] = open_tun()
        reconciler = Reconciler()
        smaller = replace(OFFICE.routes[0], mtu=1300, advmss=1260)
        change = StateChange(routes={smaller.prefix: smaller, OFFICE.routes[1].prefix: OFFICE.routes[1]})
        assert reconciler.change(change) is None
        reconciler.apply(OFFICE)
        resized = reconciler.change(change)
        assert resized is not None
        assert resized.written == 1
        shown = street.gateway.run("ip route show table all match 10.2.0.5; ip -6 route show table all match fd02::5")
        [v4] = [line for line in shown.splitlines() if line.startswith("10.2.0.0/16 dev moat0")]
        assert "mtu 1300 advmss 1260" in v4
        assert "src 10.1.0.1" in v4
        wanted = replace(OFFICE, routes=(smaller, OFFICE.routes[1]))
        assert reconciler.apply(wanted).written == 0
        reconciler.mistrust()
        assert reconciler.apply(wanted).written == 0
        assert reconciler.apply(OFFICE).written == 1
        reconciler.mistrust()
        assert reconciler.change(change) is None
        os.close(tun)


FAR = (
    *("10.3.0.0/24", "10.3.1.0/24", "10.3.2.0/23", "10.3.0.0/16", "172.16.0.0/12", "128.0.0.0/1", "10.2.7.0/24"),
    *("fd03::/64", "fd03:0:0:1::/64", "fd03::/48", "ffff::/16"),
)


def test_prefixes_that_come_and_go_leave_in_the_kernel_what_the_whole_would(street: Street) -> None:
    with street.gateway.inside():
        [tun] = open_tun()
        reconciler, choose, here = Reconciler(), random.Random(7), set[str]()  # noqa: S311 - the same walk each time
        reconciler.apply(OFFICE)
        ear = Watch(is_own_process)
        for _ in range(40):
            names = choose.sample(FAR, choose.randint(1, 4))
            here ^= set(names)
            followed = reconciler.change(
                StateChange(
                    routes={net(name): route(name) if name in here else None for name in names},
                    guarded={net(name): name in here for name in names},
                )
            )
            assert followed is not None
            wanted = replace(
                OFFICE,
                routes=(*OFFICE.routes, *(route(name) for name in sorted(here))),
                guarded=(*OFFICE.guarded, *(net(name) for name in sorted(here))),
            )
            # One who knows nothing of us reads the kernel, and finds nothing to do.
            assert Reconciler().apply(wanted).written == 0
        changes = ear.drain()
        assert not [change for change in changes if isinstance(change, GuardTouched)]
        ear.close()
        os.close(tun)


@pytest.mark.parametrize("sites", [MAX_RANGES - 1, MAX_RANGES])
def test_ranges_that_come_to_light_are_put_whether_they_fit_one_datagram_or_not(street: Street, sites: int) -> None:
    with street.gateway.inside():
        reconciler = Reconciler()
        around, within = net("fd80::/16"), [net(f"fd80:{site:x}::/48") for site in range(0, 2 * sites, 2)]
        reconciler.apply(replace(OFFICE, guarded=(*OFFICE.guarded, around, *within)))
        assert reconciler.change(StateChange(guarded={around: False})) is not None
        assert street.gateway.run("nft list set inet openmoat guarded6").count("fd80:") == sites
        assert Reconciler().apply(replace(OFFICE, guarded=(*OFFICE.guarded, *within))).written == 0


def test_a_prefix_is_guarded_before_it_has_a_route(street: Street) -> None:
    with street.gateway.inside():
        [tun] = open_tun()
        reconciler = Reconciler()
        reconciler.apply(OFFICE)
        os.close(tun)
        far = route("10.3.0.0/24")
        change = StateChange(routes={far.prefix: far}, guarded={far.prefix: True})
        # The device is gone, which nobody has told us yet: the kernel refuses the route.
        with pytest.raises(SystemFault, match=r"route 10\.3\.0\.0/24"):
            reconciler.change(change)
        assert "10.2.0.0-10.3.0.255" in street.gateway.run("nft list set inet openmoat guarded4")
        assert reconciler.change(change) is None


def test_the_guard_is_never_absent_while_it_changes(street: Street, tmp_path: Path) -> None:
    with street.gateway.inside():
        reconciler = Reconciler()
        reconciler.apply(OFFICE)
        with capture(street.isp, "eth0", "host 10.2.0.5", tmp_path) as seen:
            flood = street.pc
            argv = ["ip", "netns", "exec", flood.name, "ping", "-n", "-q", "-i", "0.002", "-w", "10", "10.2.0.5"]
            process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
            for step in range(12):
                more = tuple(net(f"10.{100 + n}.0.0/16") for n in range(step))
                state = (WHOLE_HOUSE, replace(OFFICE, guarded=(*OFFICE.guarded, *more)))[step % 2]
                (Reconciler() if step % 3 else reconciler).apply(state)
                reconciler.mistrust(guard=True)
            process.terminate()
            process.wait()
        assert frames(seen) == []


def test_on_stop_block_leaves_the_guard_and_open_removes_it(street: Street) -> None:
    before = street.dump()
    with street.gateway.inside():
        reconciler = Reconciler()
        reconciler.apply(OFFICE)
        assert reconciler.release(keeps_guard=True).written == 0
        assert not reaches(street.pc, "10.2.0.5")
        reconciler.release(keeps_guard=False)
        assert reaches(street.pc, "10.2.0.5")
    assert street.dump() == before


def test_one_more_route_among_ten_thousand_changes_nothing_else(street: Street) -> None:
    prefixes = tuple(net(f"10.{i >> 6}.{(i & 63) * 4}.0/23") for i in range(64, 10_064))
    state = HostState(routes=tuple(route(str(p)) for p in prefixes), guarded=prefixes)
    more = replace(
        state, routes=(*state.routes, route("172.16.1.0/24")), guarded=(*state.guarded, net("172.16.1.0/24"))
    )
    with street.gateway.inside():
        [tun] = open_tun()
        reconciler = Reconciler()
        started = time.thread_time()
        assert reconciler.apply(state).written > 20_000
        loaded = time.thread_time()
        assert reconciler.apply(more).written == 3
        added = time.thread_time()
        assert reconciler.apply(state).written == 3
        other = Reconciler()
        adopting = time.thread_time()
        assert other.apply(state).written == 0
        adopted = time.thread_time()
        other.cleanup()
        figures = {"load": loaded - started, "add one": added - loaded, "adopt": adopted - adopting}
        sys.stdout.write(
            f"\n10 000 routes, CPU seconds of ours: { {name: round(took, 3) for name, took in figures.items()} }\n"
        )
        os.close(tun)
