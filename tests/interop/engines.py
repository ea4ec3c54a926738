"""Two engines with fixed keys in two network namespaces, joined by a veth pair: a tunnel without IKE."""

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from interop.hosts import Host, hosts, link
from openmoat.crypto.suites import AES_128_GCM_16, EspSuite
from openmoat.dataplane.backend import (
    Activate,
    AddInbound,
    AddOutbound,
    Command,
    Encapsulation,
    Limits,
    Remove,
    SaCounters,
    SetPolicies,
    Spi,
)
from openmoat.dataplane.engine_wire import EngineWire
from openmoat.dataplane.userspace import EVERY_OFFLOAD, Offloads, UserspaceBackend, open_engine
from openmoat.errors import Secret
from openmoat.mtu.plan import MAX_PACKET, MtuPlan
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import Selectors, TrafficSelector
from openmoat.policy.spd import Action, Missing, Policy
from openmoat.system.sockets import open_all

GCM = EspSuite(AES_128_GCM_16, None)
POLICY = 1


@dataclass(frozen=True, kw_only=True)
class Tunnel:
    """How packets are carried."""

    suite: EspSuite = GCM
    encapsulation: Encapsulation = Encapsulation.UDP
    outside: int = 4
    """Version of IP."""
    plan: MtuPlan = field(default_factory=lambda: MtuPlan(outer_size=1500, inner_room=1400, mss_v4=1360, mss_v6=1340))
    limits: Limits = Limits()
    keepalive: float = 0.0


class Gateway:
    """One host with an engine. Number 1 has 10.1.0.0/16 and fd01::/16 behind it, number 2 has 10.2.0.0/16 and so on."""

    def __init__(self, host: Host, number: int, offloads: Offloads = EVERY_OFFLOAD, queues: int = 1) -> None:
        self.host = host
        self.number = number
        self.other = 3 - number
        with host.inside():
            descriptors = open_all("moat0", queues=queues)
            self.engine = open_engine(tun=descriptors.tun, udp=descriptors.udp, raw=descriptors.raw, offloads=offloads)
        descriptors.close()
        self.backend = UserspaceBackend(self.engine)
        self.wire = EngineWire(self.engine)
        host.run(
            f"ip addr add 10.{number}.0.1/32 dev lo; ip addr add fd0{number}::1/128 dev lo nodad;"
            f"ip route add 10.{self.other}.0.0/16 dev moat0 src 10.{number}.0.1 mtu 1400;"
            f"ip -6 route add fd0{self.other}::/16 dev moat0 src fd0{number}::1 mtu 1400"
        )

    def let_every_size_come(self) -> None:
        """Give the routes into the tunnel the MTU that `route_sizes` gives them."""
        self.host.run(
            f"ip route change 10.{self.other}.0.0/16 dev moat0 src {self.inner(4)} mtu {MAX_PACKET};"
            f"ip -6 route change fd0{self.other}::/16 dev moat0 src {self.inner(6)} mtu {MAX_PACKET}"
        )

    def address(self, version: int) -> str:
        return f"192.0.2.{self.number}" if version == 4 else f"2001:db8::{self.number}"

    def inner(self, version: int) -> str:
        return f"10.{self.number}.0.1" if version == 4 else f"fd0{self.number}::1"

    def path(self, tunnel: Tunnel) -> Path:
        port = 4500 if tunnel.encapsulation is Encapsulation.UDP else 0
        far = self.address(tunnel.outside)[:-1] + str(self.other)
        return Path(
            HostPort(ipaddress.ip_address(self.address(tunnel.outside)), port),
            HostPort(ipaddress.ip_address(far), port),
        )

    @property
    def local(self) -> Selectors:
        return nets(self.number)

    @property
    def remote(self) -> Selectors:
        return nets(self.other)

    def policy(self, action: Action = Action.PROTECT, missing: Missing = Missing.DROP) -> SetPolicies:
        policy = Policy(
            id=POLICY, name="net", rank=100, action=action, local=self.local, remote=self.remote, missing=missing
        )
        return SetPolicies(put=(policy,))

    def halves(self, tunnel: Tunnel, inbound: Spi, outbound: Spi) -> list[Command]:
        path = self.path(tunnel)
        return [
            AddInbound(
                spi=inbound,
                suite=tunnel.suite,
                key=cipher_key(tunnel.suite, inbound),
                integrity_key=integrity_key(tunnel.suite, inbound),
                encapsulation=tunnel.encapsulation,
                path=path,
                local=self.local,
                remote=self.remote,
                limits=tunnel.limits,
                framing=tunnel.plan.framing,
            ),
            AddOutbound(
                handle=inbound,
                spi=outbound,
                suite=tunnel.suite,
                key=cipher_key(tunnel.suite, outbound),
                integrity_key=integrity_key(tunnel.suite, outbound),
                encapsulation=tunnel.encapsulation,
                path=path,
                local=self.local,
                remote=self.remote,
                policy=POLICY,
                plan=tunnel.plan,
                limits=tunnel.limits,
                keepalive_seconds=tunnel.keepalive,
            ),
        ]

    def counters(self) -> SaCounters:
        [counters] = self.backend.read_counters()
        return counters


def cipher_key(suite: EspSuite, spi: Spi) -> Secret:
    """Both ends make it from the SPI of the direction."""
    return Secret(bytes((n ^ spi) & 0xFF for n in range(suite.encryption.key_material)))


def integrity_key(suite: EspSuite, spi: Spi) -> Secret:
    size = suite.integrity.key if suite.integrity else 0
    return Secret(bytes((n ^ spi ^ 0x55) & 0xFF for n in range(size)))


def nets(number: int) -> Selectors:
    return (
        TrafficSelector.of(ipaddress.ip_network(f"10.{number}.0.0/16")),
        TrafficSelector.of(ipaddress.ip_network(f"fd0{number}::/16")),
    )


@contextmanager
def gateways(offloads: Offloads = EVERY_OFFLOAD, queues: int = 1) -> Iterator[tuple[Gateway, Gateway]]:
    with ExitStack() as stack:
        left, right = stack.enter_context(hosts("left", "right"))
        link(left, "out0", right, "out0")
        for number, host in ((1, left), (2, right)):
            host.run(f"ip addr add 192.0.2.{number}/24 dev out0; ip addr add 2001:db8::{number}/64 dev out0 nodad")
        made = Gateway(left, 1, offloads, queues), Gateway(right, 2, offloads, queues)
        for gateway in made:
            stack.callback(gateway.backend.close)
        yield made


def connect(left: Gateway, right: Gateway, tunnel: Tunnel) -> tuple[Spi, Spi]:
    """Install a tunnel, active both ways; answers the handles."""
    ours, theirs = left.backend.reserve_spis(1)[0], right.backend.reserve_spis(1)[0]
    for gateway, inbound, outbound in ((left, ours, theirs), (right, theirs, ours)):
        gateway.backend.apply([gateway.policy(), *gateway.halves(tunnel, inbound, outbound), Activate(inbound)])
    return ours, theirs


def disconnect(*pairs: tuple[Gateway, Spi]) -> Sequence[SaCounters]:
    """Remove; answers the final counters."""
    return [counters for gateway, handle in pairs for counters in gateway.backend.apply([Remove(handle)])]
