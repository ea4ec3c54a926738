import pytest

from openmoat.ike.errors import MalformedMessage
from openmoat.ike.wire.numbers import NotifyType, PayloadType, ProtocolId
from openmoat.ike.wire.payloads import (
    MAX_CONFIG_ATTRIBUTES,
    MAX_DELETED_SPIS,
    MAX_NONCE,
    MAX_NOTIFY_DATA,
    MAX_REMEMBERED_BODIES,
    MAX_REMEMBERED_BODY,
    MAX_TS_SELECTORS,
    MAX_VENDOR_ID,
    Delete,
    IdInitiator,
    Notify,
    Payload,
    TsInitiator,
    parse_common,
    parse_payload,
)
from openmoat.policy.selectors import TrafficSelector

SELECTOR = bytes.fromhex("07 00 0010 0000 ffff 0a010000 0a01ffff")


def parse(kind: PayloadType, body: bytes) -> Payload:
    return parse_payload(kind, False, body, 0, len(body))


def test_a_key_exchange_that_is_cut_off_names_what_it_lacks() -> None:
    with pytest.raises(MalformedMessage, match="KE: method needs 2 octets, 1 left"):
        parse(PayloadType.KE, b"\0")


@pytest.mark.parametrize("size", [0, 15, 257])
def test_a_nonce_has_16_to_256_octets(size: int) -> None:
    with pytest.raises(MalformedMessage, match=f"nonce: 16 to 256 octets, not {size}"):
        parse(PayloadType.NONCE, bytes(size))


def test_the_reserved_octets_of_an_identity_are_kept_for_the_signature() -> None:
    payload = parse(PayloadType.ID_I, b"\x02abcgate.example")
    assert isinstance(payload, IdInitiator)
    assert payload.emit() == b"\x02abcgate.example"


def test_an_empty_identity_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="1 to 1024 octets, not 0"):
        parse(PayloadType.ID_R, b"\x02\0\0\0")


def test_a_notify_whose_spi_is_longer_than_the_payload_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="NOTIFY: SPI needs 200 octets, 2 left"):
        parse(PayloadType.NOTIFY, b"\x03\xc8\x40\x09ab")


def test_notification_data_beyond_the_bound_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="at most"):
        parse(PayloadType.NOTIFY, bytes(4 + MAX_NOTIFY_DATA + 1))


def test_an_unknown_notify_survives() -> None:
    payload = Notify(NotifyType(40_000), b"data", ProtocolId(77), b"spi")
    assert parse(PayloadType.NOTIFY, payload.emit()) == payload


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("03 04 0002 c0000001", "SPI needs 4 octets, 0 left"),
        ("03 04 0001 c0000001 ff", "nothing more may follow, 1 octets do"),
        ("03 08 0001 c000000100000000", "SPI size: 4 octets, not 8"),
        ("01 08 0001 c000000100000000", "without SPI, not with 1 of 8 octets"),
        ("03 04 ffff", f"at most {MAX_DELETED_SPIS} SPIs, not 65535"),
    ],
)
def test_a_delete_whose_numbers_do_not_agree_is_refused(body: str, fault: str) -> None:
    with pytest.raises(MalformedMessage, match=fault):
        parse(PayloadType.DELETE, bytes.fromhex(body))


def test_a_delete_of_an_unknown_protocol_parses_and_names_it() -> None:
    payload = parse(PayloadType.DELETE, bytes.fromhex("63 02 0002 0001 0002"))
    assert payload == Delete(ProtocolId(0x63), (1, 2), 2)


def test_a_delete_may_repeat_an_spi_or_name_none() -> None:
    assert parse(PayloadType.DELETE, bytes.fromhex("03 04 0000")) == Delete(ProtocolId.ESP)
    twice = parse(PayloadType.DELETE, bytes.fromhex("03 04 0002 c0000001 c0000001"))
    assert twice == Delete(ProtocolId.ESP, (0xC0000001, 0xC0000001))


@pytest.mark.parametrize("count", [0, MAX_TS_SELECTORS + 1, 255])
def test_a_number_of_selectors_outside_the_bounds_is_refused(count: int) -> None:
    with pytest.raises(MalformedMessage, match=f"selectors, not {count}"):
        parse(PayloadType.TS_I, bytes((count, 0, 0, 0)) + SELECTOR * count)


@pytest.mark.parametrize(
    ("selector", "fault"),
    [
        ("07 00 0010 0000 ffff 0a020000 0a01ffff", "addresses run from 10.2.0.0 to 10.1.255.255"),
        ("07 06 0010 0050 004f 0a010000 0a01ffff", "ports run from 80 to 79"),
        ("07 00 0003 0000 ffff 0a010000 0a01ffff", "selector length: at least 4, not 3"),
        ("07 00 0011 0000 ffff 0a010000 0a01ffff 00", "nothing more may follow"),
        ("08 00 0010 0000 ffff 0a010000 0a01ffff", "start address needs 16 octets, 8 left"),
        ("07 00 00ff 0000 ffff 0a010000 0a01ffff", "selector needs 251 octets"),
    ],
)
def test_a_selector_that_makes_no_sense_is_refused(selector: str, fault: str) -> None:
    with pytest.raises(MalformedMessage, match=fault):
        parse(PayloadType.TS_I, bytes.fromhex("01 000000") + bytes.fromhex(selector))


def test_opaque_ports_are_the_one_range_that_runs_backwards() -> None:
    payload = parse(PayloadType.TS_I, bytes.fromhex("01 000000 07 06 0010 ffff 0000 0a010000 0a01ffff"))
    assert isinstance(payload, TsInitiator)
    assert (payload.selectors[0].start_port, payload.selectors[0].end_port) == (65535, 0)


def test_selectors_of_unknown_kinds_are_passed_over() -> None:
    payload = parse(PayloadType.TS_I, bytes.fromhex("02 000000 0a 00 0006 abcd") + SELECTOR)
    assert isinstance(payload, TsInitiator)
    assert [type(selector) for selector in payload.selectors] == [TrafficSelector]


@pytest.mark.parametrize(
    ("kind", "head", "unit", "bound", "fault"),
    [
        (PayloadType.NONCE, b"", b"n", MAX_NONCE, f"{MAX_NONCE} octets, not {MAX_NONCE + 1}"),
        (PayloadType.VENDOR_ID, b"", b"v", MAX_VENDOR_ID, f"at most {MAX_VENDOR_ID} octets, not {MAX_VENDOR_ID + 1}"),
        (PayloadType.NOTIFY, b"\0\0\x40\x09", b"d", MAX_NOTIFY_DATA, f"at most {MAX_NOTIFY_DATA} octets"),
        (
            PayloadType.CP,
            b"\1\0\0\0",
            b"\0\1\0\0",
            MAX_CONFIG_ATTRIBUTES,
            f"at most {MAX_CONFIG_ATTRIBUTES} attributes",
        ),
    ],
)
def test_a_payload_may_be_as_long_as_its_bound_and_not_one_longer(
    kind: PayloadType, head: bytes, unit: bytes, bound: int, fault: str
) -> None:
    body = head + unit * bound
    assert parse(kind, body).emit() == body
    with pytest.raises(MalformedMessage, match=fault):
        parse(kind, body + unit)


def test_what_many_peers_say_in_the_same_octets_is_read_once() -> None:
    name = b"\x02\0\0\0portal.example"
    assert parse(PayloadType.ID_R, name) is parse(PayloadType.ID_R, bytes(bytearray(name)))
    assert parse(PayloadType.ID_I, name) is not parse(PayloadType.ID_I, name)
    assert parse(PayloadType.ID_I, name) != parse(PayloadType.ID_R, name)


def test_peers_that_never_say_the_same_twice_take_no_more_memory_than_the_bound() -> None:
    for number in range(MAX_REMEMBERED_BODIES + 10):
        parse(PayloadType.ID_R, b"\x02\0\0\0" + f"n{number}.example".encode())
    long = b"\x02\0\0\0" + b"n" * (MAX_REMEMBERED_BODY - 3)
    misses = parse_common.cache_info().misses
    assert parse(PayloadType.ID_R, long) is not parse(PayloadType.ID_R, long)
    assert (parse_common.cache_info().misses, parse_common.cache_info().currsize) == (misses, MAX_REMEMBERED_BODIES)


def test_a_payload_that_is_refused_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(MalformedMessage, match="start port needs 2 octets"):
            parse(PayloadType.TS_I, bytes.fromhex("01000000 07000005 00"))
