"""USE_AGGFRAG: whether both sides of a Child SA slice and pack inner packets (RFC 9347 5.1, 6.1.4).

It decides nothing about packets: that is the data plane's, which learns of the outcome with the Child SA.
"""

from enum import IntFlag

import msgspec

from openmoat.ike.errors import NoCommonProposal
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import NotifyType
from openmoat.ike.wire.payloads import Notify
from openmoat.model.connection import Aggfrag, Child

__all__ = ["Demand", "PeerAggfrag", "agree", "fault_of_answer", "peer_aggfrag", "use_aggfrag"]


class Demand(IntFlag):
    """Requirements of who sends the notify (RFC 9347 6.1.4)."""

    DONT_FRAGMENT = 0x01
    """Its sender puts no slices together: inner packets must come whole."""
    CONGESTION_CONTROL = 0x02
    """Its sender wants congestion control information (RFC 9347 3), which we do not give."""


class PeerAggfrag(msgspec.Struct, frozen=True, gc=False):
    """What one message of a peer says of AGGFRAG."""

    is_there: bool
    takes_slices: bool = True
    obstacle: str = ""
    """Why it cannot be used; empty where it can."""
    remarks: tuple[str, ...] = ()
    """What is not as it should be, and does no harm."""

    @property
    def is_usable(self) -> bool:
        """Whether we can do all that it demands."""
        return not self.obstacle


def use_aggfrag() -> Notify:
    """Our notify. We demand nothing: some peers refuse AGGFRAG for any flag but DONT_FRAGMENT."""
    return Notify(NotifyType.USE_AGGFRAG, b"\0")


def peer_aggfrag(message: Message) -> PeerAggfrag:
    """Read the notify of a request or a response. No flags at all mean none set: some peers send it empty."""
    notify = message.notify(NotifyType.USE_AGGFRAG)
    if notify is None:
        return PeerAggfrag(is_there=False, obstacle="not offered")
    if message.notify(NotifyType.USE_TRANSPORT_MODE) is not None:
        # RFC 9347 5.1: the two MUST NOT be combined. We never use transport mode, but the peer would expect it.
        return PeerAggfrag(is_there=True, obstacle="combined with transport mode")
    if len(notify.data) > 1:
        return PeerAggfrag(is_there=True, obstacle=f"with {len(notify.data)} octets of flags, where one is known")
    flags = int.from_bytes(notify.data, "big")
    takes_slices = not flags & Demand.DONT_FRAGMENT
    if flags & Demand.CONGESTION_CONTROL:
        return PeerAggfrag(
            is_there=True, takes_slices=takes_slices, obstacle="only with congestion control information"
        )
    if flags not in (0, Demand.DONT_FRAGMENT):
        return PeerAggfrag(is_there=True, takes_slices=takes_slices, obstacle=f"with unknown flags, 0x{flags:02x}")
    remarks = () if notify.data else ("USE_AGGFRAG came without its octet of flags: none is taken as set",)
    return PeerAggfrag(is_there=True, takes_slices=takes_slices, remarks=remarks)


def agree(spec: Child, peer: PeerAggfrag) -> bool:
    """As responder: whether the Child SA uses AGGFRAG; `NoCommonProposal` where it must and cannot."""
    if spec.aggfrag is Aggfrag.NEVER or peer.is_usable:
        return spec.aggfrag is not Aggfrag.NEVER
    if spec.aggfrag is Aggfrag.REQUIRE:
        raise NoCommonProposal(f'USE_AGGFRAG: child "{spec.name}" requires it; received: {peer.obstacle}')
    return False


def fault_of_answer(spec: Child, peer: PeerAggfrag) -> str:
    """As initiator: why the Child SA that the responder has made must be deleted again (RFC 9347 5.1); empty: it is good."""
    if spec.aggfrag is Aggfrag.NEVER:
        return f'USE_AGGFRAG: not offered for child "{spec.name}", and the peer uses it' if peer.is_there else ""
    if peer.is_there and not peer.is_usable:
        # The peer sends AGGFRAG from now on, and will miss what it demands.
        return f'USE_AGGFRAG: child "{spec.name}": the peer answers {peer.obstacle}'
    if spec.aggfrag is Aggfrag.REQUIRE and not peer.is_there:
        return f'USE_AGGFRAG: child "{spec.name}" requires it; the peer declines'
    return ""
