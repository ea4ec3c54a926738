"""Facts of a failed negotiation, noted in small: sentences are made of them when somebody asks (`ike.explain`)."""

from collections import Counter
from typing import Any

from openmoat.crypto.identities import Identity
from openmoat.ike.channel import Channel
from openmoat.ike.config import Count
from openmoat.ike.context import Context
from openmoat.ike.events import NegotiationFailed
from openmoat.ike.exchanges.exchange import Failure
from openmoat.ike.negotiate.aggfrag import peer_aggfrag
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.payloads import IdInitiator, IdResponder, SecurityAssociation, TsInitiator, TsResponder
from openmoat.net import Path

__all__ = ["MAX_NOTED_PROPOSALS", "facts_of", "failure_of", "unknown_peer_failure"]

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
    context: Context,
    channel: Channel,
    failure: Failure,
    *,
    connection: str | None,
    peer: Identity | None,
    asked: Message | None,
) -> NegotiationFailed:
    """The failure of an exchange on an IKE SA; where a request of the peer failed, with what it said."""
    facts = facts_of(asked if failure.notify_sent else None, context.counts)
    if peer is not None:
        facts["peer"] = peer
    return NegotiationFailed(
        at=context.now,
        ike=channel.own_spi,
        connection=connection,
        path=channel.path,
        is_initiator=channel.is_initiator,
        exchange=int(failure.exchange),
        notify=int(failure.notify) if failure.notify is not None else None,
        notify_sent=failure.notify_sent,
        reason=failure.reason,
        text=failure.text,
        **facts,
    )


def unknown_peer_failure(context: Context, path: Path, failure: Failure, message: Message | None) -> NegotiationFailed:
    """The refusal of a first message, of which no IKE SA was made."""
    return NegotiationFailed(
        at=context.now,
        ike=0,
        connection=None,
        path=path,
        is_initiator=False,
        exchange=int(failure.exchange),
        notify=failure.notify,
        notify_sent=True,
        reason=failure.reason,
        text=failure.text,
        **facts_of(message, context.counts),
    )
