"""Which handler a message, a silence or an error belongs to, by state and exchange. Tables and nothing else."""

from typing import TYPE_CHECKING

from openmoat.ike.config import Count
from openmoat.ike.errors import (
    AuthenticationFailed,
    MalformedMessage,
    NoCommonGround,
    PeerMisbehaved,
    ProtocolError,
)
from openmoat.ike.events import DownReason
from openmoat.ike.exchanges import answer_child, auth, create_child, informational, rekey_ike, sa_init
from openmoat.ike.exchanges.exchange import Exchange
from openmoat.ike.states import (
    Authorizing,
    AuthSent,
    AwaitingAuth,
    CheckingPeer,
    Deleting,
    DerivingKeysLate,
    Established,
    InitAnswered,
    InitSent,
    InstallingFirst,
    ProvingBack,
    Superseded,
)
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, ProtocolId
from openmoat.ike.wire.payloads import SecurityAssociation
from openmoat.ike.wire.rules import check
from openmoat.net import Path

if TYPE_CHECKING:
    from openmoat.ike.ike_sa import IkeSa

__all__ = [
    "answered_exchange",
    "farewell",
    "on_early_request",
    "on_init_response",
    "on_request",
    "on_response",
    "on_silence",
    "open_exchange",
    "reason_of",
]

on_init_response = sa_init.on_response


def on_early_request(sa: "IkeSa", header: Header, datagram: bytes, path: Path) -> None:
    """A protected request before there are keys: only IKE_AUTH makes us compute them."""
    is_auth = header.exchange is ExchangeType.IKE_AUTH and header.message_id == 1
    if is_auth and isinstance(sa.state, (InitAnswered, DerivingKeysLate)):
        sa_init.hold(sa, datagram, path)
    else:
        sa.context.counts[Count.UNEXPECTED_REQUEST] += 1


def on_request(sa: "IkeSa", message: Message) -> None:
    """A fresh request under good keys. Before its sender is authenticated only IKE_AUTH counts."""
    state, exchange = sa.state, message.header.exchange
    if isinstance(state, AwaitingAuth) and exchange is ExchangeType.IKE_AUTH:
        auth.on_request(sa, state, check(message))
    elif not isinstance(state, (Established, Superseded, Deleting)) or sa.lineage is None:
        # An SA may be on its way out because its peer did not prove itself: then nothing that peer asks for is done.
        _ignore(sa)
    elif exchange is ExchangeType.CREATE_CHILD_SA:
        message = check(message)
        if _is_for_ike(message):
            rekey_ike.on_request(sa, message)
        else:
            answer_child.on_request(sa, message)
    elif exchange is ExchangeType.INFORMATIONAL:
        informational.on_request(sa, check(message))
    else:
        _ignore(sa)


def _ignore(sa: "IkeSa") -> None:
    """Give no answer: the message may be meant for a state that we have yet to reach."""
    sa.context.counts[Count.UNEXPECTED_REQUEST] += 1
    sa.channel.window.abandon_answer()


def _is_for_ike(message: Message) -> bool:
    """Whether a CREATE_CHILD_SA request rekeys the IKE SA: its proposals are for IKE (RFC 7296 1.3.2)."""
    offered = message.first(SecurityAssociation)
    return offered is not None and offered.proposals[0].protocol is ProtocolId.IKE


def on_response(sa: "IkeSa", message: Message) -> None:
    """The response to our open request, under good keys."""
    state = sa.state
    if isinstance(state, AuthSent):
        auth.on_response(sa, state, check(message))
    elif sa.exchange is not None:
        sa.exchange.on_response(sa, check(message))
    else:
        sa.pump()  # its exchange was given up meanwhile


def on_silence(sa: "IkeSa") -> None:
    """Our request was sent as often as the schedule says, in vain."""
    if isinstance(sa.state, InitSent):
        sa_init.on_silence(sa, sa.state)
        return
    text = f"{open_exchange(sa).name} request: no response from {sa.channel.path.remote}"
    if isinstance(sa.state, AuthSent):
        sa.report_failure(ExchangeType.IKE_AUTH, None, notify_sent=False, reason=DownReason.PEER_SILENT, text=text)
    sa.forget(DownReason.PEER_SILENT, text)


def farewell(error: ProtocolError | None) -> Exchange:
    """The exchange that ends an IKE SA."""
    return informational.DeleteIke(error)


def answered_exchange(sa: "IkeSa") -> ExchangeType:
    """Which exchange the peer's request that we work on belongs to."""
    if isinstance(sa.state, (AwaitingAuth, Authorizing, ProvingBack, InstallingFirst)):
        return ExchangeType.IKE_AUTH
    return ExchangeType.CREATE_CHILD_SA


def open_exchange(sa: "IkeSa") -> ExchangeType:
    """Which exchange our request belongs to."""
    if isinstance(sa.state, (AuthSent, CheckingPeer)) or isinstance(sa.exchange, create_child.FirstChild):
        return ExchangeType.IKE_AUTH
    if isinstance(sa.exchange, (create_child.NewChild, rekey_ike.RekeyIke)):
        return ExchangeType.CREATE_CHILD_SA
    return ExchangeType.INFORMATIONAL


_REASONS: tuple[tuple[type[ProtocolError], DownReason], ...] = (
    (AuthenticationFailed, DownReason.AUTHENTICATION_FAILED),
    (NoCommonGround, DownReason.NO_COMMON_GROUND),
    (MalformedMessage, DownReason.PEER_MISBEHAVED),
    (PeerMisbehaved, DownReason.PEER_MISBEHAVED),
)


def reason_of(error: ProtocolError) -> DownReason:
    """The word of the journal for an error."""
    return next((reason for family, reason in _REASONS if isinstance(error, family)), DownReason.REFUSED)
