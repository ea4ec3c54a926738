"""IP-TFS of a Linux kernel as peer of the engine's AGGFRAG (RFC 9347), by fixed keys, over good and bad lines.

D1 throughout: each datagram that goes in comes out identical, once, or not at all.
"""

from collections.abc import Iterator, Sequence

import pytest

from interop.engines import GCM, Tunnel
from interop.guests import Pair, kernel_pair, payloads_of
from openmoat.crypto.suites import AES_256_CBC, CHACHA20_POLY1305, HMAC_SHA2_256_128, Aead, EspSuite
from openmoat.dataplane.backend import Encapsulation
from openmoat.mtu.overhead import Overhead
from openmoat.mtu.plan import MAX_PACKET, Framing, PathMtu, PeerFraming, Rung, compile_plan
from openmoat_lab.guest.xfrm import Iptfs

pytestmark = [pytest.mark.namespaces, pytest.mark.guest]
SIZES = (64, 65, 100, 576, 1279, 1280, 1281, 1400, 1436, 1437, 1438, 1500, 4000, 9000, 20_000, MAX_PACKET)
MIXED = (64, 9000, 100, 100, 1400, 64, 2800, 700, 64, 4000) * 20
SUITES = (GCM, EspSuite(CHACHA20_POLY1305, None, esn=True), EspSuite(AES_256_CBC, HMAC_SHA2_256_128, esn=True))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with kernel_pair(tmp_path_factory.mktemp("guest")) as made:
        made.let_every_size_come()
        yield made


def aggfrag(
    encapsulation: Encapsulation = Encapsulation.UDP, outside: int = 4, size: int = 1500, suite: EspSuite = GCM
) -> Tunnel:
    """AGGFRAG over a path of this size."""
    plan = compile_plan(
        overhead=Overhead(suite, outside, encapsulation is Encapsulation.UDP),
        path=PathMtu(size, is_proved=True),
        rungs=frozenset(Rung),
        peer=PeerFraming(Framing.AGGFRAG),
    )
    return Tunnel(suite=suite, encapsulation=encapsulation, outside=outside, plan=plan)


def packet_size(suite: EspSuite) -> int | None:
    """What makes the kernel stay within 1500 octets: left alone it makes packets with AES-CBC too large, and drops them."""
    return None if isinstance(suite.encryption, Aead) else 1440


def is_d1(came: Sequence[bytes], sent: Sequence[bytes]) -> bool:
    return len(set(came)) == len(came) and set(came) <= set(sent)


@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize("encapsulation", Encapsulation, ids=lambda kind: kind.value)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_packets_of_every_size_pass_whole_both_ways(
    pair: Pair, suite: EspSuite, encapsulation: Encapsulation, outside: int
) -> None:
    handle = pair.connect(aggfrag(encapsulation, outside, suite=suite), Iptfs(packet_size=packet_size(suite)))
    before = pair.kernel_errors()
    for inside in (4, 6):
        sent = payloads_of(SIZES, inside, seed=inside)
        assert pair.to_kernel(sent, inside) == sent
        assert pair.from_kernel(sent, inside) == sent
    counters = pair.ours.counters()
    assert counters.outbound_sliced >= 10
    assert counters.inbound_assembled >= 10
    assert pair.disconnect(handle) == {}
    assert pair.kernel_errors() == before


@pytest.mark.parametrize("size", [576, 1124, 1280, 1400, 1499])
def test_paths_of_other_sizes_carry_the_same(pair: Pair, size: int) -> None:
    handle = pair.connect(aggfrag(size=size), Iptfs(packet_size=size - 32))
    sent = payloads_of(SIZES, 4, seed=size)
    assert pair.to_kernel(sent) == sent
    assert pair.from_kernel(sent) == sent
    assert pair.disconnect(handle) == {}


def test_a_kernel_that_waits_for_company_packs_many_into_one(pair: Pair) -> None:
    handle = pair.connect(aggfrag(), Iptfs(init_delay=50_000))
    sent = payloads_of([100] * 12, 4, seed=1)
    assert pair.from_kernel(sent) == sent
    counters = pair.ours.counters()
    assert counters.inbound_packets == 12
    assert counters.inbound_sequence <= 4
    assert pair.disconnect(handle) == {}


def test_a_kernel_that_does_not_slice_is_understood_and_takes_our_slices(pair: Pair) -> None:
    handle = pair.connect(aggfrag(), Iptfs(dont_frag=True))
    whole = payloads_of((64, 100, 576, 1279, 1400), 4, seed=2)
    assert pair.from_kernel(whole) == whole
    sent = payloads_of(SIZES, 4, seed=3)
    assert pair.to_kernel(sent) == sent
    counters = pair.ours.counters()
    assert (counters.inbound_packets, counters.inbound_assembled) == (len(whole), 0)
    assert pair.disconnect(handle) == {}


@pytest.mark.parametrize("inside", [4, 6])
def test_ours_packs_and_slices_a_mixed_flood_and_so_does_the_kernel(pair: Pair, inside: int) -> None:
    handle = pair.connect(aggfrag(), Iptfs(init_delay=2_000))
    sent = payloads_of(MIXED, inside, seed=4)
    assert pair.to_kernel(sent, inside) == sent
    assert pair.from_kernel(sent, inside) == sent
    assert pair.disconnect(handle) == {}


LINES = {
    "loss": "loss 3%",
    "delay": "delay 5ms",
    "reordering": "delay 5ms reorder 25% 50%",
    "jitter": "delay 4ms 3ms",
    "duplication": "duplicate 10%",
    "everything": "delay 2ms 1ms loss 2% duplicate 3%",
}
KERNELS = (Iptfs(), Iptfs(reorder_window=0), Iptfs(reorder_window=64, drop_time=20_000, init_delay=500))


@pytest.mark.parametrize("kernel", KERNELS, ids=["defaults", "no-reorder-window", "large-reorder-window"])
@pytest.mark.parametrize("line", LINES)
def test_over_a_bad_line_each_datagram_arrives_identical_once_or_not_at_all(
    pair: Pair, line: str, kernel: Iptfs
) -> None:
    handle = pair.connect(aggfrag(), kernel)
    sent = payloads_of(MIXED, 4, seed=5)
    with pair.line(LINES[line]):
        to_kernel = pair.to_kernel(sent, pause=0.001, seconds=1.5)
        from_kernel = pair.from_kernel(sent, pause=0.001, seconds=1.5)
    assert is_d1(to_kernel, sent)
    assert is_d1(from_kernel, sent)
    drops = pair.disconnect(handle)
    if "loss" in LINES[line]:
        assert len(sent) > len(from_kernel) > len(sent) / 2
        assert drops["aggfrag-incomplete"] > 0
    else:
        # Our window of 256 payloads takes every order that these lines make of them. That of the kernel is smaller.
        assert sorted(from_kernel) == sorted(sent)
        assert line in {"reordering", "jitter"} or to_kernel == sent
    assert ("replayed" in drops) == ("duplicate" in LINES[line])


def test_a_kernel_refuses_plain_tunnel_mode_where_iptfs_was_agreed_and_so_do_we(pair: Pair) -> None:
    sent = payloads_of((100, 1000), 4, seed=6)
    handle = pair.connect(Tunnel(), Iptfs())
    before = pair.kernel_errors()
    assert pair.to_kernel(sent, seconds=0.3) == []
    assert pair.from_kernel(sent, seconds=0.3) == []
    assert pair.disconnect(handle) == {"aggfrag-unexpected": 2}
    assert pair.kernel_errors() != before
