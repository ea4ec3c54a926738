"""Desired host state against what is there: only what bears our mark is touched, and nothing foreign ever is.

Every call blocks for some milliseconds (netlink) to tenths of a second (nft with thousands of prefixes): make it from a
thread, one at a time.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from openmoat.system import sysctls
from openmoat.system.conntrack import forget_masqueraded
from openmoat.system.firewall import change_sets, foreign_notes, read_counters, read_guard, transact
from openmoat.system.guard import NO_GUARD, SETS, Guard, change_text
from openmoat.system.links import put_address, read_addresses, read_links, remove_address
from openmoat.system.names import DEVICE, ROUTE_TABLE, SOURCE_TABLE
from openmoat.system.netlink import Netlink
from openmoat.system.plan import HostView, Plan, Planner, needs_routes
from openmoat.system.ranges import Range
from openmoat.system.routes import Route, RouteKind, change_routes, read_host_routes, read_routes
from openmoat.system.rules import Rule, change_rules, read_rules
from openmoat.system.state import HostState, SourceRoute, StateChange, TunnelRoute
from openmoat.system.watch import AddressChanged, Change, EverythingChanged, GuardTouched, LinkChanged

__all__ = ["Applied", "HostState", "Reconciler", "SourceRoute", "StateChange", "TunnelRoute"]

TABLES: Final = (ROUTE_TABLE, SOURCE_TABLE)
TAMPERED: Final = "tampered with"
ORDER: Final = {
    RouteKind.BLACKHOLE: 0,
    RouteKind.UNREACHABLE: 0,
    RouteKind.THROW: 1,
    RouteKind.UNICAST: 2,
    RouteKind.LOCAL: 3,
}
"""What stops packets comes before what lets them pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a call has done."""

    written: int = 0
    """Changes of kernel state: routes, rules, addresses, settings, forgotten connections, one for a transaction of nftables."""
    settings: tuple[str, ...] = ()
    """Settings of the host that were changed, as `name: before -> now`; `cleanup` puts them back."""
    notes: tuple[str, ...] = ()
    """What stands in the way of tunnel traffic, each with its remedy."""


@dataclass(slots=True)
class _Installed:
    """What of ours is in the kernel, as far as we know; None: to be read again."""

    routes: AbstractSet[Route] | None = None
    rules: frozenset[Rule] | None = None
    guard: Guard | None = None
    planner: Planner | None = None
    """What planned it, where it is all as planned."""


class Reconciler:
    """Keeps the kernel's state of ours as the daemon wants it. It outlives us; the next one adopts it."""

    def __init__(self) -> None:
        self._installed = _Installed()
        self._restore: tuple[str, ...] = ()
        """What the guard remembers, in case somebody flushes it while we run."""
        self._is_tampered = False
        """Somebody else has changed the guard: whatever its stamp says, it is made anew."""

    def adopt(self) -> int:
        """Read what an earlier process has left: the number of routes, rules and guarded ranges. Nothing is changed."""
        with Netlink() as netlink:
            routes, rules, guard = self._read(netlink)
        return len(routes) + len(rules) + sum(len(ranges) for ranges in guard.sets.values())

    def mistrust(self, *, routes: bool = True, guard: bool = False) -> None:
        """Somebody else may have changed or removed what is ours: read it again before the next `apply`."""
        if routes:
            self._installed.routes = self._installed.rules = None
        if guard:
            self._installed.guard = None

    def handle_changes(self, changes: Iterable[Change]) -> bool:
        """Note the changes that a `Watch` reported; returns whether `apply` should be called again."""
        is_called_for = False
        for change in changes:
            is_called_for = True
            match change:
                case GuardTouched():
                    self.mistrust(routes=False, guard=True)
                    self._is_tampered = True
                case EverythingChanged():
                    self.mistrust(guard=True)
                case LinkChanged() | AddressChanged():
                    # The kernel takes routes away with an address they name, or a link they use, and does not say so.
                    self.mistrust()
        return is_called_for

    def apply(self, state: HostState) -> Applied:
        """Bring about `state`: the guard first, then what packets need. Writes nothing where all is as it should be.

        Raises `SystemFault` with the guard up as far as it could be had; what is there is then read again next time.
        """
        with Netlink() as netlink:
            view = _look(netlink, state)
            planner = Planner(state, view)
            wanted = planner.plan
            routes, rules, guard = self._read(netlink)
            if self._is_tampered and guard.stamp:
                guard = replace(guard, stamp=TAMPERED)
            self._restore = _remember(
                (*guard.restore, *self._restore, *(str(row) for row in wanted.settings if not row.is_ours))
            )
            goal = replace(wanted.guard, restore=self._restore)
            self._installed = _Installed()
            written = _change_guard(guard, goal)
            written += _write_addresses(netlink, state, view)
            written += _change_routing(netlink, (routes, rules), wanted)
        written += forget_masqueraded(_fresh(guard, goal))
        self._installed, self._is_tampered = _Installed(wanted.routes, wanted.rules, goal, planner), False
        changed, refused = _write_settings(wanted.settings)
        return Applied(written=written + len(changed), settings=tuple(changed), notes=(*wanted.notes, *refused))

    def change(self, change: StateChange) -> Applied | None:
        """Follow what has become of some prefixes: guarded before a route leads there, and until none does any more.

        The work is that of these prefixes. None where that is not enough, or it is not known for certain what is there: then
        `apply` is called for. Raises `SystemFault` likewise.
        """
        installed = self._installed
        if installed.planner is None or installed.routes is None or installed.guard is None or self._is_tampered:
            return None
        todo = installed.planner.change(change)
        if todo is None:
            return None
        self._installed = _Installed()
        written = change_sets(todo.guard_before)
        written += _change_routes(todo.put, todo.gone)
        written += change_sets(todo.guard_after)
        fresh = {v: [r for name in SETS if name.endswith(str(v)) for r in todo.guard_before[name].new] for v in (4, 6)}
        written += forget_masqueraded(fresh) if any(fresh.values()) else 0
        self._installed = installed
        return Applied(written=written)

    def inspect(self, device: str = DEVICE) -> tuple[str, ...]:
        """What in the host's own firewall would catch tunnel traffic, each with the rule to add. Nothing is changed."""
        return tuple(foreign_notes(device))

    def release(self, *, keeps_guard: bool) -> Applied:
        """The daemon stops: keep the guard, so that nothing is sent unencrypted, or remove everything."""
        return Applied() if keeps_guard else self.cleanup()

    def cleanup(self) -> Applied:
        """Remove all that is ours, and only that, and put settings back that are still as we left them. The guard goes last."""
        with Netlink() as netlink:
            routes, rules, guard = self._read(netlink, afresh=True)
            self._installed = _Installed()
            written = _change_routing(netlink, (routes, rules), Plan())
        settings = []
        for row in reversed(_remember((*guard.restore, *self._restore))):
            setting = sysctls.parse_restore(row)
            if setting is None or sysctls.read([setting.name]).get(setting.name) != setting.value:
                continue
            if not sysctls.write(setting.name, setting.before):
                settings.append(sysctls.restore_row(setting.name, setting.value, setting.before))
        written += len(settings) + _change_guard(guard, NO_GUARD)
        self._restore = ()
        return Applied(written=written, settings=tuple(settings))

    def counters(self) -> dict[str, int]:
        """Packets the guard has stopped since it was last made anew: `clear_in`, `clear_out`."""
        return read_counters()

    def _read(self, netlink: Netlink, *, afresh: bool = False) -> tuple[AbstractSet[Route], frozenset[Rule], Guard]:
        known = _Installed() if afresh else self._installed
        routes = set(read_routes(netlink, TABLES)) if known.routes is None else known.routes
        rules = read_rules(netlink) if known.rules is None else known.rules
        guard = read_guard() if known.guard is None else known.guard
        self._installed = _Installed(routes, rules, guard)
        return routes, rules, guard


def _remember(rows: Iterable[str]) -> tuple[str, ...]:
    """The first that is told of each setting: later ones saw a value of ours."""
    first: dict[str, str] = {}
    for row in rows:
        setting = sysctls.parse_restore(row)
        if setting is not None:
            first.setdefault(setting.name, row)
    return tuple(first.values())


def _look(netlink: Netlink, state: HostState) -> HostView:
    links = read_links(netlink)
    names = [sysctls.ALL_RP_FILTER, sysctls.IPV4_FORWARD, sysctls.IPV6_FORWARD]
    for link in links.values():
        names += [sysctls.rp_filter(link.name), sysctls.accept_ra(link.name)]
    return HostView(
        links=links,
        addresses=read_addresses(netlink),
        routes=read_host_routes(netlink) if needs_routes(state) else (),
        has_ipv6=sysctls.has_ipv6(),
        settings=sysctls.read(names),
    )


def _change_guard(have: Guard, want: Guard) -> int:
    text = change_text(have, want)
    if text:
        transact(text)
    return 1 if text else 0


def _change_routing(netlink: Netlink, have: tuple[AbstractSet[Route], frozenset[Rule]], want: Plan) -> int:
    """Routes in before the rules that lead to them, rules out before the routes they led to."""
    routes, rules = have
    put = want.routes - routes
    replaced = {route.place for route in put}
    gone = [route for route in routes - want.routes if route.place not in replaced]
    rules_put, rules_gone = want.rules - rules, rules - want.rules
    change_routes(netlink, _in_order(put), [])
    change_rules(netlink, sorted(rules_put, key=lambda rule: -rule.priority), rules_gone)
    change_routes(netlink, [], _in_order(gone)[::-1])
    return len(put) + len(gone) + len(rules_put) + len(rules_gone)


def _change_routes(put: Iterable[Route], gone: Iterable[Route]) -> int:
    put, gone = _in_order(put), _in_order(gone)[::-1]
    if put or gone:
        with Netlink() as netlink:
            change_routes(netlink, put, gone)
    return len(put) + len(gone)


def _in_order(routes: Iterable[Route]) -> list[Route]:
    return sorted(routes, key=lambda route: (ORDER[route.kind], route.place[1].version))


def _fresh(have: Guard, want: Guard) -> dict[int, list[Range]]:
    """Ranges that are protected from now on, by version of IP."""
    return {
        v: [row for name in SETS if name.endswith(str(v)) for row in want.sets[name] - have.sets[name]] for v in (4, 6)
    }


def _write_addresses(netlink: Netlink, state: HostState, view: HostView) -> int:
    """The TUN device is ours, and so are all its addresses."""
    index = next((link.index for link in view.links.values() if link.name == state.device), 0)
    if not index:
        return 0
    have = {row.address for row in view.addresses if row.index == index}
    for address in set(state.addresses) - have:
        put_address(netlink, index, address)
    for address in have - set(state.addresses):
        remove_address(netlink, index, address)
    return len(have ^ set(state.addresses))


def _write_settings(settings: Iterable[sysctls.Setting]) -> tuple[list[str], list[str]]:
    changed, refused = [], []
    for setting in settings:
        reason = sysctls.write(setting.name, setting.value)
        if reason:
            refused.append(
                f"setting {setting.name}: is {setting.before} and must be {setting.value}: {reason}; "
                f"as root: sysctl -w {setting.name}={setting.value}"
            )
        else:
            changed.append(str(setting))
    return changed, refused
