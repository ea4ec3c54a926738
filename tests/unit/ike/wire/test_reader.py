"""Reader and Writer: every octet is read once, within its bounds, and what does not fit is named."""

import pytest

from openmoat.ike.errors import MalformedMessage
from openmoat.ike.wire.reader import Layout, Reader, Writer

HEADER = Layout("BBH", "next payload", "flags", "length")


def test_fields_are_read_in_order_until_nothing_is_left() -> None:
    reader = Reader(bytes(range(9)), "KE")
    assert (reader.u8("a"), reader.u16("b"), reader.unpack(HEADER)) == (0, 0x0102, (3, 4, 0x0506))
    assert reader.left == 2
    assert reader.octets("c", 1) == b"\7"
    reader.skip("reserved", 1)
    reader.end()
    assert reader.rest() == b""


def test_a_part_is_read_within_its_own_bounds_and_the_rest_goes_on_behind_it() -> None:
    reader = Reader(b"\1\2\3\4\5", "SA")
    inner = reader.within("proposal", 3, "SA: proposal 1")
    assert inner.u8("number") == 1
    with pytest.raises(MalformedMessage, match=r"SA: proposal 1: SPI needs 4 octets, 2 left"):
        inner.octets("SPI", 4)
    assert inner.rest() == b"\2\3"
    assert reader.rest() == b"\4\5"


@pytest.mark.parametrize("left", range(HEADER.size))
def test_numbers_that_are_cut_short_name_the_first_that_is_missing(left: int) -> None:
    field, size, rest = [("next payload", 1, 0), ("flags", 1, 0), ("length", 2, 0), ("length", 2, 1)][left]
    reader = Reader(bytes(left), "SK")
    with pytest.raises(MalformedMessage, match=f"SK: {field} needs {size} octets, {rest} left"):
        reader.unpack(HEADER)
    assert reader.left == left  # nothing was read


def test_a_failed_read_takes_nothing() -> None:
    reader = Reader(b"\1", "N")
    for read in (lambda: reader.u16("type"), lambda: reader.skip("reserved", 2), lambda: reader.within("x", 2, "y")):
        with pytest.raises(MalformedMessage):
            read()
    assert reader.u8("protocol") == 1


def test_octets_behind_the_end_are_refused() -> None:
    with pytest.raises(MalformedMessage, match=r"D: nothing more may follow, 2 octets do"):
        Reader(b"\1\2", "D").end()


def test_a_layout_has_no_missing_field_where_the_octets_are_enough() -> None:
    with pytest.raises(ValueError, match="4 octets are enough"):
        HEADER.missing(4)


def test_a_writer_puts_numbers_and_octets_together_and_refuses_what_its_field_cannot_hold() -> None:
    writer = Writer().uint(2, 0x0102).octets(b"abc").uint(1, 255)
    assert writer.join() == b"\1\2abc\xff"
    with pytest.raises(ValueError, match="a field of 1 octets cannot hold 256"):
        writer.uint(1, 256)
    assert writer.join() == b"\1\2abc\xff"
