"""What is protected, as the host must know it: routes to the TUN with their sizes, and prefixes to guard. Plain data in and out."""

from collections.abc import Iterable, Sequence
from typing import Final

from openmoat.daemon.host.prefixes import Prefixes, Protected, Touched
from openmoat.mtu.plan import route_sizes
from openmoat.net import IKE_PORT, NATT_PORT, Network
from openmoat.policy.selectors import Selectors, to_prefixes
from openmoat.system.links import InterfaceAddress, address_inside
from openmoat.system.state import HostState, StateChange, TunnelRoute

__all__ = ["host_state", "state_change"]

BEYOND: Final = 1 << 128
"""After the last address."""


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
    sharing: dict[Network, list[Protected]] = {}
    local: set[Network] = set()
    for one in protected:
        local.update(one.ours)
        for prefix in one.prefixes:
            sharing.setdefault(prefix, []).append(one)
    routes = {prefix: tunnel_route(prefix, users, addresses) for prefix, users in sharing.items()}
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
        forwards=does_forward(local, addresses),
    )


def state_change(prefixes: Prefixes, touched: Touched, addresses: Sequence[InterfaceAddress]) -> StateChange:
    """How `host_state` of all that is protected now stands to what was touched; the work is that of what was touched."""
    sharing = {prefix: prefixes.sharing(prefix) for prefix in touched.prefixes}
    return StateChange(
        routes={p: tunnel_route(p, users, addresses) if users else None for p, users in sharing.items()},
        guarded={p: bool(users) or prefixes.is_reserved(p) for p, users in sharing.items()},
        local={prefix: prefix in prefixes.local for prefix in touched.local},
        forwards=does_forward(prefixes.local, addresses),
    )


def tunnel_route(prefix: Network, users: Iterable[Protected], addresses: Sequence[InterfaceAddress]) -> TunnelRoute:
    """The route to one prefix, by all that is protected and has it: the one of the smallest sizes."""

    def weight(route: TunnelRoute) -> tuple[int, int, int]:
        # Of equal sizes one with a source, or what the gateway itself sends would not fit the selectors.
        return route.mtu, route.advmss, BEYOND if route.source is None else int(route.source)

    return min((_route(prefix, one, addresses) for one in users), key=weight)


def does_forward(local: Iterable[Network], addresses: Sequence[InterfaceAddress]) -> bool:
    """Whether packets of others pass; at most one more prefix is looked at than the host has addresses."""
    return any(not _is_own(prefix, addresses) for prefix in local)


def _route(prefix: Network, protected: Protected, addresses: Sequence[InterfaceAddress]) -> TunnelRoute:
    sizes = route_sizes(protected.plan, prefix.version)
    source = address_inside(protected.local, addresses, prefix.version)
    return TunnelRoute(prefix=prefix, mtu=sizes.mtu, advmss=sizes.advmss, source=source)


def _is_own(prefix: Network, addresses: Sequence[InterfaceAddress]) -> bool:
    """Whether it is this host alone, which need not forward anything."""
    return prefix.num_addresses == 1 and any(row.address == prefix.network_address for row in addresses)
