"""INFORMATIONAL, both roles: Delete, liveness, notices (RFC 7296 1.4, 2.4)."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, assert_never

from openmoat.ike.errors import Busy
from openmoat.ike.events import DownReason, Event, FragmentsProbed, SizeProbed
from openmoat.ike.exchanges.collisions import Ours, Theirs, Verdict, answer
from openmoat.ike.exchanges.exchange import (
    Close,
    Doing,
    Done,
    Exchange,
    Failure,
    PeerExchange,
    Reply,
    Send,
    Step,
    Want,
)
from openmoat.ike.negotiate.child_sa import LiveChild
from openmoat.ike.session import Session
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import MAX_NOTIFY_DATA, Delete, Notify, Payload
from openmoat.ike.wire.rules import Phase
from openmoat.net import Path

__all__ = [
    "MAX_SIZE_PROBES",
    "AnswerInformational",
    "DeleteChildren",
    "FragmentProbe",
    "Probe",
    "SizeProbe",
    "close_replaced",
    "give_up",
]

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
    phase = Phase.INFORMATIONAL
    is_bounded = False

    def __init__(self, spis: Sequence[int], reason: DownReason = DownReason.ASKED, text: str = "") -> None:
        super().__init__()
        self.spis = tuple(spis)
        self.reason = reason
        self.text = text

    def start(self, session: Session) -> Step:
        """See `Exchange.start`."""
        return Send([Delete(ProtocolId.ESP, self.spis)])

    def on_response(self, session: Session, message: Message) -> Step:
        """See `Exchange.on_response`."""
        # The response names the other halves, or none where both sides have closed at once. Either way they are gone.
        for spi in self.spis:
            session.peer.remove(spi, self.reason, self.text)
        return Done()

    def end(self, session: Session, reason: DownReason) -> Done:
        """See `Exchange.end`. Where a successor of the IKE SA has the children, it goes on closing them."""
        left = [spi for spi in self.spis if spi in session.peer.children]
        if left and not session.is_carrier:
            return Done((Want(DeleteChildren(left, self.reason, self.text), first=False),))
        return Done()

    def ours(self, spi: int | None) -> Ours:
        """See `Exchange.ours`."""
        return Ours.CLOSING_THIS_CHILD if spi in self.spis else Ours.CLOSING_CHILD

    def is_same(self, other: Exchange) -> bool:
        """See `Exchange.is_same`."""
        return isinstance(other, DeleteChildren) and set(other.spis) <= set(self.spis)


def close_replaced(session: Session, spi: int | None) -> tuple[Want, ...]:
    """The initiator of the surviving rekey deletes what it replaces (RFC 7296 2.8)."""
    old = session.peer.children.get(spi or 0)
    if old is None or old.is_closing:
        return ()
    old.is_closing = True
    return (Want(DeleteChildren((old.sa.local_spi,), DownReason.REKEYED)),)


def give_up(child: LiveChild) -> tuple[Want, ...]:
    """Close a Child SA of ours that has lost against another (RFC 7296 2.8.1)."""
    child.is_closing = child.is_lost = True
    return (Want(DeleteChildren((child.sa.local_spi,), DownReason.COLLISION)),)


class Probe(Exchange):
    """An empty request: is the peer there? (RFC 7296 2.4)"""

    __slots__ = ()
    phase = Phase.INFORMATIONAL

    def start(self, session: Session) -> Step:
        """See `Exchange.start`."""
        return Send(())

    def on_response(self, session: Session, message: Message) -> Step:
        """See `Exchange.on_response`."""
        return Done()

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

    phase = Phase.INFORMATIONAL
    df: ClassVar[bool]
    """Don't Fragment on the padded request."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._has_shrunk = False
        self._tested = 0
        self._path: Path | None = None
        self._has_moved = False

    def start(self, session: Session) -> Step:
        """See `Exchange.start`."""
        channel = session.channel
        self._path = channel.path
        payloads = padding(channel.payload_room(self.size))
        self._tested = channel.datagram_size(payloads)
        return Send(payloads, is_whole=True, df=self.df)

    def wait(self, times: int) -> float | None:
        """See `Exchange.wait`."""
        return PROBE_WAITS[times - 1] if times <= MAX_SIZE_PROBES else None

    def on_again(self, session: Session, times: int) -> None:
        """See `Exchange.on_again`."""
        channel = session.channel
        self._has_moved |= channel.path != self._path
        sent = channel.window.sent
        if times > MAX_SIZE_PROBES and not self._has_shrunk and sent is not None:
            self._has_shrunk = True
            channel.exchange_request(sent, ())

    def on_response(self, session: Session, message: Message) -> Step:
        """See `Exchange.on_response`."""
        # After the change an answer may still be one to the padded request; that it counts as lost errs to the safe side.
        channel = session.channel
        has_moved = self._has_moved or channel.path != self._path
        proved = None if has_moved else 0 if self._has_shrunk else self._tested
        session.context.emit(self._outcome(channel.own_spi, proved))
        return Done()

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


class AnswerInformational(PeerExchange):
    """Deletes, notices, or nothing at all: always answered."""

    __slots__ = ("_message",)
    kind = ExchangeType.INFORMATIONAL

    def __init__(self, message: Message) -> None:
        super().__init__()
        self._message = message

    def start(self, session: Session, doing: Doing) -> Step:
        """See `PeerExchange.start`."""
        deletes = self._message.every(Delete)
        if any(delete.protocol is ProtocolId.IKE for delete in deletes):
            return self._close_ike(doing)
        for notify in self._message.every(Notify):
            handler = NOTIFIES.get(notify.type)
            if handler is not None:
                return handler(notify)
        spis = [spi for delete in deletes if delete.protocol is ProtocolId.ESP for spi in delete.spis]
        answered = [ours for spi in dict.fromkeys(spis) if (ours := self._close_child(session, doing, spi)) is not None]
        return Reply([Delete(ProtocolId.ESP, tuple(answered))] if answered else [], Done)

    def _close_ike(self, doing: Doing) -> Step:
        match answer(Theirs.DELETE_IKE, doing(None)):
            case Verdict.TEMPORARY_FAILURE | Verdict.CHILD_SA_NOT_FOUND as refusal:
                raise Busy(f"INFORMATIONAL: deletion of the IKE SA: {refusal.name}")
            case (
                Verdict.ANSWER
                | Verdict.ANSWER_AND_COMPARE
                | Verdict.ANSWER_WITHOUT_DELETE
                | Verdict.ANSWER_AND_REMEMBER
            ):
                # 1.4.1: the response to the deletion of an IKE SA is empty; our own exchanges on it are over.
                return Reply([], lambda: Done(outcome=Close(DownReason.PEER_DELETED)))
            case never:
                assert_never(never)

    def _close_child(self, session: Session, doing: Doing, remote_spi: int) -> int | None:
        """Remove what the peer deletes; gives our half where the response is to name it."""
        spi = session.peer.by_remote.get(remote_spi)
        theirs = Theirs.DELETE_CHILD if spi is not None else Theirs.DELETE_MISSING_CHILD
        verdict = answer(theirs, doing(spi))
        if spi is not None:
            session.peer.remove(spi, DownReason.PEER_DELETED)
        match verdict:
            case Verdict.ANSWER | Verdict.ANSWER_AND_COMPARE:
                return spi
            case Verdict.ANSWER_AND_REMEMBER:
                if self.ours is not None:
                    self.ours.note_deleted(remote_spi)
            case Verdict.ANSWER_WITHOUT_DELETE | Verdict.TEMPORARY_FAILURE | Verdict.CHILD_SA_NOT_FOUND:
                pass
            case never:
                assert_never(never)
        return None


def _on_given_up(notify: Notify) -> Step:
    """The peer has given this IKE SA up (RFC 7296 2.21.2)."""
    is_refusal = notify.type is NotifyType.AUTHENTICATION_FAILED
    reason = DownReason.AUTHENTICATION_FAILED if is_refusal else DownReason.REFUSED
    text = f"INFORMATIONAL: the peer says {notify.type.name}"
    failure = Failure(ExchangeType.INFORMATIONAL, int(notify.type), reason, text)
    return Reply([], lambda: Done(failure=failure, outcome=Close(reason, text)))


NOTIFIES: Mapping[NotifyType, Callable[[Notify], Step]] = {
    NotifyType.AUTHENTICATION_FAILED: _on_given_up,
    NotifyType.INVALID_SYNTAX: _on_given_up,
}
"""What a notify in a request of the peer leads to; others mean nothing to us (RFC 7296 3.10.1)."""
