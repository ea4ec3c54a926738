"""Facts of a failed negotiation, noted in small: sentences are made of them when somebody asks (`ike.explain`)."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from openmoat.ike.config import Count
from openmoat.ike.events import DownReason, NegotiationFailed
from openmoat.ike.negotiate.aggfrag import peer_aggfrag
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.payloads import IdInitiator, IdResponder, SecurityAssociation, TsInitiator, TsResponder
from openmoat.net import Path

if TYPE_CHECKING:
    from openmoat.ike.context import Context
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["MAX_NOTED_PROPOSALS", "facts_of", "failure_of", "stranger_failure"]

MAX_NOTED_PROPOSALS = 2048
"""Octets of an SA payload that are kept; larger ones are not, and counted."""


def facts_of(message: Message | None, counts: Counter[Count]) -> dict[str, Any]:
    """What a request said of itself: fields of `NegotiationFailed`."""
    if message is None:
        return {}
    facts: dict[str, Any] = {}
    offered, identity, asked = (
        message.first(SecurityAssociation),
        message.first(IdInitiator),
        message.first(IdResponder),
    )
    tsi, tsr = message.first(TsInitiator), message.first(TsResponder)
    if offered is not None:
        if len(octets := offered.emit()) <= MAX_NOTED_PROPOSALS:
            facts["proposals"] = octets
        else:
            counts[Count.NOTED_PROPOSALS_LIMIT] += 1
    if identity is not None:
        facts["peer"] = identity.identity
    if asked is not None:
        facts["asked_identity"] = asked.identity
    if tsi is not None and tsr is not None:
        facts["selectors"] = (tsi.selectors, tsr.selectors)
        facts["aggfrag_obstacle"] = peer_aggfrag(message).obstacle
    return facts


def failure_of(
    sa: "IkeSa", exchange: int, notify: int | None, reason: DownReason, text: str, *, notify_sent: bool
) -> NegotiationFailed:
    """The failure of an exchange on this IKE SA; where a request of the peer failed, with what it said."""
    facts = facts_of(sa.asked if notify_sent else None, sa.context.counts)
    if sa.lineage is not None:
        facts["peer"] = sa.lineage.peer
    return NegotiationFailed(
        at=sa.context.now,
        ike=sa.own_spi,
        connection=sa.connection.name if sa.connection else None,
        path=sa.channel.path,
        is_initiator=sa.channel.is_initiator,
        exchange=int(exchange),
        notify=int(notify) if notify is not None else None,
        notify_sent=notify_sent,
        reason=reason,
        text=text,
        **facts,
    )


def stranger_failure(
    context: "Context", path: Path, exchange: int, notify: int, reason: DownReason, text: str, message: Message | None
) -> NegotiationFailed:
    """The refusal of a first message, of which no IKE SA was made."""
    return NegotiationFailed(
        at=context.now,
        ike=0,
        connection=None,
        path=path,
        is_initiator=False,
        exchange=exchange,
        notify=notify,
        notify_sent=True,
        reason=reason,
        text=text,
        **facts_of(message, context.counts),
    )
