"""What `Upkeep` follows: events that also leave the core, and some that do not."""

import msgspec

from openmoat.crypto.identities import Identity
from openmoat.ike.events import ChildSaDown, DownReason, IkeSaDown, IkeSaUp

__all__ = ["ChildFailed", "ChildInstalled", "HandshakeDone", "News"]


class ChildInstalled(msgspec.Struct, frozen=True, gc=False):
    """A Child SA of this connection is in the data plane."""

    connection: str


class ChildFailed(msgspec.Struct, frozen=True, gc=False):
    """A Child SA could not be had on an IKE SA that is up."""

    connection: str
    child: str
    peer: Identity
    """Folded."""
    reason: DownReason
    text: str


class HandshakeDone(msgspec.Struct, frozen=True, gc=False):
    """An IKE SA is established, and the exchange that did it is over, with its Child SA or without."""

    ike: int


News = IkeSaUp | IkeSaDown | ChildSaDown | ChildInstalled | ChildFailed | HandshakeDone
