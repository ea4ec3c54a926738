"""What exchanges may ask of the host beyond their own IKE SA."""

from typing import Protocol

from openmoat.crypto.identities import Identity
from openmoat.ike.connections import Connections
from openmoat.ike.peer import AuthenticatedPeer, ChildIndex
from openmoat.policy.selectors import Selectors

__all__ = ["Host"]


class Host(ChildIndex, Protocol):
    """Met by the `Registry`."""

    connections: Connections
    """What is loaded."""

    def fresh_spi(self) -> int:
        """An SPI for a new IKE SA of ours."""
        ...

    def has_others(self, ike: int, name: str, peer: Identity) -> bool:
        """Whether another IKE SA than this one is up with this peer."""
        ...

    def other_owner(self, peer: AuthenticatedPeer, local: Selectors, remote: Selectors) -> Identity | None:
        """Another identity that holds a Child SA with these selectors."""
        ...
