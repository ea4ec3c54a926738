"""The engine with a real TUN device and real sockets: pings and transfers between two namespaces, keys fixed, no IKE."""

import math
import random
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path as File

import pytest

from interop.engines import Gateway, Tunnel, connect, disconnect, gateways
from openmoat.crypto.suites import (
    AES_128_CBC,
    AES_256_GCM_16,
    CHACHA20_POLY1305,
    HMAC_SHA2_256_128,
    HMAC_SHA2_512_256,
    EspSuite,
)
from openmoat.dataplane.backend import (
    Acquire,
    Activate,
    BackendEvent,
    Encapsulation,
    Limits,
    SaFlag,
    SaState,
    Update,
)
from openmoat.dataplane.wire import Datagram
from openmoat.errors import DataplaneError, DeviceError, UnknownSpi
from openmoat.mtu.plan import MtuPlan, OuterDf, Rung
from openmoat.net import HostPort, Path
from openmoat.policy.spd import Missing

pytestmark = pytest.mark.namespaces
EVENT_SECONDS = 5.0
PLAN = MtuPlan(outer_size=1500, inner_room=1400)


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Gateway, Gateway]]:
    with gateways() as pair:
        yield pair


def ping(gateway: Gateway, version: int, *options: str) -> str:
    target = gateway.inner(version).replace(f"10.{gateway.number}.", f"10.{gateway.other}.")
    target = target.replace(f"fd0{gateway.number}", f"fd0{gateway.other}")
    return gateway.host.run(f"ping -{version} -n -c 3 -i 0.01 -W 2 {' '.join(options)} {target}", check=False)


def wait_for_events(gateway: Gateway) -> list[BackendEvent]:
    readable, _, _ = select.select([gateway.backend.fileno()], [], [], EVENT_SECONDS)
    assert readable
    return gateway.backend.drain(100)


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("encapsulation", Encapsulation)
def test_pings_pass_in_every_carriage_and_family(
    both: tuple[Gateway, Gateway], outside: int, encapsulation: Encapsulation
) -> None:
    left, right = both
    handles = connect(left, right, Tunnel(outside=outside, encapsulation=encapsulation))
    for version in (4, 6):
        assert " 0% packet loss" in ping(left, version)
        assert " 0% packet loss" in ping(right, version)
    ours, theirs = disconnect((left, handles[0]), (right, handles[1]))
    assert ours.inbound_packets == ours.outbound_packets == theirs.inbound_packets == 12
    assert ours.drops == theirs.drops == {}
    assert ours.outbound_octets == 6 * (84 + 104)


@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize(
    "suite",
    [
        EspSuite(AES_256_GCM_16, None),
        EspSuite(CHACHA20_POLY1305, None),
        EspSuite(AES_128_CBC, HMAC_SHA2_256_128),
        EspSuite(AES_128_CBC, HMAC_SHA2_512_256),
    ],
    ids=lambda suite: suite.name,
)
def test_every_kind_of_suite_carries_pings(both: tuple[Gateway, Gateway], suite: EspSuite, esn: bool) -> None:
    left, right = both
    handles = connect(left, right, Tunnel(suite=EspSuite(suite.encryption, suite.integrity, esn)))
    assert " 0% packet loss" in ping(left, 4)
    disconnect((left, handles[0]), (right, handles[1]))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("encapsulation", Encapsulation)
def test_large_packets_pass_as_outer_fragments_and_tcp_in_segments(
    both: tuple[Gateway, Gateway], version: int, encapsulation: Encapsulation
) -> None:
    left, right = both
    for gateway in both:
        gateway.let_every_size_come()
    handles = connect(left, right, Tunnel(outside=4, encapsulation=encapsulation))
    assert " 0% packet loss" in ping(left, version, "-s 20000")
    disconnect((left, handles[0]), (right, handles[1]))


def test_a_plan_that_refuses_answers_with_the_room_there_is(both: tuple[Gateway, Gateway]) -> None:
    left, right = both
    plan = MtuPlan(outer_size=1500, inner_room=1300, oversize=(Rung.REFUSE,))
    handles = connect(left, right, Tunnel(plan=plan))
    assert "mtu = 1300" in ping(left, 4, "-M do", "-s 1352")
    [ours, _] = disconnect((left, handles[0]), (right, handles[1]))
    assert ours.drops["too-big"] >= 1


def test_a_trap_tells_the_daemon_and_loses_no_first_packet(both: tuple[Gateway, Gateway]) -> None:
    left, right = both
    left.backend.apply([left.policy(missing=Missing.TRAP)])
    ours, theirs = left.backend.reserve_spis(1)[0], right.backend.reserve_spis(1)[0]
    left.backend.drain(1000)
    left.host.run(f"ping -n -c 1 -W 3 {right.inner(4)} >/tmp/{left.host.name}.ping 2>&1 &")
    [acquire] = wait_for_events(left)
    assert isinstance(acquire, Acquire)
    assert (str(acquire.source), str(acquire.destination), acquire.protocol) == (left.inner(4), right.inner(4), 1)
    right.backend.apply([*right.halves(Tunnel(), theirs, ours), Activate(theirs)])
    left.backend.apply([*left.halves(Tunnel(), ours, theirs), Activate(ours)])
    [event, *_] = wait_for_events(left)
    assert event == SaState(ours, SaFlag.FIRST_PACKET, None)
    assert left.host.run(f"cat /tmp/{left.host.name}.ping; rm /tmp/{left.host.name}.ping").count("bytes from") <= 1
    left.backend.apply([left.policy()])
    disconnect((left, ours), (right, theirs))


def test_limits_are_told_and_end_the_pair(both: tuple[Gateway, Gateway]) -> None:
    left, right = both
    handles = connect(left, right, Tunnel(limits=Limits(soft_packets=2, hard_packets=4)))
    left.backend.drain(1000)
    ping(left, 4)
    ping(left, 4)
    flags = SaFlag(0)
    while not flags & SaFlag.HARD_LIMIT:
        for event in wait_for_events(left):
            assert isinstance(event, SaState)
            flags = event.flags
    assert flags == SaFlag.FIRST_PACKET | SaFlag.SOFT_LIMIT | SaFlag.HARD_LIMIT
    [ours, _] = disconnect((left, handles[0]), (right, handles[1]))
    assert ours.outbound_packets == 4
    assert ours.drops["hard-limit"] >= 1


def test_from_the_end_of_its_hard_lifetime_nothing_leaves(both: tuple[Gateway, Gateway]) -> None:
    left, right = both
    ours, theirs = connect(left, right, Tunnel())
    assert "3 received" in ping(left, 4)
    left.backend.apply([Update(handle=ours, hard_at=time.clock_gettime(time.CLOCK_BOOTTIME))])
    sent = left.counters().outbound_packets
    assert "0 received" in ping(left, 4)
    assert left.counters().outbound_packets == sent
    assert left.counters().drops["sa-expired"] == 3
    left.backend.apply([Update(handle=ours, hard_at=math.inf)])
    assert "3 received" in ping(left, 4)
    disconnect((left, ours), (right, theirs))


def test_a_peer_that_moves_is_told_and_followed(both: tuple[Gateway, Gateway]) -> None:
    left, right = both
    tunnel = Tunnel()
    handles = connect(left, right, tunnel)
    assert " 0% packet loss" in ping(left, 4)
    left.backend.drain(1000)
    right.host.run("ip addr add 192.0.2.77/24 dev out0")
    old = right.path(tunnel)
    moved = HostPort(type(old.local.address)("192.0.2.77"), 4500)
    right.backend.apply([Update(handle=handles[1], path=Path(moved, old.remote))])
    right.host.run(f"ping -n -c 1 -W 1 {left.inner(4)}", check=False)
    [event] = wait_for_events(left)
    path = Path(left.path(tunnel).local, moved)
    assert event == SaState(handles[0], SaFlag.FIRST_PACKET | SaFlag.NEW_PATH, path)
    left.backend.apply([Update(handle=handles[0], path=path)])
    assert " 0% packet loss" in ping(left, 4)
    disconnect((left, handles[0]), (right, handles[1]))
    right.host.run("ip addr del 192.0.2.77/24 dev out0")


def test_esp_for_an_sa_that_is_gone_is_a_counted_drop(both: tuple[Gateway, Gateway]) -> None:
    left, right = both
    handles = connect(left, right, Tunnel())
    before = right.backend.read_drops().get("unknown-spi", 0)
    disconnect((right, handles[1]))
    ping(left, 4)
    assert right.backend.read_drops()["unknown-spi"] - before == 3
    disconnect((left, handles[0]))


@pytest.mark.parametrize("port", [500, 4500])
@pytest.mark.parametrize("version", [4, 6])
def test_ike_datagrams_pass_with_df_and_both_ends_known(both: tuple[Gateway, Gateway], port: int, version: int) -> None:
    left, right = both
    local = HostPort(left.path(Tunnel(outside=version)).local.address, port)
    remote = HostPort(left.path(Tunnel(outside=version)).remote.address, port)
    stranger = bytes([1] * 8 + [0] * 8 + [33, 0x20, 34, 0x08]) + bytes(100)
    known = bytes([2] * 8 + [3] * 8 + [46, 0x20, 35, 0x08]) + bytes(3_000)
    right.wire.know_spis([0x0303030303030303], [])
    path = Path(local, remote)
    assert left.wire.send_batch([Datagram(stranger, path, df=True, dscp=46), Datagram(known, path)]) == 0
    received: list[Datagram] = []
    while len(received) < 2:
        assert select.select([right.wire.fileno()], [], [], EVENT_SECONDS)[0]
        received += right.wire.receive_batch(64)
    assert {d.octets for d in received} == {stranger, known}
    assert all(d.path == Path(remote, local) for d in received)
    too_large = Datagram(known, path, df=True)
    assert left.wire.send_batch([too_large]) == 1


def test_commands_that_cannot_be_carried_out_name_the_reason(both: tuple[Gateway, Gateway]) -> None:
    left, _ = both
    with pytest.raises(UnknownSpi, match="SA 00001234 is not installed"):
        left.backend.apply([Activate(0x1234)])
    [inbound, outbound] = left.halves(Tunnel(), 0xC0FFEE00, 0x1000)
    with pytest.raises(DataplaneError, match="not reserved"):
        left.backend.apply([inbound])
    [spi] = left.backend.reserve_spis(1)
    [inbound, outbound] = left.halves(Tunnel(plan=PLAN), spi, 0x1000)
    left.backend.apply([inbound, outbound])
    there = Path(HostPort(left.path(Tunnel()).local.address, 4501), left.path(Tunnel()).remote)
    with pytest.raises(DeviceError, match="no socket for ESP"):
        left.backend.apply([Update(handle=spi, path=there)])
    disconnect((left, spi))


def test_outer_df_is_as_the_plan_says(both: tuple[Gateway, Gateway]) -> None:
    left, right = both
    for outer_df, seen in ((OuterDf.CLEAR, "[none]"), (OuterDf.SET, "[DF]")):
        plan = MtuPlan(outer_size=1500, inner_room=1400, outer_df=outer_df)
        handles = connect(left, right, Tunnel(plan=plan))
        capture = "timeout 5 tcpdump -c 1 -nvi out0 src 192.0.2.1 and udp port 4500"
        text = left.host.run(f"{capture} 2>/dev/null & sleep 0.3; ping -c 2 -i 0.2 {right.inner(4)} >/dev/null; wait")
        assert f"flags {seen}" in text
        disconnect((left, handles[0]), (right, handles[1]))


@pytest.mark.slow
def test_a_million_hostile_datagrams_leave_memory_flat(both: tuple[Gateway, Gateway]) -> None:
    left, right = both
    handles = connect(left, right, Tunnel())
    with right.host.inside():
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ESP)
    chance = random.Random(1)  # noqa: S311 - the same flood each time
    spi = handles[0].to_bytes(4, "big")
    esp = [spi + chance.randbytes(size) for size in (0, 8, 60, 1_400)] + [chance.randbytes(60) for _ in range(60)]
    ike = [bytes(4) + chance.randbytes(size) for size in (0, 27, 28, 500, 40_000)]

    def flood(count: int) -> int:
        for number in range(count // 10):
            for octets in (esp[number % 64], ike[number % 5], b"\xff"):
                udp.sendto(octets, (left.address(4), 4500))
            for sort in range(6):
                udp.sendto(ike[(number + sort) % 4], (left.address(4), 500))
            raw.sendto(esp[number % 64], (left.address(4), 0))
            if number % 100 == 0:
                left.wire.receive_batch(64)
                left.backend.drain(64)
        return resident()

    before = flood(100_000)
    after = flood(900_000)
    drops = left.backend.read_drops()
    assert after - before <= 8 << 20
    assert min(drops[name] for name in ("unknown-spi", "bad-icv", "too-short", "queue-full")) > 1_000
    assert {"engine-fault", "noise-full"}.isdisjoint(drops)  # the daemon hears nothing of such a flood
    assert " 0% packet loss" in ping(left, 4)
    disconnect((left, handles[0]), (right, handles[1]))
    udp.close()
    raw.close()


def resident() -> int:
    """Octets of memory that this process, engines included, keeps now."""
    pages = int(File("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
