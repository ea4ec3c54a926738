"""All IKE SAs of a host and the indexes over them: by SPI, by Child SA, by (connection, peer identity)."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import AuthMethod
from openmoat.crypto.suites import IkeSuite
from openmoat.ike.claims import Claims
from openmoat.ike.config import Count
from openmoat.ike.connections import Connections
from openmoat.ike.context import Context, Timer
from openmoat.ike.events import DownReason, IkeSaDown, IkeSaUp, RemoveChildSa
from openmoat.ike.exchanges.collisions import is_lowest
from openmoat.ike.lineage import Lineage, Owner
from openmoat.ike.negotiate.child_sa import LiveChild
from openmoat.model.connection import Child, Connection
from openmoat.net import Address
from openmoat.policy.selectors import Selectors, canonical

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa
    from openmoat.ike.upkeep import Upkeep

__all__ = ["HalfOpenKey", "Registry"]

HalfOpenKey = tuple[Address, int, bytes]
"""Source address and port, and a digest of the whole IKE_SA_INIT request (RFC 7296 2.1)."""
PeerKey = tuple[str, Identity]


class Registry:
    """Every lookup is one step in a table; nothing walks over SAs of other peers."""

    def __init__(self, context: Context, connections: Connections) -> None:
        self.context = context
        self.connections = connections
        self.sas: dict[int, IkeSa] = {}
        self.children: dict[int, Lineage] = {}
        self.by_peer: dict[PeerKey, dict[int, IkeSa]] = {}
        """Authenticated ones that are not over."""
        self.by_connection: dict[str, dict[int, IkeSa]] = {}
        """Also those of ours that are still on their way."""
        self.half_open: dict[HalfOpenKey, IkeSa] = {}
        self.half_open_by_source: Counter[Address] = Counter()
        self._half_open_keys: dict[int, HalfOpenKey] = {}
        self._lingering: dict[int, IkeSa] = {}
        self._owners: dict[tuple[Selectors, Selectors], dict[Owner, int]] = {}
        self._claims = Claims()
        self.upkeep: Upkeep

    def fresh_spi(self) -> int:
        """An SPI for a new IKE SA of ours, not 0 and not in use."""
        while True:
            spi = int.from_bytes(self.context.random(8), "big")
            if spi and spi not in self.sas:
                return spi

    def add(self, sa: "IkeSa") -> None:
        """A new IKE SA, in whatever state."""
        self.sas[sa.own_spi] = sa
        if sa.connection is not None:
            self.by_connection.setdefault(sa.connection.name, {})[sa.own_spi] = sa

    def remove(self, sa: "IkeSa") -> None:
        """It is forgotten."""
        self.sas.pop(sa.own_spi, None)
        self._lingering.pop(sa.own_spi, None)

    def expel(self, sa: "IkeSa") -> None:
        """Nothing of it is left in the tables, whatever its own end was hindered by."""
        self.close_half(sa)
        self._leave(sa)
        self.remove(sa)
        lineage = sa.lineage
        for spi in tuple(lineage.children) if lineage is not None and lineage.carrier is sa else ():
            self.children.pop(spi, None)
            self.context.emit(RemoveChildSa(spi))
        if sa.connection is not None:
            self.context.timers.set((Timer.KEEP_UP, sa.connection.name), self.context.now + 1)

    def linger(self, sa: "IkeSa", seconds: float) -> None:
        """It is over, and kept a little longer. The oldest go when there are too many, whoever made them."""
        self.context.timers.set((Timer.LINGER, sa.own_spi), self.context.now + seconds)
        self._lingering[sa.own_spi] = sa
        if len(self._lingering) > self.context.config.max_lingering:
            self.context.counts[Count.LINGERING_LIMIT] += 1
            next(iter(self._lingering.values())).forget(DownReason.REKEYED)

    # Half-open ones.

    def open_half(self, sa: "IkeSa", key: HalfOpenKey) -> None:
        """A responder's IKE SA whose peer has yet to prove anything."""
        self.half_open[key] = sa
        self.half_open_by_source[key[0]] += 1
        self._half_open_keys[sa.own_spi] = key
        life = self.context.config.half_open_life
        self.context.timers.set((Timer.HANDSHAKE, sa.own_spi), self.context.now + life)

    def close_half(self, sa: "IkeSa") -> None:
        """It is authenticated, or gone."""
        key = self._half_open_keys.pop(sa.own_spi, None)
        if key is None:
            return
        del self.half_open[key]
        self.half_open_by_source[key[0]] -= 1
        if not self.half_open_by_source[key[0]]:
            del self.half_open_by_source[key[0]]

    # Authentication.

    def candidates(self, peer: Identity, wanted: Identity | None, suite: IkeSuite) -> tuple[Connection, ...]:
        """Connections a responder may use for this peer, the most specific first."""
        return tuple(
            connection
            for connection in self.connections.candidates(peer, wanted, suite)
            if not self.upkeep.is_down(connection.name, peer)
        )

    def children_of(self, name: str) -> tuple[Child, ...]:
        """What a connection protects, as far as the data plane can."""
        return self.connections.children(name)

    def authenticated(
        self,
        sa: "IkeSa",
        peer: Identity,
        own_method: AuthMethod,
        peer_method: AuthMethod,
        *,
        drop_older: bool = False,
    ) -> None:
        """Both ends have proved who they are."""
        connection = sa.connection
        if connection is None:
            raise ValueError("IKE SA: authenticated without a connection")
        self.close_half(sa)
        sa.lineage = Lineage(connection, peer, own_method, peer_method, sa)
        others = self.by_peer.setdefault((connection.name, peer.folded()), {})
        if drop_older:
            self._drop_older(sa, others)
        if len(others) >= self.context.config.max_ike_sas_per_peer:
            self.context.counts[Count.IKE_SAS_PER_PEER_LIMIT] += 1
            next(iter(others.values())).delete(DownReason.REPLACED, "too many IKE SAs of one peer")
        self._is_up(sa, None)

    def _drop_older(self, sa: "IkeSa", others: dict[int, "IkeSa"]) -> None:
        """INITIAL_CONTACT: the peer knows of no other IKE SA (RFC 7296 2.4).

        One that came up after this exchange began is no older one: both sides began at once, and `settle` decides.
        """
        for other in list(others.values()):
            if other is not sa and other.lineage is not None and other.lineage.since < sa.created:
                other.forget(DownReason.REPLACED, "INITIAL_CONTACT")

    def replaced(self, old: "IkeSa", new: "IkeSa") -> None:
        """`new` has taken over from `old` (RFC 7296 2.18)."""
        self._leave(old)
        self._is_up(new, old.own_spi)

    def _is_up(self, sa: "IkeSa", replaces: int | None) -> None:
        lineage, suite = sa.lineage, sa.channel.suite
        if lineage is None or suite is None:
            raise ValueError("IKE SA: up without a peer or keys")
        sa.forget_proofs()
        name = lineage.connection.name
        self.by_connection.setdefault(name, {})[sa.own_spi] = sa
        self.by_peer.setdefault((name, lineage.peer_key), {})[sa.own_spi] = sa
        self.context.emit(
            IkeSaUp(
                ike=sa.own_spi,
                peer_spi=sa.channel.peer_spi,
                connection=name,
                peer=lineage.peer,
                is_initiator=sa.channel.is_initiator,
                path=sa.channel.path,
                suite=suite,
                own_method=lineage.own_method,
                peer_method=lineage.peer_method,
                behind_nat=sa.channel.nat.own,
                peer_behind_nat=sa.channel.nat.peer,
                replaces=replaces,
            )
        )
        self.upkeep.ike_up(sa)

    def has_others(self, sa: "IkeSa", name: str, peer: Identity) -> bool:
        """Whether another IKE SA with this peer is up."""
        others = self.by_peer.get((name, peer.folded()), {})
        return any(spi != sa.own_spi for spi in others)

    def established(self, name: str) -> "list[IkeSa]":
        """IKE SAs of a connection that carry, or can carry, Child SAs."""
        return list(self.each_established(name))

    def each_established(self, name: str) -> "Iterator[IkeSa]":
        """The same, one at a time: a template may have thousands."""
        found = self.by_connection.get(name, {})
        return (sa for sa in found.values() if sa.is_carrier and not sa.is_over)

    def settle(self, sa: "IkeSa") -> None:
        """The handshake is through: if both sides began one at once, one stays; then whatever else is wanted."""
        lineage = sa.lineage
        if lineage is None or sa.is_over:
            return
        for other in list(self.by_peer.get((lineage.connection.name, lineage.peer_key), {}).values()):
            rival = other.lineage
            if rival is None or rival is lineage or rival.is_ours is lineage.is_ours or other.is_over:
                continue
            loser = lineage if is_lowest(lineage.nonces, rival.nonces) else rival
            # As with rekeys (RFC 7296 2.8.1), the side that began the exchange with the lowest nonce closes it.
            if loser.is_ours:
                loser.carrier.delete(DownReason.COLLISION, "both sides began at once")
        self.upkeep.look(lineage.connection.name)

    # Selectors.

    def other_owner(self, lineage: Lineage, local: Selectors, remote: Selectors) -> Identity | None:
        """Another identity that holds a Child SA with equal selectors, unless both are alternatives of one group: never does
        the newest simply win.

        Of a template also one that holds some of the addresses: the peers chose them, no operator meant an exception.
        """
        owners = self._owners.get(_selector_key(local, remote), {})
        group, peer = lineage.owner
        others = (owner for its, owner in owners if owner != peer and (group is None or its != group))
        equal = next(others, None)
        if equal is not None or not lineage.connection.is_template:
            return equal
        return self._claims.other(lineage.connection.name, peer, remote)

    def child_added(self, lineage: Lineage, child: LiveChild) -> None:
        """It is installed."""
        self.children[child.sa.local_spi] = lineage
        key = _selector_key(child.sa.local, child.sa.remote)
        owners = self._owners.setdefault(key, {})
        owners[lineage.owner] = owners.get(lineage.owner, 0) + 1
        if lineage.connection.is_template:
            self._claims.add(lineage.connection.name, lineage.peer_key, child.sa.remote)
        self.upkeep.look(lineage.connection.name)

    def child_gone(self, lineage: Lineage, child: LiveChild, reason: DownReason, text: str) -> None:
        """It is out of the data plane."""
        self.children.pop(child.sa.local_spi, None)
        key = _selector_key(child.sa.local, child.sa.remote)
        owners, owner = self._owners.get(key, {}), lineage.owner
        owners[owner] = owners.get(owner, 0) - 1
        if owners[owner] <= 0:
            del owners[owner]
        if not owners:
            self._owners.pop(key, None)
        if lineage.connection.is_template:
            self._claims.drop(lineage.connection.name, lineage.peer_key, child.sa.remote)
        self.upkeep.child_gone(lineage, child.spec.name, reason, text)

    def child_failed(self, lineage: Lineage, name: str, reason: DownReason, text: str) -> None:
        """A Child SA could not be had."""
        self.upkeep.child_failed(lineage, name, reason, text)

    # The end.

    def ending(self, sa: "IkeSa", reason: DownReason, text: str) -> None:
        """An IKE SA ends: its Child SAs go with it, unless a successor has them."""
        self.close_half(sa)
        lineage, connection = sa.lineage, sa.connection
        was_known = sa.own_spi in self.by_connection.get(connection.name, {}) if connection else False
        self._leave(sa)
        if lineage is not None and lineage.carrier is sa:
            for spi in list(lineage.children):
                lineage.end(spi, reason, text)
        if connection is None or not (was_known or lineage is not None):
            return
        is_replaced = lineage is not None and lineage.carrier is not sa
        self.context.emit(
            IkeSaDown(
                sa.own_spi,
                connection.name,
                lineage.peer if lineage is not None else None,
                DownReason.REKEYED if is_replaced else reason,
                "" if is_replaced else text,
            )
        )
        if not is_replaced:
            self.upkeep.ike_gone(sa, reason, text)

    def _leave(self, sa: "IkeSa") -> None:
        if sa.connection is not None:
            _drop(self.by_connection, sa.connection.name, sa.own_spi)
            if sa.lineage is not None:
                _drop(self.by_peer, (sa.connection.name, sa.lineage.peer_key), sa.own_spi)


Key = TypeVar("Key")
SelectorKey = tuple[Selectors, Selectors]


def _selector_key(local: Selectors, remote: Selectors) -> SelectorKey:
    """Equal for selectors that select the same."""
    return canonical(local), canonical(remote)


def _drop(index: "dict[Key, dict[int, IkeSa]]", key: Key, spi: int) -> None:
    rows = index.get(key)
    if rows is not None:
        rows.pop(spi, None)
        if not rows:
            del index[key]
