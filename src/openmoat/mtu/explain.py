"""What becomes of an inner packet of some size on one SA, and why: the ladder of its `MtuPlan`, rung by rung, in words."""

from collections.abc import Iterator
from dataclasses import dataclass

from openmoat.mtu.overhead import IP_HEADER
from openmoat.mtu.plan import MIN_PATH_MTU, MtuPlan, Rung, rung_of, takes

__all__ = ["Explanation", "Packet", "Step", "explain"]

FRAGMENT_UNIT = 8
"""Octets that fragment offsets count in (RFC 791 3.1)."""
ONLY_FOR = {
    Rung.FRAGMENT_INNER: "only for IPv4 packets without DF",
    Rung.MINIMUM_OUTER: f"only for IPv6 packets of up to {MIN_PATH_MTU[6]} octets",
    Rung.FRAGMENT_ANYWAY: "only for IPv4 packets",
}


@dataclass(frozen=True, slots=True)
class Packet:
    """An inner packet: version of IP, octets, and whether its sender forbids fragments (IPv6 always does)."""

    version: int
    size: int
    is_df: bool

    def __str__(self) -> str:
        """As people say it."""
        return f"IPv{self.version}, {self.size} octets{', DF' if self.is_df and self.version == 4 else ''}"


@dataclass(frozen=True, slots=True)
class Step:
    """One rung of the ladder: whether it acts, and why or why not."""

    rung: Rung
    acts: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is done with a packet."""

    verdict: str
    """One sentence."""
    is_carried: bool
    """Whether it goes into the tunnel."""
    is_whole: bool
    """Whether it leaves the far gateway in one piece."""
    steps: tuple[Step, ...] = ()
    """The rungs in order of trial, up to the one that acts; none where the packet fits, or is sliced."""


def explain(plan: MtuPlan, packet: Packet) -> Explanation:
    """What a backend does with an inner packet under this plan, as long as the bound on outer fragments is not reached."""
    if packet.size <= plan.inner_room:
        return Explanation(f"fits: one outer packet, which has room for {plan.inner_room} octets", True, True)
    if plan.slices:
        # It may begin in what is left of an open payload, and so touch one more than it fills.
        least = -(-packet.size // plan.inner_room)
        verdict = f"sliced by AGGFRAG over {least} or {least + 1} outer packets, put together again by the peer"
        return Explanation(verdict, True, True)
    rung = rung_of(plan, packet.version, packet.size, is_df=packet.is_df) or Rung.REFUSE
    verdict = _verdict(plan, packet, rung)
    is_whole = rung in (Rung.FRAGMENT_OUTER, Rung.MINIMUM_OUTER)
    return Explanation(verdict, rung is not Rung.REFUSE, is_whole, tuple(_steps(plan, packet, rung)))


def _steps(plan: MtuPlan, packet: Packet, acting: Rung) -> Iterator[Step]:
    for rung in plan.oversize:
        if takes(rung, packet.version, packet.size, is_df=packet.is_df):
            why = "for all" if rung is Rung.REFUSE else "for packets like this one"
            yield Step(rung, rung is acting, why)
            return
        yield Step(rung, False, ONLY_FOR[rung])


def _verdict(plan: MtuPlan, packet: Packet, rung: Rung) -> str:
    match rung:
        case Rung.FRAGMENT_INNER | Rung.FRAGMENT_ANYWAY:
            each = (plan.inner_room - IP_HEADER[4]) // FRAGMENT_UNIT * FRAGMENT_UNIT
            pieces = -(-(packet.size - IP_HEADER[4]) // each)
            allowed = "as its sender allows" if rung is Rung.FRAGMENT_INNER else "although its sender forbids it"
            return f"fragmented before ESP into {pieces} packets, {allowed}; the host it goes to puts them together"
        case Rung.FRAGMENT_OUTER | Rung.MINIMUM_OUTER:
            return "sent whole: the outer packet is fragmented on its way and put together by the peer"
        case Rung.REFUSE:
            room = plan.inner_room if packet.version == 4 else max(plan.inner_room, MIN_PATH_MTU[6])
            answer = "frag-needed" if packet.version == 4 else "packet-too-big"
            return f"refused: its sender is told by ICMP ({answer}) to send at most {room} octets"
