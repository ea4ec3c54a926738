"""Whether a peer is there: what was heard of it, and when it must be asked (RFC 7296 2.4)."""

from openmoat.ike.events import Activity

__all__ = ["IDLE_PROBES", "Liveness"]

IDLE_PROBES = 8
"""Without traffic of ours the peer is asked only after this many liveness times: a silent link needs no proof."""


class Liveness:
    """Signs of life of one IKE SA. Packets of its Child SAs count as well as its own messages."""

    __slots__ = ("_inbound", "_is_owed", "_outbound", "heard", "is_silent")

    def __init__(self, now: float) -> None:
        self.heard = now
        """When an authenticated, fresh message, or a packet, last came in."""
        self.is_silent = False
        """A request has been sent several times without an answer so far."""
        self._inbound = self._outbound = 0
        self._is_owed = False
        """We have sent packets since anything came in."""

    def note(self, now: float) -> None:
        """An authenticated, fresh message has come in."""
        self.heard = now

    def must_ask(self, activity: Activity, now: float, liveness_after: float) -> bool:
        """Whether it is time to ask, now that the packets of the Child SAs are known."""
        has_received = activity.inbound_packets > self._inbound
        has_sent = activity.outbound_packets > self._outbound
        self._inbound, self._outbound = activity.inbound_packets, activity.outbound_packets
        if has_received:
            self.heard = now
        self._is_owed = (self._is_owed or has_sent) and not has_received
        silence = now - self.heard
        if (silence >= liveness_after and self._is_owed) or silence >= liveness_after * IDLE_PROBES:
            self._is_owed = False
            return True
        return False
