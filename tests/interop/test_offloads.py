"""Offloads against the real kernel: each is there or told why not, and what is joined leaves the host octet for octet."""

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

import pytest

from interop.engines import Gateway, Tunnel, connect, gateways
from interop.hosts import hosts, link
from openmoat.dataplane.backend import Encapsulation
from openmoat.dataplane.userspace import Offloads

pytestmark = pytest.mark.namespaces
PACKETS = 300
ETH_P_ALL = 3
PORTS = struct.pack("!HH", 1000, 2000)


def checksum(octets: bytes) -> int:
    """RFC 1071, plainly."""
    padded = octets + b"\0" * (len(octets) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(version: int, protocol: int, number: int, payload: bytes, hop_limit: int = 64) -> bytes:
    """Segment or datagram `number` of a train from 10.1.0.1 to 10.2.0.9 (fd01::1 to fd02::9)."""
    if version == 4:
        ends = socket.inet_aton("10.1.0.1") + socket.inet_aton("10.2.0.9")
    else:
        ends = socket.inet_pton(socket.AF_INET6, "fd01::1") + socket.inet_pton(socket.AF_INET6, "fd02::9")
    if protocol == socket.IPPROTO_TCP:
        header = PORTS + struct.pack("!IIBBHHH", 7 + number * len(payload), 9, 8 << 4, 0x10, 500, 0, 0) + b"\1" * 12
        at = 16
    else:
        header, at = PORTS + struct.pack("!HH", 8 + len(payload), 0), 6
    size = len(header) + len(payload)
    made = checksum(ends + struct.pack("!HH", protocol, size) + header + payload) or 0xFFFF
    whole = header[:at] + struct.pack("!H", made) + header[at + 2 :] + payload
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, size, protocol, hop_limit) + ends + whole
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 1 + number, 0x4000, hop_limit, protocol, 0) + ends
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + whole


@contextmanager
def network(offloads: Offloads, tunnel: Tunnel) -> Iterator[tuple[Gateway, Gateway, socket.socket]]:
    """A tunnel, and a host behind its second gateway that sees every frame as the wire would: joined nowhere."""
    with hosts("pc") as [pc], gateways(offloads) as (left, right):
        link(right.host, "lan0", pc, "lan0")
        right.host.run(
            "ethtool -K lan0 tx off tso off gso off gro off tx-udp-segmentation off;"
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1;"
            "ip route add 10.2.0.9/32 dev lan0; ip -6 route add fd02::9/128 dev lan0"
        )
        pc.run(
            "ethtool -K lan0 gro off;"
            "ip addr add 10.2.0.9/32 dev lan0; ip addr add fd02::9/128 dev lan0 nodad;"
            "ip route add 10.0.0.0/8 dev lan0; ip -6 route add fd00::/8 dev lan0"
        )
        address = pc.run("cat /sys/class/net/lan0/address").strip()
        for host in ("10.2.0.9", "fd02::9"):
            right.host.run(f"ip neigh replace {host} lladdr {address} dev lan0 nud permanent")
        with pc.inside():
            seen = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        with seen:
            seen.settimeout(5)
            seen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            connect(left, right, tunnel)
            yield left, right, seen


def send(left: Gateway, version: int, train: Sequence[bytes]) -> None:
    """Let the host itself send these octets, headers included."""
    family, far = (socket.AF_INET, "10.2.0.9") if version == 4 else (socket.AF_INET6, "fd02::9")
    with left.host.inside(), socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        for octets in train:
            out.sendto(octets, (far, 0))


def collect(seen: socket.socket, version: int, protocol: int, count: int) -> list[bytes]:
    """The next packets of a train that the host behind the tunnel sees; what it says itself is passed over."""
    found: list[bytes] = []
    while len(found) < count:
        octets, (_device, _ethertype, kind, *_) = seen.recvfrom(70_000)
        is_ours = octets[0] >> 4 == version and octets[9 if version == 4 else 6] == protocol
        if is_ours and kind != socket.PACKET_OUTGOING:
            found.append(octets)
    return found


@pytest.mark.parametrize("off", [None, *(field.name for field in fields(Offloads))])
def test_each_offload_is_there_unless_it_is_switched_off(off: str | None) -> None:
    wanted = Offloads(**({off: False} if off else {}))
    with gateways(wanted) as (left, _):
        told = left.backend.read_offloads()
    for field in fields(Offloads):
        state = "off: by configuration" if field.name == off else "on"
        assert told[field.name.replace("_", "-")] == state


@pytest.mark.parametrize("protocol", [socket.IPPROTO_TCP, socket.IPPROTO_UDP])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("encapsulation", Encapsulation)
def test_joined_packets_leave_the_host_octet_for_octet(
    encapsulation: Encapsulation, version: int, protocol: int
) -> None:
    payload = bytes(range(250)) * 4
    sizes = [1000] * PACKETS
    sizes[77], sizes[150], sizes[151] = 500, 1, 999
    train = [packet(version, protocol, n, payload[:size]) for n, size in enumerate(sizes)]
    forwarded = [packet(version, protocol, n, payload[:size], hop_limit=63) for n, size in enumerate(sizes)]
    with network(Offloads(), Tunnel(encapsulation=encapsulation)) as (left, right, seen):
        send(left, version, train)
        assert collect(seen, version, protocol, PACKETS) == forwarded
        written = int(right.host.run("cat /sys/class/net/moat0/statistics/rx_packets"))
        assert written < PACKETS / 2, "the kernel was given super-packets"


def test_without_offloads_the_same_octets_go_one_by_one() -> None:
    off = Offloads(tun_tso=False, tun_uso=False, udp_gso=False, udp_gro=False)
    train = [packet(4, socket.IPPROTO_UDP, n, b"x" * 900) for n in range(PACKETS)]
    forwarded = [packet(4, socket.IPPROTO_UDP, n, b"x" * 900, hop_limit=63) for n in range(PACKETS)]
    with network(off, Tunnel()) as (left, right, seen):
        send(left, 4, train)
        assert collect(seen, 4, socket.IPPROTO_UDP, PACKETS) == forwarded
        assert int(right.host.run("cat /sys/class/net/moat0/statistics/rx_packets")) >= PACKETS
