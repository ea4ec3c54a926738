"""The options of a child about packet sizes; `mtu.plan` compiles them. The guide has the table of all combinations."""

from enum import Enum

import msgspec

__all__ = ["MAX_MSS", "MIN_MSS", "Df", "Mss", "MssRule", "MtuPolicy", "SizeOptions"]

MIN_MSS = 536
"""What TCP over IPv4 uses where nothing is announced (RFC 9293 3.7.1): less has no use."""
MAX_MSS = 65_495
"""What fits into the largest IPv4 packet."""


class MtuPolicy(Enum):
    """What is done with packets that are larger than one outer packet carries."""

    VIRTUAL = "virtual"
    """Carry them, whole where that can be: sliced (RFC 9347) where the peer can, otherwise what is least harmful."""
    RFC4301 = "rfc4301"
    """Refuse what its sender forbids to fragment, as RFC 4301 8.2.1 advises; TCP is left alone."""
    CLAMP = "clamp"
    """The same, and the MSS of TCP is lowered."""
    OUTER_FRAGMENTS = "outer-fragments"
    """Send them whole, and let the outer packet be fragmented: a large MTU as FreeS/WAN had it."""
    PRE_FRAGMENT = "pre-fragment"
    """Fragment IPv4 before ESP, whether its sender allows it or not."""


class Df(Enum):
    """Don't Fragment in the outer IPv4 header (RFC 4301 8.1), and whether the flag of inner packets is honoured."""

    COPY = "copy"
    SET = "set"
    CLEAR = "clear"
    IGNORE = "ignore"
    """The flag of inner packets is ignored where nothing else helps; the outer flag follows the policy."""


class MssRule(Enum):
    """What is done with the MSS that TCP announces through the tunnel; it is never raised."""

    OFF = "off"
    FIT = "fit"
    """Lowered to what fits into one outer packet."""


Mss = MssRule | int
"""A rule, or the most octets that TCP may announce."""


class SizeOptions(msgspec.Struct, frozen=True, gc=False):
    """The options that decide what is done with packets that do not fit."""

    policy: MtuPolicy = MtuPolicy.VIRTUAL
    df: Df | None = None
    mss: Mss | None = None
