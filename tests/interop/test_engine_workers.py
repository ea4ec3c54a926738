"""Several pairs of packet threads over real queues and sockets: nothing is lost, late or out of order."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from interop.engines import Gateway, Tunnel, connect, gateways
from openmoat.dataplane.backend import Encapsulation

pytestmark = pytest.mark.namespaces
QUEUES = 3
FLOWS = 8
OCTETS = 4 << 20


@pytest.fixture
def both() -> Iterator[tuple[Gateway, Gateway]]:
    with gateways(queues=QUEUES) as pair:
        yield pair


def listen(gateway: Gateway) -> socket.socket:
    with gateway.host.inside():
        server = socket.create_server((gateway.inner(4), 0))
    server.settimeout(30)
    return server


def fetch(client: socket.socket) -> bytes:
    with client:
        client.settimeout(30)
        return b"".join(iter(lambda: client.recv(1 << 20), b""))


def give(server: socket.socket, octets: bytes) -> None:
    peer, _ = server.accept()
    with peer:
        peer.settimeout(30)
        peer.sendall(octets)


@pytest.mark.parametrize("encapsulation", Encapsulation)
def test_flows_over_several_workers_arrive_whole_and_no_number_is_late(
    both: tuple[Gateway, Gateway], encapsulation: Encapsulation
) -> None:
    left, right = both
    connect(left, right, Tunnel(encapsulation=encapsulation))
    octets = bytes(range(251)) * (OCTETS // 251)
    with ThreadPoolExecutor(4 * FLOWS) as pool, listen(left) as here, listen(right) as there:
        for _ in range(FLOWS):
            pool.submit(give, here, octets)
            pool.submit(give, there, octets)
        fetched = []
        for server, client in ((here, right), (there, left)):
            for _ in range(FLOWS):
                with client.host.inside():
                    fetched.append(pool.submit(fetch, socket.create_connection(server.getsockname(), timeout=30)))
        assert all(one.result() == octets for one in fetched)
    for gateway in both:
        assert "replayed" not in gateway.backend.read_drops()
        assert "engine-fault" not in gateway.backend.read_drops()
