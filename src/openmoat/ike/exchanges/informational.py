"""INFORMATIONAL, both roles: Delete, liveness, notices (RFC 7296 1.4, 2.4)."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from openmoat.ike.errors import ProtocolError
from openmoat.ike.events import DownReason, Event, FragmentsProbed, SizeProbed
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.exchanges.exchange import Exchange
from openmoat.ike.wire.fragments import datagram_size
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import MAX_NOTIFY_DATA, Delete, Notify, Payload
from openmoat.net import Path

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = ["MAX_SIZE_PROBES", "DeleteChildren", "DeleteIke", "FragmentProbe", "Probe", "SizeProbe", "on_request"]

MAX_SIZE_PROBES = 3
"""Times a size is tried before it counts as lost (MAX_PROBES, RFC 8899 5.1.2)."""
PROBE_WAITS = (0.25, 0.5, 1.0)
"""Seconds after each of these: they grow exponentially (RFC 7296 2.4), and the last has the second that a probe must be
given (PROBE_TIMER, RFC 8899 5.1.1)."""
FRAGMENTED_SIZE = 2000
"""Octets of an IP datagram that no link of 1500 octets carries in one piece."""
NOTIFY_HEADER = 8
"""Octets of a Notify payload besides its data (RFC 7296 3.2, 3.10)."""


class DeleteChildren(Exchange):
    """Close Child SAs, named by our inbound SPIs (RFC 7296 1.4.1)."""

    __slots__ = ("reason", "spis", "text")
    is_bounded = False

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


class PaddedProbe(Exchange):
    """An INFORMATIONAL request padded to a size, to see whether datagrams of that size get through (RFC 8899 4).

    The padding is a private status notify, which every peer ignores (RFC 7296 3.10.1). It is one message, not IKE
    fragments, as some peers answer no INFORMATIONAL in fragments. Unanswered a few times, it goes on under its Message ID
    as an empty request: to the peer both say nothing and have the same response, so whichever it hears first, the exchange
    comes to its end, and a size that is lost is told from a peer that is.
    """

    __slots__ = ("_has_moved", "_has_shrunk", "_path", "_tested", "size")

    df: ClassVar[bool]
    """Don't Fragment on the padded request."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._has_shrunk = False
        self._tested = 0
        self._path: Path | None = None
        self._has_moved = False

    def start(self, sa: "IkeSa") -> None:
        """See `Exchange.start`."""
        self._path = sa.channel.path
        sa.request_whole(ExchangeType.INFORMATIONAL, padding(sa.channel.payload_room(self.size)), df=self.df)
        if sa.channel.window.sent is not None:
            self._tested = datagram_size(sa.channel.path, max(map(len, sa.channel.window.sent.datagrams)))

    def wait(self, times: int) -> float | None:
        """See `Exchange.wait`."""
        return PROBE_WAITS[times - 1] if times <= MAX_SIZE_PROBES else None

    def on_again(self, sa: "IkeSa", times: int) -> None:
        """See `Exchange.on_again`."""
        self._has_moved |= sa.channel.path != self._path
        if times > MAX_SIZE_PROBES and not self._has_shrunk:
            self._has_shrunk = True
            if sa.channel.window.sent is not None:
                sa.channel.exchange_request(sa.channel.window.sent, ())

    def on_response(self, sa: "IkeSa", message: Message) -> None:
        """See `Exchange.on_response`."""
        # After the change an answer may still be one to the padded request; that it counts as lost errs to the safe side.
        proved = None if self._has_moved or sa.channel.path != self._path else 0 if self._has_shrunk else self._tested
        sa.context.emit(self._outcome(sa.own_spi, proved))
        sa.finish(self)

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return type(other) is type(self) and isinstance(other, PaddedProbe) and other.size == self.size

    @abstractmethod
    def _outcome(self, ike: int, proved: int | None) -> Event:
        """What to tell; `proved` are the octets that arrived, 0 where they do not, None where the path is another one."""


class SizeProbe(PaddedProbe):
    """Do IP datagrams of this size get through to the peer in one piece?"""

    __slots__ = ()

    df = True

    def _outcome(self, ike: int, proved: int | None) -> Event:
        return SizeProbed(ike, self.size, proved)


class FragmentProbe(PaddedProbe):
    """Does a datagram get through that is too large for the link, so that IP fragments it?"""

    __slots__ = ()

    df = False

    def __init__(self) -> None:
        super().__init__(FRAGMENTED_SIZE)

    def _outcome(self, ike: int, proved: int | None) -> Event:
        return FragmentsProbed(ike, passed=None if proved is None else proved > 0)


def padding(octets: int) -> tuple[Payload, ...]:
    """So many octets of payloads that mean nothing; not fewer than one payload has."""
    count = -(-octets // (NOTIFY_HEADER + MAX_NOTIFY_DATA)) or 1
    share, longer = divmod(max(octets, count * NOTIFY_HEADER), count)
    sizes = [share + 1] * longer + [share] * (count - longer)
    return tuple(Notify(NotifyType.SIZE_PROBE, bytes(size - NOTIFY_HEADER)) for size in sizes)


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
