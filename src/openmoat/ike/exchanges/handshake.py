"""An IKE SA before its session: what IKE_SA_INIT and IKE_AUTH work with, and the steps that only they take."""

from collections.abc import Callable, Sequence

import msgspec

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import AuthMethod
from openmoat.ike.channel import Channel
from openmoat.ike.context import Context, Timer
from openmoat.ike.events import Answer, DownReason, Question, Ticket
from openmoat.ike.exchanges.answer_child import AnswerFirst
from openmoat.ike.exchanges.create_child import FirstChild
from openmoat.ike.exchanges.exchange import Failure
from openmoat.ike.host import Host
from openmoat.ike.peer import AuthenticatedPeer
from openmoat.ike.session import Session
from openmoat.ike.states import Agreed, State, check_step
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import Payload
from openmoat.model.connection import Connection
from openmoat.net import Path

__all__ = [
    "AskFirst",
    "Authenticated",
    "GiveUp",
    "Handshake",
    "HandshakeStep",
    "ReadAgain",
    "ReplyInit",
    "SendAuth",
    "SendInit",
    "Wait",
]


class Handshake:
    """One attempt: the channel, and the state that holds everything else."""

    __slots__ = ("channel", "connection", "context", "host", "state")

    def __init__(
        self, context: Context, host: Host, channel: Channel, state: State, connection: Connection | None = None
    ) -> None:
        self.context = context
        self.host = host
        self.channel = channel
        self.state = state
        self.connection = connection
        """Known to an initiator from the beginning, to a responder once the peer is authenticated."""

    def step(self, following: State) -> None:
        """Go over to the next state, if it may come next."""
        self.state = check_step(self.state, following)

    def known(self) -> Connection:
        """The connection, where it must be known."""
        if self.connection is None:
            raise ValueError("IKE SA: no connection is known yet")
        return self.connection

    def use(self, connection: Connection) -> None:
        """It is for this connection."""
        self.connection = connection
        self.channel.forces_udp = connection.force_encapsulation
        self.channel.has_fragments = self.channel.has_fragments and connection.fragmentation

    def make_session(self, step: "Authenticated") -> Session:
        """What goes on with the peer, now that both ends are authenticated."""
        agreed, channel = step.agreed, self.channel
        peer = AuthenticatedPeer(
            self.context,
            self.host,
            self.known(),
            step.identity,
            step.methods,
            agreed.nonces,
            is_ours=channel.is_initiator,
        )
        peer.carrier = channel.own_spi
        return Session(
            self.context,
            self.host,
            channel,
            peer,
            agreed.suite,
            agreed.keymat.sk_d,
            agreed.nonces,
            agreed.has_our_vendor_id,
        )

    def give_a_path_its_time(self) -> None:
        """Each path has the time of a whole handshake."""
        self.context.timers.stop((Timer.REFUSAL, self.channel.own_spi))
        at = self.context.now + self.context.config.handshake_life
        self.context.timers.set((Timer.HANDSHAKE, self.channel.own_spi), at)


class AskFirst(msgspec.Struct, frozen=True):
    """Put a question; its answer leads to the next step."""

    question: Callable[[Ticket], Question]
    then: Callable[[Answer], "HandshakeStep"]


class SendInit(msgspec.Struct, frozen=True):
    """Send this IKE_SA_INIT request, in place of the one that is open."""

    message: bytes


class ReplyInit(msgspec.Struct, frozen=True):
    """Answer the IKE_SA_INIT request."""

    message: bytes


class SendAuth(msgspec.Struct, frozen=True):
    """Send the IKE_AUTH request."""

    payloads: Sequence[Payload]


class ReadAgain(msgspec.Struct, frozen=True):
    """There are keys now: read these datagrams, which were held."""

    held: tuple[tuple[bytes, Path], ...]


class Authenticated(msgspec.Struct, frozen=True):
    """Both ends are authenticated. The first Child SA follows, where one is asked for."""

    agreed: Agreed
    identity: Identity
    methods: tuple[AuthMethod, AuthMethod]
    """Ours and the peer's."""
    first: tuple[FirstChild, Message] | AnswerFirst | None
    is_initial_contact: bool = False
    """The peer knows of no other IKE SA with us (RFC 7296 2.4)."""


class GiveUp(msgspec.Struct, frozen=True):
    """Nothing comes of this attempt."""

    reason: DownReason
    text: str
    failure: Failure | None = None

    @classmethod
    def told(cls, exchange: ExchangeType, reason: DownReason, text: str, notify: int | None = None) -> "GiveUp":
        """With the same text as a failure of the negotiation."""
        return cls(reason, text, Failure(exchange, notify, reason, text))


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before something else comes."""


HandshakeStep = AskFirst | SendInit | ReplyInit | SendAuth | ReadAgain | Authenticated | GiveUp | Wait
