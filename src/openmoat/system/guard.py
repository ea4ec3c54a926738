"""The guard against clear traffic, as text for nftables: a table that outlives us (RFC 4301 5.1, 5.2). Pure.

It has a *frame* (chains, and what they say of single interfaces), which is replaced as a whole in one transaction, and
*sets* of guarded addresses, which are changed element by element.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from openmoat.net import IKE_PORT, NATT_PORT, Network
from openmoat.system.names import GUARD_TABLE, OUTER_MARK, OUTER_MARK_MASK
from openmoat.system.ranges import Coverage, Label, Range, RangesChange, cover

__all__ = [
    "NO_GUARD",
    "SETS",
    "Guard",
    "GuardSets",
    "Kept",
    "change_text",
    "elements_text",
    "keep",
    "removal_text",
]

SETS: Final = ("guarded4", "guarded6", "rest4", "rest6")
"""Named prefixes are separate from the rest of a full tunnel, because ICMP errors about outer packets come from that rest."""

SET_LABELS: Final = {"guarded": Label.GUARDED, "rest": Label.REST}
"""What is said of the addresses of a set, by its name without the version of IP."""

LINK_SCOPE: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/32",
        "169.254.0.0/16",
        "224.0.0.0/24",
        "255.255.255.255/32",
        "::/128",
        "fe80::/10",
        "ff01::/16",
        "ff02::/16",
    )
)
"""Packets that never leave a link go around a full tunnel: neighbour discovery, DHCP, router advertisements."""


@dataclass(frozen=True, slots=True, order=True)
class Kept:
    """A network of this host that stays reachable unencrypted, by one interface, although a guarded prefix contains it."""

    device: str
    first: int
    last: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What the table holds. Two equal ones are the same in the kernel."""

    device: str
    sets: Mapping[str, AbstractSet[Range]]
    """By the names of `SETS`."""
    kept: tuple[Kept, ...] = ()
    ports: tuple[int, ...] = (IKE_PORT, NATT_PORT)
    """UDP ports of our own outer packets."""
    pairs: tuple[tuple[Network, Network], ...] = ()
    """(source, destination) on our side and beyond, guarded although neither is by itself."""
    restore: tuple[str, ...] = ()
    """`name = value` of settings as they were before us; kept here, so that they outlive us as long as the guard does."""
    stamp: str = field(default="", compare=False)
    """Hash of the frame as it was found in the kernel; empty for one of our own making."""

    @property
    def frame_stamp(self) -> str:
        """Hash of everything but the sets."""
        return self.stamp or hashlib.sha256(_frame(self, "").encode()).hexdigest()[:16]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to guard and nothing to remember."""
        return not (any(self.sets.values()) or self.pairs or self.restore)


NO_GUARD: Final = Guard(device="", sets={name: frozenset() for name in SETS})


class GuardSets:
    """What the sets of the guard must hold: the guarded prefixes without the passes inside them."""

    def __init__(self, guarded: Iterable[Network], passes: Iterable[Network]) -> None:
        rows: dict[int, list[tuple[Network, Label]]] = {4: [], 6: []}
        for network in guarded:
            rows[network.version].append((network, _label(network)))
        for network in passes:
            rows[network.version].append((network, Label.PASS))
        for version, labelled in rows.items():
            if any(label is Label.REST for _, label in labelled):
                labelled.extend((network, Label.PASS) for network in LINK_SCOPE if network.version == version)
        self._coverage = {4: Coverage(32, rows[4]), 6: Coverage(128, rows[6])}
        self.sets: Mapping[str, AbstractSet[Range]] = {
            f"{name}{version}": coverage.ranges(label)
            for name, label in SET_LABELS.items()
            for version, coverage in self._coverage.items()
        }
        """By the names of `SETS`; they live on with each change."""

    def overlaps(self, network: Network) -> bool:
        """Whether some guarded prefix, or some pass, shares an address with `network`."""
        return self._coverage[network.version].overlaps(network)

    def change(self, put: Iterable[Network], remove: Iterable[Network]) -> Mapping[str, RangesChange]:
        """Guard some prefixes more and some less, none of them a whole family; answers what becomes of the sets.

        The work grows with these prefixes, the prefixes inside them and the ranges they touch, and with nothing else.
        """
        changes = {name: RangesChange() for name in SETS}
        for networks, step in ((put, Coverage.put), (remove, Coverage.remove)):
            for network in networks:
                moves = step(self._coverage[network.version], network, _label(network))
                for name, label in SET_LABELS.items():
                    if label in moves:
                        changes[f"{name}{network.version}"].take(*moves[label])
        return changes


def _label(network: Network) -> Label:
    return Label.GUARDED if network.prefixlen else Label.REST


def keep(device: str, network: Network, guarded: Iterable[Network]) -> list[Kept]:
    """The rows for a network that stays reachable by `device`, without the guarded prefixes that it holds itself."""
    holes = [(inner, Label.GUARDED) for inner in guarded if inner.version == network.version and _holds(network, inner)]
    rows = [(network, Label.REST), *holes]
    spans = ((int(net.network_address), int(net.broadcast_address), label) for net, label in rows)
    ranges = cover(spans)[Label.REST]
    return [Kept(device, first, last, network.version) for first, last in ranges]


def change_text(have: Guard, want: Guard) -> str:
    """One nftables transaction that leads from one guard to the other; empty where they are equal."""
    if want.is_empty:
        return "" if have.is_empty and not have.stamp else removal_text()
    if have.is_empty or have.frame_stamp != want.frame_stamp:
        # The new table is there at the very moment the old one is gone: a transaction is seen whole or not at all.
        return f"{removal_text()}{_frame(want, want.frame_stamp)}"
    return elements_text(
        {name: RangesChange(have.sets[name] - want.sets[name], want.sets[name] - have.sets[name]) for name in SETS}
    )


def elements_text(changes: Mapping[str, RangesChange]) -> str:
    """One nftables transaction that changes elements of the sets; empty where there is nothing to do."""
    lines = []
    for name, change in changes.items():
        # What is gone goes first: ranges of one set may not overlap, and in a transaction no packet sees it half done.
        for verb, ranges in (("delete", change.gone), ("add", change.new)):
            if ranges:
                lines.append(f"{verb} element inet {GUARD_TABLE} {name} {_elements(ranges, int(name[-1]))}\n")
    return "".join(lines)


def removal_text() -> str:
    """Take the table away, whether it is there or not."""
    return f"add table inet {GUARD_TABLE}\ndelete table inet {GUARD_TABLE}\n"


def _holds(outer: Network, inner: Network) -> bool:
    return int(outer.network_address) <= int(inner.network_address) <= int(outer.broadcast_address)


def _elements(ranges: Iterable[Range], version: int) -> str:
    return f"{{ {', '.join(_range(first, last, version) for first, last in sorted(ranges))} }}"


def _range(first: int, last: int, version: int) -> str:
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return str(make(first)) if first == last else f"{make(first)}-{make(last)}"


def _set(guard: Guard, name: str) -> str:
    version = int(name[-1])
    ranges = guard.sets[name]
    elements = f" elements = {_elements(ranges, version)};" if ranges else ""
    return f"\tset {name} {{ type ipv{version}_addr; flags interval;{elements} }}\n"


def _selected(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _kept_rules(kept: Sequence[Kept], device: str, address: str) -> str:
    return "".join(
        f'\t\t{device} "{row.device}" {_selected(row.version)} {address} {_range(row.first, row.last, row.version)} accept\n'
        for row in kept
    )


def _pair_rules(guard: Guard, ours: str, theirs: str, chain: str) -> str:
    return "".join(
        f"\t\t{_selected(source.version)} {ours} {source} {_selected(source.version)} {theirs} {destination} goto {chain}\n"
        for source, destination in guard.pairs
    )


def _set_rules(address: str, chain: str, rest: str) -> str:
    return "".join(
        f"\t\t{_selected(version)} {address} @guarded{version} goto {chain}\n"
        f"\t\t{_selected(version)} {address} @rest{version} goto {rest}\n"
        for version in (4, 6)
    )


def _frame(guard: Guard, stamp: str) -> str:
    """The whole table. Without a stamp, and then without elements, it is what the stamp is made of."""
    sets = "".join(_set(guard if stamp else NO_GUARD, name) for name in SETS)
    about = [f"moatd guard, frame {stamp}", *(f"before: {row}" for row in guard.restore)]
    marked = f"meta mark & {OUTER_MARK_MASK:#010x} == {OUTER_MARK:#010x}"
    own_socket = f"socket mark & {OUTER_MARK_MASK:#010x} == {OUTER_MARK:#010x}"
    return FRAME.format(
        table=GUARD_TABLE,
        sets=sets,
        about="".join(f'\t\treturn comment "{row}"\n' for row in about),
        device=guard.device,
        marked=marked,
        ports=", ".join(str(port) for port in guard.ports),
        own_socket=own_socket,
        kept_out=_kept_rules(guard.kept, "oifname", "daddr"),
        kept_in=_kept_rules(guard.kept, "iifname", "saddr"),
        leaving=_set_rules("daddr", "judge_leaving", "judge_leaving")
        + _pair_rules(guard, "saddr", "daddr", "judge_leaving"),
        arriving=_set_rules("saddr", "judge_arriving", "judge_rest")
        + _pair_rules(guard, "daddr", "saddr", "judge_rest"),
        through=_set_rules("saddr", "judge_through", "judge_through")
        + _pair_rules(guard, "daddr", "saddr", "judge_through"),
    )


FRAME: Final = """table inet {table} {{
{sets}\tcounter clear_out {{ }}
\tcounter clear_in {{ }}
\tchain about {{
{about}\t}}
\tchain kept_out {{
{kept_out}\t}}
\tchain kept_in {{
{kept_in}\t}}
\tchain neighbours {{
\t\tip6 hoplimit 255 icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} accept
\t}}
\tchain judge_leaving {{
\t\t{marked} meta l4proto esp accept
\t\t{marked} udp sport {{ {ports} }} accept
\t\t{marked} meta l4proto {{ tcp, udp }} th dport 53 accept
\t\tmeta nfproto ipv4 udp sport 68 udp dport 67 accept
\t\tjump neighbours
\t\tjump kept_out
\t\tcounter name clear_out drop
\t}}
\tchain judge_arriving {{
\t\tmeta l4proto esp accept
\t\tudp dport {{ {ports} }} accept
\t\tmeta l4proto {{ tcp, udp }} th sport 53 {own_socket} accept
\t\tmeta nfproto ipv4 udp sport 67 udp dport 68 accept
\t\tjump neighbours
\t\tjump kept_in
\t\tcounter name clear_in drop
\t}}
\tchain judge_rest {{
\t\ticmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
\t\ticmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
\t\tgoto judge_arriving
\t}}
\tchain judge_through {{
\t\tjump kept_in
\t\tcounter name clear_in drop
\t}}
\tchain leaving {{
\t\ttype filter hook postrouting priority mangle; policy accept;
\t\toifname "{device}" ip daddr 224.0.0.0/24 drop
\t\toifname "{device}" ip6 daddr ff02::/16 drop
\t\toifname {{ "lo", "{device}" }} accept
{leaving}\t}}
\tchain arriving {{
\t\ttype filter hook input priority raw; policy accept;
\t\tiifname {{ "lo", "{device}" }} accept
{arriving}\t}}
\tchain through {{
\t\ttype filter hook forward priority raw; policy accept;
\t\tiifname "{device}" accept
{through}\t}}
}}
"""
"""Leaving packets are checked before source NAT (priority mangle is -150, srcnat 100), where the inner source is still visible;
arriving packets after reassembly, because a later fragment of an outer packet has no ports. What the kernel says to neighbours
(multicast listener reports, router solicitations) has none to reach through a tunnel."""
