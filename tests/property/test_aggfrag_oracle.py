"""The oracle of AGGFRAG against what the RFC and the Linux kernel say, before it judges ours."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.aggfrag import (
    CONGESTION,
    PLAIN,
    Receiver,
    Unlawful,
    check_on_demand,
    check_sender,
    header,
    pack_tightly,
    parse,
)

KERNEL = Path(__file__).parents[1] / "vectors" / "linux" / "iptfs.txt"


def ipv4(octets: int, fill: int = 0xA5) -> bytes:
    return b"\x45\0" + octets.to_bytes(2, "big") + bytes([fill]) * (octets - 4)


def ipv6(octets: int, fill: int = 0x5A) -> bytes:
    return b"\x60\0\0\0" + (octets - 40).to_bytes(2, "big") + bytes([fill]) * (octets - 6)


def tightly(packets: list[bytes], size: int, sub_type: int = PLAIN) -> list[bytes]:
    return pack_tightly(packets, itertools.repeat(size), itertools.repeat(sub_type))


def delivered(payloads: list[bytes], order: list[int] | None = None, window: int = 64) -> list[bytes]:
    receiver = Receiver(window)
    numbers = order if order is not None else range(1, len(payloads) + 1)
    return [packet for number in numbers for packet in receiver.receive(number, payloads[number - 1])]


def offsets(payloads: list[bytes]) -> list[int]:
    return [parsed.offset for payload in payloads if (parsed := parse(payload)) is not None]


# Appendix A: five packets in payloads of 1404 octets.

EXAMPLE = [ipv4(size, fill) for fill, size in enumerate((750, 750, 60, 240, 3000), 1)]


def test_the_flow_of_appendix_a_has_the_offsets_it_names() -> None:
    payloads = tightly(EXAMPLE, 1400)
    assert {len(payload) for payload in payloads} == {1404}
    assert offsets(payloads) == [0, 100, 2000, 600]
    assert check_sender(payloads) == EXAMPLE


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3, 4))))
def test_the_flow_of_appendix_a_arrives_whole_in_any_order(order: tuple[int, ...]) -> None:
    assert sorted(delivered(tightly(EXAMPLE, 1400), list(order))) == sorted(EXAMPLE)


def test_the_flow_of_appendix_a_arrives_in_its_own_order() -> None:
    assert delivered(tightly(EXAMPLE, 1400)) == EXAMPLE


@pytest.mark.parametrize(("lost", "left"), [(1, [2, 3, 4]), (2, [0]), (3, [0, 1, 2, 3]), (4, [0, 1, 2, 3])], ids=str)
def test_a_lost_payload_of_appendix_a_costs_the_packets_it_has_a_part_of(lost: int, left: list[int]) -> None:
    order = [number for number in (1, 2, 3, 4) if number != lost]
    assert delivered(tightly(EXAMPLE, 1400), order) == [EXAMPLE[place] for place in left]


def test_the_payloads_of_the_linux_kernel_are_lawful_and_carry_what_it_delivered() -> None:
    payloads: list[tuple[int, bytes]] = []
    wanted: list[bytes] = []
    for line in KERNEL.read_text().splitlines():
        match line.split():
            case ["payload", number, octets]:
                payloads.append((int(number), bytes.fromhex(octets)))
            case ["inner", octets]:
                wanted.append(bytes.fromhex(octets))
    assert check_sender([octets for _, octets in payloads]) == wanted
    receiver = Receiver()
    assert [packet for number, octets in payloads for packet in receiver.receive(number, octets)] == wanted


# What breaks a rule is seen.


@pytest.mark.parametrize(
    ("payloads", "words"),
    [
        ([b""], "no AGGFRAG payload"),
        ([b"\2\0\0\0" + ipv4(20)], "no AGGFRAG payload"),
        ([b"\1\0\0\0" + ipv4(19 + 1)[:19]], "no AGGFRAG payload"),
        ([header(PLAIN, 0, flags=1) + ipv4(20)], "reserved bits"),
        ([header(CONGESTION, 0, flags=4) + ipv4(20)], "reserved bits"),
        ([header(PLAIN, 0)], "no data blocks"),
        ([header(PLAIN, 4) + bytes(4) + ipv4(20)], "offset 4, of the packet begun 0"),
        ([header(PLAIN, 0) + ipv4(100)[:60], header(PLAIN, 39) + ipv4(100)[60:]], "offset 39, of the packet begun 40"),
        ([header(PLAIN, 0) + ipv4(100)[:60], header(PLAIN, 0) + ipv4(20)], "offset 0, of the packet begun 40"),
        ([header(PLAIN, 0) + ipv4(100)[:60]], "abandoned"),
        ([header(PLAIN, 0) + ipv4(20) + b"\x50\0\0\0"], "no data block begins"),
        ([header(PLAIN, 0) + ipv4(20)[:3], header(PLAIN, 17) + ipv4(20)[3:]], "do not say its length"),
    ],
)
def test_a_sender_that_breaks_a_rule_is_caught(payloads: list[bytes], words: str) -> None:
    with pytest.raises(Unlawful, match=words):
        check_sender(payloads)


def test_all_pad_payloads_may_lie_between_the_pieces_of_a_packet() -> None:
    packet = ipv4(100)
    payloads = [header(PLAIN, 0) + packet[:60], header(PLAIN, 0) + bytes(60), header(CONGESTION, 40) + packet[60:]]
    assert check_sender(payloads) == [packet]
    for order in itertools.permutations((1, 2, 3)):
        assert delivered(payloads, list(order)) == [packet]


def test_a_packet_that_would_have_fitted_one_payload_is_not_to_be_sliced() -> None:
    packets = [ipv4(60), ipv4(80, 1)]
    with pytest.raises(Unlawful, match="a packet of 80 octets was sliced, where 100 fit"):
        check_on_demand(tightly(packets, 100), 100)
    assert check_on_demand([header(PLAIN, 0) + packet for packet in packets], 100) == packets
    with pytest.raises(Unlawful, match="with room for 79"):
        check_on_demand([header(PLAIN, 0) + packets[1]], 79)


# What a receiver makes of odd payloads.


@pytest.mark.parametrize("head", range(1, 6))
def test_a_head_too_short_to_show_its_length_is_completed_all_the_same(head: int) -> None:
    for packet in (ipv4(100), ipv6(100)):
        payloads = [header(PLAIN, 0) + packet[:head], header(PLAIN, 100 - head) + packet[head:]]
        for order in ([1, 2], [2, 1]):
            assert delivered(payloads, order) == [packet]


def test_offsets_that_disagree_cost_the_packet_they_share_and_nothing_else() -> None:
    packets = [ipv4(20, 1), ipv4(100, 2), ipv4(20, 3)]
    for wrong in (0, 39, 41):
        tail = packets[1][60:].ljust(max(40, wrong), b"\0")[: wrong or 40]
        second = header(PLAIN, wrong) + (tail if wrong else b"") + packets[2]
        payloads = [header(PLAIN, 0) + packets[0] + packets[1][:60], second]
        assert delivered(payloads) == [packets[0], packets[2]]


@pytest.mark.parametrize("block", ["50" * 30, "45000013" + "00" * 26, "46000014" + "00" * 26, "44000028" + "00" * 40])
def test_what_is_no_data_block_ends_the_payload(block: str) -> None:
    payload = header(PLAIN, 0) + ipv4(20) + bytes.fromhex(block) + ipv4(20, 7)
    assert delivered([payload]) == [ipv4(20)]


def test_a_payload_that_came_too_late_gives_its_whole_packets_and_no_piece() -> None:
    packets = [ipv4(100, 1), ipv4(60, 2), ipv4(100, 3)]
    payloads = tightly(packets, 140)  # 100 + 40 of 60, 20 of 60 + 100 + pad
    assert offsets(payloads) == [0, 20]
    fillers = [header(PLAIN, 0) + bytes(8)] * 63
    assert delivered([*payloads, *fillers], [1, *range(3, 65), 2]) == packets
    assert delivered([*payloads, *fillers], [1, *range(3, 66), 2]) == [packets[0], packets[2]]


@st.composite
def packet_lists(draw: st.DrawFn) -> list[bytes]:
    kinds = st.tuples(st.booleans(), st.integers(20, 3000), st.integers(0, 255))
    rows = draw(st.lists(kinds, min_size=1, max_size=12))
    return [ipv6(max(40, size), fill) if is_v6 else ipv4(size, fill) for is_v6, size, fill in rows]


@settings(deadline=None)
@given(packet_lists(), st.lists(st.integers(100, 1500), min_size=1), st.lists(st.sampled_from((0, 1)), min_size=1))
def test_what_a_tight_sender_packs_is_delivered_in_order(
    packets: list[bytes], sizes: list[int], sub_types: list[int]
) -> None:
    payloads = pack_tightly(packets, itertools.cycle(sizes), itertools.cycle(sub_types))
    assert delivered(payloads) == packets


@settings(deadline=None)
@given(packet_lists(), st.integers(40, 1500), st.randoms(use_true_random=False), st.floats(0, 1))
def test_nothing_is_delivered_that_was_not_sent_nor_anything_twice(
    packets: list[bytes], size: int, rng: object, share: float
) -> None:
    payloads = tightly(packets, size)
    order = [number for number in range(1, len(payloads) + 1) if rng.random() >= share / 2]  # type: ignore[attr-defined]
    order += order[: len(order) // 3]
    rng.shuffle(order)  # type: ignore[attr-defined]
    left = list(packets)
    for packet in delivered(payloads, order):
        left.remove(packet)
