"""What exchanges may ask of the host beyond their own IKE SA."""

from typing import Protocol

from openmoat.crypto.identities import Identity
from openmoat.crypto.suites import IkeSuite
from openmoat.ike.peer import AuthenticatedPeer, ChildIndex
from openmoat.model.connection import Child, Connection
from openmoat.policy.selectors import Selectors

__all__ = ["Host"]


class Host(ChildIndex, Protocol):
    """Met by the `Registry`."""

    def fresh_spi(self) -> int:
        """An SPI for a new IKE SA of ours."""
        ...

    def authorities(self) -> bytes:
        """Hashes of the CA certificates that any connection trusts (RFC 7296 3.7)."""
        ...

    def candidates(self, peer: Identity, wanted: Identity | None, suite: IkeSuite) -> tuple[Connection, ...]:
        """Connections a responder may use for this peer, the most specific first."""
        ...

    def children_of(self, name: str) -> tuple[Child, ...]:
        """What a connection protects, as far as the data plane can."""
        ...

    def has_others(self, ike: int, name: str, peer: Identity) -> bool:
        """Whether another IKE SA than this one is up with this peer."""
        ...

    def other_owner(self, peer: AuthenticatedPeer, local: Selectors, remote: Selectors) -> Identity | None:
        """Another identity that holds a Child SA with these selectors."""
        ...
