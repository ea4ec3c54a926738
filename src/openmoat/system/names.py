"""The names and numbers by which the kernel state of OpenMoat is known as ours: the one place that has them."""

__all__ = [
    "DEVICE",
    "GUARD_TABLE",
    "OUTER_MARK",
    "OUTER_MARK_MASK",
    "ROUTE_PROTOCOL",
    "ROUTE_TABLE",
    "SOURCE_TABLE",
]

DEVICE = "moat0"
"""Name of the TUN device where nothing else is configured."""

ROUTE_PROTOCOL = 77
"""Owner of our routes and rules (`ip route show proto 77`). Not in the list of iproute2; BIRD is 12, babel 42."""

ROUTE_TABLE = 7700
"""Routing table for policies that need only a destination."""

SOURCE_TABLE = 7701
"""Routing table for policies that need source and destination, reached by one rule per pair."""

OUTER_MARK = 0x004D_0000
"""Mark of our own outer packets (SO_MARK): packets that bear it never look into our tables."""

OUTER_MARK_MASK = 0x00FF_0000
"""The octet of the mark that is ours; the other three stay free for the host's own use."""

GUARD_TABLE = "openmoat"
"""The nftables table, family inet, that outlives us."""
