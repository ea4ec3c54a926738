"""Sizes of ESP packets, row by row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmoat.crypto.numbers import Encr, Integ
from openmoat.crypto.suites import (
    AEADS,
    AES_128_CBC,
    AES_256_GCM_16,
    CHACHA20_POLY1305,
    CIPHERS,
    HMAC_SHA2_256_128,
    HMAC_SHA2_512_256,
    INTEGRITIES,
    Cipher,
    EspSuite,
    Integrity,
    Status,
)
from openmoat.mtu.mss import mss_for
from openmoat.mtu.overhead import AGGFRAG_HEADER, Overhead
from openmoat.mtu.plan import MAX_PACKET

DES3 = Cipher(name="3des", id=Encr.DES3, key_bits=192, iv=8, align=8, kernel="", ike=Status.MAY, esp=Status.MAY)
SHA1 = Integrity(
    name="sha1", id=Integ.HMAC_SHA1_96, hash="sha1", key=20, icv=12, kernel="", ike=Status.MAY, esp=Status.MAY
)
GCM = EspSuite(AES_256_GCM_16, None, esn=True)
CHACHA = EspSuite(CHACHA20_POLY1305, None)
CBC = EspSuite(AES_128_CBC, HMAC_SHA2_256_128)
CBC_512 = EspSuite(AES_128_CBC, HMAC_SHA2_512_256)
LEGACY = EspSuite(DES3, SHA1)
ALL = [
    *(EspSuite(aead, None) for aead in AEADS),
    *(EspSuite(cipher, mac) for cipher in CIPHERS for mac in INTEGRITIES),
    LEGACY,
]

# Outer version, UDP, outer size; largest inner packet with GCM or ChaCha20, with CBC and SHA2-256, with 3DES and SHA1.
ROOMS = [
    (4, False, 1500, 1446, 1438, 1446),
    (4, False, 1492, 1438, 1422, 1438),
    (4, False, 1400, 1346, 1326, 1350),
    (4, False, 1280, 1226, 1214, 1230),
    (4, True, 1500, 1438, 1422, 1438),
    (4, True, 1492, 1430, 1422, 1430),
    (4, True, 1400, 1338, 1326, 1342),
    (4, True, 1280, 1218, 1198, 1222),
    (6, False, 1500, 1426, 1406, 1430),
    (6, False, 1492, 1418, 1406, 1422),
    (6, False, 1400, 1326, 1310, 1326),
    (6, False, 1280, 1206, 1198, 1206),
    (6, True, 1500, 1418, 1406, 1422),
    (6, True, 1492, 1410, 1390, 1414),
    (6, True, 1400, 1318, 1310, 1318),
    (6, True, 1280, 1198, 1182, 1198),
]


@pytest.mark.parametrize(("version", "udp", "outer", "gcm", "cbc", "legacy"), ROOMS)
def test_the_largest_inner_packet_is_that_of_the_table(
    version: int, udp: bool, outer: int, gcm: int, cbc: int, legacy: int
) -> None:
    rooms = [Overhead(suite, version, udp).inner_room(outer) for suite in (GCM, CHACHA, CBC, LEGACY)]
    assert rooms == [gcm, gcm, cbc, legacy]


@pytest.mark.parametrize(
    ("suite", "worst"),
    [(GCM, (57, 65, 77, 85)), (CBC, (77, 85, 97, 105)), (CBC_512, (93, 101, 113, 121)), (LEGACY, (57, 65, 77, 85))],
)
def test_the_worst_overhead_is_that_of_the_table(suite: EspSuite, worst: tuple[int, ...]) -> None:
    cases = [(4, False), (4, True), (6, False), (6, True)]
    assert tuple(Overhead(suite, version, udp).worst for version, udp in cases) == worst


def test_aggfrag_room_is_that_of_its_rfc() -> None:
    assert Overhead(GCM, 4, udp=False, framing_header=AGGFRAG_HEADER).inner_room(1500) == 1442


def test_segment_sizes_do_not_count_options() -> None:
    assert (mss_for(1438, 4), mss_for(1438, 6)) == (1398, 1378)


OVERHEADS = st.builds(
    Overhead,
    suite=st.sampled_from(ALL),
    outer_version=st.sampled_from((4, 6)),
    udp=st.booleans(),
    framing_header=st.sampled_from((0, AGGFRAG_HEADER, 24)),
)


@given(OVERHEADS, st.integers(576, MAX_PACKET))
def test_room_is_the_largest_packet_that_fits(overhead: Overhead, outer: int) -> None:
    room = overhead.inner_room(outer)
    assert overhead.outer_size(room) <= outer < overhead.outer_size(room + 1)


@given(OVERHEADS, st.integers(20, MAX_PACKET))
def test_no_packet_grows_by_more_than_the_worst(overhead: Overhead, inner: int) -> None:
    grown = overhead.outer_size(inner) - inner
    assert overhead.worst - overhead.alignment < grown <= overhead.worst
