"""Traffic selectors and their algebra (RFC 4301 4.4.1.1, RFC 7296 2.9 and 3.13.1). Knows no wire format.

A selector is a box: a range of addresses, a range of protocols and a range of ports, each possibly everything. A list of
selectors is the union of its boxes. All functions are total: a selector that came from a wire with its ends swapped
selects nothing, and says so in `is_empty`.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Self

import msgspec

from openmoat.net import Address, Network

__all__ = [
    "ANY_PROTOCOL",
    "MAX_PORT",
    "MAX_SELECTORS",
    "PROTOCOLS",
    "Flow",
    "Selectors",
    "TrafficSelector",
    "canonical",
    "contains",
    "covers",
    "format_selectors",
    "intersect",
    "narrow",
    "on_demand",
    "parse_selectors",
    "to_prefixes",
    "volume",
]

ANY_PROTOCOL = 0
MAX_PORT = 65535
MAX_PROTOCOL = 255
MAX_SELECTORS = 64
"""Of one list of a peer's; further ones are not looked at, which narrows what the peer may send."""

ICMP = 1
ICMPV6 = 58
PROTOCOLS = {
    "icmp": ICMP,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": ICMPV6,
    "ospf": 89,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
}
"""Words for protocol numbers in the text form; every other protocol is written as its number."""

_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_NO_PORT = -1
"""Port of packets that show none (later fragments, protocols without ports): what OPAQUE selects (RFC 4301 4.4.1.1)."""

_TOLD = 1_024
"""Selectors whose text is remembered: those of our side come with every peer."""

_Interval = tuple[int, int]
_Box = tuple[_Interval, _Interval, _Interval]
"""Addresses, protocols, ports; both ends included."""
_EVERY_PROTOCOL: _Interval = (0, MAX_PROTOCOL)
_EVERY_PORT: _Interval = (_NO_PORT, MAX_PORT)


class Flow(msgspec.Struct, frozen=True, gc=False):
    """Selector values of one packet: what an SPD is asked about.

    For ICMP and ICMPv6 both ports are type * 256 + code. None is a port that the packet does not show.
    """

    source: Address
    destination: Address
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None

    def reversed(self) -> "Flow":
        """The flow of the answers."""
        return Flow(self.destination, self.source, self.protocol, self.destination_port, self.source_port)


class TrafficSelector(msgspec.Struct, frozen=True, order=True, gc=False):
    """One range of addresses of one family, with a protocol and a range of ports.

    For ICMP (1) and ICMPv6 (58) the ports are type * 256 + code (RFC 7296 3.13.1). OPAQUE is start 65535, end 0.
    As text: `10.2.0.0/16`, `10.2.0.1-10.2.0.9`, `10.2.0.0/16[tcp/443]`, `::/0[icmpv6/128]`, `10.2.0.5[udp/opaque]`.
    """

    version: int
    """Of IP: 4 or 6."""
    first: int
    """The lowest address as a number, since numbers are compared and hashed many times as fast as addresses."""
    last: int
    protocol: int = ANY_PROTOCOL
    """IP protocol number, 0 for any."""
    start_port: int = 0
    end_port: int = MAX_PORT

    @classmethod
    def between(
        cls, start: Address, end: Address, protocol: int = ANY_PROTOCOL, start_port: int = 0, end_port: int = MAX_PORT
    ) -> Self:
        """The selector of all addresses from `start` to `end`, which are of one family."""
        if start.version != end.version:
            raise ValueError(f"a selector has addresses of one family, not {start} and {end}")
        return cls(start.version, int(start), int(end), protocol, start_port, end_port)

    @classmethod
    def of(cls, network: Network, protocol: int = ANY_PROTOCOL, start_port: int = 0, end_port: int = MAX_PORT) -> Self:
        """The selector of all addresses of `network`."""
        return cls.between(network[0], network[-1], protocol, start_port, end_port)

    @classmethod
    def of_address(cls, address: Address, protocol: int = ANY_PROTOCOL, port: int | None = None) -> Self:
        """The selector of one address and, where given, one port of one protocol."""
        ports = (0, MAX_PORT) if port is None else (port, port)
        return cls.between(address, address, protocol, *ports)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form. `ValueError` says what is wrong with it."""
        addresses, bracket, rest = text.strip().partition("[")
        if bracket and not rest.endswith("]"):
            raise ValueError(f"selector {text!r}: a bracket is open, as in 10.2.0.0/16[tcp/443]")
        start, end = _parse_addresses(addresses.strip())
        protocol, first, last = _parse_protocol(rest[:-1].strip()) if bracket else (ANY_PROTOCOL, 0, MAX_PORT)
        return cls.between(start, end, protocol, first, last)

    @property
    def start(self) -> Address:
        """The lowest address."""
        return _address(self.first, self.version)

    @property
    def end(self) -> Address:
        """The highest address."""
        return _address(self.last, self.version)

    @property
    def packed(self) -> tuple[bytes, bytes]:
        """Lowest and highest address as they are written on a wire."""
        size = 4 if self.version == 4 else 16
        return self.first.to_bytes(size, "big"), self.last.to_bytes(size, "big")

    @property
    def is_opaque(self) -> bool:
        """Whether it selects only packets that show no port."""
        return (self.start_port, self.end_port) == (MAX_PORT, 0)

    @property
    def has_all_ports(self) -> bool:
        """Whether ports do not matter."""
        return (self.start_port, self.end_port) == (0, MAX_PORT)

    @property
    def is_plain(self) -> bool:
        """Whether addresses alone decide, as with most selectors there are."""
        return self.protocol == ANY_PROTOCOL and self.start_port == 0 and self.end_port == MAX_PORT

    @property
    def is_empty(self) -> bool:
        """Whether no packet can match: ends swapped, or ports without a protocol."""
        return self.first > self.last if self.is_plain else self._box() is None

    def intersect(self, other: "TrafficSelector") -> "TrafficSelector | None":
        """What both select; None where that is nothing."""
        if self.version != other.version:
            return None
        if self.is_plain and other.is_plain:
            return self._meet_plain(other)
        mine, theirs = self._box(), other._box()
        common = _meet(mine, theirs) if mine and theirs else None
        if common is None:
            return None
        if common == mine:
            return self
        return other if common == theirs else _selector(common, self.version)

    def _meet_plain(self, other: "TrafficSelector") -> "TrafficSelector | None":
        """`intersect` of two whose addresses alone decide."""
        first, last = max(self.first, other.first), min(self.last, other.last)
        if first > last:  # also where the ends of either are swapped
            return None
        if first == self.first and last == self.last:
            return self
        return other if first == other.first and last == other.last else TrafficSelector(self.version, first, last)

    def covers(self, other: "TrafficSelector") -> bool:
        """Whether every packet of `other` is selected too."""
        common = self.intersect(other)
        return common is other or common == other or other.is_empty

    def contains(self, address: Address, protocol: int, port: int | None) -> bool:
        """Whether a packet with these values on this side matches; `port` None where it shows none."""
        box = self._box()
        if box is None or address.version != self.version:
            return False
        point = (int(address), protocol, _NO_PORT if port is None else port)
        return all(low <= value <= high for value, (low, high) in zip(point, box, strict=True))

    def prefixes(self) -> list[Network]:
        """The fewest prefixes that make up its addresses."""
        if self.is_empty:
            return []
        size = self.last - self.first + 1
        if size & (size - 1) or self.first & (size - 1):
            return list(ipaddress.summarize_address_range(self.start, self.end))
        if self.version == 4:
            return [ipaddress.IPv4Network((self.first, 33 - size.bit_length()))]
        return [ipaddress.IPv6Network((self.first, 129 - size.bit_length()))]

    def _box(self) -> _Box | None:
        start, end, protocol = self.first, self.last, self.protocol
        if start > end or not 0 <= protocol <= MAX_PROTOCOL:
            return None
        low, high = self.start_port, self.end_port
        if protocol == ANY_PROTOCOL:
            # RFC 7296 3.13.1: without a protocol there are no ports to choose
            return ((start, end), _EVERY_PROTOCOL, _EVERY_PORT) if low == 0 and high == MAX_PORT else None
        if low == 0 and high == MAX_PORT:
            ports = _EVERY_PORT
        elif self.is_opaque:
            ports = (_NO_PORT, _NO_PORT)
        elif 0 <= low <= high <= MAX_PORT:
            ports = (low, high)
        else:
            return None
        return (start, end), (protocol, protocol), ports

    def __str__(self) -> str:
        return _told(self)


Selectors = tuple[TrafficSelector, ...]
"""A list of selectors as one payload carries them: their union. Order is preference, the first the most specific."""


def intersect(left: Selectors, right: Selectors) -> Selectors:
    """What both lists select, in the order of `left`; no member lies within another."""
    if len(left) == 1 == len(right):
        common = left[0].intersect(right[0])
        return () if common is None else (common,)
    kept: list[TrafficSelector] = []
    for mine in left:
        for theirs in right:
            common = mine.intersect(theirs)
            if common is None or any(other.covers(common) for other in kept):
                continue
            kept = [other for other in kept if not common.covers(other)]
            kept.append(common)
    return tuple(kept)


def narrow(proposed: Selectors, allowed: Selectors) -> Selectors:
    """The responder's answer to TSi or TSr (RFC 7296 2.9); empty means TS_UNACCEPTABLE.

    The first selector of `proposed` is in it wherever `allowed` has it: the MUST for requests that a packet brought about.
    `covers(allowed, proposed[:1])` tells which of several policies serves that first choice.
    """
    return intersect(proposed[:MAX_SELECTORS], allowed)[:MAX_SELECTORS]


def on_demand(selectors: Selectors, address: Address, protocol: int, port: int | None) -> Selectors:
    """The initiator's list for a packet: first a very specific selector of that packet, then all (RFC 7296 2.9)."""
    specific = TrafficSelector.of_address(address, protocol, None if protocol == ANY_PROTOCOL else port)
    first = [s for s in intersect((specific,), selectors) if s.contains(address, protocol, port)][:1]
    return (*first, *selectors)


def covers(outer: Selectors, inner: Selectors) -> bool:
    """Whether every packet that `inner` selects is selected by `outer`, its members taken together.

    The work grows with the third power of `outer`, which is our own list; `inner` may come from an unknown peer.
    """
    return all(_is_covered(selector, outer) for selector in inner)


def contains(selectors: Selectors, address: Address, protocol: int, port: int | None) -> bool:
    """Whether a packet with these values on this side matches one of the list."""
    return any(selector.contains(address, protocol, port) for selector in selectors)


def to_prefixes(selectors: Selectors) -> list[Network]:
    """The fewest prefixes that hold all addresses of the list, IPv4 first, for routes and firewalls."""
    prefixes = [prefix for selector in selectors for prefix in selector.prefixes()]
    if len(prefixes) == 1:
        return prefixes
    v4 = ipaddress.collapse_addresses(p for p in prefixes if isinstance(p, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(p for p in prefixes if isinstance(p, ipaddress.IPv6Network))
    return [*v4, *v6]


def canonical(selectors: Selectors) -> Selectors:
    """One form for lists that select the same addresses with the same protocols and ports; sorted, adjacent ranges joined."""
    if len(selectors) == 1 and not selectors[0].is_empty:
        return selectors
    groups: dict[tuple[int, int, int, int], list[_Interval]] = {}
    for selector in selectors:
        if not selector.is_empty:
            key = (selector.version, selector.protocol, selector.start_port, selector.end_port)
            groups.setdefault(key, []).append((selector.first, selector.last))
    merged = []
    for (version, *rest), ranges in sorted(groups.items()):
        for low, high in _join(ranges):
            merged.append(TrafficSelector(version, low, high, *rest))
    return tuple(s for s in merged if not any(other is not s and other.covers(s) for other in merged))


def volume(selectors: Selectors, version: int) -> int:
    """How many combinations of address, protocol and port of one family a list selects; a measure of specificity."""
    if len(selectors) == 1 and selectors[0].is_plain and selectors[0].version == version:
        return max(0, selectors[0].last - selectors[0].first + 1) * (MAX_PROTOCOL + 1) * (MAX_PORT + 2)
    total = 0
    for selector in canonical(selectors):
        box = selector._box()
        if box is not None and selector.version == version:
            addresses, protocols, ports = (high - low + 1 for low, high in box)
            total += addresses * protocols * ports
    return total


def parse_selectors(texts: Iterable[str]) -> Selectors:
    """Read a list of selectors in their text form. `ValueError` names the first that is wrong."""
    return tuple(TrafficSelector.parse(text) for text in texts)


def format_selectors(selectors: Selectors) -> str:
    """The list as text for people: `10.2.0.0/16, 10.3.0.0/16[tcp/443]`."""
    return ", ".join(str(selector) for selector in selectors)


def _meet(left: _Box, right: _Box) -> _Box | None:
    ranges: list[_Interval] = []
    for (low, high), (other_low, other_high) in zip(left, right, strict=True):
        first = max(low, other_low)
        last = min(high, other_high)
        if first > last:
            return None
        ranges.append((first, last))
    return ranges[0], ranges[1], ranges[2]


def _selector(box: _Box, version: int) -> TrafficSelector:
    addresses, protocols, ports = box
    protocol = ANY_PROTOCOL if protocols == (0, MAX_PROTOCOL) else protocols[0]
    if ports[1] == _NO_PORT:
        ports = (MAX_PORT, 0)
    return TrafficSelector(version, addresses[0], addresses[1], protocol, max(ports[0], 0), ports[1])


def _address(value: int, version: int) -> Address:
    return ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value)


def _is_covered(selector: TrafficSelector, outer: Selectors) -> bool:
    if any(other.covers(selector) for other in outer):
        return True
    box = selector._box()
    left = [box] if box else []
    for other in outer:
        hole = other._box()
        if hole and other.version == selector.version:
            left = [piece for whole in left for piece in _subtract(whole, hole)]
        if not left:
            break
    return not left


def _subtract(whole: _Box, hole: _Box) -> Iterator[_Box]:
    """Disjoint boxes that make up `whole` without `hole`."""
    common = _meet(whole, hole)
    if common is None:
        yield whole
        return
    rest = list(whole)
    for axis, (low, high) in enumerate(common):
        for piece in ((rest[axis][0], low - 1), (high + 1, rest[axis][1])):
            if piece[0] <= piece[1]:
                cut = [*rest[:axis], piece, *rest[axis + 1 :]]
                yield cut[0], cut[1], cut[2]
        rest[axis] = (low, high)


def _join(ranges: list[_Interval]) -> Iterator[_Interval]:
    ranges.sort()
    low, high = ranges[0]
    for start, end in ranges[1:]:
        if start > high + 1:
            yield low, high
            low, high = start, end
        high = max(high, end)
    yield low, high


def _parse_addresses(text: str) -> tuple[Address, Address]:
    whole = None
    try:
        if "-" in text:
            first, _, last = text.partition("-")
            start, end = ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip())
        else:
            whole = ipaddress.ip_interface(text)  # the address and its network: the text is read once
            start, end = whole.network[0], whole.network[-1]
    except ValueError:
        raise ValueError(f"{text!r} is not an address, a prefix or a range such as 10.2.0.1-10.2.0.9") from None
    if whole is not None and whole.ip != start:
        raise ValueError(f'{text!r} has bits beyond its prefix length. Did you mean "{whole.network}"?')
    if start.version != end.version or int(start) > int(end):
        raise ValueError(f"{text!r}: a range goes from a lower to a higher address of one family")
    return start, end


def _parse_protocol(text: str) -> tuple[int, int, int]:
    name, slash, ports = text.lower().partition("/")
    protocol = PROTOCOLS.get(name, int(name) if name.isdecimal() else -1)
    if not 1 <= protocol <= MAX_PROTOCOL:
        raise ValueError(f"[{text}]: protocol is one of {', '.join(PROTOCOLS)} or a number from 1 to 255, not {name!r}")
    if not slash:
        return protocol, 0, MAX_PORT
    if ports == "opaque":
        return protocol, MAX_PORT, 0
    first, dash, last = ports.partition("-")
    parse = _parse_icmp if protocol in {ICMP, ICMPV6} else _parse_port
    low, high = parse(text, first)[0], parse(text, last if dash else first)[1]
    if low > high:
        raise ValueError(f"[{text}]: ports go from a lower to a higher one, as in [tcp/1024-65535]")
    return protocol, low, high


def _parse_port(text: str, port: str) -> _Interval:
    number = _parse_number(text, port, MAX_PORT)
    return number, number


def _parse_icmp(text: str, type_and_code: str) -> _Interval:
    kind, slash, code = type_and_code.partition("/")
    start = _parse_number(text, kind, 255) * 256
    if not slash:
        return start, start + 255
    start += _parse_number(text, code, 255)
    return start, start


def _parse_number(text: str, number: str, bound: int) -> int:
    if not number.isdecimal() or int(number) > bound:
        raise ValueError(f"[{text}]: {number!r} is not a number from 0 to {bound}")
    return int(number)


@lru_cache(maxsize=_TOLD)
def _told(selector: TrafficSelector) -> str:
    return _format_addresses(selector.start, selector.end) + _format_protocol(selector)


def _format_addresses(start: Address, end: Address) -> str:
    if start == end:
        return str(start)
    if start.version == end.version and int(start) < int(end):
        prefixes = list(ipaddress.summarize_address_range(start, end))
        if len(prefixes) == 1:
            return str(prefixes[0])
    return f"{start}-{end}"


def _format_protocol(selector: TrafficSelector) -> str:
    low, high = selector.start_port, selector.end_port
    if selector.protocol == ANY_PROTOCOL and selector.has_all_ports:
        return ""
    name = _PROTOCOL_NAMES.get(selector.protocol, str(selector.protocol))
    if selector.has_all_ports:
        return f"[{name}]"
    if selector.is_opaque:
        return f"[{name}/opaque]"
    if selector.protocol in {ICMP, ICMPV6} and low <= high:
        is_whole_types = low % 256 == 0 and high % 256 == 255
        first, last = (f"{port // 256}" if is_whole_types else f"{port // 256}/{port % 256}" for port in (low, high))
    else:
        first, last = str(low), str(high)
    return f"[{name}/{first}]" if first == last else f"[{name}/{first}-{last}]"
