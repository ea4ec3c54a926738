"""The kernel gives ESP to sockets by its SPI, and IKE to a socket of its own."""

import socket
from collections.abc import Iterator, Sequence

import pytest

from interop.hosts import Host, hosts, link
from openmoat.system.sockets import Descriptors, open_all

pytestmark = pytest.mark.namespaces

QUEUES = 3
OUTSIDE = {4: ("198.51.100.1", "198.51.100.2"), 6: ("2001:db8:1::1", "2001:db8:1::2")}


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with hosts("gw", "peer") as (gateway, peer):
        link(gateway, "eth0", peer, "eth0")
        for host, number in ((gateway, 1), (peer, 2)):
            host.run(f"ip addr add 198.51.100.{number}/24 dev eth0; ip addr add 2001:db8:1::{number}/64 dev eth0 nodad")
        yield gateway, peer


@pytest.fixture
def opened(pair: tuple[Host, Host]) -> Iterator[Descriptors]:
    with pair[0].inside():
        descriptors = open_all("moat0", queues=QUEUES)
    yield descriptors
    descriptors.close()


def received(descriptors: Sequence[int]) -> list[list[bytes]]:
    """What waits at each socket, IPv4 headers of raw ones included."""
    found: list[list[bytes]] = []
    for descriptor in descriptors:
        with socket.socket(fileno=descriptor) as sock:
            found.append([])
            while True:
                try:
                    found[-1].append(sock.recv(2000))
                except BlockingIOError:
                    break
            sock.detach()
    return found


def family(descriptor: int) -> int:
    with socket.socket(fileno=descriptor) as sock:
        found = sock.family
        sock.detach()
    return 4 if found == socket.AF_INET else 6


@pytest.mark.parametrize("version", [4, 6])
def test_esp_in_udp_goes_by_its_spi_and_ike_to_the_last_socket(
    pair: tuple[Host, Host], opened: Descriptors, version: int
) -> None:
    spis = [spi.to_bytes(4) + b"esp" for spi in range(0x100, 0x100 + 2 * QUEUES)]
    ike = bytes(4) + b"ike"
    here, _ = OUTSIDE[version]
    with (
        pair[1].inside(),
        socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as peer,
    ):
        for octets in (*spis, ike, b"\xff"):
            peer.sendto(octets, (here, 4500))
    sockets = [descriptor for descriptor, port in opened.udp if port == 4500 and family(descriptor) == version]
    *workers, last = received(sockets)
    assert last == [ike]
    for number, packets in enumerate(workers):
        esp = [packet for packet in packets if packet != b"\xff"]
        assert len(esp) == 2
        assert all(int.from_bytes(packet[:4]) % QUEUES == number for packet in esp)
    assert b"\xff" in workers[0]


@pytest.mark.parametrize("version", [4, 6])
def test_every_packet_of_protocol_50_goes_to_one_socket(
    pair: tuple[Host, Host], opened: Descriptors, version: int
) -> None:
    here, _ = OUTSIDE[version]
    kind = socket.AF_INET if version == 4 else socket.AF_INET6
    with pair[1].inside(), socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_ESP) as peer:
        for spi in range(0x100, 0x100 + 2 * QUEUES):
            peer.sendto(spi.to_bytes(4) + b"esp", (here, 0))
    sockets = [descriptor for descriptor in opened.raw if family(descriptor) == version]
    skip = 20 if version == 4 else 0
    for number, packets in enumerate(received(sockets)):
        assert [int.from_bytes(packet[skip : skip + 4]) % QUEUES for packet in packets] == [number, number]


def test_a_second_daemon_is_refused_although_port_4500_may_be_shared(
    pair: tuple[Host, Host], opened: Descriptors
) -> None:
    with pair[0].inside(), pytest.raises(Exception, match="UDP port 500: taken by another program"):
        open_all("moat1")
