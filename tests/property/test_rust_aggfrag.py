"""The AGGFRAG of the packet engine against the oracle: what it packs is lawful, and what it delivers is exactly that."""

import itertools
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oracles.aggfrag import HEADERS, PLAIN, Receiver, check_asking, check_on_demand, header, pack_tightly

MANIFEST = Path(__file__).parents[2] / "rust" / "Cargo.toml"
WINDOW = 256
"""Payloads in which the pieces of one packet may lie, as the engine says."""
BUDGET = 64 << 20
MAX_HELD = WINDOW * 9_216
"""Octets that one SA may make the engine hold."""
UNBOUNDED = 1 << 40


class Engine:
    """The running example program of the esp crate."""

    def __init__(self) -> None:
        command = ["cargo", "run", "--quiet", "--release", "-p", "openmoat-esp", "--example", "aggfrag_oracle"]
        self.process = subprocess.Popen(
            [*command, "--manifest-path", str(MANIFEST)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *words: object) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        verdict, *answer = self.process.stdout.readline().split()
        assert verdict == "ok", answer
        return answer

    def pack(self, room: int, packets: list[bytes]) -> list[bytes]:
        return [bytes.fromhex(word) for word in self.ask("pack", room, *(packet.hex() for packet in packets))]

    def ask_when_packing(self, every: int, room: int, packets: list[bytes]) -> list[bytes]:
        return [bytes.fromhex(word) for word in self.ask("ask", every, room, *(packet.hex() for packet in packets))]

    def begin(self, budget: int = BUDGET) -> None:
        self.ask("new", budget)

    def receive(self, sequence: int, payload: bytes) -> list[bytes]:
        return self.receive_together([(sequence, payload)])

    def receive_together(self, rows: list[tuple[int, bytes]]) -> list[bytes]:
        words = [word for sequence, payload in rows for word in (str(sequence), payload.hex() or "-")]
        held, *packets = self.ask("accept", *words)
        assert int(held) <= MAX_HELD
        return [bytes.fromhex(word) for word in packets]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    program = Engine()
    program.begin()  # the build is over
    yield program
    program.process.communicate(timeout=5)


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large, HealthCheck.too_slow],
    )


# Packets and what may become of payloads on their way.


def inner(size: int, seed: int) -> bytes:
    """A packet of any size from 20 on, of which no two are alike."""
    rng = random.Random(seed)  # noqa: S311
    if size >= 40 and rng.random() < 0.5:
        return b"\x60\0\0\0" + (size - 40).to_bytes(2, "big") + rng.randbytes(size - 6)
    return b"\x45\0" + size.to_bytes(2, "big") + rng.randbytes(size - 4)


SIZES = st.one_of(st.integers(20, 200), st.integers(20, 3000), st.sampled_from((1280, 1500, 9000, 40_000, 65_535)))
PACKETS = st.lists(st.tuples(SIZES, st.integers(0, 2**32)), min_size=1, max_size=10).map(
    lambda rows: [inner(size, seed) for size, seed in rows]
)


def on_the_way(payloads: list[bytes], seed: int, loss: float, late: int) -> list[tuple[int, bytes]]:
    """Payloads with their sequence numbers as they come in: some lost, some up to `late` places later, none twice, since
    the replay window stands before reassembly.
    """
    rng = random.Random(seed)  # noqa: S311
    rows = [(number, payload) for number, payload in enumerate(payloads, 1) if rng.random() >= loss]
    return sorted(rows, key=lambda row: row[0] + rng.random() * late)


MAX_TOGETHER = 8
"""Payloads of one sitting: until it ends, pieces lie where they came."""
WAYS = st.tuples(st.integers(0, 2**32), st.sampled_from((0.0, 0.0, 0.02, 0.2)), st.sampled_from((0, 0, 3, 20, 60)))
"""So late that pieces of the longest packets still lie in one window."""


def both(engine: Engine, rows: list[tuple[int, bytes]]) -> None:
    """Deliveries are the same, payload by payload, in the same order; and so they are if several payloads come together."""
    oracle = Receiver(WINDOW)
    told = [oracle.receive(sequence, payload) for sequence, payload in rows]
    engine.begin()
    for (sequence, payload), packets in zip(rows, told, strict=True):
        assert engine.receive(sequence, payload) == packets, f"payload {sequence}"
    rng = random.Random(len(rows))  # noqa: S311
    engine.begin()
    start = 0
    while start < len(rows):
        end = start + rng.randint(1, MAX_TOGETHER)
        packets = [packet for one in told[start:end] for packet in one]
        assert engine.receive_together(rows[start:end]) == packets, f"payloads {rows[start][0]} and on"
        start = end


# Sending.


@bounded(150)
@given(PACKETS, st.one_of(st.integers(64, 200), st.integers(200, 1500), st.sampled_from((1222, 1442, 8942, 65_535))))
def test_what_is_packed_is_lawful_and_carries_what_was_given(engine: Engine, packets: list[bytes], room: int) -> None:
    assert check_on_demand(engine.pack(room, packets), room) == packets


@bounded(100)
@given(PACKETS, st.sampled_from((84, 500, 1222, 1442)), st.integers(1, 4), WAYS)
def test_what_is_packed_with_marks_is_as_lawful_and_is_delivered_like_the_oracle_says(
    engine: Engine, packets: list[bytes], room: int, every: int, way: tuple[int, float, int]
) -> None:
    payloads = engine.ask_when_packing(every, room, packets)
    assert check_on_demand(payloads, room) == packets
    asked = check_asking(payloads, room)
    assert asked == list(range(1, len(asked) + 1))
    if any(len(packet) > room * (every + 2) for packet in packets):
        assert asked
    both(engine, on_the_way(payloads, *way))


# Receiving.


@bounded(150)
@given(PACKETS, st.sampled_from((500, 576, 1222, 1442, 8942)), WAYS)
def test_what_ours_packs_is_delivered_like_the_oracle_says(
    engine: Engine, packets: list[bytes], room: int, way: tuple[int, float, int]
) -> None:
    both(engine, on_the_way(engine.pack(room, packets), *way))


@bounded(150)
@given(
    PACKETS,
    st.lists(st.integers(700, 2000), min_size=1, max_size=5),
    st.lists(st.sampled_from((0, 1)), min_size=1, max_size=3),
    st.integers(0, 3),
    WAYS,
)
def test_what_a_tight_sender_packs_is_delivered_like_the_oracle_says(
    engine: Engine, packets: list[bytes], sizes: list[int], sub_types: list[int], pads: int, way: tuple[int, float, int]
) -> None:
    payloads: list[bytes] = []
    for number, payload in enumerate(pack_tightly(packets, itertools.cycle(sizes), itertools.cycle(sub_types))):
        # RFC 9347 2.2.3: all-pad payloads may lie between the pieces of a packet.
        payloads += [payload, *[header(PLAIN, 0) + bytes(20)] * (pads if number % 3 == 0 else 0)]
    both(engine, on_the_way(payloads, *way))


@bounded(150)
@given(PACKETS, st.integers(0, 2**32), WAYS)
def test_what_a_hostile_sender_makes_of_payloads_is_delivered_like_the_oracle_says(
    engine: Engine, packets: list[bytes], seed: int, way: tuple[int, float, int]
) -> None:
    rng = random.Random(seed)  # noqa: S311
    payloads = pack_tightly(packets, itertools.cycle([700, 300]), itertools.cycle([0, 0, 1]))
    both(engine, on_the_way([spoilt(rng, payload) for payload in payloads], *way))


def spoilt(rng: random.Random, payload: bytes) -> bytes:
    """Mostly as it is; sometimes with another offset, cut, extended, or with octets changed."""
    octets = bytearray(payload)
    match rng.randrange(12):
        case 0:
            octets[2:4] = rng.choice((0, 1, 5, 299, 300, 301, 65_535, rng.randrange(2000))).to_bytes(2, "big")
        case 1:
            del octets[rng.randrange(len(octets)) :]
        case 2:
            octets[rng.randrange(len(octets))] = rng.choice((0, 0x45, 0x4F, 0x60, 0x50, rng.randrange(256)))
        case 3:
            octets[HEADERS[PLAIN] : HEADERS[PLAIN] + 6] = rng.randbytes(6)
        case 4:
            octets += inner(rng.randrange(20, 80), rng.randrange(99))[: rng.randrange(1, 80)]
        case 5:
            return rng.choice((b"", header(PLAIN, 0), header(PLAIN, 9), header(PLAIN, 0) + b"\x45", b"\2\0\0\0\x45"))
        case _:
            pass
    return bytes(octets)


# What peers are known to do otherwise, by the numbers that tests/scenario/test_aggfrag.py begins.


@pytest.mark.parametrize("sub_type", sorted(HEADERS))
@pytest.mark.parametrize("flags", [1, 2, 4, 0x80, 0xFF])
def test_bits_of_the_second_octet_do_not_keep_packets_from_us(engine: Engine, sub_type: int, flags: int) -> None:
    """Trap 4: some receivers drop a payload with any of them set, P and E of sub-type 1 too. We send none, and take all."""
    packets = [inner(400, 1), inner(90, 2)]
    payloads = [
        header(sub_type, 0, flags) + packets[0][:300],
        header(sub_type, 100, flags) + packets[0][300:] + packets[1],
    ]
    engine.begin()
    assert [
        packet for number, payload in enumerate(payloads, 1) for packet in engine.receive(number, payload)
    ] == packets
    assert {payload[:2] for payload in engine.pack(300, packets)} == {b"\0\0"}


def test_packets_that_come_while_a_continuation_is_awaited_are_delivered(engine: Engine) -> None:
    """Trap 5: some receivers take every payload with offset 0 for all pad while they wait. Ours looks at its first block."""
    broken, packets = inner(400, 1), [inner(90, 2), inner(100, 3)]
    engine.begin()
    assert engine.receive(1, header(PLAIN, 0) + broken[:300]) == []
    assert engine.receive(2, header(PLAIN, 0) + packets[0] + packets[1]) == packets
    assert engine.receive(3, header(PLAIN, 100) + broken[300:]) == []


@pytest.mark.parametrize("head", range(1, 6))
def test_heads_too_short_to_show_a_length_are_taken_and_never_sent(engine: Engine, head: int) -> None:
    """Trap 10: nobody makes them, and the RFC allows them."""
    for packet in (inner(100, 1), inner(100, 2)):
        for order in ((1, 2), (2, 1)):
            payloads = {1: header(PLAIN, 0) + packet[:head], 2: header(PLAIN, 100 - head) + packet[head:]}
            engine.begin()
            assert [got for number in order for got in engine.receive(number, payloads[number])] == [packet]
    first, second = inner(200 - head, 3), inner(400, 4)
    assert check_on_demand(engine.pack(200, [first, second]), 200) == [first, second]


# Beyond the bounds.


@bounded(30)
@given(st.integers(0, 2**32), st.integers(257, 1500))
def test_whatever_comes_from_beyond_the_window_nothing_is_delivered_that_the_oracle_would_not(
    engine: Engine, seed: int, late: int
) -> None:
    """Ours forgets a payload when it needs its place, so it may know more than the window promises, and never less."""
    rng = random.Random(seed)  # noqa: S311
    packets = [inner(rng.randrange(20, 4000), rng.randrange(2**32)) for _ in range(100)]
    rows = on_the_way(pack_tightly(packets, itertools.repeat(400), itertools.repeat(0)), seed, 0.02, late)
    least, most = Receiver(WINDOW), Receiver(UNBOUNDED)
    engine.begin()
    ours, minimum, maximum = Counter[bytes](), Counter[bytes](), Counter[bytes]()
    for sequence, payload in rows:
        ours.update(engine.receive(sequence, payload))
        minimum.update(least.receive(sequence, payload))
        maximum.update(most.receive(sequence, payload))
    assert minimum <= ours <= maximum <= Counter(packets)


@bounded(30)
@given(PACKETS, st.integers(0, 200_000), WAYS)
def test_without_memory_packets_are_lost_and_none_is_spoilt(
    engine: Engine, packets: list[bytes], budget: int, way: tuple[int, float, int]
) -> None:
    oracle = Receiver(WINDOW)
    engine.begin(budget)
    ours, most = Counter[bytes](), Counter[bytes]()
    for sequence, payload in on_the_way(pack_tightly(packets, itertools.repeat(900), itertools.repeat(0)), *way):
        ours.update(engine.receive(sequence, payload))
        most.update(oracle.receive(sequence, payload))
    assert ours <= most
    assert int(engine.ask("expire", 2)[0]) == 0
