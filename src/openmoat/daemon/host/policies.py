"""What is to be protected: the SPD, the sizes, and what the host is told of both, kept in step as connections and SAs change.

Three parts do the work, each without knowing the others: `host.spd`, `host.plans` and `host.prefixes`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from openmoat.daemon.host.plans import PlanCompiler
from openmoat.daemon.host.prefixes import Prefixes, Protected
from openmoat.daemon.host.spd import SpdCompiler
from openmoat.dataplane.backend import Limits, SetPolicies
from openmoat.errors import MoatError
from openmoat.ike.events import ChildSa
from openmoat.model.connection import Child, Connection
from openmoat.mtu.plan import MtuPlan, PathMtu, Rung
from openmoat.policy.selectors import Selectors
from openmoat.policy.spd import PolicyId

__all__ = ["Policies"]


class Policies:
    """Lives in the daemon's event loop. Applies nothing: changes for the backend are answered, those for the host wait."""

    def __init__(self, rungs: frozenset[Rung], path_mtu: Callable[[int], PathMtu]) -> None:
        """See `PlanCompiler`."""
        self.spd = SpdCompiler()
        self.plans = PlanCompiler(rungs, path_mtu)
        self.prefixes = Prefixes()
        self._names: dict[str, set[str]] = {}
        """By connection, what is protected for it."""

    def load(
        self, put: Iterable[Connection], remove: Iterable[str] = ()
    ) -> tuple[SetPolicies, Mapping[str, MoatError]]:
        """Take connections in, replacing those of the same name, and others out.

        Answers with the change for the backend, and with the connections that could not be taken in.
        """
        put, remove = list(put), list(remove)
        names = [*remove, *(connection.name for connection in put)]
        before = {name: {child.name: child for child in self.spd.children(name)} for name in names}
        templates = {name for name in names if self.spd.is_template(name)}
        loaded = self.spd.load(put, remove)
        taken = {connection.name: connection for connection in loaded.taken}
        for name in names:
            self._protect(name, taken.get(name), before[name], was_template=name in templates)
        return loaded.changes, loaded.conflicts

    def child(self, sa: ChildSa) -> Child:
        """The configuration of an SA; raises `UnknownChild`."""
        return self.spd.child(sa)

    def discovers(self, connection: str) -> bool:
        """Whether the size of the path to its peers is to be found out for any of its children."""
        return any(child.path_mtu is None for child in self.spd.children(connection))

    def serve(self, sa: ChildSa) -> tuple[PolicyId, MtuPlan, SetPolicies | None]:
        """The policy whose packets an SA is to carry, its sizes, and the change that brings the policy about where it is a
        template's.

        Raises `UnknownChild`, and `PolicyConflict` where these selectors lead to another peer already; then there is
        nothing to `release`.
        """
        policy, change = self.spd.serve(sa)
        child, name, plan = self.child(sa), self._name(sa), self.plan(sa)
        is_template = self.spd.is_template(sa.connection)
        local, remote = (sa.local, sa.remote) if is_template else (child.local, child.remote)
        self.prefixes.protect(name, Protected(local, remote, plan))
        self._names.setdefault(sa.connection, set()).add(name)
        return policy, plan, change

    def release(self, sa: ChildSa) -> SetPolicies | None:
        """An SA is gone: the policy of a template's peer goes with the last SA that served it."""
        change = self.spd.release(sa)
        if change is not None:
            name = self._name(sa)
            self.prefixes.unprotect(name)
            self._names.get(sa.connection, set()).discard(name)
        return change

    def limits(self, sa: ChildSa) -> Limits:
        """Octets and packets of the child's lifetimes."""
        lifetimes = self.child(sa).lifetimes
        return Limits(
            soft_octets=lifetimes.rekey_octets,
            hard_octets=lifetimes.hard_octets,
            soft_packets=lifetimes.rekey_packets,
            hard_packets=lifetimes.hard_packets,
        )

    def plan(self, sa: ChildSa) -> MtuPlan:
        """Sizes for an SA as it is now."""
        return self.plans.plan(self.child(sa), sa)

    def resize(self, sa: ChildSa) -> MtuPlan:
        """The same, for its routes as well."""
        name, plan = self._name(sa), self.plan(sa)
        protected = self.prefixes.find(name)
        if protected is not None:
            self.prefixes.protect(name, replace(protected, plan=plan))
        return plan

    def _name(self, sa: ChildSa) -> str:
        """Under which name the selectors of an SA are protected: alternatives have sizes of their own each."""
        return self.spd.policy_of(sa) if self.spd.is_template(sa.connection) else f"{sa.connection}/{sa.child}"

    def _protect(
        self, name: str, connection: Connection | None, before: Mapping[str, Child], *, was_template: bool
    ) -> None:
        """Have the prefixes of a connection follow it; None: it is not in force any more."""
        names = self._names.pop(name, set())
        kept: set[str] = set()
        reserved: list[tuple[Selectors, Selectors]] = []
        if connection is not None and connection.is_template:
            reserved = [(child.local, child.remote) for child in connection.children]
            kept = names if was_template else set()
        elif connection is not None:
            kept = {f"{name}/{child.name}" for child in connection.children}
        for gone in names - kept:
            self.prefixes.unprotect(gone)
        self.prefixes.reserve(name, reserved)
        if connection is not None:
            self._names[name] = kept
        for child in connection.children if connection is not None and not connection.is_template else ():
            self._protect_child(f"{name}/{child.name}", child, before.get(child.name))

    def _protect_child(self, name: str, child: Child, before: Child | None) -> None:
        """Sizes that an SA has brought stay; there may be none yet, or none any more."""
        standing, plan = self.prefixes.find(name), self.plans.cautious(child)
        if standing is not None and before is not None and standing.plan != self.plans.cautious(before):
            plan = standing.plan
        self.prefixes.protect(name, Protected(child.local, child.remote, plan))
