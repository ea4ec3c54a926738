"""The table of overheads."""

import pytest

from openmoat.crypto.suites import AES_128_CBC, AES_128_GCM_16, HMAC_SHA2_256_128, EspSuite
from openmoat.mtu.table import OUTER_SIZES, Row, overhead_table

GCM = EspSuite(AES_128_GCM_16, None)
CBC = EspSuite(AES_128_CBC, HMAC_SHA2_256_128)


def find(rows: list[Row], suite: EspSuite, version: int, *, udp: bool, outer: int) -> Row:
    """The one row of these."""
    wanted = (suite.name, version, udp, outer)
    (row,) = [row for row in rows if (row.suite, row.outer_version, row.udp, row.outer) == wanted]
    return row


# Counted by hand from RFC 4303 2: IP, UDP, SPI and sequence number, IV, inner packet, padding, two octets, ICV.
@pytest.mark.parametrize(
    ("suite", "version", "udp", "outer", "inner", "mss_v4", "mss_v6"),
    [
        (GCM, 4, False, 1500, 1446, 1406, 1386),
        (GCM, 4, True, 1492, 1430, 1390, 1370),
        (GCM, 6, False, 1280, 1206, 1166, 1146),
        (CBC, 4, True, 1500, 1422, 1382, 1362),
        (CBC, 6, True, 1280, 1182, 1142, 1122),
    ],
)
def test_a_row_has_the_octets_of_the_largest_packet_that_fits(
    suite: EspSuite, version: int, udp: bool, outer: int, inner: int, mss_v4: int, mss_v6: int
) -> None:
    rows = list(overhead_table([GCM, CBC]))
    row = find(rows, suite, version, udp=udp, outer=outer)
    assert (row.inner, row.mss_v4, row.mss_v6) == (inner, mss_v4, mss_v6)


def test_the_aggfrag_room_is_that_of_the_example_of_the_standard() -> None:
    # RFC 9347 2.2.1 and appendix C reckon with 1442 octets over IPv4 at 1500.
    row = find(list(overhead_table([GCM])), GCM, 4, udp=False, outer=1500)
    assert row.slice_room == 1442


def test_each_suite_has_a_row_for_each_outside_and_size() -> None:
    rows = list(overhead_table([GCM, CBC]))
    assert len(rows) == 2 * 2 * 2 * len(OUTER_SIZES)


def test_a_size_that_holds_no_packet_is_left_out() -> None:
    assert list(overhead_table([GCM], [57])) == []
