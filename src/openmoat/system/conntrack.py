"""Forgets connections that were masqueraded towards prefixes which are protected from now on (ctnetlink).

Source NAT is decided once a connection. A flow that never falls silent, as of a telephone, would go into the tunnel with
the outside address for ever, and its selectors do not hold that.
"""

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openmoat.system.netlink import (
    NESTED,
    NETLINK_NETFILTER,
    NF_HEADER,
    Answer,
    Mode,
    Netlink,
    Refusal,
    Request,
    attribute,
    attributes,
)
from openmoat.system.ranges import Range

__all__ = ["Masqueraded", "forget_masqueraded", "parse_masqueraded"]

TRACKED: Final = Path("/proc/sys/net/netfilter/nf_conntrack_count")
"""Number of tracked connections in the network namespace of the reader."""
CT_GET: Final = 0x0101
CT_DELETE: Final = 0x0102
CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_STATUS: Final = 3
CTA_ID: Final = 12
CTA_ZONE: Final = 18
CTA_STATUS_MASK: Final = 26
CTA_TUPLE_IP: Final = 1
SOURCE_NAT: Final = 0x10
"""IPS_SRC_NAT."""
ADDRESSES: Final[Mapping[int, tuple[int, int]]] = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}
"""Kinds of source and destination of a tuple, by family."""


@dataclass(frozen=True, slots=True)
class Masqueraded:
    """A connection whose source is translated, and the message that makes the kernel forget it."""

    destination: int
    """Address as a number, as the one who began sees it."""
    deletion: bytes


def forget_masqueraded(ranges: Mapping[int, Iterable[Range]]) -> int:
    """Forget those towards `ranges`, by version of IP; answers how many. Without connection tracking there are none."""
    forgotten = 0
    if not _is_any_tracked():
        return 0
    with Netlink(NETLINK_NETFILTER) as netlink:
        for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
            wanted = sorted(ranges.get(version, ()))
            status = struct.pack(">I", SOURCE_NAT)
            body = NF_HEADER.pack(family, 0, 0) + attribute(CTA_STATUS, status) + attribute(CTA_STATUS_MASK, status)
            answers = netlink.dump(CT_GET, body) if wanted else []
            if isinstance(answers, Refusal):
                continue
            found = [row for answer in answers if (row := parse_masqueraded(answer)) is not None]
            gone = [row for row in found if any(first <= row.destination <= last for first, last in wanted)]
            outcomes = netlink.transact([Request(CT_DELETE, Mode(0), row.deletion) for row in gone])
            forgotten += sum(outcome.errno == 0 for outcome in outcomes)
    return forgotten


def _is_any_tracked() -> bool:
    """Whether this host tracks a connection at all. To list none of them takes as long as the table is large, 9 ms for the usual one."""
    try:
        return TRACKED.read_bytes().strip() != b"0"
    except OSError:
        return True  # who cannot tell asks the kernel


def parse_masqueraded(answer: Answer) -> Masqueraded | None:
    """The connection a message tells of; None where its source is not translated to another address."""
    family = answer.body[0]
    values = attributes(answer.body[NF_HEADER.size :])
    if family not in ADDRESSES or CTA_TUPLE_ORIG not in values or CTA_TUPLE_REPLY not in values:
        return None
    source_kind, destination_kind = ADDRESSES[family]
    original = attributes(attributes(values[CTA_TUPLE_ORIG]).get(CTA_TUPLE_IP, b""))
    reply = attributes(attributes(values[CTA_TUPLE_REPLY]).get(CTA_TUPLE_IP, b""))
    if destination_kind not in original or original.get(source_kind) == reply.get(destination_kind):
        return None
    deletion = NF_HEADER.pack(family, 0, 0) + attribute(CTA_TUPLE_ORIG | NESTED, values[CTA_TUPLE_ORIG])
    for kind in (CTA_ZONE, CTA_ID):
        if kind in values:
            deletion += attribute(kind, values[kind])
    return Masqueraded(int.from_bytes(original[destination_kind], "big"), deletion)
