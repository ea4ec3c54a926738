"""What follows when an IKE SA comes up, is replaced, or ends: its place in the indexes, timers, events, and the bounds on how
many there are.

What is wanted in its place is not known here, but in `ike.upkeep`, which reads the events.
"""

from typing import Protocol, TypeVar

from openmoat.ike.channel import Channel
from openmoat.ike.config import Count
from openmoat.ike.context import Context, Timer
from openmoat.ike.events import DownReason, IkeSaDown, IkeSaUp, RemoveChildSa
from openmoat.ike.registry import HalfOpenKey, Indexed, Registry
from openmoat.ike.session import Session

__all__ = ["LINGER_SECONDS", "Living", "authenticated", "ending", "expel", "linger", "open_half", "replaced"]

LINGER_SECONDS = 20.0
"""A closed IKE SA answers a repeated last request for this time; one that was replaced waits as long for its Delete."""
RETRY_SECONDS = 1.0
"""A connection whose IKE SA could not end as it should is looked at again after this time."""


class Living(Indexed, Protocol):
    """What is read of an IKE SA here, and how it is ended."""

    channel: Channel
    created: float

    def forget(self, reason: DownReason, text: str = "") -> None:
        """Forget everything at once."""
        ...

    def delete(self, reason: DownReason, text: str = "") -> None:
        """Tell the peer that it is over."""
        ...


Sa = TypeVar("Sa", bound=Living)


def open_half(context: Context, registry: Registry[Sa], sa: Sa, key: HalfOpenKey) -> None:
    """A responder's IKE SA whose peer has yet to prove anything has a limited time."""
    registry.open_half(sa, key)
    context.timers.set((Timer.HANDSHAKE, sa.own_spi), context.now + context.config.half_open_life)


def authenticated(
    context: Context, registry: Registry[Sa], sa: Sa, session: Session, *, is_initial_contact: bool
) -> None:
    """Both ends are authenticated."""
    registry.close_half(sa)
    peer = session.peer
    others = registry.of_peer(peer.connection.name, peer.key)
    if is_initial_contact:
        _drop_older(sa, others)
        others = registry.of_peer(peer.connection.name, peer.key)
    if len(others) >= context.config.max_ike_sas_per_peer:
        context.counts[Count.IKE_SAS_PER_PEER_LIMIT] += 1
        others[0].delete(DownReason.REPLACED, "too many IKE SAs of one peer")
    _enter(context, registry, sa, session, None)


def _drop_older(sa: Sa, others: list[Sa]) -> None:
    """INITIAL_CONTACT: the peer knows of no other IKE SA (RFC 7296 2.4).

    One that came up after this exchange began is no older one: both sides began at once, and their nonces decide.
    """
    for other in others:
        if other is not sa and other.session is not None and other.session.peer.since < sa.created:
            other.forget(DownReason.REPLACED, "INITIAL_CONTACT")


def replaced(context: Context, registry: Registry[Sa], old: Sa, new: Sa) -> None:
    """`new` has taken over from `old` (RFC 7296 2.18)."""
    registry.leave(old)
    if new.session is not None:
        _enter(context, registry, new, new.session, old.own_spi)


def _enter(context: Context, registry: Registry[Sa], sa: Sa, session: Session, replaces: int | None) -> None:
    registry.enter(sa, session)
    peer, channel = session.peer, session.channel
    context.report(
        IkeSaUp(
            ike=sa.own_spi,
            peer_spi=channel.peer_spi,
            connection=peer.connection.name,
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


def ending(context: Context, registry: Registry[Sa], sa: Sa, reason: DownReason, text: str) -> None:
    """An IKE SA ends: its Child SAs go with it, unless a successor has them."""
    registry.close_half(sa)
    session, connection = sa.session, sa.connection
    was_known = registry.leave(sa)
    is_replaced = session is not None and not session.is_carrier
    if session is not None and not is_replaced:
        session.peer.end_all(reason, text)
    if connection is None or not (was_known or session is not None):
        return
    peer = session.peer.identity if session is not None else None
    if is_replaced:
        reason, text = DownReason.REKEYED, ""
    context.report(IkeSaDown(sa.own_spi, connection.name, peer, reason, text))


def linger(context: Context, registry: Registry[Sa], sa: Sa) -> None:
    """It is over, and kept a little longer. The oldest go when there are too many, regardless of who made them."""
    context.timers.set((Timer.LINGER, sa.own_spi), context.now + LINGER_SECONDS)
    registry.lingering[sa.own_spi] = sa
    if len(registry.lingering) > context.config.max_lingering:
        context.counts[Count.LINGERING_LIMIT] += 1
        next(iter(registry.lingering.values())).forget(DownReason.REKEYED)


def expel(context: Context, registry: Registry[Sa], sa: Sa) -> None:
    """Nothing of it is left in the tables, whatever has kept it from ending as it should."""
    registry.close_half(sa)
    registry.leave(sa)
    registry.remove(sa)
    session, connection = sa.session, sa.connection
    if session is not None and session.is_carrier:
        for spi, child in tuple(session.peer.children.items()):
            if spi in registry.children:  # otherwise its selectors have been given back already
                registry.child_removed(session.peer, child)
            context.emit(RemoveChildSa(spi))
    if connection is not None:
        context.timers.set((Timer.KEEP_UP, connection.name), context.now + RETRY_SECONDS)
