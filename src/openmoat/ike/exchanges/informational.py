"""INFORMATIONAL, both roles: Delete, liveness, notices (RFC 7296 1.4, 2.4)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from openmoat.ike.errors import ProtocolError
from openmoat.ike.events import DownReason
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.exchanges.exchange import Exchange
from openmoat.ike.message import Message
from openmoat.ike.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.payloads import Delete, Notify, Payload

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["DeleteChildren", "DeleteIke", "Probe", "on_request"]


class DeleteChildren(Exchange):
    """Close Child SAs, named by our inbound SPIs (RFC 7296 1.4.1)."""

    __slots__ = ("reason", "spis", "text")

    def __init__(self, spis: Sequence[int], reason: DownReason = DownReason.ASKED, text: str = "") -> None:
        super().__init__()
        self.spis = tuple(spis)
        self.reason = reason
        self.text = text

    def start(self, sa: "IkeSa") -> None:
        """See `Exchange.start`."""
        sa.request(ExchangeType.INFORMATIONAL, [Delete(ProtocolId.ESP, self.spis)])

    def on_response(self, sa: "IkeSa", message: Message) -> None:
        """See `Exchange.on_response`."""
        # The response names the other halves, or none where both sides have closed at once. Either way they are gone.
        if sa.lineage is not None:
            for spi in self.spis:
                sa.lineage.remove(spi, self.reason, self.text)
        sa.finish(self)

    def on_end(self, sa: "IkeSa", reason: DownReason) -> None:
        """See `Exchange.on_end`. Where a successor of the IKE SA has the children, it goes on closing them."""
        lineage = sa.lineage
        if lineage is not None and lineage.carrier is not sa:
            left = [spi for spi in self.spis if spi in lineage.children]
            if left:
                lineage.carrier.want(DeleteChildren(left, self.reason, self.text))

    def ours(self, spi: int | None) -> Ours:
        """See `Exchange.ours`."""
        return Ours.CLOSING_THIS_CHILD if spi in self.spis else Ours.CLOSING_CHILD

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return isinstance(other, DeleteChildren) and set(other.spis) <= set(self.spis)


class DeleteIke(Exchange):
    """Close the IKE SA that carries it; or say that the peer could not be authenticated (RFC 7296 1.4.1, 2.21.2)."""

    __slots__ = ("error",)

    def __init__(self, error: ProtocolError | None = None) -> None:
        super().__init__()
        self.error = error

    def start(self, sa: "IkeSa") -> None:
        """See `Exchange.start`."""
        payload: Payload = Delete.ike()
        if self.error is not None and self.error.notify is not None:
            payload = Notify(self.error.notify, self.error.data)
        sa.request(ExchangeType.INFORMATIONAL, [payload])

    def on_response(self, sa: "IkeSa", message: Message) -> None:
        """See `Exchange.on_response`."""
        sa.forget(DownReason.ASKED)

    def ours(self, spi: int | None) -> Ours:
        """See `Exchange.ours`."""
        return Ours.CLOSING_IKE

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return isinstance(other, DeleteIke)


class Probe(Exchange):
    """An empty request: is the peer there? (RFC 7296 2.4)"""

    __slots__ = ()

    def start(self, sa: "IkeSa") -> None:
        """See `Exchange.start`."""
        sa.request(ExchangeType.INFORMATIONAL, [])

    def on_response(self, sa: "IkeSa", message: Message) -> None:
        """See `Exchange.on_response`."""
        sa.finish(self)

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return isinstance(other, Probe)


FATAL = frozenset({NotifyType.AUTHENTICATION_FAILED, NotifyType.INVALID_SYNTAX})
"""Notifies that say, in a request, that the peer has given this IKE SA up (RFC 7296 2.21.2)."""


def on_request(sa: "IkeSa", message: Message) -> None:
    """Deletes, news, or nothing at all: always answered."""
    deletes = message.every(Delete)
    if any(delete.protocol is ProtocolId.IKE for delete in deletes):
        # 1.4.1: the response to the deletion of an IKE SA is empty; our own exchanges on it are over.
        sa.respond(message.header.exchange, [])
        sa.close(DownReason.PEER_DELETED)
        return
    error = message.error()
    if error is not None and error.type in FATAL:
        sa.respond(message.header.exchange, [])
        is_refusal = error.type is NotifyType.AUTHENTICATION_FAILED
        reason = DownReason.AUTHENTICATION_FAILED if is_refusal else DownReason.REFUSED
        text = f"INFORMATIONAL: the peer says {error.type.name}"
        sa.report_failure(message.header.exchange, int(error.type), notify_sent=False, reason=reason, text=text)
        sa.close(reason, text)
        return
    spis = [spi for delete in deletes if delete.protocol is ProtocolId.ESP for spi in delete.spis]
    answered = _close_children(sa, spis)
    sa.respond(message.header.exchange, [Delete(ProtocolId.ESP, tuple(answered))] if answered else [])


def _close_children(sa: "IkeSa", remote_spis: Sequence[int]) -> list[int]:
    """Remove what the peer deletes; gives our halves, without those that we were closing ourselves (RFC 7296 1.4.1)."""
    lineage = sa.lineage
    if lineage is None:
        return []
    answered: list[int] = []
    for remote_spi in dict.fromkeys(remote_spis):
        spi = lineage.by_remote.get(remote_spi)
        if spi is None:
            sa.note_deleted(remote_spi)
            continue
        is_ours_too = sa.exchange is not None and sa.exchange.is_sent
        if not (is_ours_too and sa.exchange is not None and sa.exchange.ours(spi) is Ours.CLOSING_THIS_CHILD):
            answered.append(spi)
        lineage.remove(spi, DownReason.PEER_DELETED)
    return answered
