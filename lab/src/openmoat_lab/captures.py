"""Reads captures and finds leaks: traffic seen outside a tunnel that belongs inside it.

Has no keys and relies on no capture filter: it looks at every frame of the file. Format: pcap with
Ethernet frames, as tcpdump writes it.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from openmoat.net import IKE_PORT, NATT_PORT, Address, Network
from openmoat_lab.processes import LabError

__all__ = ["MARKER", "Finding", "Frame", "Packet", "Verdict", "dissect", "judge", "read"]

MARKER = b"-INSIDE-A-MOAT!-"
"""Sixteen octets that test traffic carries. They are visible outside only if something leaks."""
MAX_FINDINGS = 20
"""Findings kept with their text; all of them are counted."""

PCAP_HEADER, RECORD_HEADER = 24, 16
ETHERNET = 1
ETHERNET_HEADER = 14
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, UDP, ESP, ICMPV6 = 1, 17, 50, 58
EXTENSIONS = frozenset({0, 43, 60})
FRAGMENT = 44
OUTSIDE_PORTS = frozenset({IKE_PORT, NATT_PORT})
NEIGHBOUR_DISCOVERY = range(133, 138)
ICMP_ERRORS = {ICMP: frozenset({3, 4, 5, 11, 12}), ICMPV6: frozenset({1, 2, 3, 4})}
QUOTE_OFFSET = 8
"""Offset of the packet that an ICMP error quotes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a capture; `number` counts from 1, as Wireshark does, `at` is seconds since 1970."""

    number: int
    at: float
    octets: bytes


@dataclass(frozen=True, slots=True)
class Packet:
    """The fields of an IP packet that `judge` looks at."""

    source: Address
    destination: Address
    protocol: int
    payload: bytes
    """After all extension headers. In a fragment other than the first it is not a header."""
    fragment: tuple[int, int] | None = None
    """Identification and offset, if it is a fragment."""
    dont_fragment: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A frame that should not be outside."""

    frame: int
    text: str


@dataclass(slots=True)
class Verdict:
    """What one capture contains."""

    frames: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Frames by kind: `udp 4500`, `arp`, `icmp`, ..."""
    leaks: int = 0
    findings: list[Finding] = field(default_factory=list)
    """The first of them."""
    largest: int = 0
    """Octets of the largest IP packet."""

    def blame(self, frame: Frame, text: str) -> None:
        """Record a frame that should not be outside."""
        self.leaks += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(frame.number, text))

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        return f"{self.frames} frames ({kinds}), {self.leaks} in cleartext"


def read(file: Path) -> Iterator[Frame]:
    """Every frame of a pcap file. Raises `LabError` for another format; a truncated last record is left out."""
    octets = file.read_bytes()
    magic = octets[:4]
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}.get(magic)
    if order is None or len(octets) < PCAP_HEADER:
        raise LabError(f"{file}: not a pcap file with microseconds: begins with {magic.hex() or 'nothing'}")
    if struct.unpack_from(order + "I", octets, 20)[0] != ETHERNET:
        raise LabError(f"{file}: link type must be Ethernet (1)")
    place, number = PCAP_HEADER, 0
    while place + RECORD_HEADER <= len(octets):
        seconds, micros, kept, length = struct.unpack_from(order + "IIII", octets, place)
        place += RECORD_HEADER
        if place + kept > len(octets):
            return
        if kept < length:
            raise LabError(f"{file}: frame {number + 1} was cut to {kept} of {length} octets: capture with -s 0")
        number += 1
        yield Frame(number, seconds + micros / 1e6, octets[place : place + kept])
        place += kept


def dissect(octets: bytes) -> Packet | None:
    """The IP packet in `octets`, or None where there is none."""
    if len(octets) >= 20 and octets[0] >> 4 == 4:
        return _dissect_v4(octets)
    if len(octets) >= 40 and octets[0] >> 4 == 6:
        return _dissect_v6(octets)
    return None


def _dissect_v4(octets: bytes) -> Packet:
    header, total = (octets[0] & 15) * 4, int.from_bytes(octets[2:4], "big")
    flags = int.from_bytes(octets[6:8], "big")
    offset = (flags & 0x1FFF) * 8
    # A total length of 0 is that of a super-packet longer than 65535 octets.
    payload = octets[header : total or len(octets)]
    return Packet(
        ip_address(octets[12:16]),
        ip_address(octets[16:20]),
        octets[9],
        payload,
        (int.from_bytes(octets[4:6], "big"), offset) if offset or flags & 0x2000 else None,
        bool(flags & 0x4000),
    )


def _dissect_v6(octets: bytes) -> Packet:
    protocol, place, fragment = octets[6], 40, None
    while place + 8 <= len(octets) and (protocol in EXTENSIONS or protocol == FRAGMENT):
        if protocol == FRAGMENT:
            word, name = struct.unpack_from(">HI", octets, place + 2)
            fragment, length = (name, word & 0xFFF8), 8
        else:
            length = 8 + octets[place + 1] * 8
        protocol, place = octets[place], place + length
    return Packet(ip_address(octets[8:24]), ip_address(octets[24:40]), protocol, octets[place:], fragment)


def judge(file: Path, inside: Sequence[Network], marker: bytes = MARKER) -> Verdict:
    """Look at every frame of a capture taken outside.

    A frame is cleartext if it holds the marker, if an address in it (also of ARP, of neighbour discovery, and of the
    packet that an ICMP error quotes) is in `inside`, or if it is anything but ARP, neighbour discovery, UDP 500 and
    4500, ESP and ICMP.
    """
    verdict = Verdict()
    fragments: set[tuple[Address, Address, int]] = set()
    for frame in read(file):
        verdict.frames += 1
        kind, addresses = _kind(frame.octets, verdict, fragments)
        verdict.kinds[kind.removeprefix("!")] += 1
        found = next((address for address in addresses if any(address in net for net in inside)), None)
        if marker in frame.octets:
            verdict.blame(frame, f"{kind.removeprefix('!')}: holds the marker")
        elif found is not None:
            verdict.blame(frame, f"{kind.removeprefix('!')}: inside address {found}")
        elif kind.startswith("!"):
            verdict.blame(frame, f"{kind[1:]}: {' -> '.join(str(address) for address in addresses[:2])}")
    return verdict


def _kind(
    frame: bytes, verdict: Verdict, fragments: set[tuple[Address, Address, int]]
) -> tuple[str, tuple[Address, ...]]:
    """The kind of a frame, with `!` before it if it must not be outside, and the addresses in it."""
    if len(frame) < ETHERNET_HEADER:
        return "!short frame", ()
    ether, body = int.from_bytes(frame[12:14], "big"), frame[ETHERNET_HEADER:]
    if ether == ARP and len(body) >= 28:
        return "arp", (ip_address(body[14:18]), ip_address(body[24:28]))
    packet = dissect(body) if ether in (IPV4, IPV6) else None
    if packet is None:
        return f"!ethernet {ether:#06x}", ()
    verdict.largest = max(verdict.largest, len(body))
    return _kind_of_packet(packet, fragments)


def _kind_of_packet(packet: Packet, fragments: set[tuple[Address, Address, int]]) -> tuple[str, tuple[Address, ...]]:
    addresses: tuple[Address, ...] = (packet.source, packet.destination)
    if packet.fragment is not None:
        key = (*addresses, packet.fragment[0])
        if packet.fragment[1]:
            return ("fragment" if key in fragments else "!fragment of something else"), addresses
    kind = f"!ip protocol {packet.protocol}"
    if packet.protocol == UDP and len(packet.payload) >= 8:
        ports = {int.from_bytes(packet.payload[n : n + 2], "big") for n in (0, 2)}
        known = ports & OUTSIDE_PORTS
        kind = f"udp {min(known) if NATT_PORT not in known else NATT_PORT}" if known else f"!udp {sorted(ports)}"
    elif packet.protocol == ESP:
        kind = "esp"
    elif packet.protocol in ICMP_ERRORS and packet.payload:
        kind = "icmp" if packet.protocol == ICMP else "icmpv6"
        addresses += _addresses_in_icmp(packet)
    if packet.fragment is not None and not kind.startswith("!"):
        fragments.add((packet.source, packet.destination, packet.fragment[0]))
    return kind, addresses


def _addresses_in_icmp(packet: Packet) -> tuple[Address, ...]:
    kind = packet.payload[0]
    if kind in ICMP_ERRORS[packet.protocol]:
        quoted = dissect(packet.payload[QUOTE_OFFSET:])
        return (quoted.source, quoted.destination) if quoted else ()
    if packet.protocol == ICMPV6 and kind in NEIGHBOUR_DISCOVERY and len(packet.payload) >= 24:
        return (ip_address(packet.payload[8:24]),)
    return ()
