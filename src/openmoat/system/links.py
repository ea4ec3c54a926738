"""Links and addresses of the host, and the TUN device as a link (rtnetlink)."""

import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from openmoat.errors import SystemFault
from openmoat.net import Address
from openmoat.policy.selectors import Selectors
from openmoat.system.netlink import Answer, Kind, Mode, Netlink, Refusal, Request, attribute, attributes, family_of

__all__ = [
    "InterfaceAddress",
    "Link",
    "address_inside",
    "can_speak",
    "parse_address",
    "parse_link",
    "put_address",
    "read_addresses",
    "read_links",
    "remove_address",
    "set_up_tun",
]

LINK: Final = struct.Struct("=BxHiII")
"""ifinfomsg: family, type, index, flags, changed flags."""
ADDRESS: Final = struct.Struct("=BBBBI")
"""ifaddrmsg: family, prefix length, flags, scope, index."""

IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_AF_SPEC: Final = 26
IFLA_INET6_ADDR_GEN_MODE: Final = 8
ADDR_GEN_NONE: Final = 1
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
IFA_F_NODAD: Final = 0x02
ADDRESS_IS_GONE: Final = 99
IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40
NOT_YET_USABLE: Final = 0x40 | 0x08
"""IFA_F_TENTATIVE, IFA_F_DADFAILED: duplicate address detection is not done, or has failed (RFC 4862 5.4)."""
TUN_MTU: Final = 65_535
"""Octets. The device takes any packet; sizes are held by routes."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface."""

    index: int
    name: str
    is_up: bool
    """Up, and with a carrier."""


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of this host. Only usable ones are ever listed."""

    address: Address
    prefix_length: int
    index: int
    """Of the interface."""


def read_links(netlink: Netlink) -> dict[int, Link]:
    """All interfaces by index."""
    answers = netlink.dump(Kind.GET_LINK, LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    if isinstance(answers, Refusal):
        raise SystemFault(f"links: cannot be listed: {answers}")
    links = [link for answer in answers if (link := parse_link(answer)) is not None]
    return {link.index: link for link in links}


def parse_link(answer: Answer) -> Link | None:
    """The link of an RTM_NEWLINK or RTM_DELLINK; None for one of another family (a bridge speaks of its ports so)."""
    family, _type, index, flags, _changed = LINK.unpack_from(answer.body)
    name = attributes(answer.body[LINK.size :]).get(IFLA_IFNAME)
    if family != socket.AF_UNSPEC or name is None:
        return None
    return Link(index, name.rstrip(b"\0").decode(), flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING)


def read_addresses(netlink: Netlink) -> tuple[InterfaceAddress, ...]:
    """All usable addresses of the host, in the kernel's order: the primary ones of an interface first."""
    answers = netlink.dump(Kind.GET_ADDRESS, ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    if isinstance(answers, Refusal):
        raise SystemFault(f"addresses: cannot be listed: {answers}")
    return tuple(found for answer in answers if (found := parse_address(answer)) is not None)


def parse_address(answer: Answer) -> InterfaceAddress | None:
    """The address of an RTM_NEWADDR or RTM_DELADDR; None where it cannot be used yet, or is no IP address."""
    family, length, flags, _scope, index = ADDRESS.unpack_from(answer.body)
    found = attributes(answer.body[ADDRESS.size :])
    octets = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    if IFA_FLAGS in found:
        flags = struct.unpack("=I", found[IFA_FLAGS])[0]
    if family not in (socket.AF_INET, socket.AF_INET6) or octets is None or flags & NOT_YET_USABLE:
        return None
    return InterfaceAddress(ipaddress.ip_address(octets), length, index)


def address_inside(selectors: Selectors, addresses: Iterable[InterfaceAddress], version: int) -> Address | None:
    """Our address for the gateway's own packets of one family: the first inside `selectors`, those of wide ranges last."""
    chosen: tuple[int, Address] | None = None
    for selector in selectors:
        width = selector.last - selector.first
        for candidate in addresses:
            address = candidate.address
            if address.version != version or selector.version != version or not can_speak(address):
                continue
            if selector.first <= int(address) <= selector.last and (chosen is None or width < chosen[0]):
                chosen = (width, address)
    return chosen[1] if chosen else None


def set_up_tun(netlink: Netlink, index: int) -> None:
    """Give the TUN device its MTU, keep IPv6 from inventing an address for it, and set it up."""
    quiet = attribute(socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([ADDR_GEN_NONE])))
    # Without an address of its own the kernel sends no router solicitations and no multicast reports into the tunnel.
    requests = [_change(index, 0, attribute(IFLA_AF_SPEC, quiet))]
    requests.append(_change(index, IFF_UP, attribute(IFLA_MTU, struct.pack("=I", TUN_MTU))))
    refusal = netlink.transact(requests)[1]
    if refusal.errno:
        raise SystemFault(f"TUN device: MTU {TUN_MTU} and up: {refusal}")


def put_address(netlink: Netlink, index: int, address: Address) -> None:
    """Let the TUN device bear `address`, as a host prefix."""
    [refusal] = netlink.transact([Request(Kind.NEW_ADDRESS, Mode.CREATE | Mode.REPLACE, _address(index, address))])
    if refusal.errno:
        raise SystemFault(f"address {address}: the TUN device cannot bear it: {refusal}")


def remove_address(netlink: Netlink, index: int, address: Address) -> None:
    """Take `address` from the TUN device."""
    [refusal] = netlink.transact([Request(Kind.DEL_ADDRESS, Mode(0), _address(index, address))])
    if refusal.errno not in (0, ADDRESS_IS_GONE):
        raise SystemFault(f"address {address}: cannot be taken from the TUN device: {refusal}")


def _address(index: int, address: Address) -> bytes:
    body = ADDRESS.pack(family_of(address), address.max_prefixlen, IFA_F_NODAD, 0, index)
    return body + attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)


def can_speak(address: Address) -> bool:
    """Whether packets from it mean anything beyond one link."""
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)


def _change(index: int, flags: int, attributes_: bytes) -> Request:
    return Request(Kind.NEW_LINK, Mode(0), LINK.pack(socket.AF_UNSPEC, 0, index, flags, flags) + attributes_)
