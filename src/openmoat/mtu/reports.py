"""ICMP that says an outer packet was too large: which packet it quotes, and what would fit (RFC 1191, RFC 4443 3.2). Pure.

Anybody can send such a message. Nothing is believed here; whether the quoted packet was ever sent others must check.
"""

import ipaddress
from dataclasses import dataclass
from typing import Final

from openmoat.mtu.overhead import IP_HEADER, UDP_HEADER
from openmoat.net import NATT_PORT, Address

__all__ = ["Report", "parse_v4", "parse_v6"]

UNREACHABLE: Final = 3
FRAGMENTATION_NEEDED: Final = 4
PACKET_TOO_BIG: Final = 2
ICMP_HEADER: Final = 8
UDP: Final = 17
ESP: Final = 50
FRAGMENT_OFFSET: Final = 0x1FFF


@dataclass(frozen=True, slots=True)
class Report:
    """What a router says about an ESP packet that it quotes."""

    local: Address
    """Where the quoted packet came from: us, or so it says."""
    remote: Address
    ports: tuple[int, int] | None
    """Ours and the peer's where ESP is in UDP; None with protocol 50."""
    spi: int
    sequence: int
    """The low half where there are 64 bits."""
    mtu: int
    """Octets that would fit; 0 where the router names none."""


def parse_v4(octets: bytes) -> Report | None:
    """What a raw IPv4 socket for ICMP reads, the IP header in front; None: it is about nothing of ours."""
    message = octets[_header(octets) :] if _header(octets) else b""
    quoted = message[ICMP_HEADER:]
    size = _header(quoted)
    if not size or (message[0], message[1]) != (UNREACHABLE, FRAGMENTATION_NEEDED):
        return None
    if _number(quoted, 6, 2) & FRAGMENT_OFFSET:
        return None
    ends = ipaddress.IPv4Address(quoted[12:16]), ipaddress.IPv4Address(quoted[16:20])
    return _report(ends, quoted[9], quoted[size:], _number(message, 6, 2))


def parse_v6(octets: bytes) -> Report | None:
    """What a raw IPv6 socket for ICMPv6 reads, which begins with the ICMPv6 header; None as with `parse_v4`."""
    quoted = octets[ICMP_HEADER:]
    if len(quoted) < IP_HEADER[6] or quoted[0] >> 4 != 6 or octets[0] != PACKET_TOO_BIG:
        return None
    ends = ipaddress.IPv6Address(quoted[8:24]), ipaddress.IPv6Address(quoted[24:40])
    return _report(ends, quoted[6], quoted[IP_HEADER[6] :], _number(octets, 4, 4))


def _header(packet: bytes) -> int:
    """Octets of the IPv4 header in front; 0 where there is no whole one."""
    size = (packet[0] & 0x0F) * 4 if packet and packet[0] >> 4 == 4 else 0
    return size if IP_HEADER[4] <= size <= len(packet) else 0


def _report(ends: tuple[Address, Address], protocol: int, packet: bytes, mtu: int) -> Report | None:
    ports = None
    if protocol == UDP:
        # RFC 792 asks for eight octets only, which are the UDP header; routers quote more since RFC 1812.
        ports, packet = (_number(packet, 0, 2), _number(packet, 2, 2)), packet[UDP_HEADER:]
    if len(packet) < 8 or (protocol != ESP and (ports is None or ports[0] != NATT_PORT)):
        return None
    spi = _number(packet, 0, 4)
    return Report(*ends, ports, spi, _number(packet, 4, 4), mtu) if spi else None  # SPI 0 is the marker of IKE


def _number(octets: bytes, start: int, size: int) -> int:
    return int.from_bytes(octets[start : start + size], "big")
