"""AGGFRAG with real devices: two engines with fixed keys, and between them a path of 1280 octets that drops what is larger.

Nothing is sent in outer fragments, and the far host gets every packet in one piece, as it was sent (RFC 9347 2.2).
"""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from interop.engines import GCM, Gateway, Tunnel, connect, disconnect, gateways
from interop.test_engine import ping
from openmoat.dataplane.backend import Encapsulation, SaCounters
from openmoat.mtu.overhead import Overhead
from openmoat.mtu.plan import MAX_PACKET, Framing, PathMtu, PeerFraming, Rung, compile_plan

pytestmark = pytest.mark.namespaces
PATH_MTU = 1280
BULK = bytes(range(256)) * 4096 * 8
"""8 MiB."""
SECONDS = 30.0
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DO = 2


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Gateway, Gateway]]:
    with gateways() as pair:
        for gateway in pair:
            # One outer packet that is larger, or a fragment of one, and the test that sent it fails.
            gateway.host.run(
                f"ip link set out0 mtu {PATH_MTU};"
                f"ip route change 10.{gateway.other}.0.0/16 dev moat0 src {gateway.inner(4)};"
                f"ip -6 route change fd0{gateway.other}::/16 dev moat0 src {gateway.inner(6)}"
            )
        yield pair


def tunnel(encapsulation: Encapsulation = Encapsulation.UDP, outside: int = 4) -> Tunnel:
    plan = compile_plan(
        overhead=Overhead(GCM, outside, udp=encapsulation is Encapsulation.UDP), path=PathMtu(PATH_MTU),
        rungs=frozenset(Rung), peer=PeerFraming(Framing.AGGFRAG),
    )  # fmt: skip
    return Tunnel(encapsulation=encapsulation, outside=outside, plan=plan)


def fragments(gateway: Gateway, version: int) -> int:
    """Fragments of packets that the host has been told to send or to put together."""
    told = gateway.host.run("nstat -asz 'Ip*Frag*' 'Ip*Reasm*'")
    prefix = "Ip6" if version == 6 else "Ip"
    rows = [line.split() for line in told.splitlines() if not line.startswith("#")]
    return sum(int(row[1]) for row in rows if row[0].startswith((f"{prefix}Frag", f"{prefix}Reasm")))


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("encapsulation", Encapsulation)
def test_pings_of_every_size_pass_a_path_of_1280_octets(
    both: tuple[Gateway, Gateway], outside: int, encapsulation: Encapsulation
) -> None:
    left, right = both
    before = [fragments(gateway, version) for gateway in both for version in (4, 6)]
    handles = connect(left, right, tunnel(encapsulation, outside))
    for size in (20, PATH_MTU, 1500, 9000, 65_535):
        assert " 0% packet loss" in ping(left, 4, "-M do", f"-s {max(0, size - 28)}"), size
    for size in (PATH_MTU, 9000, 65_535):
        assert " 0% packet loss" in ping(right, 6, f"-s {size - 48}"), size
    ours, theirs = disconnect((left, handles[0]), (right, handles[1]))
    assert [fragments(gateway, version) for gateway in both for version in (4, 6)] == before
    assert_whole(ours, theirs)
    assert_whole(theirs, ours)
    assert ours.outbound_sliced > 0


def assert_whole(sender: SaCounters, receiver: SaCounters) -> None:
    assert (receiver.inbound_packets, receiver.inbound_octets) == (sender.outbound_packets, sender.outbound_octets)
    assert receiver.inbound_assembled == sender.outbound_sliced
    assert sender.outbound_slices > sender.outbound_sliced
    assert receiver.drops == {}


def test_udp_with_df_and_tcp_arrive_as_they_were_sent(both: tuple[Gateway, Gateway]) -> None:
    left, right = both
    handles = connect(left, right, tunnel())
    for size in (1252, 1253, 8972, 65_507):
        assert send_datagram(left, right, size) == BULK[:size]
    assert send_bulk(left, right) == BULK
    ours, theirs = disconnect((left, handles[0]), (right, handles[1]))
    assert_whole(ours, theirs)


def send_datagram(left: Gateway, right: Gateway, size: int) -> bytes:
    with right.host.inside():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((right.inner(4), 0))
        receiver.settimeout(SECONDS)
    with left.host.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    with sender, receiver:
        sender.sendto(BULK[:size], receiver.getsockname())
        return receiver.recv(MAX_PACKET)


def send_bulk(left: Gateway, right: Gateway) -> bytes:
    with right.host.inside():
        listener = socket.create_server((right.inner(4), 0))
        listener.settimeout(SECONDS)
    with left.host.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sender.settimeout(SECONDS)
    with listener, sender, ThreadPoolExecutor(1) as pool:
        sender.connect(listener.getsockname())
        sending = pool.submit(_send, sender)
        receiver, _ = listener.accept()
        with receiver:
            receiver.settimeout(SECONDS)
            got = b"".join(iter(lambda: receiver.recv(1 << 20), b""))
        sending.result()
    return got


def _send(sender: socket.socket) -> None:
    sender.sendall(BULK)
    sender.shutdown(socket.SHUT_WR)
