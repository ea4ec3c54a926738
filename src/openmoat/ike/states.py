"""The states of an IKE SA: each a type that holds what exists then and nothing else, and who may follow whom."""

from collections.abc import Mapping
from dataclasses import dataclass

from openmoat.crypto.identities import Identity
from openmoat.crypto.keymat import IkeKeymat
from openmoat.crypto.numbers import AuthMethod, HashAlgorithm, KeMethod
from openmoat.crypto.suites import IkeSuite
from openmoat.errors import Secret
from openmoat.ike.natt import NatView
from openmoat.ike.session import Session
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.proposals import Proposal
from openmoat.model.connection import Child, Connection
from openmoat.net import Path

__all__ = [
    "SUCCESSORS",
    "Agreed",
    "AuthSent",
    "Authorizing",
    "AwaitingAuth",
    "CheckingPeer",
    "Closed",
    "Dead",
    "Deleting",
    "DerivingKeys",
    "DerivingKeysLate",
    "Established",
    "FindingPath",
    "FirstRequest",
    "InitAnswered",
    "InitReceived",
    "InitSent",
    "Initials",
    "InstallingFirst",
    "MakingKeyPair",
    "ProvingBack",
    "ProvingSelf",
    "Rejecting",
    "State",
    "Superseded",
    "check_step",
    "is_over",
    "session_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRequest:
    """What an initiator carries from one IKE_SA_INIT request to the next."""

    child: Child | None
    """The Child SA wanted first."""
    attempt: int
    paths: tuple[Path, ...] = ()
    """Paths not tried yet."""
    nonce: bytes
    method: KeMethod
    cookie: bytes = b""
    restarts: int = 0
    """How often a COOKIE or INVALID_KE_PAYLOAD has made us begin again."""
    refusal: str = ""
    """Unauthenticated error notify that came meanwhile: believed only if nothing better comes (RFC 7296 2.21.1)."""
    refusal_type: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Initials:
    """What IKE_SA_INIT leaves behind for IKE_AUTH."""

    suite: IkeSuite
    first_i: bytes
    """First message of the initiator as it was sent, without non-ESP marker: AUTH signs it (RFC 7296 2.15)."""
    first_r: bytes
    nonce_i: bytes
    nonce_r: bytes
    peer_hashes: frozenset[HashAlgorithm]
    has_our_vendor_id: bool
    """The peer announced the vendor ID that we announce."""
    nat: NatView


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed(Initials):
    """The same with the keys that follow from it: all but SK_d are for the authentication alone."""

    keymat: IkeKeymat

    @property
    def nonces(self) -> tuple[bytes, bytes]:
        """Of the initiator and of the responder."""
        return self.nonce_i, self.nonce_r


@dataclass(frozen=True, slots=True)
class FindingPath:
    """Initiator: asked where the peer is."""

    first_request: FirstRequest


@dataclass(frozen=True, slots=True)
class MakingKeyPair:
    """Initiator: asked for a key pair."""

    first_request: FirstRequest


@dataclass(frozen=True, slots=True)
class InitSent:
    """Initiator: IKE_SA_INIT request sent (RFC 7296 1.2)."""

    first_request: FirstRequest
    request: bytes
    public_value: bytes
    private: Secret


@dataclass(frozen=True, slots=True)
class DerivingKeys:
    """Initiator: asked for the shared secret. Until it comes the response counts for nothing: it may be forged."""

    sent: InitSent
    initials: Initials


@dataclass(frozen=True, slots=True)
class ProvingSelf:
    """Initiator: asked for our AUTH payload."""

    agreed: Agreed
    child: Child | None


@dataclass(frozen=True, slots=True)
class AuthSent:
    """Initiator: IKE_AUTH request sent."""

    agreed: Agreed
    own_method: AuthMethod
    child: Child | None
    child_spi: int
    """Inbound SPI we offered for the first Child SA; 0 where none was offered."""


@dataclass(frozen=True, slots=True)
class CheckingPeer:
    """Initiator: asked whether the peer's AUTH payload is valid."""

    sent: AuthSent
    response: Message
    identity: Identity
    method: AuthMethod


@dataclass(frozen=True, slots=True)
class InitReceived:
    """Responder: IKE_SA_INIT request accepted, asked for a key pair."""

    request: bytes
    suite: IkeSuite
    chosen: Proposal
    """The proposal that answers."""
    peer_value: bytes
    nonce_i: bytes
    peer_hashes: frozenset[HashAlgorithm]
    has_fragments: bool
    """The peer can do IKE fragmentation."""
    has_our_vendor_id: bool
    """See `Initials`."""
    nat: NatView


@dataclass(frozen=True, slots=True)
class InitAnswered:
    """Responder: IKE_SA_INIT response sent. Nothing is computed before somebody goes on to IKE_AUTH."""

    initials: Initials
    private: Secret
    peer_value: bytes


@dataclass(frozen=True, slots=True)
class DerivingKeysLate:
    """Responder: an IKE_AUTH request came, asked for the shared secret. Its datagrams are held, within a bound."""

    initials: Initials
    held: tuple[tuple[bytes, Path], ...] = ()


@dataclass(frozen=True, slots=True)
class AwaitingAuth:
    """Responder: keys are there, no IKE_AUTH request was decrypted with them yet. One that cannot be changes nothing."""

    agreed: Agreed


@dataclass(frozen=True, slots=True)
class Authorizing:
    """Responder: asked whether the peer's AUTH payload is good for the first of these connections."""

    agreed: Agreed
    request: Message
    identity: Identity
    method: AuthMethod
    candidates: tuple[Connection, ...]
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProvingBack:
    """Responder: the peer is who it says; asked for our AUTH payload."""

    agreed: Agreed
    connection: Connection
    request: Message
    identity: Identity
    peer_method: AuthMethod


@dataclass(frozen=True, slots=True)
class InstallingFirst:
    """Responder: authenticated; asked to install the first Child SA before the response goes out."""

    session: Session


@dataclass(frozen=True, slots=True)
class Established:
    """Both sides are authenticated. What goes on are exchanges, objects of their own."""

    session: Session


@dataclass(frozen=True, slots=True)
class Superseded:
    """A successor carries the Child SAs (RFC 7296 2.18); this one only waits for its Delete."""

    session: Session
    successor: int


@dataclass(frozen=True, slots=True)
class Deleting:
    """Our Delete is on its way."""

    session: Session


@dataclass(frozen=True, slots=True)
class Rejecting:
    """Initiator: the responder could not be authenticated, and that news is on its way (RFC 7296 2.21.2)."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Over. Kept for a short time so that a repeated last request gets its response again (RFC 7296 2.1)."""


@dataclass(frozen=True, slots=True)
class Dead:
    """Forgotten: no message reaches it any more."""


State = (
    FindingPath
    | MakingKeyPair
    | InitSent
    | DerivingKeys
    | ProvingSelf
    | AuthSent
    | CheckingPeer
    | InitReceived
    | InitAnswered
    | DerivingKeysLate
    | AwaitingAuth
    | Authorizing
    | ProvingBack
    | InstallingFirst
    | Established
    | Superseded
    | Deleting
    | Rejecting
    | Closed
    | Dead
)

SUCCESSORS: Mapping[type[State], frozenset[type[State]]] = {
    FindingPath: frozenset({MakingKeyPair, Dead}),
    MakingKeyPair: frozenset({InitSent, Dead}),
    # A cookie is returned at once; another key exchange method or path needs another key pair.
    InitSent: frozenset({InitSent, MakingKeyPair, DerivingKeys, Dead}),
    # Back: the value was not sound, so the response was not the peer's, or the peer is no good.
    DerivingKeys: frozenset({ProvingSelf, InitSent, Dead}),
    ProvingSelf: frozenset({AuthSent, Dead}),
    AuthSent: frozenset({CheckingPeer, Rejecting, Dead}),
    CheckingPeer: frozenset({Established, Rejecting, Dead}),
    InitReceived: frozenset({InitAnswered, Dead}),
    InitAnswered: frozenset({DerivingKeysLate, Dead}),
    DerivingKeysLate: frozenset({DerivingKeysLate, AwaitingAuth, Dead}),
    AwaitingAuth: frozenset({Authorizing, Closed, Dead}),
    Authorizing: frozenset({Authorizing, ProvingBack, Closed, Dead}),
    ProvingBack: frozenset({InstallingFirst, Closed, Dead}),
    InstallingFirst: frozenset({Established, Closed, Dead}),
    Established: frozenset({Superseded, Deleting, Closed, Dead}),
    Superseded: frozenset({Deleting, Closed, Dead}),
    Deleting: frozenset({Closed, Dead}),
    Rejecting: frozenset({Dead}),
    Closed: frozenset({Dead}),
    Dead: frozenset(),
}


def check_step(state: State, following: State) -> State:
    """`following`, if it may come after `state`."""
    if type(following) not in SUCCESSORS[type(state)]:
        raise ValueError(f"IKE SA: {type(following).__name__} cannot follow {type(state).__name__}")
    return following


def session_of(state: State) -> Session | None:
    """What exists from authentication on."""
    return state.session if isinstance(state, (InstallingFirst, Established, Superseded, Deleting)) else None


def is_over(state: State) -> bool:
    """Whether nothing is negotiated there any more."""
    return isinstance(state, (Superseded, Deleting, Rejecting, Closed, Dead))
