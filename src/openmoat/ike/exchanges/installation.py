"""What exchanges that make an SA share: the Child SA as events tell it, the question that installs it, and waiting."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from openmoat.ike.errors import (
    Busy,
    NoAdditionalSas,
    NoCommonProposal,
    NoCommonSelectors,
    PeerMisbehaved,
    ProtocolError,
)
from openmoat.ike.events import (
    Answer,
    AskInstall,
    ChildKeys,
    ChildSa,
    DownReason,
    Installed,
    Refused,
    RemoveChildSa,
    Unanswerable,
    WeakPublicValue,
)
from openmoat.ike.exchanges.exchange import Exchange, PeerExchange
from openmoat.ike.exchanges.informational import DeleteChildren
from openmoat.ike.lineage import Lineage
from openmoat.ike.negotiate.child_sa import ChildTerms, LiveChild, child_keys
from openmoat.ike.negotiate.choice import EspChoice
from openmoat.ike.wire.numbers import NotifyType
from openmoat.model.connection import Child
from openmoat.policy.selectors import TrafficSelector, covers, format_selectors, intersect

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = [
    "MAX_TEMPORARY_FAILURES",
    "TEMPORARY_WAIT",
    "AnswerChild",
    "ask_install",
    "check_fault",
    "check_owner",
    "child_sa",
    "close_old",
    "give_up",
    "let_go",
    "lineage_of",
    "reason_of_notify",
    "refreshed",
    "refusal_text",
    "secret_error",
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
        path=sa.channel.esp_path,
        udp=sa.channel.uses_udp,
        keepalive=sa.channel.nat.own,
        replaces=terms.replaces,
        aggfrag=terms.aggfrag,
        takes_slices=terms.takes_slices,
        remarks=terms.remarks,
        is_kin=sa.is_kin,
        has_changed_mode=old is not None and old.sa.aggfrag is not terms.aggfrag,
        hard_at=sa.context.now + terms.spec.lifetimes.hard if terms.spec.lifetimes.hard else None,
    )


def refreshed(sa: "IkeSa", child: ChildSa) -> ChildSa:
    """The same after the installation: the peer may have moved meanwhile."""
    path = sa.channel.esp_path
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
    outside = TrafficSelector.of_address(sa.channel.path.local.address)
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


def secret_error(answer: Answer, ours: type[ProtocolError] = Busy) -> ProtocolError:
    """Why there is no shared secret: the peer's value is no good, or it could not be computed here."""
    text = f"key exchange: {refusal_text(answer)}"
    return PeerMisbehaved(text) if isinstance(answer, WeakPublicValue) else ours(text)


def let_go(sa: "IkeSa", child: ChildSa, answer: Answer) -> None:
    """The Child SA could not be installed. `Refused` says that nothing of it is left; else nobody knows."""
    if not isinstance(answer, Refused):
        sa.context.emit(RemoveChildSa(child.local_spi))


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


class AnswerChild(PeerExchange):
    """A request for a Child SA, on its way through key exchange and installation to the response."""

    __slots__ = ("choice", "installing", "is_lost", "nonces", "on_refused", "spi", "terms")

    def __init__(
        self,
        terms: ChildTerms,
        choice: EspChoice,
        nonces: tuple[bytes, bytes],
        on_refused: Callable[[ProtocolError], None] | None = None,
    ) -> None:
        self.terms = terms
        self.on_refused = on_refused
        self.choice = choice
        self.nonces = nonces
        self.spi = terms.local_spi
        self.installing: ChildSa | None = None
        self.is_lost = False
        """An exchange of ours with the same purpose was through first, and has won."""

    def is_for(self, spec: Child, replaces: int | None) -> bool:
        """Whether it serves the same purpose as an exchange of ours."""
        if self.terms.replaces is not None or replaces is not None:
            return self.terms.replaces == replaces
        return self.terms.spec.name == spec.name

    def install(self, sa: "IkeSa", shared: bytes, respond: Callable[[LiveChild], None]) -> None:
        """Have it installed before the response lets the peer send."""
        if sa.channel.suite is None or sa.keymat is None:
            raise ValueError("IKE SA: no keys")
        keys = child_keys(self.terms, sa.channel.suite.prf, sa.keymat.sk_d, self.nonces, shared)
        self.installing = child_sa(sa, self.terms)
        ask_install(sa, self.installing, keys, lambda a: self._on_installed(sa, respond, a), for_peer=True)

    def _on_installed(self, sa: "IkeSa", respond: Callable[[LiveChild], None], answer: Answer) -> None:
        child = self.installing
        if child is None:
            return
        if not isinstance(answer, Installed):
            self.installing = None
            let_go(sa, child, answer)
            self.spi = 0
            is_temporary = not isinstance(answer, Refused) or answer.is_temporary
            error = (Busy if is_temporary else NoAdditionalSas)(f"data plane: {refusal_text(answer)}")
            if self.on_refused is None:
                raise error
            self.on_refused(error)
            return
        live = LiveChild(sa=refreshed(sa, child), spec=self.terms.spec, nonces=self.nonces, is_ours=False)
        respond(live)
        self.installing, self.spi = None, 0

    def on_end(self, sa: "IkeSa") -> None:
        """See `Exchange.on_end`."""
        if self.installing is not None:
            sa.context.emit(RemoveChildSa(self.installing.local_spi))
            self.installing = None
        elif self.spi:
            sa.context.return_spi(self.spi)
        self.spi = 0
