"""A connection as the operator configures it: who the peer is, how each end authenticates, what is protected and for how long.

Every object is checked when it is made, so that a `Connection` is always a valid one. A value that is not possible raises
`FieldError`, several of one object `FieldErrors`. The defaults of all options stand here and nowhere else.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from openmoat.crypto.identities import Identity, IdentityPattern, PatternKind
from openmoat.crypto.suites import Aead, Encryption, Integrity, KeyExchange, PrfRow, Status
from openmoat.errors import FieldError, raise_errors
from openmoat.mtu.plan import MAX_PACKET, MIN_PATH_MTU
from openmoat.mtu.words import MAX_MSS, MIN_MSS, Df, Mss, MtuPolicy
from openmoat.net import Address
from openmoat.policy.selectors import MAX_SELECTORS, Selectors

__all__ = [
    "MAX_ADDRESSES",
    "MAX_CHILDREN",
    "MAX_LIMIT",
    "MAX_ORDER",
    "MAX_PRIORITY",
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
MAX_LIMIT = 2**63 - 1
"""Of octets and packets of a Child SA; the engine counts in 64 bits."""
MAX_PRIORITY = 1000
"""Of a child, either way from 0."""
MAX_ORDER = 1000
"""Of a connection within its group, either way from 0."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(
    r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?"
)


class Start(Enum):
    """When we initiate a child."""

    AUTO = "auto"
    """As soon as it is loaded, and again when it is lost."""
    TRAP = "trap"
    """When the first packet needs it."""
    NONE = "none"
    """Only by `moat up`, or by the peer."""


class Aggfrag(Enum):
    """Whether inner packets may be fragmented and aggregated in ESP payloads (RFC 9347)."""

    PREFER = "prefer"
    """Where the peer can; else plain tunnel mode."""
    REQUIRE = "require"
    """A Child SA without it is refused."""
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Psk:
    """A pre-shared key; the key itself is held by the daemon's keyholder under this name."""

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
    """The peer presents a certificate that chains to one of these CA certificates; DER."""

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
        raise_errors(self._errors())

    def _errors(self) -> Iterator[FieldError]:
        yield from _protection(self.encryptions, self.integrities)
        if not self.prfs:
            yield FieldError(("prfs",), "a PRF is needed, as in prfsha256")
        if not self.key_exchanges:
            yield FieldError(("key_exchanges",), "a key exchange is needed, as in x25519")
        for row in (*self.encryptions, *self.integrities, *self.prfs, *self.key_exchanges):
            if row.ike is Status.MUST_NOT:
                yield FieldError((), f"{row.name} must not protect an IKE SA (RFC 8247)")


@dataclass(frozen=True, slots=True, kw_only=True)
class EspProposal:
    """Algorithms of a Child SA that may be combined freely; order is preference."""

    encryptions: tuple[Encryption, ...]
    integrities: tuple[Integrity, ...] = ()
    key_exchanges: tuple[KeyExchange, ...] = ()
    """Methods for perfect forward secrecy on rekeys and further children; empty: none is done."""
    esn: tuple[bool, ...] = (True, False)

    def __post_init__(self) -> None:
        raise_errors(self._errors())

    def _errors(self) -> Iterator[FieldError]:
        yield from _protection(self.encryptions, self.integrities)
        if not self.esn or len(set(self.esn)) != len(self.esn):
            yield FieldError(("esn",), "esn, noesn or both, each once")
        for row in (*self.encryptions, *self.integrities):
            if row.esp is Status.MUST_NOT:
                yield FieldError((), f"{row.name} must not protect packets (RFC 8221)")


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeLifetimes:
    """Times of an IKE SA, in seconds. 0 switches a time off."""

    rekey_after: float = 4 * 3600.0
    hard: float = 4.5 * 3600.0
    """The SA is deleted at this age, rekeyed or not."""
    jitter: float = 0.1
    """Largest part of `rekey_after` that is subtracted at random, so that thousands of SAs do not rekey at once."""
    liveness_after: float = 15.0
    """The peer is checked after this time without a packet from it, where something was sent (RFC 7296 2.4)."""

    def __post_init__(self) -> None:
        raise_errors(self._errors())

    def _errors(self) -> Iterator[FieldError]:
        yield from _limit("rekey_after", self.rekey_after, "hard", self.hard)
        yield from _jitter(self.jitter)
        if not 0 <= self.liveness_after < math.inf:
            yield FieldError(("liveness_after",), f"0 or more seconds, not {self.liveness_after:g}")


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
        raise_errors(self._errors())

    def _errors(self) -> Iterator[FieldError]:
        yield from _limit("rekey_after", self.rekey_after, "hard", self.hard)
        yield from _limit("rekey_octets", self.rekey_octets, "hard_octets", self.hard_octets)
        yield from _limit("rekey_packets", self.rekey_packets, "hard_packets", self.hard_packets)
        yield from _jitter(self.jitter)


class IcmpCheck(Enum):
    """Which ICMP errors must quote a packet of the SA through which they arrive (RFC 4301 6.2)."""

    OUTSIDE = "outside"
    """Those whose own addresses are outside its selectors."""
    STRICT = "strict"
    """All: then a peer cannot end flows that others have with us."""


class OuterIcmp(Enum):
    """What is done about ICMP that says an outer packet was too large. Anybody who sees our packets can forge it."""

    HINT = "hint"
    """Probes check it."""
    IGNORE = "ignore"
    TRUST = "trust"
    """The size that it names is used."""


# Many attributes: one for each option.
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
    """The lowest is looked at first; equal priorities are ordered by specificity (see `policy.spd`)."""
    replay_window: int = 1024
    path_mtu: int | None = None
    """Octets of the largest packet that the path carries; None: found by probes (RFC 8899)."""
    mtu_policy: MtuPolicy = MtuPolicy.VIRTUAL
    df: Df | None = None
    """None: as the policy has it."""
    mss: Mss | None = None
    """None: as the policy has it."""
    copy_dscp: bool = True
    icmp_check: IcmpCheck = IcmpCheck.OUTSIDE
    tunnel_address: tuple[Address, ...] = ()
    """Source of our own ICMP errors where the host has no address inside `local`; at most one of each family."""
    aggfrag: Aggfrag = Aggfrag.PREFER

    def __post_init__(self) -> None:
        raise_errors(self._errors())

    def _errors(self) -> Iterator[FieldError]:
        yield from _name("name", self.name)
        yield from _selectors("local", self.local)
        yield from _selectors("remote", self.remote)
        families = [{selector.start.version for selector in side} for side in (self.local, self.remote)]
        if all(families) and not families[0] & families[1]:
            text = "an address family that local has too; a packet has one family at both ends"
            yield FieldError(("remote",), text)
        if not self.proposals:
            yield FieldError(("proposals",), "one at least")
        if not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            yield FieldError(("priority",), f"{-MAX_PRIORITY} to {MAX_PRIORITY}, not {self.priority}")
        yield from self._replay_errors()
        if self.path_mtu is not None and not MIN_PATH_MTU[4] <= self.path_mtu <= MAX_PACKET:
            yield FieldError(("path_mtu",), f"{MIN_PATH_MTU[4]} to {MAX_PACKET}, not {self.path_mtu}")
        if isinstance(self.mss, int) and not MIN_MSS <= self.mss <= MAX_MSS:
            yield FieldError(("mss",), f"{MIN_MSS} to {MAX_MSS}, not {self.mss}")
        if len({address.version for address in self.tunnel_address}) < len(self.tunnel_address):
            yield FieldError(("tunnel_address",), "one of each family")
        for address in self.tunnel_address:
            ranges = ((int(one.start), int(one.end)) for one in self.local if one.start.version == address.version)
            if not any(first <= int(address) <= last for first, last in ranges):
                yield FieldError(("tunnel_address",), f"one inside local, not {address}")

    def _replay_errors(self) -> Iterator[FieldError]:
        if self.replay_window % 64 or not 0 <= self.replay_window <= MAX_REPLAY_WINDOW:
            text = f"a multiple of 64 from 0 to {MAX_REPLAY_WINDOW}, not {self.replay_window}"
            yield FieldError(("replay_window",), text)
        elif self.replay_window == 0 and any(True in proposal.esn for proposal in self.proposals):
            text = "0 needs noesn in every proposal: ESN cannot work without it (RFC 4303 3.3.3)"
            yield FieldError(("replay_window",), text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end, or any of many where the connection is a template."""

    addresses: tuple[str | Address, ...] = ()
    """Where to reach it, in order of trial: addresses or DNS names. Empty: the peer must come to us."""
    identity: IdentityPattern
    credential: PeerCredential

    def __post_init__(self) -> None:
        raise_errors(self._errors())

    def _errors(self) -> Iterator[FieldError]:
        if len(self.addresses) > MAX_ADDRESSES:
            yield FieldError(("addresses",), f"{MAX_ADDRESSES} at most, not {len(self.addresses)}")
        for place, address in enumerate(self.addresses):
            if isinstance(address, str):
                # A top-level domain is never a number (RFC 3696 2): this was meant as an address.
                if not _HOST.fullmatch(address) or address.rstrip(".").rpartition(".")[2].isdecimal():
                    yield FieldError(("addresses", place), f'an address or a DNS name, not "{address}"')
            elif address.is_unspecified or address.is_multicast:
                yield FieldError(("addresses", place), f"the address of one host, not {address}")

    @property
    def is_pattern(self) -> bool:
        """Whether more than one identity matches."""
        return self.identity.kind is not PatternKind.EXACT


# Many attributes: one for each option.
@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One IKE SA and its children; a template where its peer may be several (`Peer.identity` is a pattern)."""

    name: str
    local_identity: Identity
    own: Own
    local_address: Address | None = None
    """Outer address to use; None: as the route to the peer gives it."""
    peer: Peer
    children: tuple[Child, ...]
    proposals: tuple[IkeProposal, ...]
    lifetimes: IkeLifetimes = field(default_factory=IkeLifetimes)
    retry: bool = True
    """Try again without end, at growing intervals, where a child with `start = auto` is not up."""
    fragmentation: bool = True
    """Offer IKE fragmentation (RFC 7383)."""
    force_encapsulation: bool = False
    """Use UDP encapsulation even where no NAT is detected."""
    outer_icmp: OuterIcmp = OuterIcmp.HINT
    group: str | None = None
    """Connections of one group are alternatives: they may have the same networks, and one of them carries the traffic."""
    order: int = 0
    """Within the group: the lowest is tried first, equal ones by name."""

    def __post_init__(self) -> None:
        raise_errors(self._errors())

    def _errors(self) -> Iterator[FieldError]:
        yield from _name("name", self.name)
        if self.group is not None:
            yield from _name("group", self.group)
        elif self.order:
            text = "only with group, not alone; give all alternatives the same group"
            yield FieldError(("order",), text)
        if not -MAX_ORDER <= self.order <= MAX_ORDER:
            yield FieldError(("order",), f"{-MAX_ORDER} to {MAX_ORDER}, not {self.order}")
        if not self.proposals:
            yield FieldError(("proposals",), "one at least")
        if not 1 <= len(self.children) <= MAX_CHILDREN:
            yield FieldError(("children",), f"1 to {MAX_CHILDREN}, not {len(self.children)}")
        names = [child.name for child in self.children]
        for twice in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield FieldError(("children", twice), "more than one child has this name")
        for child in self.children:
            if child.start is Start.NONE:
                continue
            if self.is_template:
                yield FieldError(("children", child.name, "start"), "none, since a template waits for its peers")
            elif not self.peer.addresses:
                text = "must be none, because the peer has no address"
                yield FieldError(("children", child.name, "start"), text)

    @property
    def is_template(self) -> bool:
        """Whether many peers may share this record."""
        return self.peer.is_pattern


def _name(field_name: str, name: str) -> Iterator[FieldError]:
    if not _NAME.fullmatch(name):
        text = f"1 to 64 letters, digits, dots, - and _, beginning with a letter or digit, not {name!r}"
        yield FieldError((field_name,), text)


def _protection(encryptions: Sequence[Encryption], integrities: Sequence[Integrity]) -> Iterator[FieldError]:
    """AEADs and ciphers never share a proposal, and only ciphers have an integrity algorithm (RFC 5282 8, RFC 7296 3.3)."""
    kinds = {isinstance(encryption, Aead) for encryption in encryptions}
    if not kinds:
        yield FieldError(("encryptions",), "an encryption algorithm is needed, as in aes256gcm16")
    elif len(kinds) > 1:
        names = ", ".join(encryption.name for encryption in encryptions)
        yield FieldError(("encryptions",), f"{names}: combined-mode ciphers and others need a proposal each")
    elif kinds == {True} and integrities:
        text = f"{encryptions[0].name} authenticates by itself; leave {integrities[0].name} out"
        yield FieldError(("integrities",), text)
    elif kinds == {False} and not integrities:
        name = encryptions[0].name
        yield FieldError(("integrities",), f"{name} needs an integrity algorithm, as in {name}-sha256")


def _limit(soft_name: str, soft: float, hard_name: str, hard: float) -> Iterator[FieldError]:
    for name, limit in ((soft_name, soft), (hard_name, hard)):
        if not limit >= 0:  # neither is what is not a number
            yield FieldError((name,), f"0 or more, not {limit:g}")
        elif limit > MAX_LIMIT:
            yield FieldError((name,), f"at most {MAX_LIMIT}, not {limit}")
    if hard and soft >= hard:
        yield FieldError((soft_name,), f"less than {hard_name} ({hard:g}), not {soft:g}")


def _jitter(jitter: float) -> Iterator[FieldError]:
    if not 0 <= jitter <= 0.5:
        yield FieldError(("jitter",), f"0 to 0.5, not {jitter:g}")


def _selectors(side: str, selectors: Selectors) -> Iterator[FieldError]:
    if not 1 <= len(selectors) <= MAX_SELECTORS:
        yield FieldError((side,), f"1 to {MAX_SELECTORS} selectors, not {len(selectors)}")
    for place, selector in enumerate(selectors):
        if selector.is_empty:
            yield FieldError((side, place), f"{selector} selects nothing")
