"""A connection as its operator means it: who the peer is, how each end proves itself, what is protected and how long."""

from dataclasses import dataclass, field
from enum import Enum

from openmoat.crypto.identities import Identity, IdentityPattern
from openmoat.crypto.suites import Encryption, Integrity, KeyExchange, PrfRow
from openmoat.mtu.plan import OuterDf
from openmoat.net import Address
from openmoat.policy.selectors import Selectors

__all__ = [
    "Authority",
    "Child",
    "ChildLifetimes",
    "Connection",
    "EspProposal",
    "IkeLifetimes",
    "IkeProposal",
    "Own",
    "Peer",
    "PeerCredential",
    "PrivateKey",
    "Psk",
    "RawKey",
    "Start",
]


class Start(Enum):
    """When a child is negotiated by us."""

    AUTO = "auto"
    """As soon as it is loaded, and again whenever it is lost."""
    TRAP = "trap"
    """When the first packet wants it."""
    NONE = "none"
    """Only by `moat up`, or by the peer."""


@dataclass(frozen=True, slots=True)
class Psk:
    """A shared secret; the secret itself is held by the daemon's keyholder under this name."""

    name: str


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """Our own key pair, held by the keyholder under this name, and the certificates that go with it."""

    name: str
    certificates: tuple[bytes, ...] = ()
    """DER, end entity first, then its chain without the root; empty for a raw public key (RFC 7670)."""


@dataclass(frozen=True, slots=True)
class RawKey:
    """The peer's public key itself: DER SubjectPublicKeyInfo (RFC 7670)."""

    spki: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """The peer shows a certificate that chains to one of these; DER."""

    roots: tuple[bytes, ...]


Own = Psk | PrivateKey
PeerCredential = Psk | RawKey | Authority


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeProposal:
    """Algorithms of an IKE SA that may be combined freely; order is preference (RFC 7296 3.3)."""

    encryptions: tuple[Encryption, ...]
    integrities: tuple[Integrity, ...] = ()
    """Empty exactly where all encryptions are AEADs: the two kinds never share a proposal (RFC 5282 8)."""
    prfs: tuple[PrfRow, ...]
    key_exchanges: tuple[KeyExchange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EspProposal:
    """Algorithms of a Child SA that may be combined freely; order is preference."""

    encryptions: tuple[Encryption, ...]
    integrities: tuple[Integrity, ...] = ()
    key_exchanges: tuple[KeyExchange, ...] = ()
    """Methods for perfect forward secrecy on rekeys and further children; empty: none is done."""
    esn: tuple[bool, ...] = (True, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeLifetimes:
    """Times of an IKE SA, in seconds. 0 switches a time off."""

    rekey_after: float = 4 * 3600.0
    hard: float = 4.5 * 3600.0
    """The SA is deleted at this age, rekeyed or not."""
    jitter: float = 0.1
    """Part of `rekey_after` that is subtracted by chance, so that thousands do not rekey at once."""
    liveness_after: float = 30.0
    """Without a sign of life for so long, and with something sent, the peer is asked (RFC 7296 2.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildLifetimes:
    """Age in seconds, and use in octets and packets of either direction, of a Child SA. 0 switches a limit off."""

    rekey_after: float = 3600.0
    hard: float = 4200.0
    jitter: float = 0.1
    rekey_octets: int = 0
    hard_octets: int = 0
    rekey_packets: int = 0
    hard_packets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What one Child SA protects."""

    name: str
    local: Selectors
    remote: Selectors
    proposals: tuple[EspProposal, ...]
    start: Start = Start.AUTO
    lifetimes: ChildLifetimes = field(default_factory=ChildLifetimes)
    priority: int = 0
    """Lower is looked at first; equal priorities are ordered by specificity (see `policy.spd`)."""
    replay_window: int = 1024
    path_mtu: int = 1500
    """Octets that the outside is believed to carry."""
    outer_df: OuterDf = OuterDf.CLEAR
    copy_dscp: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end, or any of many where the connection is a template."""

    addresses: tuple[str | Address, ...] = ()
    """Where to reach it, in order of trial: addresses or DNS names. Empty: it must come to us."""
    identity: IdentityPattern
    credential: PeerCredential


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One IKE SA and its children; a template where its peer may be several (`Peer.identity` is a pattern)."""

    name: str
    local_identity: Identity
    own: Own
    local_address: Address | None = None
    """Outside address to use; None: whatever the route to the peer gives."""
    peer: Peer
    children: tuple[Child, ...]
    proposals: tuple[IkeProposal, ...]
    lifetimes: IkeLifetimes = field(default_factory=IkeLifetimes)
    retry: bool = True
    """Try again for ever, with back-off, where a child with `start = auto` cannot be had."""
    fragmentation: bool = True
    """Offer IKE fragmentation (RFC 7383)."""
    force_encapsulation: bool = False
    """Use UDP encapsulation also where no NAT is found."""

    @property
    def is_template(self) -> bool:
        """Whether many peers may share this record."""
        return self.peer.identity.identity is None or self.peer.identity.kind.value != "exact"
