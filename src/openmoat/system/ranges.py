"""Sets of prefixes, and the ranges of addresses they make, kept up with each prefix that comes or goes. Pure.

Everything here is of one family, in numbers. The cost of a change grows with the prefix and with the ranges inside it or next to it.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import IntEnum
from typing import Final

from openmoat.net import Network

__all__ = ["Coverage", "Label", "Prefixes", "Range", "RangesChange", "cover"]

Range = tuple[int, int]
"""First and last address as numbers."""
Row = tuple[int, int, "Label"]
"""First and last address, and what is said of them."""

Key = tuple[int, int]
"""First address and length of a prefix."""
Moves = Mapping["Label", tuple[set[Range], set[Range]]]
"""By label, the ranges that are gone and the new ones."""

BEYOND: Final = 1 << 128
"""After the last address."""


class Label(IntEnum):
    """What a prefix means; of equal prefixes the highest decides."""

    REST = 1
    GUARDED = 2
    PASS = 3


def cover(prefixes: Iterable[Row]) -> dict[Label, list[Range]]:
    """Ranges of addresses by what the longest prefix over them says; ranges that touch are joined.

    O(n log n): the prefixes are walked in order of their first address, the open ones lie on a stack.
    """
    rows = sorted((first, -last, label) for first, last, label in prefixes)
    found: dict[Label, list[Range]] = {label: [] for label in Label}
    open_ones: list[tuple[int, Label]] = []
    at = 0

    def add(label: Label, first: int, last: int) -> None:
        ranges = found[label]
        if ranges and ranges[-1][1] + 1 == first:
            first = ranges.pop()[0]
        ranges.append((first, last))

    for first, minus_last, label in [*rows, (BEYOND, 0, Label.PASS)]:
        while open_ones and open_ones[-1][0] < first:
            last, closed = open_ones.pop()
            if at <= last:
                add(closed, at, last)
                at = last + 1
        if open_ones and at < first:
            add(open_ones[-1][1], at, first - 1)
        at = first
        open_ones.append((-minus_last, label))
    return found


class Prefixes:
    """A set of prefixes of one family that knows which hold one another."""

    def __init__(self, bits: int, prefixes: Iterable[Network] = ()) -> None:
        """`bits`: of an address."""
        self._bits = bits
        self._keys = sorted({_key(prefix) for prefix in prefixes})
        """(first address, length): what holds a prefix comes before it."""
        self._members = set(self._keys)
        self._lengths = Counter(length for _, length in self._keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __contains__(self, prefix: Network) -> bool:
        return _key(prefix) in self._members

    def add(self, prefix: Network) -> None:
        """Take it in; once is enough."""
        key = _key(prefix)
        if key not in self._members:
            self._members.add(key)
            self._keys.insert(bisect_left(self._keys, key), key)
            self._lengths[key[1]] += 1

    def discard(self, prefix: Network) -> None:
        """Take it out, if it is there."""
        key = _key(prefix)
        if key in self._members:
            self._members.discard(key)
            del self._keys[bisect_left(self._keys, key)]
            self._lengths[key[1]] -= 1
            if not self._lengths[key[1]]:
                del self._lengths[key[1]]

    def inside(self, prefix: Network) -> list[Key]:
        """First address and length of those that `prefix` holds, itself included."""
        low, high = self._span(prefix)
        return self._keys[low:high]

    def around(self, prefix: Network) -> list[Key]:
        """The same of those that hold `prefix`, itself left out, the longest first."""
        first, own = _key(prefix)
        candidates = (
            (first >> (self._bits - length) << (self._bits - length), length)
            for length in sorted(self._lengths, reverse=True)
            if length < own
        )
        return [key for key in candidates if key in self._members]

    def overlaps(self, prefix: Network) -> bool:
        """Whether one of them shares an address with `prefix`."""
        low, high = self._span(prefix)
        return low < high or bool(self.around(prefix))

    def _span(self, prefix: Network) -> Key:
        last = int(prefix.broadcast_address)
        return bisect_left(self._keys, _key(prefix)), bisect_right(self._keys, (last, self._bits))


class RangesChange:
    """What has become of a set of ranges: `gone` and `new`, without what came and went in between."""

    def __init__(self, gone: AbstractSet[Range] = frozenset(), new: AbstractSet[Range] = frozenset()) -> None:
        self.gone = set(gone)
        self.new = set(new)

    def __bool__(self) -> bool:
        return bool(self.gone or self.new)

    def take(self, gone: set[Range], new: set[Range]) -> None:
        """One more change, after those before."""
        self.gone |= gone - self.new
        self.new = (self.new - gone) | (new - self.gone)
        self.gone -= new


class _Ranges:
    """Disjoint ranges that do not touch, in order."""

    def __init__(self) -> None:
        self.all: set[Range] = set()
        self._firsts: list[int] = []
        self._lasts: dict[int, int] = {}

    def put(self, first: int, last: int, fresh: Iterable[Range]) -> tuple[set[Range], set[Range]]:
        """Between two addresses there shall be just `fresh`: answers the ranges that are gone for it, and the new ones."""
        low = bisect_left(self._firsts, first)
        if low and self._lasts[self._firsts[low - 1]] + 1 >= first:
            low -= 1
        high = bisect_right(self._firsts, last + 1)
        old = [(start, self._lasts[start]) for start in self._firsts[low:high]]
        left = [(start, first - 1) for start, _ in old[:1] if start < first]
        right = [(last + 1, end) for _, end in old[-1:] if end > last]
        rows: list[Range] = []
        for start, end in (*left, *fresh, *right):
            if rows and rows[-1][1] + 1 == start:
                start = rows.pop()[0]
            rows.append((start, end))
        gone, new = set(old) - set(rows), set(rows) - set(old)
        self._firsts[low:high] = [start for start, _ in rows]
        for start, _ in gone:
            del self._lasts[start]
        self._lasts.update(new)
        self.all -= gone
        self.all |= new
        return gone, new


class Coverage:
    """`cover`, kept up with prefixes that come and go."""

    def __init__(self, bits: int, labelled: Iterable[tuple[Network, Label]] = ()) -> None:
        """`bits`: of an address."""
        self._bits = bits
        self._labels: dict[Key, set[Label]] = {}
        networks = []
        for network, label in labelled:
            self._labels.setdefault(_key(network), set()).add(label)
            networks.append(network)
        self._prefixes = Prefixes(bits, networks)
        self._ranges = {label: _Ranges() for label in Label}
        self._redo((0, 0), list(self._labels), None)

    def ranges(self, label: Label) -> AbstractSet[Range]:
        """Of all addresses of which `label` is said; a live set, only to be looked at."""
        return self._ranges[label].all

    def overlaps(self, network: Network) -> bool:
        """Whether some prefix shares an address with `network`."""
        return self._prefixes.overlaps(network)

    def put(self, network: Network, label: Label) -> Moves:
        """One more prefix; answers, by label, the ranges that are gone and the new ones. Twice the same is once."""
        key = _key(network)
        before = self._said(network, key)
        self._labels.setdefault(key, set()).add(label)
        self._prefixes.add(network)
        return self._change(network, key, before)

    def remove(self, network: Network, label: Label) -> Moves:
        """One prefix less; see `put`."""
        key = _key(network)
        before = self._said(network, key)
        labels = self._labels.get(key, set())
        labels.discard(label)
        if not labels:
            self._labels.pop(key, None)
            self._prefixes.discard(network)
        return self._change(network, key, before)

    def _said(self, network: Network, key: Key) -> Label | None:
        labels = self._labels.get(key)
        return max(labels) if labels else self._said_around(network)

    def _said_around(self, network: Network) -> Label | None:
        around = self._prefixes.around(network)
        return max(self._labels[around[0]]) if around else None

    def _change(self, network: Network, key: Key, before: Label | None) -> Moves:
        if self._said(network, key) is before:
            return {}  # within a guarded prefix one more changes nothing, whatever lies inside it
        return self._redo(key, self._prefixes.inside(network), self._said_around(network))

    def _redo(self, window: Key, inside: Iterable[Key], around: Label | None) -> Moves:
        """Find anew what is said of the addresses of a window, given the prefixes inside it."""
        first, last = self._span(window)
        rows = [(*self._span(key), max(self._labels[key])) for key in inside]
        if around is not None and window not in self._labels:
            rows.append((first, last, around))
        found = cover(rows)
        return {label: self._ranges[label].put(first, last, ranges) for label, ranges in found.items()}

    def _span(self, key: Key) -> Range:
        return key[0], key[0] + (1 << (self._bits - key[1])) - 1


def _key(prefix: Network) -> Key:
    return int(prefix.network_address), prefix.prefixlen
