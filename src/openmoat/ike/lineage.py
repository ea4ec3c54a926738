"""What an IKE SA and its successors share: the authenticated peer and the Child SAs (RFC 7296 2.8, 2.18)."""

from dataclasses import replace
from typing import TYPE_CHECKING

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import AuthMethod
from openmoat.ike.context import Timer
from openmoat.ike.events import ActivateOutbound, ChildSaDown, ChildSaUp, DownReason, RemoveChildSa
from openmoat.ike.negotiate.child_sa import LiveChild
from openmoat.model.connection import Aggfrag, Child, Connection

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["Lineage", "Owner"]

Owner = tuple[str | None, Identity]
"""A group, where there is one, and a peer: alternatives of one group may hold the same selectors."""


class Lineage:
    """The Child SAs of one authenticated peer, and the IKE SA that carries them now."""

    __slots__ = (
        "by_remote",
        "carrier",
        "children",
        "connection",
        "demanding",
        "is_ours",
        "nonces",
        "own_method",
        "peer",
        "peer_key",
        "peer_method",
        "since",
    )

    def __init__(
        self,
        connection: Connection,
        peer: Identity,
        own_method: AuthMethod,
        peer_method: AuthMethod,
        carrier: "IkeSa",
    ) -> None:
        self.connection = connection
        self.peer = peer
        self.peer_key = peer.folded()
        """One key for one peer, however it spells its name."""
        self.own_method = own_method
        self.peer_method = peer_method
        self.carrier = carrier
        self.is_ours = carrier.channel.is_initiator
        """We began the first exchange."""
        self.nonces = carrier.nonces
        """Of the first exchange; they decide between two IKE SAs that both sides began at once."""
        self.since = carrier.context.now
        self.children: dict[int, LiveChild] = {}
        """By our inbound SPI."""
        self.by_remote: dict[int, int] = {}
        """The peer's inbound SPI to ours."""
        self.demanding: frozenset[str] = frozenset()
        """Children for which the peer wants AGGFRAG only with what we cannot do."""

    @property
    def owner(self) -> Owner:
        """Whose its selectors are."""
        return self.connection.group, self.peer_key

    def offered(self, spec: Child) -> Child:
        """The child as it is offered to this peer: what is only preferred, and cannot be had, is not asked for again."""
        if spec.aggfrag is Aggfrag.PREFER and spec.name in self.demanding:
            return replace(spec, aggfrag=Aggfrag.NEVER)
        return spec

    def add(self, child: LiveChild) -> None:
        """A Child SA was installed."""
        spi = child.sa.local_spi
        self.children[spi] = child
        self.by_remote[child.sa.remote_spi] = spi
        self.carrier.registry.child_added(self, child)
        context = self.carrier.context
        lifetimes = child.spec.lifetimes
        if lifetimes.rekey_after:
            early = lifetimes.rekey_after * lifetimes.jitter * context.chance()
            context.timers.set((Timer.REKEY_CHILD, spi), context.now + lifetimes.rekey_after - early)
        if child.sa.hard_at is not None:
            context.timers.set((Timer.HARD_CHILD, spi), child.sa.hard_at)
        if child.sa.replaces in self.children:
            self.children[child.sa.replaces].is_replaced = True

    def activate(self, child: LiveChild) -> None:
        """Send with this Child SA from now on; once."""
        if not child.is_active:
            child.is_active = True
            self.carrier.context.emit(ActivateOutbound(child.sa.local_spi))
            self.carrier.context.emit(ChildSaUp(child.sa))

    def remove(self, spi: int, reason: DownReason, text: str = "") -> None:
        """Take a Child SA out. A successor that has not sent yet begins before, so that packets always find a way."""
        successor = self.successor(spi)
        if successor is not None and spi in self.children:
            self.activate(successor)
            reason, text = DownReason.REKEYED, ""
        self.end(spi, reason, text)

    def end(self, spi: int, reason: DownReason, text: str = "") -> None:
        """Take a Child SA out whose successors do not matter: all go."""
        child = self.children.pop(spi, None)
        if child is None:
            return
        self.by_remote.pop(child.sa.remote_spi, None)
        context = self.carrier.context
        context.emit(RemoveChildSa(spi))
        context.emit(ChildSaDown(child.sa, reason, text))
        for timer in (Timer.REKEY_CHILD, Timer.HARD_CHILD):
            context.timers.stop((timer, spi))
        old = self.children.get(child.sa.replaces or 0)
        if old is not None and self.successor(old.sa.local_spi) is None:
            old.is_replaced = False
        self.carrier.registry.child_gone(self, child, reason, text)

    def successor(self, spi: int) -> LiveChild | None:
        """The Child SA that has replaced this one, and stays."""
        found = [c for c in self.children.values() if c.sa.replaces == spi and not c.is_closing]
        return found[-1] if found else None

    def lasting(self, name: str) -> LiveChild | None:
        """The Child SA of this name that is neither replaced nor about to go."""
        for child in self.children.values():
            if child.spec.name == name and not child.is_closing and not child.is_replaced:
                return child
        return None

    def inherit(self, carrier: "IkeSa") -> None:
        """All Child SAs belong to the successor of the IKE SA from now on (RFC 7296 2.18)."""
        self.carrier = carrier
        for child in self.children.values():
            child.sa = replace(child.sa, ike=carrier.own_spi)
