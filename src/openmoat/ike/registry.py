"""All IKE SAs of a host and the indexes over them: by SPI, by Child SA, by (connection, peer identity)."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from openmoat.crypto.identities import Identity
from openmoat.ike.claims import Claims
from openmoat.ike.connections import Connections
from openmoat.ike.negotiate.child_sa import LiveChild
from openmoat.ike.peer import AuthenticatedPeer, Owner
from openmoat.ike.session import Session
from openmoat.model.connection import Connection
from openmoat.net import Address
from openmoat.policy.selectors import Selectors, canonical

__all__ = ["HalfOpenKey", "Indexed", "Registry"]

HalfOpenKey = tuple[Address, int, bytes]
"""Source address and port, and a digest of the whole IKE_SA_INIT request (RFC 7296 2.1)."""
PeerKey = tuple[str, Identity]


class Indexed(Protocol):
    """What the registry reads of an IKE SA."""

    @property
    def own_spi(self) -> int:
        """Its handle."""
        ...

    @property
    def connection(self) -> Connection | None:
        """The connection it is for, as far as it is known."""
        ...

    @property
    def session(self) -> Session | None:
        """From authentication on."""
        ...

    @property
    def is_over(self) -> bool:
        """Nothing is negotiated here any more."""
        ...

    @property
    def is_carrier(self) -> bool:
        """Whether the Child SAs of its peer hang on it."""
        ...


Sa = TypeVar("Sa", bound=Indexed)


class Registry(Generic[Sa]):
    """Every lookup is one step in a table; nothing walks over SAs of other peers. What follows from a change is not known
    here, but in `ike.lifecycle`.
    """

    def __init__(self, random: Callable[[int], bytes], connections: Connections) -> None:
        self._random = random
        self.connections = connections
        self.sas: dict[int, Sa] = {}
        self.children: dict[int, AuthenticatedPeer] = {}
        self.by_peer: dict[PeerKey, dict[int, Sa]] = {}
        """Authenticated ones that are not over."""
        self.by_connection: dict[str, dict[int, Sa]] = {}
        """Also those of ours that are still on their way."""
        self.half_open: dict[HalfOpenKey, Sa] = {}
        self.half_open_by_source: Counter[Address] = Counter()
        self.lingering: dict[int, Sa] = {}
        """Those that are over and kept a little longer, the oldest first."""
        self._half_open_keys: dict[int, HalfOpenKey] = {}
        self._owners: dict[tuple[Selectors, Selectors], dict[Owner, int]] = {}
        self._claims = Claims()

    def fresh_spi(self) -> int:
        """An SPI for a new IKE SA of ours, not 0 and not in use."""
        while True:
            spi = int.from_bytes(self._random(8), "big")
            if spi and spi not in self.sas:
                return spi

    def add(self, sa: Sa) -> None:
        """A new IKE SA, in whatever state."""
        self.sas[sa.own_spi] = sa
        if sa.connection is not None:
            self.by_connection.setdefault(sa.connection.name, {})[sa.own_spi] = sa

    def remove(self, sa: Sa) -> None:
        """It is forgotten."""
        self.sas.pop(sa.own_spi, None)
        self.lingering.pop(sa.own_spi, None)

    # Half-open ones.

    def open_half(self, sa: Sa, key: HalfOpenKey) -> None:
        """A responder's IKE SA whose peer has yet to prove anything."""
        self.half_open[key] = sa
        self.half_open_by_source[key[0]] += 1
        self._half_open_keys[sa.own_spi] = key

    def close_half(self, sa: Sa) -> None:
        """It is authenticated, or gone."""
        key = self._half_open_keys.pop(sa.own_spi, None)
        if key is None:
            return
        del self.half_open[key]
        self.half_open_by_source[key[0]] -= 1
        if not self.half_open_by_source[key[0]]:
            del self.half_open_by_source[key[0]]

    # Authenticated ones.

    def enter(self, sa: Sa, session: Session) -> None:
        """It stands for its peer from now on."""
        peer = session.peer
        self.by_connection.setdefault(peer.connection.name, {})[sa.own_spi] = sa
        self.by_peer.setdefault((peer.connection.name, peer.key), {})[sa.own_spi] = sa

    def leave(self, sa: Sa) -> bool:
        """It stands for no peer and no connection any more; gives whether it did."""
        connection, session = sa.connection, sa.session
        if connection is None:
            return False
        if session is not None:
            _drop(self.by_peer, (connection.name, session.peer.key), sa.own_spi)
        return _drop(self.by_connection, connection.name, sa.own_spi)

    def has_others(self, ike: int, name: str, peer: Identity) -> bool:
        """Whether another IKE SA than this one is up with this peer."""
        return any(spi != ike for spi in self.by_peer.get((name, peer.folded()), {}))

    def of_peer(self, name: str, key: Identity) -> list[Sa]:
        """IKE SAs that are up with this peer, whose identity is folded."""
        return list(self.by_peer.get((name, key), {}).values())

    def of_connection(self, name: str) -> list[Sa]:
        """IKE SAs of a connection, also those on their way."""
        return list(self.by_connection.get(name, {}).values())

    def established(self, name: str) -> list[Sa]:
        """IKE SAs of a connection that carry, or can carry, Child SAs."""
        return list(self.each_established(name))

    def each_established(self, name: str) -> Iterator[Sa]:
        """The same, one at a time: a template may have thousands."""
        found = self.by_connection.get(name, {})
        return (sa for sa in found.values() if sa.is_carrier and not sa.is_over)

    # Selectors.

    def other_owner(self, peer: AuthenticatedPeer, local: Selectors, remote: Selectors) -> Identity | None:
        """Another identity that holds a Child SA with equal selectors, unless both are alternatives of one group: the newest
        does not simply win.

        Of a template also one that holds some of the addresses: the peers chose them, no operator meant an exception.
        """
        owners = self._owners.get(_selector_key(local, remote), {})
        group = peer.connection.group
        others = (owner for its, owner in owners if owner != peer.key and (group is None or its != group))
        equal = next(others, None)
        if equal is not None or not peer.connection.is_template:
            return equal
        return self._claims.other(peer.connection.name, peer.key, remote)

    def child_added(self, peer: AuthenticatedPeer, child: LiveChild) -> None:
        """It is installed."""
        self.children[child.sa.local_spi] = peer
        owners = self._owners.setdefault(_selector_key(child.sa.local, child.sa.remote), {})
        owners[peer.owner] = owners.get(peer.owner, 0) + 1
        if peer.connection.is_template:
            self._claims.add(peer.connection.name, peer.key, child.sa.remote)

    def child_removed(self, peer: AuthenticatedPeer, child: LiveChild) -> None:
        """It is out of the data plane."""
        self.children.pop(child.sa.local_spi, None)
        key = _selector_key(child.sa.local, child.sa.remote)
        owners = self._owners.get(key, {})
        owners[peer.owner] = owners.get(peer.owner, 0) - 1
        if owners[peer.owner] <= 0:
            del owners[peer.owner]
        if not owners:
            self._owners.pop(key, None)
        if peer.connection.is_template:
            self._claims.drop(peer.connection.name, peer.key, child.sa.remote)


Key = TypeVar("Key")
SelectorKey = tuple[Selectors, Selectors]


def _selector_key(local: Selectors, remote: Selectors) -> SelectorKey:
    """Equal for selectors that select the same."""
    return canonical(local), canonical(remote)


def _drop(index: dict[Key, dict[int, Sa]], key: Key, spi: int) -> bool:
    """Take it out of one row of an index; gives whether it was there."""
    rows = index.get(key, {})
    was_there = rows.pop(spi, None) is not None
    if was_there and not rows:
        del index[key]
    return was_there
