import struct

from openmoat.system.netlink import Answer, attribute, attributes, messages
from openmoat.system.sysctls import Setting, parse_restore
from openmoat.system.watch import GuardEar, parse_change

NFTABLES = 10 << 8
NEW_TABLE, DELETE_TABLE, NEW_GENERATION = 0, 2, 15


def nft(message: int, *values: bytes) -> Answer:
    return Answer(NFTABLES | message, bytes(4) + b"".join(values))


def generation(pid: int) -> Answer:
    return nft(NEW_GENERATION, attribute(2, struct.pack(">I", pid)))


def test_attributes_are_padded_and_come_back_without_their_flags() -> None:
    octets = attribute(1, b"abc") + attribute(0x8002, b"") + attribute(3, b"12345")
    assert len(octets) % 4 == 0
    assert attributes(octets) == {1: b"abc", 2: b"", 3: b"12345"}


def test_lengths_that_do_not_fit_end_the_walk() -> None:
    assert attributes(attribute(1, b"abcd") + b"\xff\xff\x02\x00") == {1: b"abcd"}
    assert attributes(b"\x02\x00\x01\x00") == {}
    assert list(messages(struct.pack("=IHHII", 99, 24, 0, 1, 0))) == []


def test_a_foreign_transaction_on_our_table_is_heard_even_in_pieces() -> None:
    ear = GuardEar(lambda pid: pid == 7)
    assert not ear.hears(nft(DELETE_TABLE, attribute(1, b"openmoat\0")))
    assert ear.hears(generation(8))
    assert not ear.hears(generation(8))


def test_our_own_transactions_and_those_on_other_tables_are_not_heard() -> None:
    ear = GuardEar(lambda pid: pid == 7)
    ear.hears(nft(NEW_TABLE, attribute(1, b"openmoat\0")))
    assert not ear.hears(generation(7))
    ear.hears(nft(DELETE_TABLE, attribute(1, b"filter\0")))
    assert not ear.hears(generation(8))


def test_messages_that_concern_nobody_are_no_change() -> None:
    assert parse_change(Answer(99, b"")) is None


def test_a_row_that_is_not_of_our_making_is_never_put_back() -> None:
    assert parse_restore("net/ipv4/ip_forward: 0 -> 1") == Setting("net/ipv4/ip_forward", 0, 1)
    for row in (
        "kernel/core_pattern: 0 -> 1",
        "net/../kernel/x: 0 -> 1",
        "net/ipv4/ip_forward",
        "net/x: a -> 1",
        "/net/x: 0 -> 1",
    ):
        assert parse_restore(row) is None
