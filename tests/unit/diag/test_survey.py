"""Packets of a survey: what is read of those that come, and the ICMP that is made of them."""

import struct

import pytest

from openmoat.diag.survey import frag_needed, parse

ADDRESSES = bytes([10, 1, 6, 1, 10, 9, 8, 2])


def packet(payload: bytes, flags: int = 0x4000) -> bytes:
    tcp = struct.pack(">HHIIBBHHH", 5080, 40000, 0x01020304, 0x0A0B0C0D, 5 << 4, 0x10, 65535, 0, 0) + payload
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 7, flags, 64, 6, 0) + ADDRESSES + tcp


def test_a_segment_is_read_with_its_size_and_its_df() -> None:
    found = parse(packet(bytes(1460)), 0)
    assert found is not None
    assert found[:3] == ("10.1.6.1", 5080, 40000)
    assert (found[3].size, found[3].is_df, found[3].sequence) == (1500, True, 0x01020304)
    assert found[3].destination == "10.9.8.2"
    clear = parse(packet(bytes(10), flags=0), 0)
    assert clear is not None
    assert not clear[3].is_df


def test_segments_that_the_kernel_has_joined_count_as_large_as_they_were() -> None:
    found = parse(packet(bytes(5360)), 536)
    assert found is not None
    assert (found[3].size, len(found[3].payload)) == (576, 5360)


@pytest.mark.parametrize("octets", [0, 1, 19, 20, 39])
def test_what_is_no_whole_segment_is_passed_over(octets: int) -> None:
    assert parse(packet(b"")[:octets], 0) is None


def test_fragments_other_protocols_and_bad_offsets_are_passed_over() -> None:
    assert parse(packet(b"x", flags=0x2000), 0) is None
    udp = bytearray(packet(b"x"))
    udp[9] = 17
    assert parse(bytes(udp), 0) is None
    bad = bytearray(packet(b""))
    bad[32] = 0xF0
    assert parse(bytes(bad), 0) is None


def test_frag_needed_quotes_the_segment_and_names_the_size() -> None:
    found = parse(packet(bytes(5360)), 1460)
    assert found is not None
    icmp = frag_needed(found[3], 1280)
    assert icmp[:2] == bytes([3, 4])
    assert int.from_bytes(icmp[6:8], "big") == 1280
    # The size of the segment, not of what the kernel has joined; then ports and sequence number.
    assert int.from_bytes(icmp[10:12], "big") == 1500
    assert icmp[28:] == struct.pack(">HHI", 5080, 40000, 0x01020304)
    words = sum(struct.unpack(f">{len(icmp) // 2}H", icmp))
    assert (words >> 16) + (words & 0xFFFF) == 0xFFFF
