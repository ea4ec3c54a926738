"""Why a connection is not up: the words of the core, a sentence for people, and what to do next."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["REASONS", "Reason", "ReasonRow"]


class Reason(StrEnum):
    """The values are those of `ike.events.DownReason`, and a few of the daemon's own."""

    ASKED = "asked"
    PEER_DELETED = "peer deleted it"
    REKEYED = "rekeyed"
    EXPIRED = "hard lifetime reached"
    PEER_SILENT = "peer does not answer"
    REFUSED = "peer refused"
    AUTHENTICATION_FAILED = "authentication failed"
    NO_COMMON_GROUND = "no common ground"
    PEER_MISBEHAVED = "peer violated the protocol"
    NO_ROUTE = "no path to the peer"
    REPLACED = "replaced by a newer SA of the same peer"
    COLLISION = "lost a simultaneous exchange"
    LOCAL = "refused on this side"
    ERROR = "internal error"
    CONFLICT = "another peer has these selectors"
    """The daemon's: `policy.spd.PolicyConflict`."""
    NOT_ASKED = "nobody asked for it yet"
    """The daemon's: `start = none` or `trap`, and nothing has happened."""


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """What `moat status` says of a reason. `{name}` stands for the connection."""

    sentence: str
    hint: str


REASONS: Mapping[Reason, ReasonRow] = {
    Reason.ASKED: ReasonRow("taken down on request", "moat up {name}"),
    Reason.PEER_DELETED: ReasonRow("the peer closed it", "moat log, and the log of the peer"),
    Reason.REKEYED: ReasonRow("replaced by its successor", "nothing to do"),
    Reason.EXPIRED: ReasonRow("its keys grew too old before new ones were agreed", "moat status {name}"),
    Reason.PEER_SILENT: ReasonRow(
        "the peer does not answer: it is off, or UDP 500 and 4500 do not get through",
        "ping the peer, then moat status {name}",
    ),
    Reason.REFUSED: ReasonRow("the peer refused; its log says why", "moat status {name}"),
    Reason.AUTHENTICATION_FAILED: ReasonRow(
        "one end does not accept the key or identity of the other",
        "compare both: moat keys show FILE; moat status {name}",
    ),
    Reason.NO_COMMON_GROUND: ReasonRow("both ends have nothing in common to agree on", "moat status {name}"),
    Reason.PEER_MISBEHAVED: ReasonRow("the peer sent what IKEv2 does not allow", "moat status {name}; moat log"),
    Reason.NO_ROUTE: ReasonRow(
        "the name of the peer does not resolve, or no route leads to it",
        "ip route get ADDRESS; check the internet line",
    ),
    Reason.REPLACED: ReasonRow("the peer came back with a newer one", "nothing to do"),
    Reason.COLLISION: ReasonRow("both ends began at once and the other one won", "nothing to do"),
    Reason.LOCAL: ReasonRow("this side could not set it up", "moat log"),
    Reason.ERROR: ReasonRow(
        "an error in moatd ended it; it is negotiated again", "report the traceback: journalctl -u moatd"
    ),
    Reason.CONFLICT: ReasonRow(
        "its networks and those of another connection exclude each other",
        "change the configuration as the text says, then moat reload",
    ),
    Reason.NOT_ASKED: ReasonRow("waiting for the peer, for traffic or for you", "moat up {name}"),
}
