"""Rules that bring packets to our routing tables (RTM_*RULE). Ours bear our protocol number; no other is touched."""

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from openmoat.errors import SystemFault
from openmoat.net import Network
from openmoat.system.names import OUTER_MARK, OUTER_MARK_MASK, ROUTE_PROTOCOL, ROUTE_TABLE, SOURCE_TABLE
from openmoat.system.netlink import (
    Answer,
    Kind,
    Mode,
    Netlink,
    Refusal,
    Request,
    attribute,
    attributes,
    network_of,
)

__all__ = ["Rule", "RuleAction", "change_rules", "dhcp_rule", "end_rule", "read_rules", "source_rule", "table_rule"]

RULE: Final = struct.Struct("=BBBBBBBBI")
"""fib_rule_hdr: family, destination length, source length, TOS, table, two reserved, action, flags."""
FRA_DST: Final = 1
FRA_SRC: Final = 2
FRA_IIFNAME: Final = 3
FRA_GOTO: Final = 4
FRA_PRIORITY: Final = 6
FRA_FWMARK: Final = 10
FRA_TABLE: Final = 15
FRA_FWMASK: Final = 16
FRA_PROTOCOL: Final = 21
FRA_IP_PROTO: Final = 22
FRA_SPORT_RANGE: Final = 23
FRA_DPORT_RANGE: Final = 24
FIB_RULE_INVERT: Final = 0x2
FAMILIES: Final = {socket.AF_INET: 4, socket.AF_INET6: 6}
ALREADY_THERE: Final = 17
ALREADY_GONE: Final = 2

DHCP_PRIORITY: Final = 70
"""Ours come right after the table of local addresses and before any that an operator is likely to have."""
TABLE_PRIORITY: Final = 77
SOURCE_PRIORITY: Final = 78
END_PRIORITY: Final = 79


class RuleAction(IntEnum):
    """What a rule does (linux/fib_rules.h, FR_ACT_*)."""

    TABLE = 1
    GOTO = 2
    NOP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of ours. Equal rules are equal in the kernel."""

    version: int
    """4 or 6."""
    priority: int
    action: RuleAction
    table: int = 0
    goto: int = 0
    source: Network | None = None
    destination: Network | None = None
    unmarked: bool = False
    """Only packets that do not bear our outer mark."""
    own_dhcp: bool = False
    """Only DHCP requests of this host (RFC 2131 4.1)."""


def table_rule(version: int) -> Rule:
    """Whatever is not an outer packet of ours asks our table first; outer packets see only the host's own."""
    return Rule(version=version, priority=TABLE_PRIORITY, action=RuleAction.TABLE, table=ROUTE_TABLE, unmarked=True)


def source_rule(source: Network, destination: Network) -> Rule:
    """Packets of a source and a destination ask the table for sources."""
    return Rule(
        version=source.version,
        priority=SOURCE_PRIORITY,
        action=RuleAction.TABLE,
        table=SOURCE_TABLE,
        source=source if source.prefixlen else None,
        destination=destination if destination.prefixlen else None,
        unmarked=True,
    )


def dhcp_rule() -> Rule:
    """The host's own DHCP client goes around a full tunnel; otherwise its lease, and with it the tunnel, would end."""
    return Rule(version=4, priority=DHCP_PRIORITY, action=RuleAction.GOTO, goto=END_PRIORITY, own_dhcp=True)


def end_rule() -> Rule:
    """Where `dhcp_rule` goes on."""
    return Rule(version=4, priority=END_PRIORITY, action=RuleAction.NOP)


def read_rules(netlink: Netlink) -> frozenset[Rule]:
    """Our rules."""
    found: set[Rule] = set()
    for family in FAMILIES:
        answers = netlink.dump(Kind.GET_RULE, RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        if isinstance(answers, Refusal):
            raise SystemFault(f"rules: cannot be listed: {answers}")
        found.update(rule for answer in answers if (rule := _parse(answer)) is not None)
    return frozenset(found)


def change_rules(netlink: Netlink, put: Iterable[Rule], remove: Iterable[Rule]) -> None:
    """Add rules, then take others away. Raises `SystemFault` for the first that was refused."""
    puts, removes = list(put), list(remove)
    requests = [Request(Kind.NEW_RULE, Mode.CREATE | Mode.EXCLUSIVE, _emit(rule)) for rule in puts]
    requests += [Request(Kind.DEL_RULE, Mode(0), _emit(rule)) for rule in removes]
    for rule, refusal in zip(puts + removes, netlink.transact(requests), strict=True):
        if refusal.errno not in (0, ALREADY_THERE, ALREADY_GONE):
            raise SystemFault(
                f"rule {rule.priority} of IPv{rule.version}: {refusal}; see: ip -{rule.version} rule show"
            )


def _emit(rule: Rule) -> bytes:
    # The kernel inverts a rule as a whole; one that has addresses says "no mark in our octet" instead.
    inverted = rule.unmarked and rule.source is None and rule.destination is None
    flags = FIB_RULE_INVERT if inverted else 0
    family = socket.AF_INET if rule.version == 4 else socket.AF_INET6
    destination, source = _length(rule.destination), _length(rule.source)
    body = RULE.pack(family, destination, source, 0, 0, 0, 0, rule.action, flags)
    body += _number(FRA_PRIORITY, rule.priority) + attribute(FRA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    if rule.destination is not None:
        body += attribute(FRA_DST, rule.destination.network_address.packed)
    if rule.source is not None:
        body += attribute(FRA_SRC, rule.source.network_address.packed)
    if rule.table:
        body += _number(FRA_TABLE, rule.table)
    if rule.goto:
        body += _number(FRA_GOTO, rule.goto)
    if rule.unmarked:
        body += _number(FRA_FWMARK, OUTER_MARK if inverted else 0) + _number(FRA_FWMASK, OUTER_MARK_MASK)
    if rule.own_dhcp:
        body += attribute(FRA_IIFNAME, b"lo\0") + attribute(FRA_IP_PROTO, bytes([socket.IPPROTO_UDP]))
        body += attribute(FRA_SPORT_RANGE, struct.pack("=HH", 68, 68))
        body += attribute(FRA_DPORT_RANGE, struct.pack("=HH", 67, 67))
    return body


def _parse(answer: Answer) -> Rule | None:
    family, destination, source, _tos, _table, _1, _2, action, _flags = RULE.unpack_from(answer.body)
    values = attributes(answer.body[RULE.size :])
    if values.get(FRA_PROTOCOL) != bytes([ROUTE_PROTOCOL]) or action not in RuleAction._value2member_map_:
        return None
    return Rule(
        version=FAMILIES[family],
        priority=_value(values, FRA_PRIORITY),
        action=RuleAction(action),
        table=_value(values, FRA_TABLE) if action == RuleAction.TABLE else 0,
        goto=_value(values, FRA_GOTO),
        source=network_of(family, source, values[FRA_SRC]) if FRA_SRC in values else None,
        destination=network_of(family, destination, values[FRA_DST]) if FRA_DST in values else None,
        unmarked=FRA_FWMASK in values,
        own_dhcp=FRA_DPORT_RANGE in values,
    )


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _value(values: dict[int, bytes], kind: int) -> int:
    return int(struct.unpack("=I", values[kind])[0]) if kind in values else 0


def _length(network: Network | None) -> int:
    return network.prefixlen if network is not None else 0
