"""ICMP about outer packets that were too large, well-formed and not."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmoat.mtu.reports import Report, parse_v4, parse_v6
from openmoat.net import Address

V4 = ipaddress.IPv4Address("192.0.2.1"), ipaddress.IPv4Address("198.51.100.7")
V6 = ipaddress.IPv6Address("2001:db8::1"), ipaddress.IPv6Address("2001:db8:7::7")
ESP = struct.pack(">II", 0xC0FFEE01, 77)


def ip4(protocol: int, rest: bytes, ends: tuple[Address, Address] = V4, field: int = 0) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 1500, 1, field, 64, protocol, 0)
    return head + b"".join(end.packed for end in ends) + rest


def ip6(protocol: int, rest: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, 1460, protocol, 64) + b"".join(end.packed for end in V6) + rest


def needed(quoted: bytes, mtu: int = 1400, *, kind: tuple[int, int] = (3, 4)) -> bytes:
    """From a router; as a raw socket reads it."""
    return ip4(1, struct.pack(">BBHHH", *kind, 0, 0, mtu) + quoted, (ipaddress.IPv4Address("203.0.113.9"), V4[0]))


def too_big(quoted: bytes, mtu: int = 1400, *, kind: tuple[int, int] = (2, 0)) -> bytes:
    return struct.pack(">BBHI", *kind, 0, mtu) + quoted


def udp(source: int = 4500, target: int = 4510) -> bytes:
    return struct.pack(">HHHH", source, target, 1480, 0)


def test_the_quoted_esp_packet_is_found_in_all_four_carriers() -> None:
    assert parse_v4(needed(ip4(50, ESP))) == Report(*V4, None, 0xC0FFEE01, 77, 1400)
    assert parse_v4(needed(ip4(17, udp() + ESP))) == Report(*V4, (4500, 4510), 0xC0FFEE01, 77, 1400)
    assert parse_v6(too_big(ip6(50, ESP))) == Report(*V6, None, 0xC0FFEE01, 77, 1400)
    assert parse_v6(too_big(ip6(17, udp() + ESP), 70_000)) == Report(*V6, (4500, 4510), 0xC0FFEE01, 77, 70_000)


@pytest.mark.parametrize(
    "octets",
    [
        needed(ip4(50, ESP), kind=(3, 3)),
        needed(ip4(50, ESP), kind=(11, 4)),
        needed(ip4(6, ESP)),
        needed(ip4(50, ESP[:7])),
        needed(ip4(17, udp())),
        needed(ip4(17, udp(500) + ESP)),
        needed(ip4(17, udp() + bytes(4) + ESP)),  # IKE behind its marker
        needed(ip4(50, ESP, field=0x2001)),  # a later fragment has no SPI
        needed(ip6(50, ESP)),
        b"",
    ],
)
def test_what_is_about_nothing_of_ours_is_none(octets: bytes) -> None:
    assert parse_v4(octets) is None
    assert parse_v6(octets) is None


@pytest.mark.parametrize("octets", [too_big(ip6(50, ESP), kind=(1, 0)), too_big(ip6(44, ESP)), too_big(ip4(50, ESP))])
def test_what_is_no_packet_too_big_of_esp_is_none(octets: bytes) -> None:
    assert parse_v6(octets) is None


@given(octets=st.binary(max_size=100), place=st.integers(0, 80))
def test_any_octets_parse_or_are_none(octets: bytes, place: int) -> None:
    for whole, parse in ((needed(ip4(17, udp() + ESP)), parse_v4), (too_big(ip6(17, udp() + ESP)), parse_v6)):
        for hostile in (
            octets,
            whole[:place] + octets,
            whole[:place] + octets + whole[place + len(octets) :],
            whole[:place],
        ):
            report = parse(hostile)
            assert report is None or (0 < report.spi < 1 << 32 and 0 <= report.sequence < 1 << 32)
