"""What the IKE core tells and asks. All of it leaves `Endpoint.poll_output` in one queue whose order keeps packets alive.

A *question* carries a ticket; the answer comes back through `Endpoint.handle_answer` with the same ticket, at once or
much later, and the core never waits for it. An *effect* must be carried out before the output that follows it.
"""

from dataclasses import dataclass
from enum import Enum

import msgspec

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import AuthMethod, HashAlgorithm, KeMethod
from openmoat.crypto.suites import EspSuite, IkeSuite, PrfRow
from openmoat.errors import Secret
from openmoat.net import Path
from openmoat.policy.selectors import Selectors

__all__ = [
    "ActivateOutbound",
    "Activity",
    "Answer",
    "AskActivity",
    "AskInstall",
    "AskKeyPair",
    "AskOwnAuth",
    "AskPath",
    "AskPeerAuth",
    "AskSharedSecret",
    "AskSpis",
    "Certificate",
    "ChildKeys",
    "ChildSa",
    "ChildSaDown",
    "ChildSaUp",
    "DownReason",
    "Event",
    "FragmentsProbed",
    "IkeSaDown",
    "IkeSaKeys",
    "IkeSaUp",
    "IkeSpi",
    "Installed",
    "KeyPair",
    "NegotiationFailed",
    "OwnAuth",
    "Paths",
    "PeerAccepted",
    "PeerMoved",
    "PeerRefused",
    "PeerSilent",
    "Question",
    "Refused",
    "RemoveChildSa",
    "SharedSecret",
    "SizeProbed",
    "Spis",
    "StopOutbound",
    "Ticket",
    "Transmit",
    "Unanswerable",
    "WeakPublicValue",
]

Ticket = int
"""Number of a question, never used twice in the life of an `Endpoint`."""

IkeSpi = int
"""Our own 64-bit SPI of an IKE SA: its handle on this host. Never 0."""


class Transmit(msgspec.Struct, frozen=True, gc=False):
    """Send this IKE message."""

    octets: bytes
    path: Path
    df: bool = False
    dscp: int = 0


# Many attributes: a record of what was negotiated, read by the data plane and by people.
@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSa:
    """One Child SA as negotiated. `local` and `remote` are ends, whichever side began the exchange."""

    connection: str
    child: str
    """Name of the `Child` of the connection."""
    peer: Identity
    """Authenticated identity of the other end."""
    ike: IkeSpi
    local_spi: int
    """Inbound SPI, from the reserved stock: the handle of the pair."""
    remote_spi: int
    suite: EspSuite
    local: Selectors
    remote: Selectors
    path: Path
    """Ports are 4500 and the peer's where `udp` is set, else 0."""
    udp: bool
    """ESP in UDP (RFC 3948)."""
    keepalive: bool
    """We are behind a NAT and must keep its mapping (RFC 3948 4)."""
    replaces: int | None = None
    """Local SPI of the Child SA that this one rekeys."""
    aggfrag: bool = False
    """Inner packets are sliced and packed both ways (RFC 9347); else plain tunnel mode."""
    takes_slices: bool = True
    """With `aggfrag`: the peer puts slices together. Where it does not, inner packets must go whole."""
    has_our_vendor_id: bool = False
    """The peer has sent our vendor ID, under its signature: it can what ours can."""
    has_changed_mode: bool = False
    """With or without AGGFRAG, unlike the Child SA that it rekeys."""
    remarks: tuple[str, ...] = ()
    """What we put up with in what the peer said, for people."""
    hard_at: float | None = None
    """End of its hard lifetime, by the clock of the core: from then on nothing is sent with it. None: there is none."""


class ChildKeys(msgspec.Struct, frozen=True, gc=False):
    """Keying material of a Child SA, cut and assigned to directions (RFC 7296 2.17). Keys include their salt."""

    inbound: Secret
    inbound_integrity: Secret
    outbound: Secret
    outbound_integrity: Secret


class Certificate(msgspec.Struct, frozen=True, gc=False):
    """One CERT payload: encoding of RFC 7296 3.6 (4 is an X.509 certificate, 15 a raw public key) and its octets."""

    encoding: int
    octets: bytes


# Questions, each with its answers.


class AskSpis(msgspec.Struct, frozen=True, gc=False):
    """The stock of reserved inbound ESP SPIs runs low; `Spis` refills it."""

    ticket: Ticket
    count: int


class Spis(msgspec.Struct, frozen=True, gc=False):
    """Fresh inbound ESP SPIs reserved at the backend; may be fewer than asked for, or none."""

    ticket: Ticket
    spis: tuple[int, ...]


class AskPath(msgspec.Struct, frozen=True, gc=False):
    """Where is the peer of this connection, and from which of our addresses is it reached? `Paths` answers."""

    ticket: Ticket
    connection: str
    attempt: int
    """0 at first; from 1 on earlier answers have not led to a peer: look names up afresh."""


class Paths(msgspec.Struct, frozen=True, gc=False):
    """Paths to try, in order, with ports 500; none where no name resolves or no route exists (`reason` says which)."""

    ticket: Ticket
    paths: tuple[Path, ...]
    reason: str = ""


class AskKeyPair(msgspec.Struct, frozen=True, gc=False):
    """Make a key pair from these random octets; `KeyPair` answers."""

    ticket: Ticket
    method: KeMethod
    seed: Secret


class KeyPair(msgspec.Struct, frozen=True, gc=False):
    """`private` is opaque to the core: it goes back as it is in `AskSharedSecret`."""

    ticket: Ticket
    public_value: bytes
    private: Secret


class AskSharedSecret(msgspec.Struct, frozen=True, gc=False):
    """Complete a key exchange with the peer's value; `SharedSecret` or `WeakPublicValue` answers."""

    ticket: Ticket
    method: KeMethod
    private: Secret
    peer_value: bytes


class SharedSecret(msgspec.Struct, frozen=True, gc=False):
    """g^ir in the size that RFC 7296 2.14 wants."""

    ticket: Ticket
    secret: Secret


class WeakPublicValue(msgspec.Struct, frozen=True, gc=False):
    """The peer's value is of the wrong length, or not a sound element of its group."""

    ticket: Ticket
    text: str


class AskOwnAuth(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Prove our identity; `OwnAuth` answers, or `Unanswerable` where no key is at hand (RFC 7296 2.15)."""

    ticket: Ticket
    connection: str
    identity: Identity
    prf: PrfRow
    signed_octets: Secret
    """First message, peer's nonce, and prf(SK_p, ID payload body), concatenated."""
    peer_hashes: frozenset[HashAlgorithm]
    """What the peer announced (RFC 7427 4); empty where it announced nothing."""


class OwnAuth(msgspec.Struct, frozen=True, gc=False):
    """Content of our AUTH payload, and the CERT payloads that go before it."""

    ticket: Ticket
    method: AuthMethod
    octets: bytes
    certificates: tuple[Certificate, ...] = ()


class AskPeerAuth(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Does this AUTH payload prove that identity to this connection? `PeerAccepted` or `PeerRefused` answers."""

    ticket: Ticket
    connection: str
    identity: Identity
    prf: PrfRow
    signed_octets: Secret
    method: AuthMethod
    octets: bytes
    certificates: tuple[Certificate, ...]


class PeerAccepted(msgspec.Struct, frozen=True, gc=False):
    """The peer is who it says it is."""

    ticket: Ticket


class PeerRefused(msgspec.Struct, frozen=True, gc=False):
    """It is not, or it proved it in a way that the connection does not allow. `text` is for our operator only."""

    ticket: Ticket
    text: str


class AskActivity(msgspec.Struct, frozen=True, gc=False):
    """How many packets have these Child SAs received? `Activity` answers, and may spare a liveness check (RFC 7296 2.4)."""

    ticket: Ticket
    children: tuple[int, ...]


class Activity(msgspec.Struct, frozen=True, gc=False):
    """Sums over the children asked for, since each was installed."""

    ticket: Ticket
    inbound_packets: int
    outbound_packets: int


class AskInstall(msgspec.Struct, frozen=True, gc=False):
    """Install both halves of a Child SA, sending with neither yet; `Installed` or `Refused` answers.

    It leaves the queue before the message that lets the peer use the inbound half.
    """

    ticket: Ticket
    child: ChildSa
    keys: ChildKeys


class Installed(msgspec.Struct, frozen=True, gc=False):
    """The Child SA is in place and receives."""

    ticket: Ticket


class Refused(msgspec.Struct, frozen=True, gc=False):
    """It cannot be installed; nothing of it is left, nor is its SPI ours any more. `is_temporary` chooses TEMPORARY_FAILURE or NO_ADDITIONAL_SAS."""

    ticket: Ticket
    text: str
    is_temporary: bool = True


class Unanswerable(msgspec.Struct, frozen=True, gc=False):
    """Any question may be answered so: it cannot be answered at all, and what asked it fails with this text."""

    ticket: Ticket
    text: str


Question = AskSpis | AskPath | AskKeyPair | AskSharedSecret | AskOwnAuth | AskPeerAuth | AskActivity | AskInstall
Answer = (
    Spis
    | Paths
    | KeyPair
    | SharedSecret
    | WeakPublicValue
    | OwnAuth
    | PeerAccepted
    | PeerRefused
    | Activity
    | Installed
    | Refused
    | Unanswerable
)


# Effects and news.


class ActivateOutbound(msgspec.Struct, frozen=True, gc=False):
    """Send with this Child SA from now on."""

    local_spi: int


class DownReason(Enum):
    """Why an SA is gone. Each has one row in `control.reasons` and one sentence in the guide."""

    ASKED = "asked"
    """By `moat down`, a reload, or the end of the daemon."""
    PEER_DELETED = "peer deleted it"
    REKEYED = "rekeyed"
    EXPIRED = "hard lifetime reached"
    PEER_SILENT = "peer does not answer"
    REFUSED = "peer refused"
    AUTHENTICATION_FAILED = "authentication failed"
    NO_COMMON_GROUND = "no common ground"
    PEER_MISBEHAVED = "peer violated the protocol"
    NO_ROUTE = "no path to the peer"
    REPLACED = "replaced by a newer SA of the same peer"
    COLLISION = "lost a simultaneous exchange"
    LOCAL = "refused on this side"
    ERROR = "internal error"
    """A handler raised an exception. The log of the daemon has its traceback."""


@dataclass(frozen=True, slots=True)
class StopOutbound:
    """Send nothing more with this Child SA: it has reached a hard lifetime (RFC 4301 4.4.2.1). Its removal follows."""

    local_spi: int


class RemoveChildSa(msgspec.Struct, frozen=True, gc=False):
    """Take the Child SA out of the data plane."""

    local_spi: int


class IkeSaUp(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An IKE SA is authenticated, or has replaced the one it rekeyed."""

    ike: IkeSpi
    peer_spi: int
    connection: str
    peer: Identity
    is_initiator: bool
    path: Path
    suite: IkeSuite
    own_method: AuthMethod
    peer_method: AuthMethod
    behind_nat: bool
    peer_behind_nat: bool
    replaces: IkeSpi | None = None


class IkeSaDown(msgspec.Struct, frozen=True, gc=False):
    """An IKE SA is gone, and with it the children that no `ChildSaDown` named before."""

    ike: IkeSpi
    connection: str
    peer: Identity | None
    """None where it was never authenticated."""
    reason: DownReason
    text: str = ""


class ChildSaUp(msgspec.Struct, frozen=True, gc=False):
    """A Child SA carries packets in both directions."""

    child: ChildSa


class ChildSaDown(msgspec.Struct, frozen=True, gc=False):
    """A Child SA is gone for good: no successor carries its packets unless the reason is REKEYED or REPLACED."""

    child: ChildSa
    reason: DownReason
    text: str = ""


class PeerSilent(msgspec.Struct, frozen=True, gc=False):
    """A request has been sent several times and not been answered so far; or it is answered after all."""

    ike: IkeSpi
    is_silent: bool


class PeerMoved(msgspec.Struct, frozen=True, gc=False):
    """All SAs of this IKE SA now use another path; only an authenticated packet brings this about (RFC 7296 2.23)."""

    ike: IkeSpi
    path: Path
    udp: bool
    children: tuple[int, ...]


class SizeProbed(msgspec.Struct, frozen=True, gc=False):
    """What came of `Endpoint.probe_size`. Sizes are octets of outer IP packets."""

    ike: IkeSpi
    size: int
    """As asked for."""
    proved: int | None
    """Octets of the datagram that got through, which padding of the cipher may keep below `size`; 0 where it is lost and
    smaller ones are not; None where the peer moved meanwhile, so that the answer is about another path."""


class FragmentsProbed(msgspec.Struct, frozen=True, gc=False):
    """What came of `Endpoint.probe_fragments`."""

    ike: IkeSpi
    passed: bool | None
    """A datagram that IP had to fragment got through; otherwise it was lost, and small ones are not. None as in `SizeProbed`."""


# Many attributes: a record of facts, of which sentences are made later.
class NegotiationFailed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Facts of an exchange that led to nothing, kept small; `ike.explain` makes sentences of them when asked."""

    at: float
    """Time as given to the core."""
    ike: IkeSpi
    connection: str | None
    """The connection, where it was found or was ours to begin with."""
    path: Path
    is_initiator: bool
    exchange: int
    notify: int | None
    """Error notify that was sent or received."""
    notify_sent: bool
    reason: DownReason
    text: str
    peer: Identity | None = None
    asked_identity: Identity | None = None
    """IDr the initiator asked for."""
    proposals: bytes = b""
    """SA payload body as received."""
    selectors: tuple[Selectors, Selectors] | None = None
    """TSi and TSr as received."""
    aggfrag_obstacle: str = ""
    """Why AGGFRAG cannot be had by what was received with the selectors; empty: it can."""


class IkeSaKeys(msgspec.Struct, frozen=True, gc=False):
    """Keys for a Wireshark key log; emitted only where `IkeConfig.reveal_keys` is set."""

    initiator_spi: int
    responder_spi: int
    suite: IkeSuite
    sk_ei: Secret
    sk_er: Secret
    sk_ai: Secret
    sk_ar: Secret


Event = (
    ActivateOutbound
    | StopOutbound
    | RemoveChildSa
    | IkeSaUp
    | IkeSaDown
    | ChildSaUp
    | ChildSaDown
    | PeerMoved
    | PeerSilent
    | SizeProbed
    | FragmentsProbed
    | NegotiationFailed
    | IkeSaKeys
)
