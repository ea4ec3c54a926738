"""The `MtuPlan` of one SA: sizes decided in Python, executed and counted by a backend (never decided there)."""

from enum import Enum
from functools import lru_cache

import msgspec

from openmoat.mtu.mss import mss_for
from openmoat.mtu.overhead import AGGFRAG_HEADER, Overhead
from openmoat.mtu.words import Df, Mss, MssRule, MtuPolicy, SizeOptions
from openmoat.net import Address, Network

__all__ = [
    "BASE",
    "MAX_PACKET",
    "MAX_REMEMBERED_PLANS",
    "MIN_PATH_MTU",
    "Framing",
    "IcmpSource",
    "MtuPlan",
    "OuterDf",
    "PathMtu",
    "PeerFraming",
    "RouteSizes",
    "Rung",
    "compile_plan",
    "route_sizes",
    "rung_of",
    "takes",
]

MAX_PACKET = 65_535
"""Octets of the largest IP packet without jumbo options: what the tunnel promises to carry."""
BASE = 1280
"""BASE_PLPMTU (RFC 8899 5.1.2): what every path of IPv6 carries, and in practice every path of IPv4."""
MIN_PATH_MTU = {4: 576, 6: 1280}
"""Octets that every path carries: RFC 791 for IPv4 (reassembled at the far end), RFC 8200 5 for IPv6."""


MAX_REMEMBERED_PLANS = 1024
"""Plans that are remembered, each one object however many SAs have it."""


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
    """Fragment before ESP; only IPv4 packets without DF (RFC 4301 8.2.1, case 2)."""
    MINIMUM_OUTER = "minimum-outer"
    """FRAGMENT_OUTER for IPv6 packets of up to 1280 octets, which no link may refuse (RFC 8200 5, RFC 2473 7.1)."""
    FRAGMENT_OUTER = "fragment-outer"
    """Send it whole with outer DF clear, on this packet only; the host or a router fragments the ESP packet. Over IPv4 at
    most 2000 a second to one peer, as their identifiers have 16 bits; for more of them the next rung has its turn."""
    FRAGMENT_ANYWAY = "fragment-anyway"
    """Fragment before ESP although the sender forbids it; only IPv4 packets."""
    REFUSE = "refuse"
    """Drop it, and answer with frag-needed or packet-too-big that names `inner_room`, or 1280 to a host of IPv6."""


class IcmpSource(msgspec.Struct, frozen=True, gc=False):
    """One of our addresses, for errors about packets to this prefix."""

    prefix: Network
    address: Address


class MtuPlan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything a backend must know about sizes on one outbound SA. All sizes are octets of IP packets."""

    framing: Framing = Framing.WHOLE
    slices: bool = False
    """With AGGFRAG: whether inner packets larger than `inner_room` are sliced. False where the peer (RFC 9347 5.1, D)
    or the operator forbids it: whole ones are packed together, and for larger ones there is `oversize`."""
    outer_size: int
    """Largest outer IP packet that is sent in one piece."""
    inner_room: int
    """Largest inner packet that travels in one outer packet of `outer_size`; see `mtu.overhead`. With AGGFRAG: the octets
    of inner packets, whole ones and slices, in one outer packet."""
    mss_v4: int | None = None
    """Upper bound written into the MSS option of TCP SYNs over IPv4, in both directions; never raises. None: untouched."""
    mss_v6: int | None = None
    outer_df: OuterDf = OuterDf.CLEAR
    oversize: tuple[Rung, ...] = (Rung.FRAGMENT_OUTER,)
    """What to try with a larger inner packet, in order; empty where packets of every size are sliced."""
    watch_above: int | None = None
    """Inner packets, or AGGFRAG payloads, with more octets than these show whether packets larger than BASE still arrive;
    see `SaFlag.SUSPECT`. None where nothing larger was ever proved."""
    echoes: bool = False
    """With AGGFRAG: the peer sends back the marks in our packets, and has its own sent back (decision 0009); others must not
    meet any. Where packets larger than BASE are sent, it is asked whether those as large as may be arrive."""
    too_big_per_second: float = 10.0
    """Bound on the ICMP errors made for REFUSE, per inner source."""
    icmp_sources: tuple[IcmpSource, ...] = ()
    """From where ICMP errors about packets out of the SA are sent into it: the first whose prefix holds the destination of
    such a packet. Without one nothing is sent. Packets to these addresses need no further hop."""


class PathMtu(msgspec.Struct, frozen=True, gc=False):
    """What is known of the path to a peer."""

    size: int
    """Octets of the largest outer packet that is believed to reach it in one piece."""
    is_proved: bool = False
    """Whether a packet of that size was seen to arrive; otherwise the size is assumed or configured."""
    fragments_pass: bool | None = None
    """Whether IP fragments of ESP reach it; None: not known."""


class PeerFraming(msgspec.Struct, frozen=True, gc=False):
    """What was negotiated with the peer about inner packets in ESP payloads."""

    framing: Framing = Framing.WHOLE
    takes_slices: bool = True
    """With AGGFRAG: the peer reassembles slices (RFC 9347 5.1, flag D clear)."""
    echoes: bool = False
    """With AGGFRAG: the peer sends our marks back (decision 0009)."""


PLAIN = PeerFraming()
"""Plain tunnel mode."""
DEFAULT_OPTIONS = SizeOptions()


class RouteSizes(msgspec.Struct, frozen=True, gc=False):
    """What a route to the far side of a tunnel says about sizes."""

    mtu: int
    """Octets; larger packets never reach the tunnel: the host answers frag-needed or packet-too-big for us."""
    advmss: int
    """MSS that TCP of this host announces, so that its own connections begin with a size that fits."""


@lru_cache(maxsize=MAX_REMEMBERED_PLANS)  # most SAs have the same suite and the same options
def compile_plan(
    overhead: Overhead,
    path: PathMtu,
    rungs: frozenset[Rung],
    peer: PeerFraming = PLAIN,
    options: SizeOptions = DEFAULT_OPTIONS,
) -> MtuPlan:
    """Decide all sizes of one outbound SA.

    `rungs` is what the backend can do (`Capabilities.rungs`). `overhead` is that of plain tunnel mode; the header of AGGFRAG
    is added here.
    """
    policy, df, mss = options.policy, options.df, options.mss
    path_mtu = min(max(path.size, MIN_PATH_MTU[overhead.outer_version]), MAX_PACKET)
    is_packed = peer.framing is Framing.AGGFRAG
    # Where packets of every size pass whole, no TCP need be told to send less, and nothing is too large.
    is_virtual = is_packed and peer.takes_slices and policy is MtuPolicy.VIRTUAL
    if is_packed:
        overhead = msgspec.structs.replace(overhead, framing_header=AGGFRAG_HEADER)
    room = overhead.inner_room(path_mtu)
    if is_virtual and mss is None:
        mss = MssRule.OFF
    return MtuPlan(
        framing=peer.framing,
        slices=is_virtual,
        outer_size=path_mtu,
        inner_room=room,
        mss_v4=_mss_bound(policy, mss, room, 4),
        mss_v6=_mss_bound(policy, mss, room, 6),
        outer_df=_packed_df(df) if is_packed else _outer_df(policy, df, is_proved=path.is_proved),
        oversize=() if is_virtual else _ladder(policy, df, rungs, fragments_pass=path.fragments_pass),
        watch_above=overhead.inner_room(BASE) if path.is_proved and path_mtu > BASE else None,
        echoes=is_packed and peer.echoes,
    )


def route_sizes(plan: MtuPlan, version: int) -> RouteSizes:
    """Sizes for a route over inner packets of this version.

    Every packet may come, as what becomes of it is decided by the plan, executed and counted in one place: the kernel
    would refuse from an address that need not be inside the selectors, and fragment before anybody knows how much fits.
    Only TCP of this host itself begins with the size of one outer packet.
    """
    return RouteSizes(mtu=MAX_PACKET, advmss=mss_for(plan.inner_room, version))


def rung_of(plan: MtuPlan, version: int, size: int, *, is_df: bool) -> Rung | None:
    """What the plan does with an inner packet, as long as the guard of FRAGMENT_OUTER is open; None: it fits, or is sliced."""
    if size <= plan.inner_room or plan.slices:
        return None
    return next((rung for rung in plan.oversize if takes(rung, version, size, is_df=is_df)), Rung.REFUSE)


def takes(rung: Rung, version: int, size: int, *, is_df: bool) -> bool:
    """Whether a rung is for such an inner packet."""
    match rung:
        case Rung.FRAGMENT_INNER:
            return version == 4 and not is_df
        case Rung.MINIMUM_OUTER:
            return version == 6 and size <= MIN_PATH_MTU[6]
        case Rung.FRAGMENT_ANYWAY:
            return version == 4
        case Rung.FRAGMENT_OUTER | Rung.REFUSE:
            return True


def _mss_bound(policy: MtuPolicy, wish: Mss | None, room: int, version: int) -> int | None:
    """The most that TCP may announce; the policies that carry everything leave it alone."""
    if wish is None:
        wish = MssRule.FIT if policy in (MtuPolicy.VIRTUAL, MtuPolicy.CLAMP) else MssRule.OFF
    match wish:
        case MssRule.OFF:
            return None
        case MssRule.FIT:
            return mss_for(room, version)
        case int():
            return wish


def _outer_df(policy: MtuPolicy, df: Df | None, *, is_proved: bool) -> OuterDf:
    """DF of packets that fit. Where it is only assumed that they do, a router had better fragment than lose them."""
    match df:
        case Df.COPY:
            return OuterDf.COPY
        case Df.SET:
            return OuterDf.SET
        case Df.CLEAR:
            return OuterDf.CLEAR
        case Df.IGNORE | None:
            return OuterDf.SET if is_proved and policy is not MtuPolicy.OUTER_FRAGMENTS else OuterDf.CLEAR


def _packed_df(df: Df | None) -> OuterDf:
    """DF of AGGFRAG packets: that of inner ones is never mapped (RFC 9347 2.2.5.1), and they are cut to size anyway."""
    return OuterDf.CLEAR if df is Df.CLEAR else OuterDf.SET


def _ladder(
    policy: MtuPolicy, df: Df | None, rungs: frozenset[Rung], *, fragments_pass: bool | None
) -> tuple[Rung, ...]:
    """What to try with a packet that does not fit; it always ends, since REFUSE needs no ability."""
    # RFC 4301 8.1: where DF is set or copied, the outer packet must not be fragmented on the way, so it is not sent whole.
    may_fragment_outer = df not in (Df.SET, Df.COPY)
    is_outer_first = policy is MtuPolicy.OUTER_FRAGMENTS and may_fragment_outer
    is_outer_last = policy is MtuPolicy.VIRTUAL and may_fragment_outer and bool(fragments_pass)
    wanted = (
        (Rung.FRAGMENT_OUTER, is_outer_first),
        (Rung.FRAGMENT_INNER, True),
        (Rung.MINIMUM_OUTER, True),
        (Rung.FRAGMENT_OUTER, is_outer_last),
        (Rung.FRAGMENT_ANYWAY, df is Df.IGNORE or policy is MtuPolicy.PRE_FRAGMENT),
    )
    return (*(rung for rung, is_wanted in wanted if is_wanted and rung in rungs), Rung.REFUSE)
