"""The overhead of ESP as a table: what each suite leaves for inner packets, by outer size, family and encapsulation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from openmoat.crypto.suites import EspSuite
from openmoat.mtu.mss import mss_for
from openmoat.mtu.overhead import AGGFRAG_HEADER, Overhead

__all__ = ["OUTER_SIZES", "Row", "overhead_table"]

OUTER_SIZES = (1500, 1492, 1400, 1280)
"""Octets of outer packets: Ethernet, PPPoE (RFC 2516 7), a common tunnel below ours, and what IPv6 promises (RFC 8200 5)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One suite over one kind of outside. All sizes are octets of IP packets, or of TCP segments in `mss_*`."""

    suite: str
    """Name of the cipher, and of the integrity algorithm where it has one."""
    outer_version: int
    """4 or 6."""
    udp: bool
    """ESP in UDP (RFC 3948)."""
    outer: int
    worst: int
    """The most octets that ESP adds to any packet."""
    inner: int
    """Largest inner packet in plain tunnel mode."""
    mss_v4: int
    """MSS that fits over inner IPv4, without TCP options (RFC 6691)."""
    mss_v6: int
    slice_room: int
    """Octets of inner packets, whole or sliced, in one AGGFRAG payload (RFC 9347 6.1.1)."""


def overhead_table(suites: Iterable[EspSuite], outer_sizes: Iterable[int] = OUTER_SIZES) -> Iterator[Row]:
    """A row per suite, outer family, encapsulation and outer size; sizes that hold no packet at all are left out."""
    sizes = tuple(outer_sizes)
    for suite in suites:
        for version in (4, 6):
            for udp in (False, True):
                overhead = Overhead(suite, version, udp)
                yield from (_row(overhead, outer) for outer in sizes if overhead.inner_room(outer) > AGGFRAG_HEADER)


def _row(overhead: Overhead, outer: int) -> Row:
    inner = overhead.inner_room(outer)
    sliced = Overhead(overhead.suite, overhead.outer_version, overhead.udp, AGGFRAG_HEADER)
    return Row(
        suite=overhead.suite.name,
        outer_version=overhead.outer_version,
        udp=overhead.udp,
        outer=outer,
        worst=overhead.worst,
        inner=inner,
        mss_v4=mss_for(inner, 4),
        mss_v6=mss_for(inner, 6),
        slice_room=sliced.inner_room(outer),
    )
