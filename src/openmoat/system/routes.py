"""Routes of our own tables (rtnetlink), and questions to the host's routing. Touches nothing that does not bear our number."""

import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from openmoat.errors import SystemFault
from openmoat.net import Address, Network
from openmoat.system.links import TUN_MTU
from openmoat.system.names import OUTER_MARK, ROUTE_PROTOCOL
from openmoat.system.netlink import (
    Answer,
    Kind,
    Mode,
    Netlink,
    Refusal,
    Request,
    attribute,
    attributes,
    family_of,
    network_of,
)

__all__ = [
    "BLACKHOLE_METRIC",
    "MAIN_TABLE",
    "THROW_METRIC",
    "TUNNEL_METRIC",
    "HostRoute",
    "Route",
    "RouteKind",
    "change_routes",
    "mtu_metric",
    "parse_host_route",
    "read_host_routes",
    "read_routes",
    "route_to",
]

ROUTE: Final = struct.Struct("=BBBBBBBBI")
"""rtmsg: family, destination length, source length, TOS, table, protocol, scope, type, flags."""
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_METRICS: Final = 8
RTA_TABLE: Final = 15
RTA_MARK: Final = 16
RTAX_MTU: Final = 2
RTAX_ADVMSS: Final = 8
RTM_F_CLONED: Final = 0x200
"""A cached exception, not a route of the table."""

MAIN_TABLE: Final = 254
THROW_METRIC: Final = 50
TUNNEL_METRIC: Final = 100
BLACKHOLE_METRIC: Final = 4_000
"""Worse than any tunnel route: it decides only while there is no device."""
ERRNO_NO_TABLE: Final = 2
ERRNO_NO_ROUTE: Final = 3


class RouteKind(IntEnum):
    """What a route does with packets (linux/rtnetlink.h, RTN_*)."""

    UNICAST = 1
    LOCAL = 2
    BLACKHOLE = 6
    """Lost in silence; a local sender gets EINVAL."""
    UNREACHABLE = 7
    """Refused with ICMP, so that applications try the other family at once."""
    THROW = 9
    """Back to the rules: the host's own tables decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route of ours. Equal routes are equal in the kernel, so that two sets can be subtracted."""

    table: int
    prefix: Network
    kind: RouteKind
    metric: int
    index: int = 0
    """Of the TUN device, with UNICAST."""
    mtu: int = 0
    """0: that of the device; see `mtu_metric`."""
    advmss: int = 0
    source: Address | None = None

    def __hash__(self) -> int:
        # What mostly differs is enough, and sets of ten thousands are made at every change.
        return hash((self.prefix, self.metric))

    @property
    def place(self) -> tuple[int, Network, int]:
        """What the kernel tells two routes apart by; a change in place replaces."""
        return self.table, self.prefix, self.metric


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A unicast route of the host's main table."""

    prefix: Network
    index: int
    """Of its interface; the first one's where it has several."""
    is_connected: bool
    """Without a router in between."""


def read_routes(netlink: Netlink, tables: Sequence[int]) -> frozenset[Route]:
    """Our routes in these tables; those of another protocol number are not ours, wherever they stand."""
    found = set()
    for table in tables:
        for family in (socket.AF_INET, socket.AF_INET6):
            for answer in _dump(netlink, family, table, ROUTE_PROTOCOL):
                route = _parse(answer)
                if route is not None and route.table == table:
                    found.add(route)
    return frozenset(found)


def read_host_routes(netlink: Netlink) -> tuple[HostRoute, ...]:
    """The unicast routes of the main table."""
    answers = [
        answer for family in (socket.AF_INET, socket.AF_INET6) for answer in _dump(netlink, family, MAIN_TABLE, 0)
    ]
    return tuple(route for answer in answers if (route := parse_host_route(answer)) is not None)


def parse_host_route(answer: Answer) -> HostRoute | None:
    """The route of an RTM_NEWROUTE or RTM_DELROUTE; None for another table's, another kind's, one of several hops, or ours."""
    family, length, _source, _tos, table, protocol, _scope, kind, flags = ROUTE.unpack_from(answer.body)
    values = attributes(answer.body[ROUTE.size :])
    if kind != RouteKind.UNICAST or table != MAIN_TABLE or flags & RTM_F_CLONED or protocol == ROUTE_PROTOCOL:
        return None
    if RTA_OIF not in values:
        return None
    return HostRoute(
        network_of(family, length, values.get(RTA_DST)), _number(values, RTA_OIF), RTA_GATEWAY not in values
    )


def change_routes(netlink: Netlink, put: Iterable[Route], remove: Iterable[Route]) -> None:
    """Put routes in place, replacing what stands there, then take others away: no moment without the one or the other.

    Raises `SystemFault` for the first that was refused, after all have been tried.
    """
    puts, removes = list(put), list(remove)
    requests = [Request(Kind.NEW_ROUTE, Mode.CREATE | Mode.REPLACE, _emit(route)) for route in puts]
    requests += [Request(Kind.DEL_ROUTE, Mode(0), _emit(route)) for route in removes]
    for number, (route, refusal) in enumerate(zip(puts + removes, netlink.transact(requests), strict=True)):
        if refusal.errno == 0 or (number >= len(puts) and refusal.errno == ERRNO_NO_ROUTE):
            continue
        verb = "put" if number < len(puts) else "taken away"
        raise SystemFault(
            f"route {route.prefix} in table {route.table}: cannot be {verb}: {refusal}; see: ip route show table {route.table}"
        )


def route_to(netlink: Netlink, address: Address, mark: int = OUTER_MARK) -> Address | None:
    """The source address with which the host would send outer packets to `address`; None where it has no route."""
    body = ROUTE.pack(family_of(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body += attribute(RTA_DST, address.packed) + attribute(RTA_MARK, struct.pack("=I", mark))
    answer = netlink.ask(Request(Kind.GET_ROUTE, Mode(0), body))
    if isinstance(answer, Refusal):
        return None
    if ROUTE.unpack_from(answer.body)[7] not in (RouteKind.UNICAST, RouteKind.LOCAL):
        return None
    source = attributes(answer.body[ROUTE.size :]).get(RTA_PREFSRC)
    return ipaddress.ip_address(source) if source else None


def _dump(netlink: Netlink, family: int, table: int, protocol: int) -> list[Answer]:
    body = ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0) + attribute(RTA_TABLE, struct.pack("=I", table))
    answers = netlink.dump(Kind.GET_ROUTE, body)
    if not isinstance(answers, Refusal):
        return answers
    if answers.errno == ERRNO_NO_TABLE or not answers.errno:
        return []
    raise SystemFault(f"routes of table {table}: cannot be listed: {answers}")


def _emit(route: Route) -> bytes:
    # Scope universe, although no router stands in between: where somebody adds a route by a router without naming the
    # interface, the kernel looks for one of scope link to reach that router by, and must not find ours.
    scope = 0
    family = family_of(route.prefix.network_address)
    body = ROUTE.pack(family, route.prefix.prefixlen, 0, 0, 0, ROUTE_PROTOCOL, scope, route.kind, 0)
    body += attribute(RTA_TABLE, struct.pack("=I", route.table))
    body += attribute(RTA_DST, route.prefix.network_address.packed)
    body += attribute(RTA_PRIORITY, struct.pack("=I", route.metric))
    if route.index:
        body += attribute(RTA_OIF, struct.pack("=I", route.index))
    if route.source is not None:
        body += attribute(RTA_PREFSRC, route.source.packed)
    metrics = b"".join(
        attribute(kind, struct.pack("=I", value))
        for kind, value in ((RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss))
        if value
    )
    return body + (attribute(RTA_METRICS, metrics) if metrics else b"")


def mtu_metric(mtu: int) -> int:
    """The MTU of a tunnel route as the kernel keeps it: none where the TUN device lets as much pass.

    Linux makes 65 520 of any larger number, and the device's own size is more.
    """
    return mtu if mtu < TUN_MTU else 0


def _parse(answer: Answer) -> Route | None:
    family, length, _source, _tos, _table, protocol, _scope, kind, flags = ROUTE.unpack_from(answer.body)
    if protocol != ROUTE_PROTOCOL or flags & RTM_F_CLONED or kind not in RouteKind._value2member_map_:
        return None
    values = attributes(answer.body[ROUTE.size :])
    metrics = attributes(values.get(RTA_METRICS, b""))
    source = values.get(RTA_PREFSRC)
    kind = RouteKind(kind)
    return Route(
        table=_number(values, RTA_TABLE),
        prefix=network_of(family, length, values.get(RTA_DST)),
        kind=kind,
        metric=_number(values, RTA_PRIORITY),
        # IPv6 hangs routes without a device on the loopback interface.
        index=_number(values, RTA_OIF) if kind is RouteKind.UNICAST else 0,
        mtu=_number(metrics, RTAX_MTU),
        advmss=_number(metrics, RTAX_ADVMSS),
        source=ipaddress.ip_address(source) if source else None,
    )


def _number(values: dict[int, bytes], kind: int) -> int:
    return int(struct.unpack("=I", values[kind])[0]) if kind in values else 0
