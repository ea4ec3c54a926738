"""The `MtuPlan` of one SA: sizes decided in Python, executed and counted by a backend (never decided there)."""

from dataclasses import dataclass
from enum import Enum

from openmoat.mtu.mss import mss_for
from openmoat.mtu.overhead import Overhead
from openmoat.net import Address

__all__ = [
    "MAX_PACKET",
    "MIN_PATH_MTU",
    "Framing",
    "MtuPlan",
    "OuterDf",
    "RouteSizes",
    "Rung",
    "compile_plan",
    "route_sizes",
]

MAX_PACKET = 65_535
"""Octets of the largest IP packet without jumbo options: what the tunnel promises to carry."""
MIN_PATH_MTU = {4: 576, 6: 1280}
"""Octets that every path carries: RFC 791 for IPv4 (reassembled at the far end), RFC 8200 5 for IPv6."""


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


@dataclass(frozen=True, slots=True)
class RouteSizes:
    """What a route to the far side of a tunnel says about sizes."""

    mtu: int
    """Octets; larger packets never reach the tunnel: the host answers frag-needed or packet-too-big for us."""
    advmss: int
    """MSS that TCP of this host announces, so that its own connections begin with a size that fits."""


def compile_plan(
    *,
    overhead: Overhead,
    path_mtu: int,
    outer_df: OuterDf,
    rungs: frozenset[Rung],
    icmp_source_v4: Address | None = None,
    icmp_source_v6: Address | None = None,
) -> MtuPlan:
    """Decide all sizes of one outbound SA in plain tunnel mode.

    `path_mtu` is what the outside is believed to carry; `rungs` is what the backend can do (`Capabilities.rungs`).
    """
    path_mtu = min(max(path_mtu, MIN_PATH_MTU[overhead.outer_version]), MAX_PACKET)
    room = overhead.inner_room(path_mtu)
    return MtuPlan(
        framing=Framing.WHOLE,
        outer_size=path_mtu,
        inner_room=room,
        mss_v4=mss_for(room, 4),
        mss_v6=mss_for(room, 6),
        outer_df=outer_df,
        oversize=_ladder(outer_df, rungs),
        icmp_source_v4=icmp_source_v4,
        icmp_source_v6=icmp_source_v6,
    )


def route_sizes(plan: MtuPlan, version: int) -> RouteSizes:
    """Sizes for a route over inner packets of this version.

    AGGFRAG lets every packet come. In plain tunnel mode the route has the room of one outer packet: nobody has found out
    yet whether fragments pass on this path, and a sender that is told to send less is better off than one whose packets
    vanish. IPv6 never has less than its minimum (RFC 8200 5); what is then too large leaves in outer fragments.
    """
    mtu = MAX_PACKET if plan.framing is Framing.AGGFRAG else max(plan.inner_room, MIN_PATH_MTU[version])
    return RouteSizes(mtu=mtu, advmss=mss_for(plan.inner_room, version))


def _ladder(outer_df: OuterDf, rungs: frozenset[Rung]) -> tuple[Rung, ...]:
    """What to try with a packet that does not fit; it always ends, since REFUSE needs no ability."""
    # RFC 4301 8.1: where DF is set or copied, the outer packet must not be fragmented on the way, so it is not sent whole.
    wanted = (Rung.FRAGMENT_OUTER,) if outer_df is OuterDf.CLEAR else (Rung.FRAGMENT_INNER,)
    possible = tuple(rung for rung in wanted if rung in rungs)
    return possible if Rung.FRAGMENT_OUTER in possible else (*possible, Rung.REFUSE)
