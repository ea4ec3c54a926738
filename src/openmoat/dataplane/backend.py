"""The seam between the daemon and whatever carries packets: commands down, state and counters up. Plain data only.

A backend keeps Child SAs as pairs. The handle of a pair is its inbound SPI, which the backend itself handed out and
which is therefore unique on this host; outbound SPIs belong to the peers and may repeat.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from openmoat.crypto.suites import EspSuite
from openmoat.dataplane.declared import SaCounters, SaFlag
from openmoat.errors import Secret
from openmoat.mtu.plan import Framing, MtuPlan, Rung
from openmoat.net import Address, Path
from openmoat.policy.selectors import Selectors
from openmoat.policy.spd import Policy, PolicyId

__all__ = [
    "Acquire",
    "Activate",
    "AddInbound",
    "AddOutbound",
    "Backend",
    "BackendEvent",
    "Capabilities",
    "Command",
    "Encapsulation",
    "Limits",
    "Remove",
    "SaCounters",
    "SaFlag",
    "SaState",
    "SetPolicies",
    "Spi",
    "Update",
]

Spi = int
"""Security Parameters Index as a number, 256 to 2**32 - 1 (RFC 4303 2.1)."""


class Encapsulation(Enum):
    """What carries ESP packets on the outside."""

    UDP = "udp"
    """In UDP with both ports of the path (RFC 3948)."""
    RAW = "raw"
    """As IP protocol 50; the ports of the path are 0."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Octets and packets after which an SA asks for its replacement (soft) or stops (hard); 0 is no limit.

    Both directions count alike, each for itself (RFC 4301 4.4.2.1). The hard limit is never above what the cipher and
    the sequence number allow, whatever stands here. In plain tunnel mode octets and packets are those of inner packets,
    with AGGFRAG those of ESP payloads.
    """

    soft_octets: int = 0
    hard_octets: int = 0
    soft_packets: int = 0
    hard_packets: int = 0


class AddInbound(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Install the inbound half of a Child SA. From then on the peer may send."""

    spi: Spi
    """One of `reserve_spis`; handle of the pair."""
    suite: EspSuite
    key: Secret
    """Key and salt of the cipher, in KEYMAT order (RFC 7296 2.17)."""
    integrity_key: Secret
    """Empty with an AEAD."""
    encapsulation: Encapsulation
    path: Path
    local: Selectors
    """Inner destinations that may come out of this SA."""
    remote: Selectors
    """Inner sources that may come out of it (RFC 4301 5.2, step 4)."""
    replay_window: int = 1024
    """Packets, a multiple of 64; 0 switches the check off, which ESN forbids."""
    limits: Limits = Limits()
    framing: Framing = Framing.WHOLE
    """How the peer lays inner packets into ESP payloads, and nothing else is taken (RFC 9347 2.3). What we send is said
    by `MtuPlan.framing`; both are what was agreed for the Child SA."""
    strict_icmp: bool = False
    """Whether ICMP errors must quote a packet of this SA (RFC 4301 6.2) also where their own addresses are inside its
    selectors; where they are outside they always must."""


# Many attributes: an SA is installed as a whole, with everything that RFC 4301 4.4.2.1 lists and its sizes.
class AddOutbound(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Install the outbound half beside an inbound one. Nothing is sent with it before `Activate`."""

    handle: Spi
    """Inbound SPI of the pair."""
    spi: Spi
    """The peer's SPI."""
    suite: EspSuite
    key: Secret
    integrity_key: Secret
    encapsulation: Encapsulation
    path: Path
    local: Selectors
    remote: Selectors
    policy: PolicyId
    """The PROTECT policy whose packets it carries."""
    plan: MtuPlan
    limits: Limits = Limits()
    copy_dscp: bool = True
    """Whether the outer DSCP is that of the inner packet (RFC 4301 5.1.2.1); otherwise it is 0."""
    keepalive_seconds: float = 0.0
    """Send one octet 0xff on the path after so long without a packet (RFC 3948 2.3); 0 is never."""
    hard_at: float | None = None
    """End of the hard lifetime (RFC 4301 4.4.2.1): seconds of `CLOCK_BOOTTIME`, None is never. From this instant the outbound
    half sends nothing, whatever else is said of the pair; its packets are dropped as `sa-expired`."""


class Activate(msgspec.Struct, frozen=True, gc=False):
    """From now on packets of the pair's policy, inside the pair's selectors, go out through it: the newest active pair wins."""

    handle: Spi


class Update(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Change a live pair; None leaves a field as it is. Sequence numbers and counters go on."""

    handle: Spi
    path: Path | None = None
    encapsulation: Encapsulation | None = None
    plan: MtuPlan | None = None
    limits: Limits | None = None
    keepalive_seconds: float | None = None
    hard_at: float | None = None
    """`math.inf` is never."""


class Remove(msgspec.Struct, frozen=True, gc=False):
    """Take a pair out, both halves. `apply` answers with its final counters; its SPI is not handed out again for a while."""

    handle: Spi


class SetPolicies(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Change the SPD: `put` adds or replaces by id, `remove` takes away. All of one batch becomes visible at once."""

    put: tuple[Policy, ...] = ()
    remove: tuple[PolicyId, ...] = ()


Command = AddInbound | AddOutbound | Activate | Update | Remove | SetPolicies


class SaState(msgspec.Struct, frozen=True, gc=False):
    """All flags of a pair whose flags changed since the last `drain`."""

    handle: Spi
    flags: SaFlag
    path: Path | None = None
    """With NEW_PATH: where the newest authenticated packet came from."""


class Acquire(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Noise: a packet met a trapping policy that no SA serves (RFC 7296 2.9 wants its selectors)."""

    policy: PolicyId
    source: Address
    destination: Address
    protocol: int
    source_port: int
    destination_port: int


BackendEvent = SaState | Acquire


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a backend can keep. Nothing else is ever proposed to a peer."""

    suites: frozenset[EspSuite]
    """With `esn=True` where the backend does ESN with that suite."""
    framings: frozenset[Framing]
    rungs: frozenset[Rung]
    max_replay_window: int


class Backend(Protocol):
    """Carries packets. One task calls it; no call blocks; nothing calls back."""

    def capabilities(self) -> Capabilities:
        """What may be proposed."""
        ...

    def reserve_spis(self, count: int) -> list[Spi]:
        """Fresh inbound SPIs, fewer than `count` when the table is full. Unpredictable and not in use."""
        ...

    def release_spis(self, spis: Sequence[Spi]) -> None:
        """Give back reserved SPIs that were never installed."""
        ...

    def apply(self, commands: Sequence[Command]) -> list[SaCounters]:
        """Do all in order, or raise at the first that cannot be done with those before it done.

        Answers with the final counters of the removed pairs, in the order of their `Remove`.
        Raises `UnknownSpi` for a handle that is not installed, `KernelRefused` or `DeviceError` from below.
        """
        ...

    def read_counters(self, handles: Sequence[Spi] | None = None) -> list[SaCounters]:
        """Counters of the named pairs, or of all; pairs that are gone are left out."""
        ...

    def read_drops(self) -> Mapping[str, int]:
        """Packets dropped since the start, by reason, those of no SA included."""
        ...

    def read_offloads(self) -> Mapping[str, str]:
        """Each offload of `Offloads` by its name with hyphens: `on`, or `off: ` and why. Empty where there are none."""
        ...

    def fileno(self) -> int:
        """Readable while `drain` has something."""
        ...

    def drain(self, limit: int) -> list[BackendEvent]:
        """Up to `limit` events, states before noise. Noise beyond a bound is counted in `read_drops`, not kept."""
        ...

    def close(self) -> None:
        """Stop carrying packets and forget all keys."""
        ...
