"""INFORMATIONAL, both roles: Delete, liveness, notices (RFC 7296 1.4, 2.4)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from openmoat.ike.errors import ProtocolError
from openmoat.ike.events import DownReason, SizeProbed
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.exchanges.exchange import Exchange
from openmoat.ike.fragments import datagram_size, message_size, plaintext_room
from openmoat.ike.message import Message
from openmoat.ike.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.payloads import MAX_NOTIFY_DATA, Delete, Notify, Payload

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["MAX_SIZE_PROBES", "DeleteChildren", "DeleteIke", "Probe", "SizeProbe", "on_request"]

MAX_SIZE_PROBES = 3
"""Times a size is tried before it counts as lost (MAX_PROBES, RFC 8899 5.1.2)."""
NOTIFY_HEADER = 8
"""Octets of a Notify payload besides its data (RFC 7296 3.2, 3.10)."""
SMALL_SIZES = (1280, 576)
"""Octets of IP datagrams in which a request goes on that got no answer in larger ones, the largest that is smaller."""


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


class SizeProbe(Exchange):
    """Do IP datagrams of this size get through to the peer? (RFC 8899 4, RFC 7383 2.5.2)

    A padded request goes out in fragments of the size in question, with DF. Unanswered it goes on as the same request in
    more and smaller fragments, which the peer puts together instead: so a size that is lost is told from a peer that is.
    """

    __slots__ = ("_has_shrunk", "_padding", "_tested", "size")

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._has_shrunk = False
        self._tested = 0
        self._padding: tuple[Payload, ...] = ()

    def start(self, sa: "IkeSa") -> None:
        """See `Exchange.start`."""
        # strongSwan (5.9.8) passes over an INFORMATIONAL in fragments as if it were not encrypted: it would be lost to us.
        if not sa.is_kin or not sa.peer_fragments or sa.outgoing is None:
            self._tell(sa, None)
            sa.finish(self)
            return
        small = self._small
        # One octet more than fits one fragment of this size, and two of the smaller one: two fragments, then at least three.
        wanted = plaintext_room(sa.outgoing, message_size(sa.path, self.size)) + 1
        if small is not None:
            wanted = max(wanted, 2 * plaintext_room(sa.outgoing, message_size(sa.path, small)) + 1)
        self._padding = padding(wanted)
        self._send(sa, self.size)
        if sa.window.sent is not None:
            self._tested = datagram_size(sa.path, max(map(len, sa.window.sent.datagrams)))

    def on_again(self, sa: "IkeSa", times: int) -> None:
        """See `Exchange.on_again`."""
        small = self._small
        if times > MAX_SIZE_PROBES and not self._has_shrunk and small is not None:
            self._has_shrunk = True
            self._send(sa, small)

    def on_response(self, sa: "IkeSa", message: Message) -> None:
        """See `Exchange.on_response`."""
        self._tell(sa, 0 if self._has_shrunk else self._tested)
        sa.finish(self)

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return isinstance(other, SizeProbe) and other.size == self.size

    @property
    def _small(self) -> int | None:
        return next((size for size in SMALL_SIZES if size < self.size), None)

    def _send(self, sa: "IkeSa", size: int) -> None:
        sa.request_sized(ExchangeType.INFORMATIONAL, self._padding, message_size(sa.path, size))

    def _tell(self, sa: "IkeSa", proved: int | None) -> None:
        sa.context.emit(SizeProbed(sa.own_spi, self.size, proved))


def padding(octets: int) -> tuple[Payload, ...]:
    """At least so many octets of payloads that mean nothing."""
    whole, rest = divmod(octets, NOTIFY_HEADER + MAX_NOTIFY_DATA)
    sizes = [MAX_NOTIFY_DATA] * whole + [max(0, rest - NOTIFY_HEADER)]
    return tuple(Notify(NotifyType.SIZE_PROBE, bytes(size)) for size in sizes)


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
