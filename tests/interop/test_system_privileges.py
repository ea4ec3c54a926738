"""All of `openmoat.system` as nobody, with exactly the capabilities that the service has, or with one too few."""

import ipaddress
import os
import re
from collections.abc import Callable, Iterator

import pytest

from interop.hosts import Host, hosts, link
from interop.privileges import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW, become_nobody
from openmoat.errors import MoatError
from openmoat.system.firewall import is_own_process
from openmoat.system.netlink import Netlink
from openmoat.system.reconcile import HostState, Reconciler, TunnelRoute
from openmoat.system.routes import route_to
from openmoat.system.sockets import open_all, open_raw, open_tun, open_udp
from openmoat.system.watch import Watch

pytestmark = pytest.mark.namespaces
STATE = HostState(
    routes=(
        TunnelRoute(prefix=ipaddress.ip_network("0.0.0.0/0"), mtu=1400, advmss=1340),
        TunnelRoute(prefix=ipaddress.ip_network("fd02::/16"), mtu=1400, advmss=1340),
    ),
    guarded=(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("fd02::/16")),
    addresses=(ipaddress.ip_address("10.7.7.7"),),
)


@pytest.fixture
def gateway() -> Iterator[Host]:
    with hosts("gw", "isp") as (gateway, isp):
        link(gateway, "eth0", isp, "eth0")
        gateway.run("ip addr add 198.51.100.1/24 dev eth0; sysctl -qw net.ipv4.conf.all.rp_filter=1")
        yield gateway


def in_child(host: Host, capabilities: tuple[int, ...], work: Callable[[], str]) -> str:
    """What `work` gives in a process of its own, in the namespace, as nobody."""
    with host.inside():
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                become_nobody(*capabilities)
                os.write(write, work().encode())
            except (MoatError, OSError) as error:
                os.write(write, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        return text


def everything() -> str:
    reconciler = Reconciler()
    with Watch(is_own_process) as watch, Netlink() as netlink:
        first = reconciler.apply(STATE)
        opened = open_all()
        second = reconciler.apply(STATE)
        if first.notes or second.notes or reconciler.inspect():
            return f"notes: {first.notes} {second.notes} {reconciler.inspect()}"
        if not route_to(netlink, ipaddress.ip_address("198.51.100.2")) or not reconciler.handle_changes(watch.drain()):
            return "no route, or nothing heard"
        opened.close()
        if not reconciler.counters() or not first.settings or not Reconciler().adopt():
            return "no counters, no settings, or nothing to adopt"
        reconciler.release(keeps_guard=False)
        return f"uid {os.getuid()}, left: {Reconciler().adopt()}"


def test_three_capabilities_and_no_root_are_enough_for_everything(gateway: Host) -> None:
    assert in_child(gateway, (CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE), everything) == "uid 65534, left: 0"


@pytest.mark.parametrize(
    ("present", "work", "text"),
    [
        ((CAP_NET_RAW, CAP_NET_BIND_SERVICE), open_tun, "DeviceError: TUN device moat0: needs CAP_NET_ADMIN"),
        ((CAP_NET_ADMIN, CAP_NET_BIND_SERVICE), open_raw, "SystemFault: raw socket for ESP: .*it needs CAP_NET_RAW"),
        ((CAP_NET_ADMIN, CAP_NET_RAW), lambda: open_udp(500), "SystemFault: UDP port 500: needs CAP_NET_BIND_SERVICE"),
        (
            (CAP_NET_RAW,),
            lambda: Reconciler().apply(STATE),
            "SystemFault: firewall: nft: .*not permitted.*CAP_NET_ADMIN",
        ),
    ],
    ids=["tun", "raw", "udp", "guard"],
)
def test_a_capability_that_is_missing_is_named(
    gateway: Host, present: tuple[int, ...], work: Callable[[], object], text: str
) -> None:
    said = in_child(gateway, present, lambda: str(work()))
    assert re.match(text, said, re.DOTALL), said
