"""Which kind of server it is, told by how it deals with segments that do not arrive. Pure: others make the observations."""

from dataclasses import dataclass
from enum import Enum

__all__ = [
    "EFFICIENT_SECONDS",
    "ENOUGH_OCTETS",
    "SILENT_SECONDS",
    "TOLD_SECONDS",
    "Finding",
    "Kind",
    "Observation",
    "classify",
]

EFFICIENT_SECONDS = 10.0
"""A server that sends smaller segments by itself within this time is efficient; one that does so later is semi-naughty."""
SILENT_SECONDS = 40.0
"""What a server gets to notice by itself that its segments are lost."""
TOLD_SECONDS = 10.0
"""What it gets when ICMP says so each time."""
ENOUGH_OCTETS = 16_384
"""Of an answer, behind which a server has sent segments as large as it sends them."""


class Kind(Enum):
    """The kinds of servers that the paper of 1999 found, and two words for not knowing."""

    EFFICIENT = "efficient"
    """Large segments with DF, and smaller ones soon after those were lost."""
    INEFFICIENT = "inefficient"
    """Small segments only, or large ones without DF, which routers fragment."""
    SEMI_NAUGHTY = "semi-naughty"
    """As efficient, but after a long time."""
    NAUGHTY = "naughty"
    """Sends less only when ICMP says so."""
    INCORRIGIBLE = "incorrigible"
    """Sends what is too large for ever, whatever ICMP says."""
    UNKNOWN = "unknown"
    """Its answer is too short to tell."""
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One answer, of which packets with DF that were larger than `limit` were dropped."""

    limit: int
    is_connected: bool = True
    octets: int = 0
    """Of the answer, that arrived in order."""
    largest: int = 0
    """Octets of its largest packet, dropped or not."""
    dropped: int = 0
    fragmentable: int = 0
    """Larger than the limit and without DF: a router would have fragmented them, and so they counted as arrived."""
    recovered: float | None = None
    """Seconds from the first packet that was dropped to the next octet that arrived; None: nothing did."""

    @property
    def is_enough(self) -> bool:
        """Whether it shows how large the server's segments are."""
        return self.octets >= ENOUGH_OCTETS or self.dropped > 0


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict, and what it rests on."""

    kind: Kind
    evidence: tuple[str, ...]


def classify(silent: Observation, told: Observation | None) -> Finding:
    """The kind of a server: `silent` is what it did without ICMP; `told`, with it, is needed only where it did not recover."""
    if not silent.is_connected:
        return Finding(Kind.UNREACHABLE, ("no answer to SYN",))
    if not silent.is_enough:
        return Finding(Kind.UNKNOWN, (f"{silent.octets} octets of answer are too few: ask for something larger",))
    if not silent.dropped:
        if silent.fragmentable:
            return Finding(Kind.INEFFICIENT, (f"packets of {silent.largest} octets without DF",))
        return Finding(
            Kind.INEFFICIENT, (f"packets of at most {silent.largest} octets, though larger ones were asked for",)
        )
    first = f"packets of {silent.largest} octets with DF; those above {silent.limit} were dropped"
    if silent.recovered is not None:
        kind = Kind.EFFICIENT if silent.recovered <= EFFICIENT_SECONDS else Kind.SEMI_NAUGHTY
        return Finding(kind, (first, f"smaller ones after {silent.recovered:.1f} s, without ICMP"))
    first = f"{first}, {silent.dropped} of them in {SILENT_SECONDS:g} s"
    if told is not None and told.recovered is not None:
        return Finding(Kind.NAUGHTY, (first, f"smaller ones {told.recovered:.1f} s after ICMP had said so"))
    return Finding(Kind.INCORRIGIBLE, (first, "not less when ICMP said so each time"))
