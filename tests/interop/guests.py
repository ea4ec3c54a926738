"""The engine in a namespace, a Linux kernel's XFRM in a guest at the other end of its cable: a tunnel with fixed keys."""

import contextlib
import ipaddress
import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from interop.engines import Gateway, Tunnel, cipher_key, integrity_key
from interop.hosts import hosts
from openmoat.dataplane.backend import Activate, Encapsulation, Remove, Spi
from openmoat.net import Network
from openmoat_lab.guest.machine import Guest
from openmoat_lab.guest.xfrm import Direction, Iptfs, KernelPolicy, KernelSa

KERNEL_SPI = 0xC0FFEE01
ENCAPSULATION_PORT = 4500
SO_RCVBUFFORCE = 33
WAITING = 32 << 20
WIRE = """
echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
mkdir -p /run/netns; ip netns add wire
ip link add out0 type veth peer name eth0 netns wire
ip link set vec0 netns wire
ip netns exec wire sh -eu <<END
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up; ip link set vec0 up; ip link set eth0 up
echo 1 > /proc/sys/net/ipv4/conf/all/proxy_arp
echo 0 > /proc/sys/net/ipv4/neigh/vec0/proxy_delay; echo 0 > /proc/sys/net/ipv4/neigh/eth0/proxy_delay
ip route add 192.0.2.1/32 dev vec0; ip route add 192.0.2.2/32 dev eth0
ip -6 route add 2001:db8::1/128 dev vec0; ip -6 route add 2001:db8::2/128 dev eth0
echo 1 > /proc/sys/net/ipv6/conf/all/proxy_ndp
echo 0 > /proc/sys/net/ipv6/neigh/vec0/proxy_delay; echo 0 > /proc/sys/net/ipv6/neigh/eth0/proxy_delay
ip -6 neigh add proxy 2001:db8::1 dev eth0; ip -6 neigh add proxy 2001:db8::2 dev vec0
END
ip link set out0 up; ip addr add 192.0.2.2/24 dev out0; ip addr add 2001:db8::2/64 dev out0 nodad
ip addr add 10.2.0.1/32 dev lo; ip addr add fd02::1/128 dev lo nodad
ip route add 10.1.0.0/16 via 192.0.2.1 src 10.2.0.1
ip -6 route add fd01::/16 via 2001:db8::1 src fd02::1
"""
"""The kernel's end, and between it and the cable a namespace `wire` that routes without being seen, for netem."""


@dataclass(frozen=True)
class Pair:
    """Number 1 is ours, number 2 the kernel."""

    ours: Gateway
    guest: Guest

    def connect(self, tunnel: Tunnel, iptfs: Iptfs | None = None) -> Spi:
        """Install the tunnel at both ends, instead of what the kernel had; answers our handle."""
        [handle] = self.ours.backend.reserve_spis(1)
        self.ours.backend.apply([self.ours.policy(), *self.ours.halves(tunnel, handle, KERNEL_SPI), Activate(handle)])
        self.guest.script("ip xfrm state flush; ip xfrm policy flush")
        path = self.ours.path(tunnel)
        near, far = path.local.address, path.remote.address
        port = ENCAPSULATION_PORT if tunnel.encapsulation is Encapsulation.UDP else 0
        sas = [
            KernelSa(
                spi=spi,
                suite=tunnel.suite,
                key=cipher_key(tunnel.suite, spi),
                integrity_key=integrity_key(tunnel.suite, spi),
                source=source,
                destination=destination,
                is_inbound=spi == KERNEL_SPI,
                port=port,
                iptfs=iptfs,
            )
            for spi, source, destination in ((KERNEL_SPI, near, far), (handle, far, near))
        ]
        policies = [
            KernelPolicy(
                source=net(here, version),
                destination=net(there, version),
                direction=direction,
                tunnel_source=outer_source,
                tunnel_destination=outer_destination,
                is_iptfs=iptfs is not None,
            )
            for version in (4, 6)
            for here, there, direction, outer_source, outer_destination in (
                (1, 2, Direction.IN, near, far),
                (2, 1, Direction.OUT, far, near),
            )
        ]
        self.guest.netlink([*(sa.request() for sa in sas), *(policy.request() for policy in policies)])
        return handle

    def to_kernel(
        self, payloads: Sequence[bytes], inside: int = 4, pause: float = 0.0, seconds: float = 5.0
    ) -> list[bytes]:
        """Send datagrams through our end; answers what came out of the kernel."""
        port = self.guest.listen(inner(2, inside))
        with self.ours.host.inside():
            one = datagrams(inner(1, inside))
        with one:
            for payload in payloads:
                one.sendto(payload, (inner(2, inside), port))
                time.sleep(pause)
        return self.guest.collect(port, len(payloads), seconds)

    def from_kernel(
        self, payloads: Sequence[bytes], inside: int = 4, pause: float = 0.0, seconds: float = 5.0
    ) -> list[bytes]:
        """Send datagrams through the kernel; answers what came out at our end."""
        with self.ours.host.inside():
            one = datagrams(inner(1, inside))
        came: list[bytes] = []
        with one, contextlib.suppress(TimeoutError):
            self.guest.send(inner(2, inside), inner(1, inside), one.getsockname()[1], payloads, pause)
            one.settimeout(seconds)
            while len(came) < len(payloads):
                came.append(one.recv(65_536))
        return came

    def let_every_size_come(self) -> None:
        """Let both hosts send packets of any size into the tunnel; the kernel forgets what it has learned otherwise."""
        self.ours.let_every_size_come()
        # Locked: the inside has an MTU of its own, whatever the outside has.
        self.guest.script(
            "ip route replace 10.1.0.0/16 via 192.0.2.1 src 10.2.0.1 mtu lock 65535\n"
            "ip -6 route replace fd01::/16 via 2001:db8::1 src fd02::1 mtu lock 65535\n"
        )

    @contextmanager
    def line(self, impairment: str) -> Iterator[None]:
        """Make the line worse both ways, in the words of netem."""
        for device in ("vec0", "eth0"):
            self.guest.script(f"ip netns exec wire tc qdisc add dev {device} root netem {impairment} limit 10000")
        try:
            yield
        finally:
            for device in ("vec0", "eth0"):
                self.guest.script(f"ip netns exec wire tc qdisc del dev {device} root")

    def disconnect(self, handle: Spi) -> dict[str, int]:
        """Remove ours; answers what it has dropped."""
        [counters] = self.ours.backend.apply([Remove(handle)])
        return {reason.value if hasattr(reason, "value") else str(reason): n for reason, n in counters.drops.items()}

    def kernel_errors(self) -> dict[str, int]:
        """What the kernel's XFRM has refused since it was booted."""
        lines = self.guest.script("cat /proc/net/xfrm_stat").splitlines()
        return {name: int(count) for name, count in (line.split() for line in lines) if int(count)}


def inner(number: int, version: int) -> str:
    return f"10.{number}.0.1" if version == 4 else f"fd0{number}::1"


def datagrams(address: str) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WAITING)
    one.bind((address, 0))
    return one


def payloads_of(sizes: Sequence[int], inside: int, seed: int) -> list[bytes]:
    """Datagrams that make inner packets of these sizes, as different from each other as their sizes let them be."""
    chance = random.Random(seed)  # noqa: S311
    return [chance.randbytes(size - (28 if inside == 4 else 48)) for size in sizes]


def net(number: int, version: int) -> Network:
    return ipaddress.ip_network(f"10.{number}.0.0/16" if version == 4 else f"fd0{number}::/16")


@contextmanager
def kernel_pair(directory: Path) -> Iterator[Pair]:
    """Booted and addressed, without a tunnel."""
    with hosts("left") as (left,), Guest(left.name, directory) as guest:
        left.run("ip addr add 192.0.2.1/24 dev out0; ip addr add 2001:db8::1/64 dev out0 nodad")
        guest.script(WIRE)
        guest.encapsulate(ENCAPSULATION_PORT)
        gateway = Gateway(left, 1)
        try:
            yield Pair(gateway, guest)
        finally:
            gateway.backend.close()
