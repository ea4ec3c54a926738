"""Which handler a message belongs to, by the state of the IKE SA, the exchange and the direction. Tables and nothing else."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from openmoat.ike.exchanges import auth, sa_init
from openmoat.ike.exchanges.answer_child import AnswerNew
from openmoat.ike.exchanges.exchange import PeerExchange
from openmoat.ike.exchanges.handshake import Handshake, HandshakeStep
from openmoat.ike.exchanges.informational import AnswerInformational
from openmoat.ike.exchanges.rekey_ike import AnswerRekey
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
    State,
    Superseded,
)
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, ProtocolId
from openmoat.ike.wire.payloads import SecurityAssociation
from openmoat.ike.wire.rules import Phase, check
from openmoat.net import Path

__all__ = ["EARLY_REQUESTS", "HANDSHAKE_REQUESTS", "HANDSHAKE_RESPONSES", "KINDS", "REQUESTS", "SILENCE", "Request"]

Place = tuple[type[State], ExchangeType]


OneState = TypeVar("OneState", bound=State)


def _in_phase(
    state: type[OneState], phase: Phase, handler: Callable[[Handshake, OneState, Message], HandshakeStep]
) -> Callable[[Handshake, Message], HandshakeStep]:
    """A message of this phase, checked by its rules, for a handler that works in one state."""

    def handle(hs: Handshake, message: Message) -> HandshakeStep:
        return handler(hs, _known(state, hs.state), check(message, phase))

    return handle


def _on_silence(hs: Handshake) -> HandshakeStep:
    return sa_init.on_silence(hs, _known(InitSent, hs.state))


def _known(kind: type[OneState], state: State) -> OneState:
    if not isinstance(state, kind):
        raise ValueError(f"IKE SA: a handler of {kind.__name__} in {type(state).__name__}")
    return state


class Request(NamedTuple):
    """What the peer asks for: the rules for its message, and the exchange that answers it."""

    phase: Phase
    answer: Callable[[Message], PeerExchange]


_CREATE_CHILD = Request(Phase.CREATE_CHILD, AnswerNew)
_REKEY_IKE = Request(Phase.REKEY_IKE, AnswerRekey)
_INFORMATIONAL = Request(Phase.INFORMATIONAL, AnswerInformational)


def _create_child(message: Message) -> Request:
    """CREATE_CHILD_SA is for the IKE SA itself where its proposals are for IKE (RFC 7296 1.3.2)."""
    offered = message.first(SecurityAssociation)
    is_for_ike = offered is not None and offered.proposals[0].protocol is ProtocolId.IKE
    return _REKEY_IKE if is_for_ike else _CREATE_CHILD


EARLY_REQUESTS: Mapping[Place, Callable[[Handshake, bytes, Path], HandshakeStep]] = {
    (InitAnswered, ExchangeType.IKE_AUTH): sa_init.hold,
    (DerivingKeysLate, ExchangeType.IKE_AUTH): sa_init.hold,
}
"""Encrypted requests before there are keys: only IKE_AUTH makes us compute them."""

HANDSHAKE_REQUESTS: Mapping[Place, Callable[[Handshake, Message], HandshakeStep]] = {
    (AwaitingAuth, ExchangeType.IKE_AUTH): _in_phase(AwaitingAuth, Phase.AUTH, auth.on_request),
}
"""Requests under good keys before their sender is authenticated. The state decides the phase of a message."""

HANDSHAKE_RESPONSES: Mapping[Place, Callable[[Handshake, Message], HandshakeStep]] = {
    (AuthSent, ExchangeType.IKE_AUTH): _in_phase(AuthSent, Phase.AUTH, auth.on_response),
}
"""Responses under good keys before the responder is authenticated."""

REQUESTS: Mapping[Place, Callable[[Message], Request]] = {
    (state, exchange): handler
    for exchange, handler in (
        (ExchangeType.CREATE_CHILD_SA, _create_child),
        (ExchangeType.INFORMATIONAL, lambda message: _INFORMATIONAL),
    )
    # An IKE SA may be on its way out because its peer did not prove itself: then nothing that peer asks for is done.
    for state in (Established, Superseded, Deleting)
}
"""Requests of an authenticated peer. What stands in no table gets no answer: it may be meant for a state yet to come."""

SILENCE: Mapping[type[State], Callable[[Handshake], HandshakeStep]] = {InitSent: _on_silence}
"""States in which a request without response is not the end."""

KINDS: Mapping[type[State], ExchangeType] = dict.fromkeys(
    (AuthSent, CheckingPeer, AwaitingAuth, Authorizing, ProvingBack, InstallingFirst), ExchangeType.IKE_AUTH
)
"""Which exchange a state belongs to; others are of IKE_SA_INIT."""
