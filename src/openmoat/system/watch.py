"""What changes on the host while we run: links, addresses, routes, and our guard when somebody else touches it."""

import errno
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from openmoat.errors import SystemFault
from openmoat.net import Address, Network
from openmoat.system.bpf import (
    JUMP_IF_EQUAL,
    LOAD_OCTET,
    RETURN,
    SO_ATTACH_FILTER,
    WHOLE_PACKET,
    Instruction,
    attach,
)
from openmoat.system.links import parse_address, parse_link
from openmoat.system.names import GUARD_TABLE, ROUTE_PROTOCOL
from openmoat.system.netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NF_HEADER,
    SOL_NETLINK,
    Answer,
    Group,
    Kind,
    attributes,
    messages,
)
from openmoat.system.routes import parse_host_route

__all__ = [
    "AddressChanged",
    "Change",
    "EverythingChanged",
    "GuardEar",
    "GuardTouched",
    "LinkChanged",
    "RouteChanged",
    "Watch",
    "parse_change",
]

NETLINK_ADD_MEMBERSHIP: Final = 1
NFNLGRP_NFTABLES: Final = 7
NFTABLES: Final = 10
"""Subsystem of nfnetlink, the upper octet of a message type."""
NFT_NEW_GENERATION: Final = 15
"""Ends a transaction, and tells by whom it was."""
NFT_TABLE_NAME: Final = 1
NFT_PROCESS: Final = 2
BUFFER_OCTETS: Final = 1 << 20
GUARD_BUFFER_OCTETS: Final = 1 << 25
"""The kernel tells of each element of our own transactions, a thousand octets and more for it: of ten thousand ranges at once
that must not look as if something had been missed, or all is read again and the guard is made anew."""
SO_RCVBUFFORCE: Final = 33
"""As SO_RCVBUF, beyond what the host grants everybody; it needs CAP_NET_ADMIN."""
RECEIVE_OCTETS: Final = 1 << 16
LIMIT: Final = 64
"""Datagrams in one `drain`; the rest waits for the next."""
KIND_OCTET: Final = 4 if sys.byteorder == "little" else 5
"""Of nlmsghdr: the lower octet of the kind, which says it all of rtnetlink."""
PROTOCOL_OCTET: Final = 21
"""Of rtmsg behind nlmsghdr: who made the route."""
DEAF_TO_OUR_ROUTES: Final[tuple[Instruction, ...]] = (
    (LOAD_OCTET, 0, 0, KIND_OCTET),
    (JUMP_IF_EQUAL, 1, 0, Kind.NEW_ROUTE),
    (JUMP_IF_EQUAL, 0, 3, Kind.DEL_ROUTE),
    (LOAD_OCTET, 0, 0, PROTOCOL_OCTET),
    (JUMP_IF_EQUAL, 0, 1, ROUTE_PROTOCOL),
    (RETURN, 0, 0, 0),
    (RETURN, 0, 0, WHOLE_PACKET),
)
"""News of our own routes is filtered out: nobody needs it, and ten thousand at once would overflow the socket."""


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """An interface came, went, or changed its carrier."""

    name: str
    is_up: bool


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """An address of this host became usable, or is gone."""

    address: Address
    is_there: bool


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """A unicast route of the main table came or went."""

    prefix: Network
    is_there: bool


@dataclass(frozen=True, slots=True)
class GuardTouched:
    """Somebody else has changed our table of nftables; `nft flush ruleset` of a firewall's restart does."""


@dataclass(frozen=True, slots=True)
class EverythingChanged:
    """More happened at once than the kernel keeps for us: look at everything again."""


Change = LinkChanged | AddressChanged | RouteChanged | GuardTouched | EverythingChanged


class Watch:
    """Two netlink sockets behind one descriptor. `drain` never blocks; equal changes in a row are told once."""

    def __init__(self, is_own_process: Callable[[int], bool]) -> None:
        self._ear = GuardEar(is_own_process)
        self._routes = _listener(NETLINK_ROUTE)
        self._tables = _listener(NETLINK_NETFILTER)
        groups = Group.LINK | Group.IPV4_ADDRESS | Group.IPV4_ROUTE | Group.IPV6_ADDRESS | Group.IPV6_ROUTE
        try:
            attach(self._routes, SO_ATTACH_FILTER, DEAF_TO_OUR_ROUTES)
            self._routes.bind((0, int(groups)))
            self._tables.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, GUARD_BUFFER_OCTETS)
            self._tables.bind((0, 0))
            self._tables.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        except OSError as error:
            raise SystemFault(
                f"watch: the kernel tells us no changes: {error.strerror}; it needs CAP_NET_ADMIN"
            ) from error
        self._epoll = select.epoll()
        for sock in (self._routes, self._tables):
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Readable while `drain` has something."""
        return self._epoll.fileno()

    def drain(self) -> list[Change]:
        """What has changed since the last call, in order."""
        changes: list[Change] = []
        for octets in _datagrams(self._routes):
            if octets is None:
                changes.append(EverythingChanged())
                continue
            for _, answer in messages(octets):
                change = parse_change(answer)
                if change is not None and change not in changes[-1:]:
                    changes.append(change)
        for octets in _datagrams(self._tables):
            touched = 1 if octets is None else sum(self._ear.hears(answer) for _, answer in messages(octets))
            if touched and GuardTouched() not in changes:
                changes.append(GuardTouched())
        return changes

    def close(self) -> None:
        """Hear nothing more."""
        self._epoll.close()
        self._routes.close()
        self._tables.close()


def parse_change(answer: Answer) -> Change | None:
    """What an rtnetlink message tells; None for what concerns nobody (our own routes, addresses not usable yet)."""
    match answer.kind:
        case Kind.NEW_LINK | Kind.DEL_LINK:
            link = parse_link(answer)
            return LinkChanged(link.name, link.is_up and answer.kind == Kind.NEW_LINK) if link else None
        case Kind.NEW_ADDRESS | Kind.DEL_ADDRESS:
            found = parse_address(answer)
            return AddressChanged(found.address, answer.kind == Kind.NEW_ADDRESS) if found else None
        case Kind.NEW_ROUTE | Kind.DEL_ROUTE:
            route = parse_host_route(answer)
            return RouteChanged(route.prefix, answer.kind == Kind.NEW_ROUTE) if route else None
    return None


class GuardEar:
    """Hears from nfnetlink whether a transaction of somebody else changed our table; it may come in several datagrams."""

    def __init__(self, is_own_process: Callable[[int], bool]) -> None:
        self._is_own = is_own_process
        self._is_ours = False
        """Whether the transaction that is being told has touched our table."""

    def hears(self, answer: Answer) -> bool:
        """Whether this message ends a foreign transaction that touched our table."""
        if answer.kind >> 8 != NFTABLES:
            return False
        values = attributes(answer.body[NF_HEADER.size :])
        if answer.kind & 0xFF != NFT_NEW_GENERATION:
            self._is_ours |= values.get(NFT_TABLE_NAME, b"").rstrip(b"\0") == GUARD_TABLE.encode()
            return False
        touched, self._is_ours = self._is_ours, False
        return touched and not self._is_own(struct.unpack(">I", values.get(NFT_PROCESS, bytes(4)))[0])


def _listener(protocol: int) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_NETLINK, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_OCTETS)
    return sock


def _datagrams(sock: socket.socket) -> Iterator[bytes | None]:
    """Up to `LIMIT` datagrams that wait; None where some were lost."""
    for _ in range(LIMIT):
        try:
            yield sock.recv(RECEIVE_OCTETS)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise SystemFault(f"watch: {error.strerror}") from error
            yield None
