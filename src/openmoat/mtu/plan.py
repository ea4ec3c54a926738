"""The `MtuPlan` of one SA: sizes decided in Python, executed and counted by a backend (never decided there)."""

from dataclasses import dataclass
from enum import Enum

from openmoat.net import Address

__all__ = ["Framing", "MtuPlan", "OuterDf", "Rung"]


class Framing(Enum):
    """How inner packets lie in ESP payloads."""

    WHOLE = "whole"
    """One inner packet per ESP packet: plain tunnel mode (RFC 4303 3.1.2)."""
    AGGFRAG = "aggfrag"
    """Inner packets are sliced and packed (RFC 9347)."""


class OuterDf(Enum):
    """Don't Fragment of the outer IPv4 header (RFC 4301 8.1). IPv6 has none: CLEAR means that the host may fragment."""

    CLEAR = "clear"
    SET = "set"
    COPY = "copy"


class Rung(Enum):
    """What may be done to an inner packet larger than `MtuPlan.inner_room`; a plan lists them in order of trial."""

    FRAGMENT_INNER = "fragment-inner"
    """Fragment before ESP; only IPv4 packets without DF."""
    FRAGMENT_OUTER = "fragment-outer"
    """Send it whole with outer DF clear; the host or a router fragments the ESP packet."""
    REFUSE = "refuse"
    """Drop it, and answer with frag-needed or packet-too-big that names `inner_room`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MtuPlan:
    """Everything a backend must know about sizes on one outbound SA. All sizes are octets of IP packets."""

    framing: Framing = Framing.WHOLE
    outer_size: int
    """Largest outer IP packet that is sent in one piece."""
    inner_room: int
    """Largest inner packet that travels in one outer packet of `outer_size`; see `mtu.overhead`."""
    mss_v4: int | None = None
    """Upper bound written into the MSS option of TCP SYNs over IPv4, in both directions; never raises. None: untouched."""
    mss_v6: int | None = None
    outer_df: OuterDf = OuterDf.CLEAR
    oversize: tuple[Rung, ...] = (Rung.FRAGMENT_OUTER,)
    too_big_per_second: float = 10.0
    """Bound on the ICMP errors made for REFUSE, per inner source."""
    icmp_source_v4: Address | None = None
    """Our address inside the selectors from which ICMP errors are sent; None: no ICMP over this family."""
    icmp_source_v6: Address | None = None
