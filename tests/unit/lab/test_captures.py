"""The judge of captures: it finds what leaks, in whatever it is wrapped, and nothing else."""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest

from openmoat_lab.captures import MARKER, MAX_FINDINGS, Verdict, judge, read
from openmoat_lab.processes import LabError

INSIDE = (ip_network("10.1.0.0/24"), ip_network("fd00:1::/64"))
OUT_A, OUT_B, IN_A = "192.0.2.2", "198.51.100.2", "10.1.0.10"
OUT6_A, OUT6_B, IN6_A = "2001:db8::1", "2001:db8::2", "fd00:1::10"


def v4(source: str, destination: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    return header + IPv4Address(source).packed + IPv4Address(destination).packed + payload


def v6(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    header = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return header + IPv6Address(source).packed + IPv6Address(destination).packed + payload


def udp(source: int, destination: int, payload: bytes = b"x") -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def ethernet(packet: bytes, ether: int | None = None) -> bytes:
    return bytes(12) + (ether or (0x0800 if packet[0] >> 4 == 4 else 0x86DD)).to_bytes(2, "big") + packet


def verdict(folder: Path, *frames: bytes) -> Verdict:
    file = folder / "x.pcap"
    records = b"".join(struct.pack("<IIII", 1, 0, len(frame), len(frame)) + frame for frame in frames)
    file.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + records)
    return judge(file, INSIDE)


ARP = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + bytes(6) + IPv4Address(OUT_A).packed + bytes(6)
ND_SOLICITATION = b"\x87\x00\x00\x00" + bytes(4)
MLD_REPORT = b"\x3a\x00\x05\x02\x00\x00\x01\x00" + b"\x8f\x00\x00\x00" + bytes(4)
ICMP_TOO_BIG = b"\x03\x04" + bytes(6)

FINE = {
    "ike": ethernet(v4(OUT_A, OUT_B, 17, udp(500, 500))),
    "ike through a NAT": ethernet(v4(OUT_A, OUT_B, 17, udp(40000, 4500))),
    "esp": ethernet(v4(OUT_A, OUT_B, 50, b"spi sequence")),
    "esp over IPv6": ethernet(v6(OUT6_A, OUT6_B, 50, b"spi sequence")),
    "arp": ethernet(ARP + IPv4Address(OUT_B).packed, 0x0806),
    "neighbour discovery": ethernet(v6(OUT6_A, OUT6_B, 58, ND_SOLICITATION + IPv6Address(OUT6_B).packed)),
    "multicast listener report": ethernet(v6(OUT6_A, "ff02::16", 0, MLD_REPORT)),
    "icmp about esp": ethernet(v4(OUT_B, OUT_A, 1, ICMP_TOO_BIG + v4(OUT_A, OUT_B, 50, bytes(8)))),
}
LEAKS = {
    "inside source": ethernet(v4(IN_A, OUT_B, 17, udp(500, 500))),
    "inside destination over IPv6": ethernet(v6(OUT6_A, IN6_A, 50, b"spi")),
    "another port": ethernet(v4(OUT_A, OUT_B, 17, udp(53, 53))),
    "tcp": ethernet(v4(OUT_A, OUT_B, 6, bytes(20))),
    "marker within esp": ethernet(v4(OUT_A, OUT_B, 50, b"spi" + MARKER)),
    "arp for an inside address": ethernet(ARP + IPv4Address(IN_A).packed, 0x0806),
    "solicitation for an inside address": ethernet(v6(OUT6_A, OUT6_B, 58, ND_SOLICITATION + IPv6Address(IN6_A).packed)),
    "icmp error that quotes an inside packet": ethernet(
        v4(OUT_B, OUT_A, 1, ICMP_TOO_BIG + v4(IN_A, OUT_B, 17, bytes(8)))
    ),
    "gre": ethernet(v4(OUT_A, OUT_B, 47, b"x")),
    "another ethernet type": ethernet(b"x" * 40, 0x88CC),
    "later fragment of nothing known": ethernet(v4(OUT_A, OUT_B, 17, b"x" * 8, fragment=185)),
}


@pytest.mark.parametrize("name", FINE)
def test_what_belongs_outside_is_no_finding(tmp_path: Path, name: str) -> None:
    found = verdict(tmp_path, FINE[name])
    assert (found.frames, found.leaks) == (1, 0), found.findings


@pytest.mark.parametrize("name", LEAKS)
def test_what_does_not_belong_outside_is_found(tmp_path: Path, name: str) -> None:
    found = verdict(tmp_path, FINE["esp"], LEAKS[name])
    assert (found.frames, found.leaks, found.findings[0].frame) == (2, 1, 2)


def test_later_fragments_belong_to_their_first(tmp_path: Path) -> None:
    first = ethernet(v4(OUT_A, OUT_B, 17, udp(4500, 4500), fragment=0x2000))
    later = ethernet(v4(OUT_A, OUT_B, 17, b"x" * 8, fragment=2))
    assert verdict(tmp_path, first, later).leaks == 0
    assert verdict(tmp_path, later, first).leaks == 1


def test_another_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    file.write_bytes(b"\x0a\x0d\x0d\x0a" + bytes(40))
    with pytest.raises(LabError, match="not a pcap file"):
        list(read(file))


def test_findings_are_counted_beyond_those_that_are_kept(tmp_path: Path) -> None:
    found = verdict(tmp_path, *[LEAKS["tcp"]] * 50)
    assert (found.leaks, len(found.findings)) == (50, 20)


@pytest.mark.parametrize("beyond", [0, 1])
def test_all_findings_are_counted_and_the_first_are_kept(tmp_path: Path, beyond: int) -> None:
    found = verdict(tmp_path, *[LEAKS["tcp"]] * (MAX_FINDINGS + beyond))
    assert found.leaks == MAX_FINDINGS + beyond
    assert [finding.frame for finding in found.findings] == list(range(1, MAX_FINDINGS + 1))
