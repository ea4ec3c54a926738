"""The networks the lab knows by name, as data. Outside addresses are set aside for documentation or for NAT (RFC 6598)."""

from collections.abc import Mapping

from openmoat_lab.topology import DEFAULT_MTU, End, Host, Link, Route, Topology

__all__ = ["DSL_MTU", "HOMES", "NETWORKS", "homes", "three_behind_nat", "two_gateways"]

DSL_MTU = 1492
"""What a line with PPPoE carries (RFC 2516 7)."""


def homes(*, offloads: bool = True) -> Topology:
    """Two homes behind one NATing ISP whose line is PPPoE-like, a cabin on IPv6, a portal with an office behind it.

    ```
    pc-a -- moat-a --+
                     isp (NAT) ==1492== internet -- portal -- office
    pc-b -- moat-b --+                     |
    pc-c -- moat-c (IPv6 only) ------------+
    ```
    Inside, every network has IPv4 and IPv6. The ISP routes IPv6 too, so that a leak arrives somewhere.
    """
    hosts = [_isp(), _internet(), *_portal()]
    links = [
        _link(End.of("isp", "wan", "198.51.100.2/24", "2001:db8:50::2/64"),
              End.of("internet", "isp", "198.51.100.1/24", "2001:db8:50::1/64"), offloads, DSL_MTU),
        _link(End.of("portal", "wan", "203.0.113.10/24", "2001:db8:99::10/64"),
              End.of("internet", "portal", "203.0.113.1/24", "2001:db8:99::1/64"), offloads),
        _link(End.of("office", "lan", "10.99.0.10/24", "fd00:99::10/64"),
              End.of("portal", "lan", "10.99.0.1/24", "fd00:99::1/64"), offloads),
    ]  # fmt: skip
    for number, letter in enumerate("ab", start=1):
        hosts += _home(letter, number, (f"100.64.{number}.1", f"2001:db8:51:{number}::1"))
        links += [
            _link(End.of(f"moat-{letter}", "wan", f"100.64.{number}.2/24", f"2001:db8:51:{number}::2/64"),
                  End.of("isp", f"home-{letter}", f"100.64.{number}.1/24", f"2001:db8:51:{number}::1/64"), offloads),
            _home_lan(letter, number, offloads),
        ]  # fmt: skip
    hosts += _home("c", 3, ("2001:db8:3::1",))
    links += [
        _link(End.of("moat-c", "wan", "2001:db8:3::2/64"), End.of("internet", "cabin", "2001:db8:3::1/64"), offloads),
        _home_lan("c", 3, offloads),
    ]
    return Topology(name="homes", hosts=tuple(hosts), links=tuple(links))


def _isp() -> Host:
    # Inside networks are reachable from outside without a tunnel, so that a leak arrives instead of failing for want of a
    # route. The captures look for it.
    return Host(
        name="isp",
        forwards=True,
        masquerades=("wan",),
        routes=(
            Route.of("default", "198.51.100.1"),
            Route.of("default", "2001:db8:50::1"),
            *(Route.of(f"10.{n}.0.0/24", f"100.64.{n}.2") for n in (1, 2)),
            *(Route.of(f"fd00:{n}::/64", f"2001:db8:51:{n}::2") for n in (1, 2)),
        ),
    )


def _internet() -> Host:
    return Host(
        name="internet",
        forwards=True,
        routes=(
            Route.of("2001:db8:51::/48", "2001:db8:50::2"),
            Route.of("10.99.0.0/24", "203.0.113.10"),
            Route.of("fd00:99::/64", "2001:db8:99::10"),
            *(Route.of(f"10.{n}.0.0/24", "198.51.100.2") for n in (1, 2)),
            *(Route.of(f"fd00:{n}::/64", "2001:db8:50::2") for n in (1, 2)),
        ),
    )


def _portal() -> tuple[Host, Host]:
    """The portal and the office behind it."""
    gateway = Host(
        name="portal",
        forwards=True,
        routes=(Route.of("default", "203.0.113.1"), Route.of("default", "2001:db8:99::1")),
    )
    return gateway, Host(name="office", routes=(Route.of("default", "10.99.0.1"), Route.of("default", "fd00:99::1")))


def two_gateways(*, nat: bool = False, version: int = 4, offloads: bool = True, mtu: int = DEFAULT_MTU) -> Topology:
    """Two gateways with a PC behind each, a router between them; with `nat` the left one is behind it.

    ```
    pc-left -- left -- router -- right -- pc-right
    ```
    Inside, 10.1.0.0/24 and fd00:1::/64 on the left, 10.2.0.0/24 and fd00:2::/64 on the right. Without NAT the router
    has routes to the inside of both, so that cleartext packets would arrive.
    """
    outside = {4: ("192.0.2.{}", 24, "198.51.100.{}"), 6: ("2001:db8:1::{}", 64, "2001:db8:2::{}")}[version]
    left, length, right = outside
    back = () if nat else tuple(Route.of(f"{net}", left.format(2)) for net in _inside(1, version))
    hosts = [
        Host(name="router", forwards=True, masquerades=("right",) if nat else (),
             routes=(*back, *(Route.of(net, right.format(2)) for net in _inside(2, version)))),
        Host(name="left", forwards=True, routes=(Route.of("default", left.format(1)),)),
        Host(name="right", forwards=True, routes=(Route.of("default", right.format(1)),)),
        Host(name="pc-left", routes=(Route.of("default", "10.1.0.1"), Route.of("default", "fd00:1::1"))),
        Host(name="pc-right", routes=(Route.of("default", "10.2.0.1"), Route.of("default", "fd00:2::1"))),
    ]  # fmt: skip
    links = [
        _link(End.of("left", "wan", f"{left.format(2)}/{length}"),
              End.of("router", "left", f"{left.format(1)}/{length}"), offloads, mtu),
        _link(End.of("right", "wan", f"{right.format(2)}/{length}"),
              End.of("router", "right", f"{right.format(1)}/{length}"), offloads, mtu),
        _link(End.of("pc-left", "lan", "10.1.0.10/24", "fd00:1::10/64"),
              End.of("left", "lan", "10.1.0.1/24", "fd00:1::1/64"), offloads),
        _link(End.of("pc-right", "lan", "10.2.0.10/24", "fd00:2::10/64"),
              End.of("right", "lan", "10.2.0.1/24", "fd00:2::1/64"), offloads),
    ]  # fmt: skip
    name = f"two-gateways{'-nat' if nat else ''}{'-v6' if version == 6 else ''}"
    return Topology(name=name, hosts=tuple(hosts), links=tuple(links))


def three_behind_nat() -> Topology:
    """Three gateways behind one NAT, each with a network of its own, and one gateway opposite.

    ```
    peer-1 (10.1.0.1) --+
    peer-2 (10.2.0.1) --+- router (NAT) -- right (10.9.0.1)
    peer-3 (10.3.0.1) --+
    ```
    The inside networks stand on interfaces towards a PC each: `pc-1` to `pc-3`, and `pc-right`.
    """
    hosts = [
        Host(name="router", forwards=True, masquerades=("right",)),
        Host(name="right", forwards=True, routes=(Route.of("default", "198.51.100.1"),)),
        Host(name="pc-right", routes=(Route.of("default", "10.9.0.1"),)),
    ]
    links = [
        _link(End.of("right", "wan", "198.51.100.2/24"), End.of("router", "right", "198.51.100.1/24")),
        _link(End.of("pc-right", "lan", "10.9.0.10/24"), End.of("right", "lan", "10.9.0.1/24")),
    ]
    for number in (1, 2, 3):
        outside, inside = f"100.64.{number}", f"10.{number}.0"
        hosts += [
            Host(name=f"peer-{number}", forwards=True, routes=(Route.of("default", f"{outside}.1"),)),
            Host(name=f"pc-{number}", routes=(Route.of("default", f"{inside}.1"),)),
        ]
        links += [
            _link(End.of(f"peer-{number}", "wan", f"{outside}.2/24"),
                  End.of("router", f"peer-{number}", f"{outside}.1/24")),
            _link(End.of(f"pc-{number}", "lan", f"{inside}.10/24"), End.of(f"peer-{number}", "lan", f"{inside}.1/24")),
        ]  # fmt: skip
    return Topology(name="three-behind-nat", hosts=tuple(hosts), links=tuple(links))


def _link(a: End, b: End, offloads: bool = True, mtu: int = DEFAULT_MTU) -> Link:
    return Link(a=a, b=b, mtu=mtu, offloads=offloads)


def _inside(number: int, version: int) -> tuple[str, ...]:
    return (f"10.{number}.0.0/24",) if version == 4 else (f"fd00:{number}::/64",)


def _home(letter: str, number: int, gateways: tuple[str, ...]) -> tuple[Host, Host]:
    return (
        Host(name=f"moat-{letter}", forwards=True, routes=tuple(Route.of("default", via) for via in gateways)),
        Host(
            name=f"pc-{letter}",
            routes=(Route.of("default", f"10.{number}.0.1"), Route.of("default", f"fd00:{number}::1")),
        ),
    )


def _home_lan(letter: str, number: int, offloads: bool) -> Link:
    return _link(End.of(f"pc-{letter}", "lan", f"10.{number}.0.10/24", f"fd00:{number}::10/64"),
                 End.of(f"moat-{letter}", "lan", f"10.{number}.0.1/24", f"fd00:{number}::1/64"), offloads)  # fmt: skip


HOMES = homes()
NETWORKS: Mapping[str, Topology] = {
    network.name: network
    for network in (
        HOMES,
        two_gateways(),
        two_gateways(nat=True),
        two_gateways(version=6),
        three_behind_nat(),
    )
}
"""What `moat lab up` can raise."""
