"""Desired host state against what is there: only what bears our mark is touched, and nothing foreign ever is."""

from dataclasses import dataclass

from openmoat.net import Address, Network

__all__ = ["HostState", "TunnelRoute"]


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
class HostState:
    """Everything the daemon wants of the host; plain data, so that two states can be compared and applied again."""

    device: str = "moat0"
    """Name of the TUN device."""
    routes: tuple[TunnelRoute, ...] = ()
    guarded: tuple[Network, ...] = ()
    """Protected remote prefixes that must never be reached, nor come in, in clear: blackhole routes and nft rules."""
    passes: tuple[Network, ...] = ()
    """Remote prefixes that go around the tunnel although a guarded prefix holds them (PASS shunts)."""
    source_rules: tuple[tuple[Network, Network], ...] = ()
    """(source, destination) pairs that are protected where the destination alone does not say so."""
    is_whole_house: bool = False
    """Some tunnel takes all destinations: our own outer packets and the local network must go around it."""
