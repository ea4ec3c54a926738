"""From what the daemon wants and what the host looks like to what the kernel must hold. Pure: no call leaves this module."""

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

from openmoat.net import Address, Network
from openmoat.system.guard import NO_GUARD, Guard, GuardSets, Kept, keep
from openmoat.system.links import TUN_MTU, InterfaceAddress, Link
from openmoat.system.names import ROUTE_TABLE, SOURCE_TABLE
from openmoat.system.ranges import Prefixes, RangesChange
from openmoat.system.routes import (
    BLACKHOLE_METRIC,
    THROW_METRIC,
    TUNNEL_METRIC,
    HostRoute,
    Route,
    RouteKind,
    mtu_metric,
)
from openmoat.system.rules import Rule, dhcp_rule, end_rule, source_rule, table_rule
from openmoat.system.state import HostState, StateChange, TunnelRoute
from openmoat.system.sysctls import ALL_RP_FILTER, IPV4_FORWARD, IPV6_FORWARD, Setting, accept_ra, rp_filter

__all__ = ["HostView", "Plan", "PlanChange", "Planner", "needs_routes"]

ALL_IPV4: Final = ipaddress.IPv4Network("0.0.0.0/0")
ALL_IPV6: Final = ipaddress.IPv6Network("::/0")
MULTICAST: Final[Mapping[int, Network]] = {4: ipaddress.ip_network("224.0.0.0/4"), 6: ipaddress.ip_network("ff00::/8")}
THROWN_ALWAYS: Final[Mapping[int, tuple[Network, ...]]] = {
    4: (MULTICAST[4], ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("255.255.255.255/32")),
    6: (MULTICAST[6], ipaddress.ip_network("fe80::/10")),
}
"""Destinations that have no meaning beyond a link, or are routed by other means: never into a full tunnel."""
PRIVATE: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
"""RFC 1918, RFC 6598, RFC 4193. Not `is_private` of the library, which also holds the networks for documentation."""
STRICT: Final = 1
LOOSE: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What the host looks like, apart from what is ours."""

    links: Mapping[int, Link]
    addresses: tuple[InterfaceAddress, ...] = ()
    routes: tuple[HostRoute, ...] = ()
    """Of the main table; left empty where the plan does not need them (see `needs_routes`)."""
    has_ipv6: bool = True
    """Without it, there is nothing to route by IPv6, and nothing to leak."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """Values of those that `sysctls` has names for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the kernel must hold of ours, no more and no less."""

    routes: AbstractSet[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    guard: Guard = NO_GUARD
    settings: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = ()
    """For the operator: what could not be done as it was wanted, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """The steps from one plan to the next, in an order in which no protected packet can leave unencrypted."""

    guard_before: Mapping[str, RangesChange]
    """Of the guard's sets: what is guarded from now on."""
    put: tuple[Route, ...]
    """New ones, and those that take the place of others."""
    gone: tuple[Route, ...]
    guard_after: Mapping[str, RangesChange]
    """What is guarded no more."""


@dataclass(slots=True)
class _Draft:
    """Gathers while a `Planner` goes along."""

    state: HostState
    view: HostView
    index: int = 0
    """Of the TUN device; 0 while there is none."""
    guarded: dict[Network, RouteKind] = field(default_factory=dict)
    tunnels: dict[Network, TunnelRoute] = field(default_factory=dict)
    kept: list[tuple[str, Network]] = field(default_factory=list)
    """(interface, network) that stay reachable unencrypted."""
    own: frozenset[Address] = frozenset()
    """Addresses of this host, those that the TUN device will bear included."""
    routes: dict[tuple[int, int], dict[Network, Route]] = field(default_factory=dict)
    """By table and metric, then by prefix: one route in each place."""
    notes: list[str] = field(default_factory=list)

    def put(self, route: Route) -> None:
        """Put a route in its place; of two with sizes there, the smaller sizes stay."""
        if route.prefix.version == 6 and not self.view.has_ipv6:
            return
        known = self.routes.setdefault((route.table, route.metric), {}).setdefault(route.prefix, route)
        if known is not route and not 0 < known.mtu < (route.mtu or TUN_MTU):
            self.routes[route.table, route.metric][route.prefix] = route

    def versions(self, *tables: int) -> set[int]:
        """Of IP, for which there are routes."""
        return {prefix.version for (table, _), rows in self.routes.items() if table in tables for prefix in rows}


def needs_routes(state: HostState) -> bool:
    """Whether networks of the host itself may lie inside a guarded prefix, so that the main table must be read."""
    theirs = [*state.guarded, *(row.route.prefix for row in state.source_routes)]
    if any(prefix.prefixlen == 0 for prefix in theirs):
        return True
    if not state.local:
        return False
    known = _by_version(theirs)
    return any(known[ours.version].overlaps(ours) for ours in state.local)


class Planner:
    """What the kernel must hold for a state on a host that looks like `view`; changed prefix by prefix, or made anew."""

    def __init__(self, state: HostState, view: HostView) -> None:
        draft = self._draft = _Draft(state, view)
        draft.index = next((link.index for link in view.links.values() if link.name == state.device), 0)
        draft.own = frozenset((*state.addresses, *(row.address for row in view.addresses)))
        draft.guarded = dict.fromkeys(state.guarded, RouteKind.BLACKHOLE)
        if ALL_IPV4 in draft.guarded and ALL_IPV6 not in draft.guarded:
            # A house that is wholly behind an IPv4 tunnel must not leak by IPv6. Refused and not lost, so that applications
            # go on with IPv4 at once. The other way round, IPv6 by tunnel beside an IPv4 line of one's own, is common.
            draft.guarded[ALL_IPV6] = RouteKind.UNREACHABLE
        for route in state.routes:
            known = draft.tunnels.get(route.prefix)
            if known is None or not 0 < known.mtu < route.mtu:
                draft.tunnels[route.prefix] = route
        draft.kept = _kept_networks(draft)
        _destination_routes(draft)
        _source_routes(draft)
        self._sets = GuardSets(draft.guarded, state.passes)
        self._routes = {route for rows in draft.routes.values() for route in rows.values()}
        self._versions = Counter(route.prefix.version for route in self._routes if route.table == ROUTE_TABLE)
        self._needs_routes = needs_routes(state)
        self._local = _by_version(state.local)
        self._host = _by_version(route.prefix for route in view.routes if route.prefix.prefixlen)
        """Networks of the host itself, where they matter."""
        self._kept = _by_version(network for _, network in draft.kept)
        self.plan = Plan(
            routes=self._routes,
            rules=_rules(draft),
            guard=_guard(draft, self._sets),
            settings=_settings(draft),
            notes=tuple(draft.notes),
        )
        """Live: routes and the sets of the guard follow each `change`."""

    def change(self, change: StateChange) -> PlanChange | None:
        """Plan again for some prefixes; the work grows with these prefixes and with those that they contain or touch.

        None, and nothing is changed, where it reaches beyond them: to networks of the host, rules or settings.
        """
        draft = self._draft
        prefixes = dict.fromkeys((*change.routes, *change.guarded))
        guarded = {p: draft.guarded[p] for p in prefixes if p in draft.guarded and p not in change.guarded}
        guarded |= {p: RouteKind.BLACKHOLE for p, is_guarded in change.guarded.items() if is_guarded}
        local = {p: is_ours for p, is_ours in change.local.items() if is_ours != (p in self._local[p.version])}
        moved = [p for p in prefixes if guarded.get(p) != draft.guarded.get(p)]
        if not self._is_narrow(change, moved, local):
            return None
        tunnels = {p: t for p in prefixes if (t := change.routes.get(p, draft.tunnels.get(p))) is not None}
        old = {route for p in prefixes for route in _routes_to(draft, p, draft.guarded, draft.tunnels)}
        new = {route for p in prefixes for route in _routes_to(draft, p, guarded, tunnels)}
        versions = Counter(self._versions)
        versions.update(route.prefix.version for route in new)
        versions.subtract(route.prefix.version for route in old)
        if any(bool(versions[v]) != bool(self._versions[v]) for v in (4, 6)):
            return None  # the first route of a family, or its last, brings rules and settings with it
        self._versions = versions
        guard_before = self._sets.change([p for p in moved if p in guarded], ())
        guard_after = self._sets.change((), [p for p in moved if p not in guarded])
        for prefix in prefixes:
            draft.guarded.pop(prefix, None)
            draft.tunnels.pop(prefix, None)
        draft.guarded.update(guarded)
        draft.tunnels.update(tunnels)
        self._routes -= old
        self._routes |= new
        for prefix, is_ours in local.items():
            (Prefixes.add if is_ours else Prefixes.discard)(self._local[prefix.version], prefix)
        replaced = {route.place for route in new}
        gone = (route for route in old - new if route.place not in replaced)
        return PlanChange(guard_before=guard_before, put=tuple(new - old), gone=tuple(gone), guard_after=guard_after)

    def _is_narrow(self, change: StateChange, moved: Collection[Network], local: Collection[Network]) -> bool:
        """Whether a change reaches no further than the prefixes it names, of which `moved` are guarded from now on or no more."""
        draft = self._draft
        if change.forwards != draft.state.forwards:
            return False
        sources = [route.source for p in change.routes for route in (change.routes[p], draft.tunnels.get(p)) if route]
        if any(source is not None and source not in draft.own for source in sources):
            return False
        if any(self._host[ours.version].inside(ours) for ours in local):
            return False
        if any(not p.prefixlen or self._host[p.version].inside(p) or self._kept[p.version].around(p) for p in moved):
            return False
        # What needs no routes of the host so far must not begin to need them.
        known = _by_version(moved)
        return self._needs_routes or not (
            any(self._is_protected(ours) or known[ours.version].overlaps(ours) for ours in local)
            or any(self._local[p.version].overlaps(p) for p in moved)
        )

    def _is_protected(self, network: Network) -> bool:
        sources = (row.route.prefix for row in self._draft.state.source_routes)
        return self._sets.overlaps(network) or any(
            p.version == network.version and p.overlaps(network) for p in sources
        )


def _by_version(prefixes: Iterable[Network]) -> dict[int, Prefixes]:
    rows: dict[int, list[Network]] = {4: [], 6: []}
    for prefix in prefixes:
        rows[prefix.version].append(prefix)
    return {4: Prefixes(32, rows[4]), 6: Prefixes(128, rows[6])}


def _destination_routes(draft: _Draft) -> None:
    for prefix in dict.fromkeys((*draft.guarded, *draft.tunnels)):
        for route in _routes_to(draft, prefix, draft.guarded, draft.tunnels):
            draft.put(route)
    for prefix in draft.guarded:
        if prefix.prefixlen == 0:
            _throw(draft, ROUTE_TABLE, THROWN_ALWAYS[prefix.version])
    _throw(draft, ROUTE_TABLE, draft.state.passes)
    theirs = set(draft.guarded)
    _throw(draft, ROUTE_TABLE, (network for _, network in draft.kept if _covering(network, theirs) is not None))


def _routes_to(
    draft: _Draft, prefix: Network, guarded: Mapping[Network, RouteKind], tunnels: Mapping[Network, TunnelRoute]
) -> list[Route]:
    """What stands in our table for one prefix: a blackhole where it is guarded, and the route into the tunnel."""
    if prefix.version == 6 and not draft.view.has_ipv6:
        return []
    routes = []
    if prefix in guarded:
        routes.append(Route(table=ROUTE_TABLE, prefix=prefix, kind=guarded[prefix], metric=BLACKHOLE_METRIC))
    if prefix in tunnels and draft.index:
        routes.append(_tunnel_route(draft, ROUTE_TABLE, tunnels[prefix]))
    return routes


def _source_routes(draft: _Draft) -> None:
    for row in draft.state.source_routes:
        prefix = row.route.prefix
        draft.put(Route(table=SOURCE_TABLE, prefix=prefix, kind=RouteKind.BLACKHOLE, metric=BLACKHOLE_METRIC))
        if draft.index:
            draft.put(_tunnel_route(draft, SOURCE_TABLE, row.route))
        if prefix.prefixlen == 0:
            _throw(draft, SOURCE_TABLE, THROWN_ALWAYS[prefix.version])
        around = [*draft.state.passes, *(network for _, network in draft.kept)]
        _throw(draft, SOURCE_TABLE, (net for net in around if net.version == prefix.version and net.overlaps(prefix)))


def _tunnel_route(draft: _Draft, table: int, wanted: TunnelRoute) -> Route:
    source = wanted.source
    if source is not None and source not in draft.own:
        draft.notes.append(
            f"route {wanted.prefix}: source {source} is no address of this host yet; "
            "packets of the gateway itself will not fit the selectors until it is"
        )
        source = None
    return Route(
        table=table,
        prefix=wanted.prefix,
        kind=RouteKind.UNICAST,
        metric=TUNNEL_METRIC,
        index=draft.index,
        mtu=mtu_metric(wanted.mtu),
        advmss=wanted.advmss,
        source=source,
    )


def _throw(draft: _Draft, table: int, prefixes: Iterable[Network]) -> None:
    for prefix in prefixes:
        draft.put(Route(table=table, prefix=prefix, kind=RouteKind.THROW, metric=THROW_METRIC))


def _kept_networks(draft: _Draft) -> list[tuple[str, Network]]:
    """Networks of the host itself that lie inside a guarded prefix and must not be taken from it."""
    state = draft.state
    theirs = set(draft.guarded) | {row.route.prefix for row in state.source_routes}
    names = {index: link.name for index, link in draft.view.links.items()}
    outside = _may_be_outside(draft)
    kept = []
    for route in draft.view.routes:
        device = names.get(route.index, "")
        if route.prefix.prefixlen == 0 or route.prefix.is_link_local or device in ("", "lo", state.device):
            continue
        around = _covering(route.prefix, theirs)
        if around is None or route.prefix in state.passes:
            continue
        if route.prefix in theirs:
            draft.notes.append(
                f"network {route.prefix} is on {device} and protected at once: it is reached through the tunnel only; "
                "give one side other addresses"
            )
        elif _may_stay(route, around, route.index in outside, state):
            kept.append((device, route.prefix))
    return sorted(set(kept), key=lambda row: (row[0], row[1].version, row[1]))


def _outside(draft: _Draft) -> set[int]:
    """Outside interfaces: those with a default route, or with a router to networks that are not private."""
    routes = [route for route in draft.view.routes if route.index != draft.index]
    found = {route.index for route in routes if not route.is_connected and not _is_private(route.prefix)}
    return found | {route.index for route in routes if route.prefix.prefixlen == 0}


def _may_be_outside(draft: _Draft) -> set[int]:
    """The same, or every interface as long as the host does not know yet where outside is."""
    return _outside(draft) or set(draft.view.links)


def _may_stay(route: HostRoute, around: Network, is_outside: bool, state: HostState) -> bool:
    """Whether a network of the host stays reachable unencrypted although `around` is guarded.

    On an outside interface an attacker may say by DHCP which networks are local, and draw protected traffic out of the
    tunnel (CVE-2023-36672). There a network stays reachable only if the operator lists it in `local` inside that very
    prefix (a gateway with one interface), or if it is private and the tunnel is a full tunnel. On inside interfaces every
    network in `local` stays reachable, and with a full tunnel every connected or private one.
    """
    declared = [ours for ours in state.local if ours.version == route.prefix.version and _inside(route.prefix, ours)]
    if any(not is_outside or (ours != around and _inside(ours, around)) for ours in declared):
        return True
    if is_outside:
        return around.prefixlen == 0 and route.is_connected and _is_private(route.prefix)
    return around.prefixlen == 0 and (route.is_connected or _is_private(route.prefix))


def _covering(network: Network, prefixes: set[Network]) -> Network | None:
    """The longest of `prefixes` that holds `network`, `network` itself included."""
    for length in range(network.prefixlen, -1, -1):
        candidate = network.supernet(new_prefix=length)
        if candidate in prefixes:
            return candidate
    return None


def _is_private(network: Network) -> bool:
    return any(network.version == private.version and _inside(network, private) for private in PRIVATE)


def _inside(inner: Network, outer: Network) -> bool:
    return outer.prefixlen <= inner.prefixlen and inner.network_address in outer


def _rules(draft: _Draft) -> frozenset[Rule]:
    rules = {table_rule(version) for version in draft.versions(ROUTE_TABLE)}
    versions = draft.versions(SOURCE_TABLE)
    rules |= {source_rule(r.source, r.route.prefix) for r in draft.state.source_routes if r.source.version in versions}
    if ALL_IPV4 in draft.guarded or any(row.route.prefix == ALL_IPV4 for row in draft.state.source_routes):
        rules |= {dhcp_rule(), end_rule()}
    return frozenset(rules)


def _guard(draft: _Draft, sets: GuardSets) -> Guard:
    state = draft.state
    theirs = [*draft.guarded, *(row.route.prefix for row in state.source_routes)]
    kept: list[Kept] = []
    for device, network in draft.kept:
        kept += keep(device, network, (prefix for prefix in theirs if prefix.prefixlen > network.prefixlen))
    outside = _may_be_outside(draft)
    for version in {prefix.version for prefix in theirs if prefix.prefixlen == 0}:
        for index, link in draft.view.links.items():
            if index not in outside and link.name not in ("lo", state.device):
                kept += keep(link.name, MULTICAST[version], ())
    return Guard(
        device=state.device,
        sets=sets.sets,
        ports=state.ports,
        kept=tuple(sorted(set(kept))),
        pairs=tuple((row.source, row.route.prefix) for row in state.source_routes),
    )


def _settings(draft: _Draft) -> tuple[Setting, ...]:
    versions = draft.versions(ROUTE_TABLE, SOURCE_TABLE)
    now = draft.view.settings
    wanted: list[tuple[str, int, bool]] = []
    strict = now.get(ALL_RP_FILTER, 0)
    outside = sorted(draft.view.links[index].name for index in _outside(draft) if index in draft.view.links)
    # Outer packets come from addresses that our table reaches through the TUN: strict filters would drop them.
    devices = [draft.state.device] * (4 in versions) + outside * (ALL_IPV4 in draft.guarded)
    filtered = [device for device in devices if max(strict, now.get(rp_filter(device), 0)) == STRICT]
    wanted += [(rp_filter(device), LOOSE, device == draft.state.device) for device in filtered]
    if draft.state.forwards and 4 in versions:
        wanted.append((IPV4_FORWARD, 1, False))
    if draft.state.forwards and 6 in versions and now.get(IPV6_FORWARD) == 0:
        # A host that forwards no longer listens to router advertisements, unless it is told to (RFC 4861 6.2.2).
        names = sorted(link.name for link in draft.view.links.values() if link.name not in ("lo", draft.state.device))
        wanted += [(accept_ra(name), 2, False) for name in names if now.get(accept_ra(name)) == 1]
        wanted.append((IPV6_FORWARD, 1, False))
    return tuple(Setting(name, now[name], value, own) for name, value, own in wanted if now.get(name, value) != value)
