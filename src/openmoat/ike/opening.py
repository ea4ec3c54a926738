"""From a datagram of an IKE SA to the message inside, whole or in fragments. Nothing changes before its ICV is good."""

from typing import TYPE_CHECKING

from openmoat.errors import BadIcv
from openmoat.ike.config import Count
from openmoat.ike.errors import MalformedMessage
from openmoat.ike.wire.fragments import Reassembly
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.payloads import EncryptedFragment

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["open_message"]


def open_message(sa: "IkeSa", header: Header, datagram: bytes) -> Message | None:
    """The message inside, or None where there is nothing to act on (yet).

    Raises `MalformedMessage` only for what an authenticated peer has written.
    """
    counts = sa.context.counts
    try:
        message = Message.parse(datagram, header)
    except MalformedMessage:
        counts[Count.MALFORMED] += 1
        return None
    if message.sealed is None or sa.incoming is None:
        counts[Count.NOT_PROTECTED] += 1
        return None
    try:
        if not isinstance(message.sealed, EncryptedFragment):
            return message.open(datagram, sa.incoming)
        return _reassemble(sa, message, datagram)
    except BadIcv:
        counts[Count.BAD_ICV] += 1
        return None


def _reassemble(sa: "IkeSa", message: Message, datagram: bytes) -> Message | None:
    if not sa.peer_fragments or sa.incoming is None:
        sa.context.counts[Count.FRAGMENT_REFUSED] += 1
        return None
    if sa.reassembly is None:
        sa.reassembly = Reassembly()
    try:
        whole = sa.reassembly.add(datagram, message, sa.incoming, sa.context.now)
    except MalformedMessage:
        sa.context.counts[Count.FRAGMENT_REFUSED] += 1
        return None
    if whole is not None:
        sa.reassembly = None
    return whole
