"""A connection as its operator means it: who the peer is, how each end proves itself, what is protected and how long.

Every object is checked when it is made: who holds a `Connection` holds a valid one. `ValueError` begins with the field.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from openmoat.crypto.identities import Identity, IdentityPattern, PatternKind
from openmoat.crypto.suites import Aead, Encryption, Integrity, KeyExchange, PrfRow, Status
from openmoat.mtu.plan import MAX_PACKET, MIN_PATH_MTU
from openmoat.mtu.words import MAX_MSS, MIN_MSS, Df, Mss, MtuPolicy
from openmoat.net import Address
from openmoat.policy.selectors import MAX_SELECTORS, Selectors

__all__ = [
    "MAX_ADDRESSES",
    "MAX_CHILDREN",
    "MAX_ORDER",
    "MAX_REPLAY_WINDOW",
    "Aggfrag",
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

MAX_CHILDREN = 64
"""Of one connection."""
MAX_ADDRESSES = 16
"""Of one peer, names and addresses together."""
MAX_REPLAY_WINDOW = 4096
"""Packets; what every backend has."""
MAX_ORDER = 1000
"""Of a connection within its group, either way from 0."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(
    r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?"
)


class Start(Enum):
    """When a child is negotiated by us."""

    AUTO = "auto"
    """As soon as it is loaded, and again whenever it is lost."""
    TRAP = "trap"
    """When the first packet wants it."""
    NONE = "none"
    """Only by `moat up`, or by the peer."""


class Aggfrag(Enum):
    """Whether inner packets may be sliced and packed into ESP payloads (RFC 9347), by the word of the configuration."""

    PREFER = "prefer"
    """Where the peer does it too; else plain tunnel mode."""
    REQUIRE = "require"
    """There is no Child SA without."""
    NEVER = "never"


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

    def __post_init__(self) -> None:
        _check_protection(self.encryptions, self.integrities)
        if not self.prfs:
            raise ValueError("proposal: a PRF is needed, as in prfsha256")
        if not self.key_exchanges:
            raise ValueError("proposal: a key exchange is needed, as in x25519")
        for row in (*self.encryptions, *self.integrities, *self.prfs, *self.key_exchanges):
            if row.ike is Status.MUST_NOT:
                raise ValueError(f"proposal: {row.name} must not protect an IKE SA (RFC 8247)")


@dataclass(frozen=True, slots=True, kw_only=True)
class EspProposal:
    """Algorithms of a Child SA that may be combined freely; order is preference."""

    encryptions: tuple[Encryption, ...]
    integrities: tuple[Integrity, ...] = ()
    key_exchanges: tuple[KeyExchange, ...] = ()
    """Methods for perfect forward secrecy on rekeys and further children; empty: none is done."""
    esn: tuple[bool, ...] = (True, False)

    def __post_init__(self) -> None:
        _check_protection(self.encryptions, self.integrities)
        if not self.esn or len(set(self.esn)) != len(self.esn):
            raise ValueError("proposal: esn, noesn or both, each once")
        for row in (*self.encryptions, *self.integrities):
            if row.esp is Status.MUST_NOT:
                raise ValueError(f"proposal: {row.name} must not protect packets (RFC 8221)")


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeLifetimes:
    """Times of an IKE SA, in seconds. 0 switches a time off."""

    rekey_after: float = 4 * 3600.0
    hard: float = 4.5 * 3600.0
    """The SA is deleted at this age, rekeyed or not."""
    jitter: float = 0.1
    """Part of `rekey_after` that is subtracted by chance, so that thousands do not rekey at once."""
    liveness_after: float = 15.0
    """Without a sign of life for so long, and with something sent, the peer is asked (RFC 7296 2.4)."""

    def __post_init__(self) -> None:
        _check_limit("rekey_after", self.rekey_after, "hard", self.hard)
        _check_jitter(self.jitter)
        if self.liveness_after < 0:
            raise ValueError(f"liveness_after: 0 or more seconds, {self.liveness_after:g} came")


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

    def __post_init__(self) -> None:
        _check_limit("rekey_after", self.rekey_after, "hard", self.hard)
        _check_limit("rekey_octets", self.rekey_octets, "hard_octets", self.hard_octets)
        _check_limit("rekey_packets", self.rekey_packets, "hard_packets", self.hard_packets)
        _check_jitter(self.jitter)


class IcmpCheck(Enum):
    """Which ICMP errors must quote a packet of the SA by which they come (RFC 4301 6.2)."""

    OUTSIDE = "outside"
    """Those whose own addresses are outside its selectors."""
    STRICT = "strict"
    """All: a peer can then not end flows that others have with us."""


class OuterIcmp(Enum):
    """What is done about ICMP that says an outer packet was too large. Whoever sees our packets can forge it."""

    HINT = "hint"
    """Probes find out whether it is so."""
    IGNORE = "ignore"
    TRUST = "trust"
    """The size that it names is used."""


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
    path_mtu: int | None = None
    """Octets that the outside is believed to carry; None: they are found out by probes (RFC 8899)."""
    mtu_policy: MtuPolicy = MtuPolicy.VIRTUAL
    df: Df | None = None
    """None: as the policy has it."""
    mss: Mss | None = None
    """None: as the policy has it."""
    copy_dscp: bool = True
    icmp_check: IcmpCheck = IcmpCheck.OUTSIDE
    tunnel_address: tuple[Address, ...] = ()
    """From where ICMP errors of our own come, where no address of ours is inside `local`; one of each family at most."""
    aggfrag: Aggfrag = Aggfrag.PREFER

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_selectors("local", self.local)
        _check_selectors("remote", self.remote)
        families = [{selector.start.version for selector in side} for side in (self.local, self.remote)]
        if not families[0] & families[1]:
            raise ValueError("remote: an address family that local has too; a packet has one family at both ends")
        if not self.proposals:
            raise ValueError("proposals: one at least")
        if self.replay_window % 64 or not 0 <= self.replay_window <= MAX_REPLAY_WINDOW:
            raise ValueError(
                f"replay_window: a multiple of 64 from 0 to {MAX_REPLAY_WINDOW}, {self.replay_window} came"
            )
        if self.replay_window == 0 and any(True in proposal.esn for proposal in self.proposals):
            raise ValueError(
                "replay_window: 0 needs noesn in every proposal: ESN cannot work without it (RFC 4303 3.3.3)"
            )
        if self.path_mtu is not None and not MIN_PATH_MTU[4] <= self.path_mtu <= MAX_PACKET:
            raise ValueError(f"path_mtu: {MIN_PATH_MTU[4]} to {MAX_PACKET}, {self.path_mtu} came")
        if isinstance(self.mss, int) and not MIN_MSS <= self.mss <= MAX_MSS:
            raise ValueError(f"mss: {MIN_MSS} to {MAX_MSS}, {self.mss} came")
        if len({address.version for address in self.tunnel_address}) < len(self.tunnel_address):
            raise ValueError("tunnel_address: one of each family")
        for address in self.tunnel_address:
            ranges = ((int(one.start), int(one.end)) for one in self.local if one.start.version == address.version)
            if not any(first <= int(address) <= last for first, last in ranges):
                raise ValueError(f"tunnel_address: one inside local, {address} came")
        if not -1000 <= self.priority <= 1000:
            raise ValueError(f"priority: -1000 to 1000, {self.priority} came")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end, or any of many where the connection is a template."""

    addresses: tuple[str | Address, ...] = ()
    """Where to reach it, in order of trial: addresses or DNS names. Empty: it must come to us."""
    identity: IdentityPattern
    credential: PeerCredential

    def __post_init__(self) -> None:
        if len(self.addresses) > MAX_ADDRESSES:
            raise ValueError(f"addresses: {MAX_ADDRESSES} at most, {len(self.addresses)} came")
        for address in self.addresses:
            if isinstance(address, str) and not _HOST.fullmatch(address):
                raise ValueError(f"addresses: an address or a DNS name, {address!r} came")

    @property
    def is_pattern(self) -> bool:
        """Whether more than one identity fits."""
        return self.identity.kind is not PatternKind.EXACT


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
    outer_icmp: OuterIcmp = OuterIcmp.HINT
    group: str | None = None
    """Connections of one group are alternatives: they may have the same networks, and one of them carries the traffic."""
    order: int = 0
    """Within the group: the lowest is tried first, then by name."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.group is not None:
            _check_name(self.group, "group")
        elif self.order:
            raise ValueError(
                f"order: only with group, {self.order} came alone; add group, the same for all alternatives"
            )
        if not -MAX_ORDER <= self.order <= MAX_ORDER:
            raise ValueError(f"order: {-MAX_ORDER} to {MAX_ORDER}, {self.order} came")
        if not self.proposals:
            raise ValueError("proposals: one at least")
        if not 1 <= len(self.children) <= MAX_CHILDREN:
            raise ValueError(f"children: 1 to {MAX_CHILDREN}, {len(self.children)} came")
        names = [child.name for child in self.children]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f'children: "{twice}" stands there twice')
        for child in self.children:
            if child.start is Start.NONE:
                continue
            if self.is_template:
                raise ValueError(f'child "{child.name}": start: none, since a template waits for its peers')
            if not self.peer.addresses:
                raise ValueError(f'child "{child.name}": start: none, since the peer has no address to reach it at')

    @property
    def is_template(self) -> bool:
        """Whether many peers may share this record."""
        return self.peer.is_pattern


def _check_name(name: str, field: str = "name") -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{field}: 1 to 64 letters, digits, dots, - and _, beginning with a letter or digit, {name!r} came"
        )


def _check_protection(encryptions: Sequence[Encryption], integrities: Sequence[Integrity]) -> None:
    """AEADs and ciphers never share a proposal, and only ciphers have an integrity algorithm (RFC 5282 8, RFC 7296 3.3)."""
    if not encryptions:
        raise ValueError("proposal: an encryption algorithm is needed, as in aes256gcm16")
    kinds = {isinstance(encryption, Aead) for encryption in encryptions}
    if len(kinds) > 1:
        names = ", ".join(encryption.name for encryption in encryptions)
        raise ValueError(f"proposal: {names}: combined-mode ciphers and others need a proposal each")
    if kinds == {True} and integrities:
        raise ValueError(f"proposal: {encryptions[0].name} authenticates by itself; leave {integrities[0].name} out")
    if kinds == {False} and not integrities:
        raise ValueError(
            f"proposal: {encryptions[0].name} needs an integrity algorithm, as in {encryptions[0].name}-sha256"
        )


def _check_limit(soft_name: str, soft: float, hard_name: str, hard: float) -> None:
    if soft < 0 or hard < 0:
        raise ValueError(f"{soft_name if soft < 0 else hard_name}: 0 or more, {min(soft, hard):g} came")
    if hard and soft >= hard:
        raise ValueError(f"{soft_name}: less than {hard_name}, which is {hard:g}; {soft:g} came")


def _check_jitter(jitter: float) -> None:
    if not 0 <= jitter <= 0.5:
        raise ValueError(f"jitter: 0 to 0.5, {jitter:g} came")


def _check_selectors(side: str, selectors: Selectors) -> None:
    if not 1 <= len(selectors) <= MAX_SELECTORS:
        raise ValueError(f"{side}: 1 to {MAX_SELECTORS} selectors, {len(selectors)} came")
    for selector in selectors:
        if selector.is_empty:
            raise ValueError(f"{side}: {selector} selects nothing")
