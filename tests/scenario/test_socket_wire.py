"""IKE over plain sockets on loopback: markers, order of importance, and what is not IKE."""

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from openmoat.dataplane.sockets import IP_PKTINFO, SocketWire
from openmoat.dataplane.wire import Datagram
from openmoat.net import NATT_PORT, HostPort, Path

LOOPBACK = ipaddress.ip_address("127.0.0.1")
PLAIN = 500


def ike(initiator: int, responder: int, flags: int) -> bytes:
    return initiator.to_bytes(8, "big") + responder.to_bytes(8, "big") + bytes((0, 0x20, 34, flags)) + bytes(8)


REQUEST, RESPONSE = 0x08, 0x20
STRANGE, KNOWN, ANSWER = ike(1, 0, REQUEST), ike(2, 77, REQUEST), ike(3, 4, RESPONSE)


@dataclass
class Bench:
    """A wire that believes its two sockets to be bound to 500 and 4500, and a peer with one socket."""

    wire: SocketWire
    peer: socket.socket
    real: dict[int, int]

    def send(self, octets: bytes, port: int = PLAIN) -> None:
        self.peer.sendto(octets, ("127.0.0.1", self.real[port]))

    def path(self, port: int) -> Path:
        return Path(HostPort(LOOPBACK, port), HostPort(LOOPBACK, self.peer.getsockname()[1]))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        ports: dict[int, int] = {}
        udp = []
        for port in (PLAIN, NATT_PORT):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            sock.bind(("0.0.0.0", 0))
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            ports[port] = sock.getsockname()[1]
            udp.append((sock.fileno(), port))
        peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        wire = SocketWire(udp)
        stack.callback(wire.close)
        yield Bench(wire, peer, ports)


def test_known_ike_sas_come_before_responses_and_strangers_last(bench: Bench) -> None:
    bench.wire.know_spis([77], [])
    for octets in (STRANGE, ANSWER, KNOWN):
        bench.send(octets)
    assert [datagram.octets for datagram in bench.wire.receive_batch(64)] == [KNOWN, ANSWER, STRANGE]


def test_the_path_names_the_address_a_datagram_was_sent_to(bench: Bench) -> None:
    bench.send(STRANGE)
    assert bench.wire.receive_batch(1) == [Datagram(STRANGE, bench.path(PLAIN))]


def test_the_marker_is_taken_off_and_put_on_again(bench: Bench) -> None:
    bench.send(bytes(4) + STRANGE, NATT_PORT)
    assert bench.wire.receive_batch(1) == [Datagram(STRANGE, bench.path(NATT_PORT))]
    assert bench.wire.send_batch([Datagram(ANSWER, bench.path(NATT_PORT))]) == 0
    assert bench.peer.recv(100) == bytes(4) + ANSWER


def test_esp_and_what_is_too_short_are_counted_and_keepalives_are_not(bench: Bench) -> None:
    bench.send(b"\xff", NATT_PORT)
    bench.send(b"\x12\x34\x56\x78 an ESP packet", NATT_PORT)
    bench.send(b"short")
    assert bench.wire.receive_batch(64) == []
    assert {name: count for name, count in bench.wire.read_drops().items() if count} == {
        "wire_not_ike": 1,
        "wire_too_short": 1,
    }


def test_a_path_without_a_socket_is_not_sent_to(bench: Bench) -> None:
    assert bench.wire.send_batch([Datagram(ANSWER, bench.path(4711))]) == 1
