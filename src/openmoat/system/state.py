"""What the daemon wants of the host, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from openmoat.net import IKE_PORT, NATT_PORT, Address, Network
from openmoat.system.names import DEVICE

__all__ = ["HostState", "SourceRoute", "StateChange", "TunnelRoute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelRoute:
    """A remote prefix that packets reach through the TUN device."""

    prefix: Network
    mtu: int
    """Octets; largest packet the kernel hands to the TUN for this prefix."""
    advmss: int
    """MSS that TCP of this host announces."""
    source: Address | None = None
    """Source address of the gateway's own packets: one of its addresses inside the selectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRoute:
    """A remote prefix that only packets of one source prefix reach through the TUN: the selectors are not a destination."""

    source: Network
    route: TunnelRoute


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """Everything the daemon wants of the host; plain data, so that two states can be compared and applied again.

    Where prefixes of `guarded` and `passes` hold one another, the longest decides, as in routing; of equal ones the pass.
    """

    device: str = DEVICE
    """Name of the TUN device."""
    addresses: tuple[Address, ...] = ()
    """Addresses that the TUN device itself bears, where the gateway has none inside its selectors otherwise."""
    routes: tuple[TunnelRoute, ...] = ()
    source_routes: tuple[SourceRoute, ...] = ()
    """Guarded by themselves, as pairs."""
    guarded: tuple[Network, ...] = ()
    """Protected remote prefixes: no packet to or from them may pass unencrypted. Blackhole routes and nft rules enforce it."""
    passes: tuple[Network, ...] = ()
    """Remote prefixes that go around the tunnel although a guarded prefix holds them (PASS shunts)."""
    local: tuple[Network, ...] = ()
    """Prefixes on our own side of the policies: networks of this host among them stay reachable inside a guarded prefix."""
    ports: tuple[int, ...] = (IKE_PORT, NATT_PORT)
    """UDP ports of this host by which IKE and encapsulated ESP come and go."""
    forwards: bool = True
    """Whether packets of others pass through this host: it is a gateway and needs forwarding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """How a `HostState` now stands to some prefixes, whatever it said of them before; all else of it is as it was."""

    routes: Mapping[Network, TunnelRoute | None] = field(default_factory=dict)
    """None: there is no route any more."""
    guarded: Mapping[Network, bool] = field(default_factory=dict)
    local: Mapping[Network, bool] = field(default_factory=dict)
    forwards: bool = True
