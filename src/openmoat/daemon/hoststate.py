"""What is protected, as the host must know it: routes to the TUN with their sizes, and prefixes to guard. Plain data in and out."""

from collections.abc import Iterable, Sequence

from openmoat.daemon.policies import Protected
from openmoat.mtu.plan import route_sizes
from openmoat.net import Network
from openmoat.policy.selectors import to_prefixes
from openmoat.system.links import InterfaceAddress, address_inside
from openmoat.system.state import HostState, TunnelRoute

__all__ = ["host_state"]


def host_state(device: str, protected: Iterable[Protected], addresses: Sequence[InterfaceAddress]) -> HostState:
    """The state of the host for what is protected, given the addresses it has now.

    Where two policies share a remote prefix, the route has the smaller sizes.
    """
    routes: dict[Network, TunnelRoute] = {}
    local: set[Network] = set()
    for one in protected:
        local.update(to_prefixes(one.local))
        for prefix in to_prefixes(one.remote):
            route = tunnel_route(prefix, one, addresses)
            other = routes.get(prefix)
            routes[prefix] = route if other is None or route.mtu < other.mtu else other
    prefixes = tuple(routes)
    return HostState(
        device=device, routes=tuple(routes.values()), guarded=prefixes, local=tuple(sorted(local, key=str))
    )


def tunnel_route(prefix: Network, protected: Protected, addresses: Sequence[InterfaceAddress]) -> TunnelRoute:
    """The route to one protected prefix."""
    sizes = route_sizes(protected.plan, prefix.version)
    source = address_inside(protected.local, addresses, prefix.version)
    return TunnelRoute(prefix=prefix, mtu=sizes.mtu, advmss=sizes.advmss, source=source)
