"""What every `Wire` with sockets does, shown with the engine's and with plain sockets, between two namespaces."""

import contextlib
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from interop.hosts import Host, hosts, link
from openmoat.dataplane.engine_wire import EngineWire
from openmoat.dataplane.socket_wire import SocketWire
from openmoat.dataplane.userspace import open_engine
from openmoat.dataplane.wire import Datagram, Wire
from openmoat.net import HostPort, Path
from openmoat.system.sockets import open_udp

pytestmark = pytest.mark.namespaces
SECONDS = 5.0
KNOWN = 0x0303030303030303
ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}


@dataclass(frozen=True)
class Side:
    """A wire, and a plain socket of the far host per (version, port) that it talks with."""

    wire: Wire
    far: dict[tuple[int, int], socket.socket]

    def path(self, version: int, port: int) -> Path:
        ours, theirs = ADDRESSES[version]
        return Path(HostPort(ip_address(ours), port), HostPort(ip_address(theirs), port))

    def hear(self, version: int, port: int, octets: bytes) -> None:
        self.far[version, port].sendto(octets, (ADDRESSES[version][0], port))

    def receive(self, count: int) -> list[Datagram]:
        received: list[Datagram] = []
        while len(received) < count:
            assert select.select([self.wire.fileno()], [], [], SECONDS)[0], f"{len(received)} of {count} came"
            received += self.wire.receive_batch(count)
        return received


@contextlib.contextmanager
def open_wire(kind: str, host: Host) -> Iterator[Wire]:
    with host.inside():
        families = (socket.AF_INET, socket.AF_INET6)
        udp = [(open_udp(port, family), port) for port in (500, 4500) for family in families]
    opened = [socket.socket(fileno=descriptor) for descriptor, _ in udp]
    if kind == "engine":
        engine = open_engine(tun=[], udp=udp, raw=[], slots=64)
        yield EngineWire(engine)
        engine.stop()
    else:
        wire = SocketWire(udp)
        yield wire
        wire.close()
    for sock in opened:
        sock.close()


@pytest.fixture(scope="module", params=["engine", "sockets"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    with hosts("near", "far") as (near, away):
        link(near, "out0", away, "out0")
        for number, host in ((1, near), (2, away)):
            host.run(f"ip addr add 192.0.2.{number}/24 dev out0; ip addr add 2001:db8::{number}/64 dev out0 nodad")
        far = {}
        with away.inside():
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                for port in (500, 4500):
                    far[version, port] = socket.socket(family, socket.SOCK_DGRAM)
                    far[version, port].bind((ADDRESSES[version][1], port))
                    far[version, port].settimeout(SECONDS)
        with open_wire(request.param, near) as wire:
            yield Side(wire, far)
        for sock in far.values():
            sock.close()


def message(initiator: int, responder: int, flags: int, size: int = 100) -> bytes:
    head = initiator.to_bytes(8, "big") + responder.to_bytes(8, "big") + bytes([33, 0x20, 34, flags])
    return head + bytes(size - len(head))


@pytest.mark.parametrize("port", [500, 4500])
@pytest.mark.parametrize("version", [4, 6])
def test_messages_pass_both_ways_with_both_ends_known(side: Side, version: int, port: int) -> None:
    octets = message(1, 0, 0x08)
    marker = bytes(4) if port == 4500 else b""
    side.hear(version, port, marker + octets)
    assert side.receive(1) == [Datagram(octets, side.path(version, port))]
    assert side.wire.send_batch([Datagram(octets, side.path(version, port), df=True, dscp=46)]) == 0
    assert side.far[version, port].recv(65_535) == marker + octets


def test_our_sas_are_heard_first_and_strangers_last(side: Side) -> None:
    side.wire.know_spis([KNOWN, 9], [9])
    stranger, response = message(5, 0, 0x08), message(9, 6, 0x20)
    ours = [message(KNOWN, 6, 0x20), message(7, KNOWN, 0x08)]
    for octets in (stranger, response, *ours):
        side.hear(4, 500, octets)
    received = [datagram.octets for datagram in side.receive(4)]
    assert set(received) == {stranger, response, *ours}
    # The engine reads beside us: what comes late cannot go first. Plain sockets are read when we ask, all at once.
    if isinstance(side.wire, SocketWire):
        assert received == [*ours, response, stranger]


def test_what_is_no_ike_message_is_dropped(side: Side) -> None:
    for octets in (b"", b"\xff", bytes(4), b"\x12\x34\x56\x78" + bytes(60), bytes(4) + bytes(27)):
        side.hear(4, 4500, octets)
    side.hear(4, 500, bytes(27))
    last = message(1, 2, 0x08)
    side.hear(4, 500, last)
    assert side.receive(1)[0].octets == last
    assert side.wire.receive_batch(10) == []


def test_large_messages_are_fragmented_unless_that_is_forbidden(side: Side) -> None:
    octets = message(1, 2, 0x08, size=5_000)
    for version in (4, 6):
        assert side.wire.send_batch([Datagram(octets, side.path(version, 500), df=True)]) == 1
        assert side.wire.send_batch([Datagram(octets, side.path(version, 500))]) == 0
        assert side.far[version, 500].recv(65_535) == octets
        side.hear(version, 500, octets)
        assert side.receive(1)[0].octets == octets


def test_a_path_without_a_socket_loses_its_datagrams(side: Side) -> None:
    assert side.wire.send_batch([Datagram(message(1, 2, 0), side.path(4, 501))]) == 1


def test_a_flood_of_strangers_does_not_keep_ours_out(side: Side) -> None:
    side.wire.know_spis([KNOWN], [])
    for _ in range(3_000):
        side.hear(4, 500, message(5, 0, 0x08))
    ours = message(KNOWN, 6, 0x20)
    side.hear(4, 500, ours)
    received: list[bytes] = []
    while ours not in received:
        received += [datagram.octets for datagram in side.receive(1)]
    assert len(received) <= 3_001
