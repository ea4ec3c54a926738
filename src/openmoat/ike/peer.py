"""An authenticated peer and its Child SAs, which outlive each of its IKE SAs (RFC 7296 2.8, 2.18)."""

from dataclasses import replace
from typing import Protocol

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import AuthMethod
from openmoat.ike.context import Context, Timer
from openmoat.ike.events import ActivateOutbound, ChildSaDown, ChildSaUp, DownReason, RemoveChildSa
from openmoat.ike.negotiate.child_sa import LiveChild
from openmoat.ike.news import ChildFailed, ChildInstalled
from openmoat.model.connection import Aggfrag, Child, Connection

__all__ = ["AuthenticatedPeer", "ChildIndex", "Owner"]

Owner = tuple[str | None, Identity]
"""A group, where there is one, and a peer: alternatives of one group may hold the same selectors."""


class ChildIndex(Protocol):
    """Finds Child SAs of all peers: the `Registry`."""

    def child_added(self, peer: "AuthenticatedPeer", child: LiveChild) -> None:
        """It is installed."""
        ...

    def child_removed(self, peer: "AuthenticatedPeer", child: LiveChild) -> None:
        """It is out of the data plane."""
        ...


class AuthenticatedPeer:
    """Who the peer is, its Child SAs, and which IKE SA carries them now."""

    __slots__ = (
        "_context",
        "_index",
        "by_remote",
        "carrier",
        "children",
        "connection",
        "demanding",
        "identity",
        "is_ours",
        "key",
        "methods",
        "nonces",
        "since",
    )

    def __init__(
        self,
        context: Context,
        index: ChildIndex,
        connection: Connection,
        identity: Identity,
        methods: tuple[AuthMethod, AuthMethod],
        nonces: tuple[bytes, bytes],
        *,
        is_ours: bool,
    ) -> None:
        self._context = context
        self._index = index
        self.connection = connection
        self.identity = identity
        self.key = identity.folded()
        """One key for one peer, however it spells its name."""
        self.methods = methods
        """How we were authenticated, and how the peer."""
        self.is_ours = is_ours
        """We began the first exchange."""
        self.nonces = nonces
        """Of the first exchange; they decide between two IKE SAs that both sides began at once."""
        self.since = context.now
        self.carrier = 0
        """Our SPI of the IKE SA whose exchanges manage the Child SAs."""
        self.children: dict[int, LiveChild] = {}
        """By our inbound SPI."""
        self.by_remote: dict[int, int] = {}
        """The peer's inbound SPI to ours."""
        self.demanding: frozenset[str] = frozenset()
        """Children for which the peer wants AGGFRAG only with what we cannot do."""

    @property
    def owner(self) -> Owner:
        """Whose its selectors are."""
        return self.connection.group, self.key

    def offered(self, spec: Child) -> Child:
        """The child as it is offered to this peer: what is only preferred, and cannot be had, is not asked for again."""
        if spec.aggfrag is Aggfrag.PREFER and spec.name in self.demanding:
            return replace(spec, aggfrag=Aggfrag.NEVER)
        return spec

    def add(self, child: LiveChild) -> None:
        """A Child SA was installed."""
        spi, context, lifetimes = child.sa.local_spi, self._context, child.spec.lifetimes
        self.children[spi] = child
        self.by_remote[child.sa.remote_spi] = spi
        self._index.child_added(self, child)
        if lifetimes.rekey_after:
            early = lifetimes.rekey_after * lifetimes.jitter * context.random_fraction()
            context.timers.set((Timer.REKEY_CHILD, spi), context.now + lifetimes.rekey_after - early)
        if child.sa.hard_at is not None:
            context.timers.set((Timer.HARD_CHILD, spi), child.sa.hard_at)
        if child.sa.replaces in self.children:
            self.children[child.sa.replaces].is_replaced = True
        context.report(ChildInstalled(self.connection.name))

    def activate(self, child: LiveChild) -> None:
        """Send with this Child SA from now on; once."""
        if not child.is_active:
            child.is_active = True
            self._context.emit(ActivateOutbound(child.sa.local_spi))
            self._context.emit(ChildSaUp(child.sa))

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
        self._index.child_removed(self, child)
        for timer in (Timer.REKEY_CHILD, Timer.HARD_CHILD):
            self._context.timers.stop((timer, spi))
        old = self.children.get(child.sa.replaces or 0)
        if old is not None and self.successor(old.sa.local_spi) is None:
            old.is_replaced = False
        self._context.emit(RemoveChildSa(spi))
        self._context.report(ChildSaDown(child.sa, reason, text))

    def end_all(self, reason: DownReason, text: str = "") -> None:
        """Take all Child SAs out."""
        for spi in list(self.children):
            self.end(spi, reason, text)

    def fail(self, name: str, reason: DownReason, text: str) -> None:
        """A Child SA of this name could not be had."""
        self._context.report(ChildFailed(self.connection.name, name, self.key, reason, text))

    def rekey_later(self, spi: int, seconds: float) -> None:
        """The rekey of a Child SA has failed: try again while it lives."""
        self._context.timers.set((Timer.REKEY_CHILD, spi), self._context.now + seconds)

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

    def carry(self, ike: int) -> None:
        """All Child SAs belong to this IKE SA from now on (RFC 7296 2.18)."""
        self.carrier = ike
        for child in self.children.values():
            child.sa = replace(child.sa, ike=ike)
