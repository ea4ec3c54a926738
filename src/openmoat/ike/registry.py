"""All IKE SAs of a host and the indexes over them: by SPI, by Child SA, by (connection, peer identity)."""

from collections import Counter
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from openmoat.crypto.identities import Identity
from openmoat.crypto.suites import IkeSuite
from openmoat.ike.channel import Channel
from openmoat.ike.claims import Claims
from openmoat.ike.config import Count
from openmoat.ike.connections import Connections
from openmoat.ike.context import Context, Timer
from openmoat.ike.events import DownReason, IkeSaDown, IkeSaUp, RemoveChildSa
from openmoat.ike.negotiate.child_sa import LiveChild
from openmoat.ike.peer import AuthenticatedPeer, Owner
from openmoat.ike.session import Session
from openmoat.model.connection import Child, Connection
from openmoat.net import Address
from openmoat.policy.selectors import Selectors, canonical

__all__ = ["HalfOpenKey", "Indexed", "Registry"]

HalfOpenKey = tuple[Address, int, bytes]
"""Source address and port, and a digest of the whole IKE_SA_INIT request (RFC 7296 2.1)."""
PeerKey = tuple[str, Identity]


class Indexed(Protocol):
    """What the registry reads of an IKE SA."""

    channel: Channel
    created: float

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

    def forget(self, reason: DownReason, text: str = "") -> None:
        """Forget everything at once."""
        ...

    def delete(self, reason: DownReason, text: str = "") -> None:
        """Tell the peer that it is over."""
        ...


Sa = TypeVar("Sa", bound=Indexed)


class Registry(Generic[Sa]):
    """Every lookup is one step in a table; nothing walks over SAs of other peers."""

    def __init__(self, context: Context, connections: Connections) -> None:
        self._context = context
        self._connections = connections
        self.sas: dict[int, Sa] = {}
        self.children: dict[int, AuthenticatedPeer] = {}
        self.by_peer: dict[PeerKey, dict[int, Sa]] = {}
        """Authenticated ones that are not over."""
        self.by_connection: dict[str, dict[int, Sa]] = {}
        """Also those of ours that are still on their way."""
        self.half_open: dict[HalfOpenKey, Sa] = {}
        self.half_open_by_source: Counter[Address] = Counter()
        self._half_open_keys: dict[int, HalfOpenKey] = {}
        self._lingering: dict[int, Sa] = {}
        self._owners: dict[tuple[Selectors, Selectors], dict[Owner, int]] = {}
        self._claims = Claims()

    def fresh_spi(self) -> int:
        """An SPI for a new IKE SA of ours, not 0 and not in use."""
        while True:
            spi = int.from_bytes(self._context.random(8), "big")
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
        self._lingering.pop(sa.own_spi, None)

    def expel(self, sa: Sa) -> None:
        """Nothing of it is left in the tables, whatever has kept it from ending as it should."""
        self.close_half(sa)
        self._leave(sa)
        self.remove(sa)
        session, connection = sa.session, sa.connection
        if session is not None and session.is_carrier:
            for spi, child in tuple(session.peer.children.items()):
                if spi in self.children:  # otherwise its selectors have been given back already
                    self.child_removed(session.peer, child)
                self._context.emit(RemoveChildSa(spi))
        if connection is not None:
            self._context.timers.set((Timer.KEEP_UP, connection.name), self._context.now + 1)

    def linger(self, sa: Sa, seconds: float) -> None:
        """It is over, and kept a little longer. The oldest go when there are too many, regardless of who made them."""
        self._context.timers.set((Timer.LINGER, sa.own_spi), self._context.now + seconds)
        self._lingering[sa.own_spi] = sa
        if len(self._lingering) > self._context.config.max_lingering:
            self._context.counts[Count.LINGERING_LIMIT] += 1
            next(iter(self._lingering.values())).forget(DownReason.REKEYED)

    # Half-open ones.

    def open_half(self, sa: Sa, key: HalfOpenKey) -> None:
        """A responder's IKE SA whose peer has yet to prove anything."""
        self.half_open[key] = sa
        self.half_open_by_source[key[0]] += 1
        self._half_open_keys[sa.own_spi] = key
        life = self._context.config.half_open_life
        self._context.timers.set((Timer.HANDSHAKE, sa.own_spi), self._context.now + life)

    def close_half(self, sa: Sa) -> None:
        """It is authenticated, or gone."""
        key = self._half_open_keys.pop(sa.own_spi, None)
        if key is None:
            return
        del self.half_open[key]
        self.half_open_by_source[key[0]] -= 1
        if not self.half_open_by_source[key[0]]:
            del self.half_open_by_source[key[0]]

    # Authentication.

    def authorities(self) -> bytes:
        """Hashes of the CA certificates that any connection trusts (RFC 7296 3.7)."""
        return self._connections.authorities()

    def candidates(self, peer: Identity, wanted: Identity | None, suite: IkeSuite) -> tuple[Connection, ...]:
        """Connections a responder may use for this peer, the most specific first."""
        return self._connections.candidates(peer, wanted, suite)

    def children_of(self, name: str) -> tuple[Child, ...]:
        """What a connection protects, as far as the data plane can."""
        return self._connections.children(name)

    def authenticated(self, sa: Sa, session: Session, *, is_initial_contact: bool) -> None:
        """Both ends are authenticated."""
        self.close_half(sa)
        peer = session.peer
        others = self.by_peer.setdefault((peer.connection.name, peer.key), {})
        if is_initial_contact:
            self._drop_older(sa, others)
        if len(others) >= self._context.config.max_ike_sas_per_peer:
            self._context.counts[Count.IKE_SAS_PER_PEER_LIMIT] += 1
            next(iter(others.values())).delete(DownReason.REPLACED, "too many IKE SAs of one peer")
        self._enter(sa, session, None)

    def _drop_older(self, sa: Sa, others: dict[int, Sa]) -> None:
        """INITIAL_CONTACT: the peer knows of no other IKE SA (RFC 7296 2.4).

        One that came up after this exchange began is no older one: both sides began at once, and their nonces decide.
        """
        for other in list(others.values()):
            if other is not sa and other.session is not None and other.session.peer.since < sa.created:
                other.forget(DownReason.REPLACED, "INITIAL_CONTACT")

    def replaced(self, old: Sa, new: Sa) -> None:
        """`new` has taken over from `old` (RFC 7296 2.18)."""
        self._leave(old)
        if new.session is not None:
            self._enter(new, new.session, old.own_spi)

    def _enter(self, sa: Sa, session: Session, replaces: int | None) -> None:
        peer, channel, name = session.peer, session.channel, session.peer.connection.name
        self.by_connection.setdefault(name, {})[sa.own_spi] = sa
        self.by_peer.setdefault((name, peer.key), {})[sa.own_spi] = sa
        self._context.report(
            IkeSaUp(
                ike=sa.own_spi,
                peer_spi=channel.peer_spi,
                connection=name,
                peer=peer.identity,
                is_initiator=channel.is_initiator,
                path=channel.path,
                suite=session.suite,
                own_method=peer.methods[0],
                peer_method=peer.methods[1],
                behind_nat=channel.nat.own,
                peer_behind_nat=channel.nat.peer,
                replaces=replaces,
            )
        )

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

    # The end.

    def ending(self, sa: Sa, reason: DownReason, text: str) -> None:
        """An IKE SA ends: its Child SAs go with it, unless a successor has them."""
        self.close_half(sa)
        session, connection = sa.session, sa.connection
        was_known = sa.own_spi in self.by_connection.get(connection.name, {}) if connection else False
        self._leave(sa)
        is_replaced = session is not None and not session.is_carrier
        if session is not None and not is_replaced:
            session.peer.end_all(reason, text)
        if connection is None or not (was_known or session is not None):
            return
        peer = session.peer.identity if session is not None else None
        if is_replaced:
            reason, text = DownReason.REKEYED, ""
        self._context.report(IkeSaDown(sa.own_spi, connection.name, peer, reason, text))

    def _leave(self, sa: Sa) -> None:
        connection, session = sa.connection, sa.session
        if connection is not None:
            _drop(self.by_connection, connection.name, sa.own_spi)
            if session is not None:
                _drop(self.by_peer, (connection.name, session.peer.key), sa.own_spi)


Key = TypeVar("Key")
SelectorKey = tuple[Selectors, Selectors]


def _selector_key(local: Selectors, remote: Selectors) -> SelectorKey:
    """Equal for selectors that select the same."""
    return canonical(local), canonical(remote)


def _drop(index: dict[Key, dict[int, Sa]], key: Key, spi: int) -> None:
    rows = index.get(key)
    if rows is not None:
        rows.pop(spi, None)
        if not rows:
            del index[key]
