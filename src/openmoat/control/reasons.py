"""Why a connection is not up: the words of the core, a sentence for people, and what to do next."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from openmoat.control.remedies import NOTHING, Remedy

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
    """What `moat status` says of a reason, and what to do. `{name}` stands for the connection."""

    sentence: str
    hint: str


REASONS: Mapping[Reason, ReasonRow] = {
    Reason.ASKED: ReasonRow("taken down on request", Remedy.UP),
    Reason.PEER_DELETED: ReasonRow("the peer closed it", f"{Remedy.LOG}; also read the log of the peer"),
    Reason.REKEYED: ReasonRow("replaced by its successor", NOTHING),
    Reason.EXPIRED: ReasonRow("its keys expired before new ones were negotiated", Remedy.STATUS),
    Reason.PEER_SILENT: ReasonRow(
        "the peer does not answer: it is off, or UDP ports 500 and 4500 are blocked",
        f"{Remedy.PING}; check the firewalls on the way",
    ),
    Reason.REFUSED: ReasonRow("the peer refused; its log says why", Remedy.STATUS),
    Reason.AUTHENTICATION_FAILED: ReasonRow(
        "one end does not accept the key or identity of the other",
        f"compare the keys of both ends: {Remedy.SHOW_KEY}",
    ),
    Reason.NO_COMMON_GROUND: ReasonRow("the two ends could not agree: algorithms or networks differ", Remedy.STATUS),
    Reason.PEER_MISBEHAVED: ReasonRow("the peer violated the protocol", f"{Remedy.STATUS}; {Remedy.LOG}"),
    Reason.NO_ROUTE: ReasonRow(
        "the name of the peer does not resolve, or there is no route to it",
        f"{Remedy.ROUTE}; check the internet connection",
    ),
    Reason.REPLACED: ReasonRow("replaced by a newer IKE SA of the same peer", NOTHING),
    Reason.COLLISION: ReasonRow("both ends started at once, and the attempt of the peer won", NOTHING),
    Reason.LOCAL: ReasonRow("this host could not set it up", Remedy.LOG),
    Reason.ERROR: ReasonRow(
        "an error in moatd ended it; it is negotiated again", f"report the traceback: {Remedy.JOURNAL}"
    ),
    Reason.CONFLICT: ReasonRow(
        "its networks and those of another connection exclude each other",
        f"change the configuration as the text says; then {Remedy.RELOAD}",
    ),
    Reason.NOT_ASKED: ReasonRow("waiting for the peer, for traffic or for you", Remedy.UP),
}
