"""Bounds of a `SocketWire`, over the loopback of this host: what has no room is dropped and counted."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from openmoat.dataplane.socket_wire import MAX_QUEUED, MAX_QUEUED_OCTETS, MAX_READ, SocketWire
from openmoat.dataplane.wire import MAX_IKE_DATAGRAM

IP_PKTINFO = 8
CHUNK = 16_384


@dataclass(frozen=True)
class Loopback:
    """A wire with one socket, and somebody who sends to it."""

    wire: SocketWire
    near: socket.socket
    far: socket.socket

    def hear(self, *sizes: int) -> None:
        for size in sizes:
            self.far.sendto(bytes(size), self.near.getsockname())

    def read(self) -> None:
        """Let what has come be read into the queues, and taken by nobody."""
        assert self.wire.receive_batch(0) == []

    def sizes(self) -> list[int]:
        return [len(datagram.octets) for datagram in self.wire.receive_batch(10 * MAX_QUEUED)]


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    yield from opened(request.param)


@pytest.fixture
def loopback6() -> Iterator[Loopback]:
    yield from opened(socket.AF_INET6)


def opened(family: socket.AddressFamily) -> Iterator[Loopback]:
    with socket.socket(family, socket.SOCK_DGRAM) as near, socket.socket(family, socket.SOCK_DGRAM) as far:
        if family == socket.AF_INET:
            near.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            near.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        near.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        wire = SocketWire([(near.fileno(), 500)])
        yield Loopback(wire, near, far)
        wire.close()


def test_one_socket_is_read_so_often_before_the_next_has_its_turn(loopback: Loopback) -> None:
    loopback.hear(*[100] * (MAX_READ + 1))
    assert len(loopback.sizes()) == MAX_READ
    assert len(loopback.sizes()) == 1
    assert loopback.wire.read_drops() == {}


def test_a_queue_holds_so_many_datagrams_and_the_next_is_counted(loopback: Loopback) -> None:
    for _ in range(MAX_QUEUED):
        loopback.hear(100)
        loopback.read()
    assert loopback.wire.read_drops() == {}
    loopback.hear(101)
    loopback.read()
    assert loopback.wire.read_drops() == {"queue-full": 1}
    assert loopback.sizes() == [100] * MAX_QUEUED


def test_a_queue_holds_so_many_octets_and_what_goes_beyond_is_counted(loopback: Loopback) -> None:
    count, rest = divmod(MAX_QUEUED_OCTETS - 100, CHUNK)
    for size in (*[CHUNK] * count, rest):
        loopback.hear(size)
        loopback.read()
    loopback.hear(101)
    loopback.read()
    assert loopback.wire.read_drops() == {"queue-full": 1}
    loopback.hear(100)
    loopback.read()
    assert loopback.wire.read_drops() == {"queue-full": 1}
    assert sum(loopback.sizes()) == MAX_QUEUED_OCTETS


@pytest.mark.parametrize("size", [MAX_IKE_DATAGRAM + 1, MAX_IKE_DATAGRAM + 4, MAX_IKE_DATAGRAM + 5, 65_527])
def test_a_datagram_is_taken_up_to_the_bound_and_a_longer_one_is_counted_not_cut(
    loopback6: Loopback, size: int
) -> None:
    loopback6.hear(MAX_IKE_DATAGRAM)
    assert loopback6.sizes() == [MAX_IKE_DATAGRAM]
    loopback6.hear(size)
    assert loopback6.sizes() == []
    assert loopback6.wire.read_drops() == {"too-long": 1}
