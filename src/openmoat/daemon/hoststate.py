"""What is protected, as the host must know it: routes to the TUN with their sizes, and prefixes to guard. Plain data in and out."""

from collections.abc import Callable, Iterable, Sequence

from openmoat.daemon.policies import Protected
from openmoat.mtu.plan import route_sizes
from openmoat.net import IKE_PORT, NATT_PORT, Network
from openmoat.policy.selectors import Selectors, to_prefixes
from openmoat.system.links import InterfaceAddress, address_inside
from openmoat.system.state import HostState, TunnelRoute

__all__ = ["host_state", "resized_routes"]


def host_state(
    device: str,
    protected: Iterable[Protected],
    addresses: Sequence[InterfaceAddress],
    reserved: Iterable[tuple[Selectors, Selectors]] = (),
    ports: tuple[int, ...] = (IKE_PORT, NATT_PORT),
) -> HostState:
    """The state of the host for what is protected, given the addresses it has now.

    Where two policies share a remote prefix, the route has the smaller sizes. What is reserved for the peers of templates
    (local and remote selectors) is guarded also while none of them is here; "any address" reserves nothing, or a portal
    that takes anybody's networks would shut itself off.
    """
    routes: dict[Network, TunnelRoute] = {}
    local: set[Network] = set()
    for one in protected:
        local.update(to_prefixes(one.local))
        for prefix in one.prefixes:
            route = tunnel_route(prefix, one, addresses)
            other = routes.get(prefix)
            is_less = other is None or (route.mtu, route.advmss) < (other.mtu, other.advmss)
            routes[prefix] = route if other is None or is_less else other
    guarded = dict.fromkeys(routes)
    for ours, theirs in reserved:
        local.update(to_prefixes(ours))
        guarded.update(dict.fromkeys(prefix for prefix in to_prefixes(theirs) if prefix.prefixlen))
    return HostState(
        device=device,
        routes=tuple(routes.values()),
        guarded=tuple(guarded),
        local=tuple(sorted(local, key=str)),
        ports=ports,
        forwards=any(not _is_own(prefix, addresses) for prefix in local),
    )


def resized_routes(
    resized: Iterable[Protected], sharing: Callable[[Network], Iterable[Protected]]
) -> dict[Network, tuple[int, int]]:
    """MTU and advmss of the routes of what has only changed its sizes, as `host_state` would have them.

    `sharing` gives all that is protected and has a prefix; the work is that of the change.
    """
    prefixes = {prefix for one in resized for prefix in one.prefixes}
    return {prefix: min(_sizes(one, prefix) for one in sharing(prefix)) for prefix in prefixes}


def _sizes(protected: Protected, prefix: Network) -> tuple[int, int]:
    sizes = route_sizes(protected.plan, prefix.version)
    return sizes.mtu, sizes.advmss


def _is_own(prefix: Network, addresses: Sequence[InterfaceAddress]) -> bool:
    """Whether it is this host alone, which need not forward anything."""
    return prefix.num_addresses == 1 and any(row.address == prefix.network_address for row in addresses)


def tunnel_route(prefix: Network, protected: Protected, addresses: Sequence[InterfaceAddress]) -> TunnelRoute:
    """The route to one protected prefix."""
    sizes = route_sizes(protected.plan, prefix.version)
    source = address_inside(protected.local, addresses, prefix.version)
    return TunnelRoute(prefix=prefix, mtu=sizes.mtu, advmss=sizes.advmss, source=source)
