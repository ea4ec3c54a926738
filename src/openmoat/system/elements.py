"""Elements of the guard's sets, changed by netlink (nf_tables): the program `nft` reads a whole set before it adds one to it."""

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from openmoat.errors import SystemFault
from openmoat.system.names import GUARD_TABLE
from openmoat.system.netlink import NESTED, NETLINK_NETFILTER, NF_HEADER, Mode, Netlink, Request, attribute
from openmoat.system.ranges import Range, RangesChange

__all__ = ["MAX_RANGES", "change_elements"]

MAX_RANGES: Final = 512
"""Ranges in one change, so that it fits one datagram; more are a matter for `nft`."""

NFPROTO_INET: Final = 1
SUBSYSTEM: Final = 10
"""NFNL_SUBSYS_NFTABLES."""
BATCH_BEGIN: Final = 0x10
BATCH_END: Final = 0x11
NEW_ELEMENTS: Final = SUBSYSTEM << 8 | 12
DELETE_ELEMENTS: Final = SUBSYSTEM << 8 | 14
LIST_TABLE: Final = 1
LIST_SET: Final = 2
LIST_ELEMENTS: Final = 3
LIST_ELEMENT: Final = 1
ELEMENT_KEY: Final = 1
ELEMENT_FLAGS: Final = 3
DATA_VALUE: Final = 1
INTERVAL_END: Final = 1


def change_elements(changes: Mapping[str, RangesChange]) -> None:
    """Carry out one transaction of `MAX_RANGES` at most: all of it or nothing. Raises `SystemFault` with the kernel's own words."""
    requests = []
    for name, change in changes.items():
        # What is gone goes first: ranges of one set may not overlap, and no packet sees a transaction half done.
        for kind, ranges in ((DELETE_ELEMENTS, change.gone), (NEW_ELEMENTS, change.new)):
            mode = Mode.CREATE if kind == NEW_ELEMENTS else Mode(0)
            requests += [Request(kind, mode, _body(name, ranges))] if ranges else []
    if not requests:
        return
    marks = NF_HEADER.pack(0, 0, SUBSYSTEM)
    with Netlink(NETLINK_NETFILTER) as netlink:
        refusal = netlink.transact_whole(
            Request(BATCH_BEGIN, Mode(0), marks), requests, Request(BATCH_END, Mode(0), marks)
        )
    if refusal.errno:
        raise SystemFault(f"firewall: elements of the guard: {refusal}; see: nft list table inet {GUARD_TABLE}")


def _body(name: str, ranges: Iterable[Range]) -> bytes:
    octets = 4 if name.endswith("4") else 16
    elements = b"".join(_element(first, octets) + _end(last + 1, octets) for first, last in sorted(ranges))
    return (
        NF_HEADER.pack(NFPROTO_INET, 0, 0)
        + attribute(LIST_TABLE, GUARD_TABLE.encode() + b"\0")
        + attribute(LIST_SET, name.encode() + b"\0")
        + attribute(LIST_ELEMENTS | NESTED, elements)
    )


def _element(key: int, octets: int, flags: bytes = b"") -> bytes:
    value = attribute(ELEMENT_KEY | NESTED, attribute(DATA_VALUE, key.to_bytes(octets, "big")))
    return attribute(LIST_ELEMENT | NESTED, value + flags)


def _end(key: int, octets: int) -> bytes:
    """An interval ends before a key; where it goes on to the last address there is none."""
    if key >> (8 * octets):
        return b""
    return _element(key, octets, attribute(ELEMENT_FLAGS, struct.pack(">I", INTERVAL_END)))
