"""Explains a failed negotiation: what was received, which connections came nearest, and the field that failed for each.

Computed when somebody asks, from the facts that the core noted (`NegotiationFailed`); pure, and bounded in what it keeps.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from openmoat.crypto.identities import Identity
from openmoat.ike.errors import ProtocolError
from openmoat.ike.events import DownReason, NegotiationFailed
from openmoat.ike.negotiate.choice import misses, transform_name
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.proposals import Proposal, parse_proposals
from openmoat.ike.wire.reader import Reader
from openmoat.model.connection import Aggfrag, Child, Connection
from openmoat.net import Address
from openmoat.policy.selectors import Selectors, format_selectors, intersect

__all__ = [
    "MAX_CANDIDATES",
    "MAX_FAILURES",
    "MAX_FAILURES_PER_SOURCE",
    "Candidate",
    "Explanation",
    "Failures",
    "explain",
]

MAX_CANDIDATES = 16
"""Connections that one explanation compares with."""
MAX_FAILURES = 256
"""Failed negotiations that are remembered."""
MAX_FAILURES_PER_SOURCE = 16
"""The same from one address: one unknown peer cannot push out what others did."""


class Failures:
    """The newest failures, by number. Those of nobody's connection make room before those of ours do."""

    def __init__(self) -> None:
        self._next = 1
        self._facts: OrderedDict[int, NegotiationFailed] = OrderedDict()
        self._strange: deque[int] = deque()
        self._by_source: dict[Address, deque[int]] = {}

    def note(self, failure: NegotiationFailed) -> int:
        """Remember a failure; answers with the number under which it can be asked for."""
        source = failure.path.remote.address
        numbers = self._by_source.setdefault(source, deque())
        if len(numbers) == MAX_FAILURES_PER_SOURCE:
            self._drop(numbers[0])
        elif len(self._facts) == MAX_FAILURES:
            self._drop(self._strange[0] if self._strange else next(iter(self._facts)))
        number, self._next = self._next, self._next + 1
        self._facts[number] = failure
        self._by_source.setdefault(source, numbers).append(number)
        if failure.connection is None:
            self._strange.append(number)
        return number

    def _drop(self, number: int) -> None:
        failure = self._facts.pop(number)
        if failure.connection is None:
            self._strange.remove(number)
        source = failure.path.remote.address
        self._by_source[source].remove(number)
        if not self._by_source[source]:
            del self._by_source[source]

    def find(self, number: int) -> NegotiationFailed | None:
        """The failure of that number, if it is still remembered."""
        return self._facts.get(number)

    def newest(self, connection: str | None = None) -> list[tuple[int, NegotiationFailed]]:
        """All, or those of one connection, the newest first."""
        rows = reversed(self._facts.items())
        return [row for row in rows if connection is None or row[1].connection == connection]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A connection that might have been meant, and the first field on which it and the peer part."""

    connection: str
    field: str
    """`none` where all that is known fits: the fault lies elsewhere."""
    ours: str
    received: str
    agreed: int
    """Fields that fit before it."""

    def __str__(self) -> str:
        if self.field == "none":
            return f"{self.connection}: everything that is known fits"
        return f"{self.connection}: {self.field}: ours is {self.ours}; received {self.received}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A failed negotiation in sentences."""

    summary: str
    received: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    """The nearest first."""
    advice: str


def explain(failure: NegotiationFailed, connections: Iterable[Connection]) -> Explanation:
    """Compare what was received with the connections that might have been meant. Work grows with their number."""
    proposals = received_proposals(failure)
    if failure.is_initiator and failure.connection is not None:
        connections = [connection for connection in connections if connection.name == failure.connection]
    found = (compare(failure, proposals, connection) for connection in connections)
    if failure.is_initiator:
        # We know whom we meant: that nothing is found on our side is no news.
        found = (candidate for candidate in found if candidate.field != "none")
    nearest = heapq.nsmallest(MAX_CANDIDATES, found, key=lambda candidate: (-candidate.agreed, candidate.connection))
    return Explanation(
        summary=summary(failure),
        received=tuple(received_lines(failure, proposals)),
        candidates=tuple(nearest),
        advice=advice(failure),
    )


def received_proposals(failure: NegotiationFailed) -> tuple[Proposal, ...]:
    """Parsed once more from the octets that were kept; none where they do not parse."""
    if not failure.proposals:
        return ()
    try:
        return parse_proposals(Reader(failure.proposals, "SA"))
    except ProtocolError:
        return ()


def summary(failure: NegotiationFailed) -> str:
    """One line: who, in which exchange, and what came of it."""
    exchange = ExchangeType(failure.exchange).name
    who = f"with {failure.path.remote}" if failure.is_initiator else f"from {failure.path.remote}"
    # The text often says itself in which exchange and with which notify.
    text = failure.text.removeprefix(f"{exchange}: ")
    notify = ""
    if failure.notify is not None and NotifyType(failure.notify).name not in text:
        verb = "sent" if failure.notify_sent else "received"
        notify = f", {NotifyType(failure.notify).name} {verb}"
    return f"{exchange} {who}: {text}{notify}"


def received_lines(failure: NegotiationFailed, proposals: tuple[Proposal, ...]) -> Iterable[str]:
    """What the peer said, a line for each thing."""
    if failure.peer is not None:
        yield f"identity of the peer: {failure.peer}"
    if failure.asked_identity is not None:
        yield f"identity it asked for: {failure.asked_identity}"
    for proposal in proposals:
        names = ", ".join(transform_name(transform) for transform in proposal.transforms)
        yield f"{proposal.protocol.name} proposal {proposal.number}: {names or 'empty'}"
    if failure.selectors is not None:
        yield f"its side of the traffic: {format_selectors(peer_side(failure)) or 'nothing we know'}"
        yield f"our side of the traffic: {format_selectors(our_side(failure)) or 'nothing we know'}"


def peer_side(failure: NegotiationFailed) -> Selectors:
    """The selectors that stand for addresses behind the peer."""
    initiator, responder = failure.selectors or ((), ())
    return responder if failure.is_initiator else initiator


def our_side(failure: NegotiationFailed) -> Selectors:
    """The selectors that stand for addresses behind us."""
    initiator, responder = failure.selectors or ((), ())
    return initiator if failure.is_initiator else responder


def compare(failure: NegotiationFailed, proposals: tuple[Proposal, ...], connection: Connection) -> Candidate:
    """Field by field in the order in which an exchange meets them; the first that does not fit is the one named."""
    agreed = 0
    for check in (check_address, check_identity, check_asked_identity):
        difference = check(failure, connection)
        if difference is not None:
            return Candidate(connection.name, *difference, agreed)
        agreed += 1
    for compare_children in (compare_proposals, compare_selectors, compare_aggfrag):
        difference = compare_children(failure, proposals, connection)
        if difference is not None:
            return Candidate(connection.name, *difference, agreed)
        agreed += 1
    if failure.reason is DownReason.AUTHENTICATION_FAILED:
        return Candidate(connection.name, "authentication", "its key or pre-shared key here", "another", agreed)
    return Candidate(connection.name, "none", "", "", agreed)


Difference = tuple[str, str, str]
"""Field, ours, received."""


def check_address(failure: NegotiationFailed, connection: Connection) -> Difference | None:
    """The peer's address, where the connection names addresses and no names."""
    places = connection.peer.addresses
    came = failure.path.remote.address
    # A name may stand for any address, and an identity may come from anywhere: only a hint, so it fails last.
    if not places or failure.peer is not None or any(isinstance(place, str) or place == came for place in places):
        return None
    return "address of the peer", ", ".join(str(place) for place in places), str(came)


def check_identity(failure: NegotiationFailed, connection: Connection) -> Difference | None:
    """Who the peer says it is."""
    pattern = connection.peer.identity
    if failure.peer is None or pattern.matches(failure.peer):
        return None
    return "identity of the peer", str(pattern), str(failure.peer)


def check_asked_identity(failure: NegotiationFailed, connection: Connection) -> Difference | None:
    """Whom the peer wants us to be."""
    asked: Identity | None = failure.asked_identity
    if asked is None or failure.is_initiator or asked.folded() == connection.local_identity.folded():
        return None
    return "our identity", str(connection.local_identity), str(asked)


def compare_proposals(
    failure: NegotiationFailed, proposals: tuple[Proposal, ...], connection: Connection
) -> Difference | None:
    """The algorithms, unless one of ours meets one of theirs."""
    if not proposals or failure.reason is not DownReason.NO_COMMON_GROUND:
        return None
    if any(proposal.protocol is ProtocolId.IKE for proposal in proposals):
        found = misses(proposals, connection.proposals)
        total = len(proposals) * len(connection.proposals)
    else:
        with_key_exchange = failure.exchange == ExchangeType.CREATE_CHILD_SA
        ours = [proposal for child in connection.children for proposal in child.proposals]
        found = misses(proposals, ours, with_key_exchange)
        total = len(proposals) * len(ours)
    if len(found) < total or not found:
        return None
    nearest = found[0]
    return nearest.field_name, ", ".join(nearest.ours) or "none", ", ".join(nearest.theirs) or "none"


def compare_selectors(
    failure: NegotiationFailed, proposals: tuple[Proposal, ...], connection: Connection
) -> Difference | None:
    """The traffic, unless some child shares some of it on both sides."""
    del proposals
    if failure.selectors is None:
        return None
    differences = [child_difference(failure, child) for child in connection.children]
    if not differences or None in differences:
        return None
    return next(difference for difference in differences if difference is not None)


def compare_aggfrag(
    failure: NegotiationFailed, proposals: tuple[Proposal, ...], connection: Connection
) -> Difference | None:
    """AGGFRAG, where each child that shares the traffic requires it and the peer cannot."""
    del proposals
    if not failure.aggfrag_obstacle:
        return None
    fitting = [child for child in connection.children if child_difference(failure, child) is None]
    if not fitting or any(child.aggfrag is not Aggfrag.REQUIRE for child in fitting):
        return None
    return f"aggfrag of child {fitting[0].name}", Aggfrag.REQUIRE.value, failure.aggfrag_obstacle


def child_difference(failure: NegotiationFailed, child: Child) -> Difference | None:
    """Which side of the traffic has nothing in common with a child."""
    sides = (("remote", child.remote, peer_side(failure)), ("local", child.local, our_side(failure)))
    for side, ours, theirs in sides:
        if not intersect(theirs, ours):
            field = f"{side} selectors of child {child.name}"
            return field, format_selectors(ours), format_selectors(theirs) or "nothing we know"
    return None


RECEIVED_ADVICE = {
    NotifyType.NO_PROPOSAL_CHOSEN: (
        "the peer accepts none of our algorithms, or requires AGGFRAG where we do not offer it: compare proposals and "
        "aggfrag on both sides"
    ),
    NotifyType.AUTHENTICATION_FAILED: (
        "our authentication failed at the peer: compare our identity and our key or pre-shared key with its configuration; "
        "its log says which differs"
    ),
    NotifyType.TS_UNACCEPTABLE: "the peer protects other addresses: compare local and remote, mirrored, on both sides",
    NotifyType.INVALID_KE_PAYLOAD: "the peer wants another key exchange method than any we offer",
    NotifyType.NO_ADDITIONAL_SAS: "the peer accepts no further Child SAs on this IKE SA",
}
REASON_ADVICE = {
    DownReason.PEER_SILENT: (
        "no answer: check that the peer is up, and that UDP 500 and 4500 reach it (ping; a capture at the peer)"
    ),
    DownReason.NO_ROUTE: "no name of the peer resolves, or there is no route to it: ip route get ADDRESS",
    DownReason.AUTHENTICATION_FAILED: (
        "the authentication of the peer failed: compare its public key or pre-shared key in our configuration with its own; "
        "moat keys show FILE on both sides prints public keys"
    ),
    DownReason.NO_COMMON_GROUND: "change the named field on one side, so that both agree; then: moat reload",
}


def advice(failure: NegotiationFailed) -> str:
    """What to do next."""
    if failure.notify is not None and not failure.notify_sent and NotifyType(failure.notify) in RECEIVED_ADVICE:
        return RECEIVED_ADVICE[NotifyType(failure.notify)]
    return REASON_ADVICE.get(failure.reason, "see: moat log")
