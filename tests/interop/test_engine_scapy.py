"""scapy as the peer of a running engine: it opens the frames the engine sends, the engine answers what scapy seals.

Every suite, with and without ESN, IPv4 and IPv6 outside and inside, UDP and raw: with outer headers as they are on the line.
"""

import ipaddress
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interop.engines import Gateway, Tunnel, cipher_key, disconnect, integrity_key
from interop.hosts import Host, hosts, link
from openmoat.crypto.numbers import Encr, Integ
from openmoat.crypto.suites import EspSuite
from openmoat.dataplane.backend import Activate, Encapsulation
from openmoat.dataplane.userspace import UserspaceBackend
from openmoat_lab.peers.esp_oracle import ScapyEsp

pytestmark = pytest.mark.namespaces
ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "scapy"
PEER_SPI = 0xC0FFEE01
SECONDS = 5.0
ETH_P_ALL = 3
ETHER_TYPE = {4: 0x0800, 6: 0x86DD}
ENCRYPTION = {
    Encr.AES_GCM_16: "AES-GCM",
    Encr.CHACHA20_POLY1305: "CHACHA20-POLY1305",
    Encr.NULL_AES_GMAC: "AES-NULL-GMAC",
    Encr.AES_CBC: "AES-CBC",
}
INTEGRITY = {
    Integ.HMAC_SHA2_256_128: "SHA2-256-128",
    Integ.HMAC_SHA2_384_192: "SHA2-384-192",
    Integ.HMAC_SHA2_512_256: "SHA2-512-256",
}


class Line:
    """The far end of the engine's link: sends and hears whole IP packets."""

    def __init__(self, host: Host) -> None:
        with host.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.bind(("out0", ETH_P_ALL))
        self._socket.settimeout(SECONDS)

    def send(self, packet: bytes, station: bytes) -> None:
        self._socket.sendto(packet, ("out0", ETHER_TYPE[packet[0] >> 4], 0, 0, station))

    def hear_esp(self, spi: int) -> bytes:
        """The next packet that is ESP with this SPI, in UDP or not."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            packet = self._socket.recv(65_535)
            header = 20 if packet[0] >> 4 == 4 else 40
            protocol = packet[9] if header == 20 else packet[6]
            at = header + 8 if protocol == socket.IPPROTO_UDP else header
            if protocol in {socket.IPPROTO_UDP, socket.IPPROTO_ESP} and packet[at : at + 4] == spi.to_bytes(4, "big"):
                return packet
        raise TimeoutError("no ESP came")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def scapy() -> Iterator[ScapyEsp]:
    with ScapyEsp(ENVIRONMENT) as process:
        yield process


@pytest.fixture(scope="module")
def scene() -> Iterator[tuple[Gateway, Line, bytes]]:
    with hosts("left", "right") as (left, right):
        link(left, "out0", right, "out0")
        for number, host in ((1, left), (2, right)):
            host.run(f"ip addr add 192.0.2.{number}/24 dev out0; ip addr add 2001:db8::{number}/64 dev out0 nodad")
        gateway, line = Gateway(left, 1), Line(right)
        station = bytes.fromhex(left.run("cat /sys/class/net/out0/address").strip().replace(":", ""))
        yield gateway, line, station
        line.close()
        gateway.backend.close()


def suites() -> list[EspSuite]:
    engine = UserspaceBackend.__new__(UserspaceBackend)
    return sorted(engine.capabilities().suites, key=lambda suite: suite.name)


def echo_request(version: int) -> bytes:
    """From 10.2.0.1 to 10.1.0.1, or from fd02::1 to fd01::1."""
    body = struct.pack("!BBHHH", 8 if version == 4 else 128, 0, 0, 77, 1) + b"from another hand"
    if version == 4:
        source, target = bytes([10, 2, 0, 1]), bytes([10, 1, 0, 1])
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, 1, 0) + source + target
        header = header[:10] + checksum(header) + header[12:]
        return header + body[:2] + checksum(body) + body[4:]
    ends = ipaddress.IPv6Address("fd02::1").packed + ipaddress.IPv6Address("fd01::1").packed
    pseudo = ends + struct.pack("!IHBB", len(body), 0, 0, 58)
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 64) + ends + body[:2] + checksum(pseudo + body) + body[4:]


def checksum(octets: bytes) -> bytes:
    octets += bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def with_udp_checksum(packet: bytes) -> bytes:
    """scapy leaves it out, which IPv4 permits and IPv6 does not (RFC 8200 8.1)."""
    if packet[0] >> 4 == 4 or packet[6] != socket.IPPROTO_UDP:
        return packet
    pseudo = packet[8:40] + struct.pack("!IHBB", len(packet) - 40, 0, 0, socket.IPPROTO_UDP)
    datagram = packet[40:46] + bytes(2) + packet[48:]
    return packet[:46] + checksum(pseudo + datagram) + packet[48:]


def association(tunnel: Tunnel, spi: int, source: str, destination: str) -> dict[str, Any]:
    suite = tunnel.suite
    words: dict[str, Any] = {
        "encryption": ENCRYPTION[suite.encryption.id],
        "key": bytes(cipher_key(suite, spi)),
        "spi": spi,
        "esn": suite.esn,
        "sequence": 1,
        "source": source,
        "destination": destination,
        "udp": tunnel.encapsulation is Encapsulation.UDP,
    }
    if suite.integrity:
        words |= {"integrity": INTEGRITY[suite.integrity.id], "integrity_key": bytes(integrity_key(suite, spi))}
    return words


@pytest.mark.parametrize("inside", [4, 6])
@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("encapsulation", Encapsulation, ids=lambda kind: kind.value)
@pytest.mark.parametrize("suite", suites(), ids=lambda suite: suite.name)
def test_an_echo_that_scapy_seals_is_answered_in_esp_that_scapy_opens(
    scene: tuple[Gateway, Line, bytes],
    scapy: ScapyEsp,
    suite: EspSuite,
    encapsulation: Encapsulation,
    outside: int,
    inside: int,
) -> None:
    gateway, line, station = scene
    tunnel = Tunnel(suite=suite, encapsulation=encapsulation, outside=outside)
    [handle] = gateway.backend.reserve_spis(1)
    gateway.backend.apply([gateway.policy(), *gateway.halves(tunnel, handle, PEER_SPI), Activate(handle)])
    ours, theirs = (str(end.address) for end in (gateway.path(tunnel).local, gateway.path(tunnel).remote))
    request = echo_request(inside)
    line.send(with_udp_checksum(scapy.seal(request, **association(tunnel, handle, theirs, ours))), station)
    answer = scapy.open(line.hear_esp(PEER_SPI), **association(tunnel, PEER_SPI, ours, theirs))
    at = 20 if inside == 4 else 40
    assert answer[at] == (0 if inside == 4 else 129)
    assert answer[at + 4 :] == request[at + 4 :]
    [counters] = disconnect((gateway, handle))
    assert (counters.inbound_packets, counters.outbound_packets, counters.drops) == (1, 1, {})
