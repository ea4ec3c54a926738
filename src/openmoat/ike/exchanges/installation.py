"""What exchanges that make an SA share: the Child SA as events tell it, the question that installs it, and waiting."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from openmoat.ike.errors import NoCommonProposal, NoCommonSelectors
from openmoat.ike.events import (
    Answer,
    AskInstall,
    ChildKeys,
    ChildSa,
    DownReason,
    Refused,
    Unanswerable,
    WeakPublicValue,
)
from openmoat.ike.exchanges.exchange import Exchange
from openmoat.ike.exchanges.informational import DeleteChildren
from openmoat.ike.lineage import Lineage
from openmoat.ike.natt import esp_path
from openmoat.ike.negotiate.child_sa import ChildTerms, LiveChild
from openmoat.ike.wire.numbers import NotifyType
from openmoat.policy.selectors import TrafficSelector, covers, format_selectors, intersect

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = [
    "MAX_TEMPORARY_FAILURES",
    "TEMPORARY_WAIT",
    "ask_install",
    "check_fault",
    "check_owner",
    "child_sa",
    "close_old",
    "give_up",
    "lineage_of",
    "reason_of_notify",
    "refreshed",
    "refusal_text",
    "temporary_failure",
]

TEMPORARY_WAIT = 2.0
"""Seconds, and up to as many again by chance, before a request that met TEMPORARY_FAILURE is tried again."""
MAX_TEMPORARY_FAILURES = 30
"""So often in a row (two to three minutes) means that the two sides are out of step (RFC 7296 2.25)."""


def lineage_of(sa: "IkeSa") -> Lineage:
    """What an authenticated IKE SA has."""
    if sa.lineage is None:
        raise ValueError("IKE SA: not authenticated yet")
    return sa.lineage


def child_sa(sa: "IkeSa", terms: ChildTerms) -> ChildSa:
    """The Child SA as events tell it."""
    lineage = lineage_of(sa)
    old = lineage.children.get(terms.replaces or 0)
    return ChildSa(
        connection=lineage.connection.name,
        child=terms.spec.name,
        peer=lineage.peer,
        ike=sa.own_spi,
        local_spi=terms.local_spi,
        remote_spi=terms.remote_spi,
        suite=terms.suite,
        local=terms.local,
        remote=terms.remote,
        path=esp_path(sa.path, udp=sa.uses_udp),
        udp=sa.uses_udp,
        keepalive=sa.nat.own,
        replaces=terms.replaces,
        aggfrag=terms.aggfrag,
        takes_slices=terms.takes_slices,
        remarks=terms.remarks,
        is_kin=sa.is_kin,
        has_changed_mode=old is not None and old.sa.aggfrag is not terms.aggfrag,
    )


def refreshed(sa: "IkeSa", child: ChildSa) -> ChildSa:
    """The same after the installation: the peer may have moved meanwhile."""
    path = esp_path(sa.path, udp=sa.uses_udp)
    return child if path == child.path else replace(child, path=path)


def check_owner(sa: "IkeSa", terms: ChildTerms) -> None:
    """`NoCommonSelectors` where the packets are another peer's, or our own."""
    if lineage_of(sa).connection.is_template and is_our_side(sa, terms):
        raise NoCommonSelectors(f"TS: {format_selectors(terms.remote)} holds addresses of our own side")
    owner = sa.registry.other_owner(lineage_of(sa), terms.local, terms.remote)
    if owner is not None:
        raise NoCommonSelectors(f"TS: {owner} holds a Child SA with these selectors, or some of their addresses")


def check_fault(terms: ChildTerms) -> None:
    """`NoCommonProposal` where the peer has made another Child SA than we can have."""
    if terms.fault:
        raise NoCommonProposal(terms.fault)


def is_our_side(sa: "IkeSa", terms: ChildTerms) -> bool:
    """Whether a peer that chose its addresses itself wants the packets to our outer address, or to our networks.

    Where our side of the child holds all that its peers may have (they speak with each other through us), nobody can tell.
    """
    spec = terms.spec
    outside = TrafficSelector.of_address(sa.path.local.address)
    if intersect(terms.remote, (outside,)):
        return True
    return bool(intersect(terms.remote, spec.local)) and not covers(spec.local, spec.remote)


def ask_install(
    sa: "IkeSa", child: ChildSa, keys: ChildKeys, on_answer: Callable[[Answer], None], *, for_peer: bool
) -> None:
    """Question with the keys; they are kept nowhere else."""
    sa.ask(lambda t: AskInstall(t, child, keys), on_answer, for_peer=for_peer)


def close_old(sa: "IkeSa", spi: int | None) -> None:
    """The initiator of the surviving rekey deletes what it replaces (RFC 7296 2.8)."""
    old = lineage_of(sa).children.get(spi or 0)
    if old is not None and not old.is_closing:
        old.is_closing = True
        lineage_of(sa).carrier.want(DeleteChildren((old.sa.local_spi,), DownReason.REKEYED), first=True)


def give_up(sa: "IkeSa", child: LiveChild) -> None:
    """Close a Child SA of ours that has lost against another (RFC 7296 2.8.1)."""
    child.is_closing = child.is_lost = True
    lineage_of(sa).carrier.want(DeleteChildren((child.sa.local_spi,), DownReason.COLLISION), first=True)


def reason_of_notify(kind: NotifyType) -> DownReason:
    """What an error notify of the peer means for a Child SA."""
    common = {NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.TS_UNACCEPTABLE, NotifyType.INVALID_KE_PAYLOAD}
    return DownReason.NO_COMMON_GROUND if kind in common else DownReason.REFUSED


def refusal_text(answer: Answer) -> str:
    """Why a question was not answered as hoped."""
    if isinstance(answer, (Refused, Unanswerable, WeakPublicValue)):
        return answer.text
    return f"answered with {type(answer).__name__}"


def temporary_failure(sa: "IkeSa", exchange: Exchange) -> None:
    """The peer is busy with something that touches ours: wait, and try again; not for ever (RFC 7296 2.25)."""
    attempts = getattr(exchange, "attempts", 0) + 1
    exchange.is_sent = False
    if attempts > MAX_TEMPORARY_FAILURES:
        sa.delete(DownReason.PEER_MISBEHAVED, "the peer answers TEMPORARY_FAILURE for minutes")
        return
    exchange.attempts = attempts  # type: ignore[attr-defined]
    carrier = lineage_of(sa).carrier
    carrier.pause(TEMPORARY_WAIT * (1 + sa.context.chance()))
    carrier.queue.append(exchange)
    sa.finish(exchange)
