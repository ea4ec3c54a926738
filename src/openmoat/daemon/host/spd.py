"""The compiler of the SPD: policies of the loaded connections, and of the peers of templates while they are here. Pure.

Configuration and Child SAs go in, `SetPolicies` for a backend comes out; nothing is applied here. Connections of one group
are alternatives: a child of the same name in each of them serves one policy.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from openmoat.dataplane.backend import SetPolicies, Spi
from openmoat.errors import MoatError
from openmoat.ike.events import ChildSa
from openmoat.model.connection import Child, Connection, Start
from openmoat.policy.groups import GroupConflict, Member
from openmoat.policy.selectors import Selectors, canonical, covers, format_selectors, intersect
from openmoat.policy.spd import Action, Missing, Policy, PolicyConflict, PolicyId, Spd, SpdChange, WantedPolicy

__all__ = ["Loaded", "SpdCompiler", "UnknownChild"]


class UnknownChild(LookupError):
    """An SA names a child that is not configured any more."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of connections that were to be loaded."""

    changes: SetPolicies
    taken: tuple[Connection, ...]
    """Those that are in force."""
    conflicts: Mapping[str, MoatError]
    """Those that are not, and why."""


@dataclass(slots=True)
class _Protected:
    """A connection in force."""

    connection: Connection
    children: Mapping[str, Child]
    policies: set[str] = field(default_factory=set)
    """Names of its policies; of a template those of the peers that are here."""


class SpdCompiler:
    """The SPD as configured, and as peers of templates extend it."""

    def __init__(self) -> None:
        self._spd = Spd()
        self._connections: dict[str, _Protected] = {}
        self._members: dict[str, dict[str, Child]] = {}
        """By name of a policy of connections with one peer: the connections that serve it, and their child that does."""
        self._by_group: dict[str, dict[str, None]] = {}
        """By group, the names of its policies."""
        self._by_id: dict[PolicyId, str] = {}
        self._serving: dict[Spi, str] = {}
        """By pair of a template's peer, the policy that it serves."""
        self._users: Counter[str] = Counter()
        """By policy of a template's peer, how many pairs serve it."""
        self._exceptions: dict[tuple[str, str], list[WantedPolicy]] = {}
        """By template and child: configured policies inside what it may have; found when first wanted after a load."""

    @property
    def policies(self) -> tuple[Policy, ...]:
        """All, in their order."""
        return self._spd.policies

    def load(self, put: Iterable[Connection], remove: Iterable[str] = ()) -> Loaded:
        """Take connections in, replacing those of the same name, and others out.

        A connection whose networks lead to another peer already is left out whole, and answered with the conflict, unless
        both are of one group.
        """
        fresh = {connection.name: connection for connection in put}
        # The peers of a template that changes and stays one keep what they have, as long as their SAs stand.
        kept = {
            name: self._connections[name].policies
            for name in fresh
            if fresh[name].is_template and self.is_template(name)
        }
        gone, touched = self._leave((*remove, *fresh), kept.keys())
        self._exceptions.clear()
        conflicts: dict[str, MoatError] = {}
        for connection in list(fresh.values()):
            try:
                self._join(connection)
            except GroupConflict as conflict:
                conflicts[connection.name] = conflict
                del fresh[connection.name]
        change = self._change(fresh, gone, touched, conflicts)
        self._note(change)
        for connection in fresh.values():
            children = {child.name: child for child in connection.children}
            names = kept.get(connection.name, set())
            if not connection.is_template:
                names = {policy_name(connection, name) for name in children}
            self._connections[connection.name] = _Protected(connection, children, names)
        return Loaded(set_policies(change), tuple(fresh.values()), conflicts)

    def child(self, sa: ChildSa) -> Child:
        """The configuration of an SA; raises `UnknownChild`."""
        try:
            return self._connections[sa.connection].children[sa.child]
        except KeyError:
            raise UnknownChild(f'connection "{sa.connection}": no child "{sa.child}"') from None

    def children(self, connection: str) -> Iterable[Child]:
        """Those of a connection in force."""
        found = self._connections.get(connection)
        return found.children.values() if found is not None else ()

    def member(self, connection: str) -> Member:
        """The connection among the alternatives of its group; one without a group is its own only alternative."""
        found = self._connections.get(connection)
        return Member(found.connection.order if found is not None else 0, connection)

    def group(self, connection: str) -> str | None:
        """The group of a connection in force."""
        found = self._connections.get(connection)
        return found.connection.group if found is not None else None

    def alternatives(self, connection: str, child: str) -> tuple[str, list[Member]]:
        """The policy of a child of a connection with one peer, and the connections that can serve it, first in order first."""
        found = self._connections.get(connection)
        name = policy_name(found.connection, child) if found is not None else ""
        return name, sorted(map(self.member, self._members.get(name, ())))

    def children_of(self, policy: PolicyId) -> list[tuple[str, str]]:
        """Connections and their children that serve a configured policy; peers of templates come by themselves."""
        members = self._members.get(self._by_id.get(policy, ""), {})
        return [(connection, child.name) for connection, child in members.items()]

    def policy_of(self, sa: ChildSa) -> str:
        """Name of the policy that an SA serves; raises `UnknownChild`."""
        self.child(sa)
        connection = self._connections[sa.connection].connection
        if not connection.is_template:
            return policy_name(connection, sa.child)
        served = self._serving.get(sa.local_spi)
        if served is not None:
            return served
        # A peer may have several Child SAs of one child, each for a part of it.
        part = f"{format_selectors(sa.local)} to {format_selectors(sa.remote)}"
        return f"{policy_name(connection, sa.child)}@{sa.peer}, {part}"

    def is_template(self, connection: str) -> bool:
        """Whether peers of a connection bring policies of their own."""
        found = self._connections.get(connection)
        return found is not None and found.connection.is_template

    def serve(self, sa: ChildSa) -> tuple[PolicyId, SetPolicies | None]:
        """The policy whose packets an SA is to carry, and the change that brings it about where it is a template's.

        Raises `UnknownChild`, and `PolicyConflict` where these selectors lead to another peer already; then there is
        nothing to `release`.
        """
        child, name, change = self.child(sa), self.policy_of(sa), SpdChange()
        if self.is_template(sa.connection):
            wanted = wanted_policy(name, child, sa.local, sa.remote, str(sa.peer), Missing.DROP)
            self._check_exceptions(sa, wanted)
            change = self._spd.change([wanted])
            self._connections[sa.connection].policies.add(name)
            self._serving[sa.local_spi] = name
            self._users[name] += 1
        policy = self._spd.find(name)
        if policy is None:
            raise UnknownChild(f'connection "{sa.connection}": child "{sa.child}" has no policy')
        return policy.id, set_policies(change) if change else None

    def release(self, sa: ChildSa) -> SetPolicies | None:
        """An SA is gone: the policy of a template's peer goes with the last SA that served it."""
        name = self._serving.pop(sa.local_spi, None)
        if name is None:
            return None
        self._users[name] -= 1
        if self._users[name] > 0:
            return None
        del self._users[name]
        found = self._connections.get(sa.connection)
        if found is not None:
            found.policies.discard(name)
        return set_policies(self._spd.change(remove=[name])) if self._spd.find(name) is not None else None

    def _leave(self, names: Iterable[str], kept: AbstractSet[str]) -> tuple[set[str], set[str]]:
        """Forget connections. Answers with the policies that stand in the SPD for nobody now, and those that are left to
        others of a group; those of `kept` stay as they are.
        """
        gone: set[str] = set()
        touched: set[str] = set()
        for connection in names:
            found = self._connections.pop(connection, None)
            for policy in found.policies if found is not None and connection not in kept else ():
                members = self._members.get(policy, {})
                members.pop(connection, None)
                if members:
                    touched.add(policy)
                else:
                    self._members.pop(policy, None)
                    gone.add(policy)
        return gone, touched - gone

    def _join(self, connection: Connection) -> None:
        """Enter a connection as one that serves its policies; raises `GroupConflict`, and then it serves none."""
        if connection.is_template:
            if connection.group is not None:
                raise GroupConflict(
                    f'group "{connection.group}": connection "{connection.name}" is for many peers: only connections with'
                    " one peer can be alternatives; leave group out"
                )
            return
        if connection.group is not None:
            self._check_group(connection, connection.group)
        for child in connection.children:
            self._members.setdefault(policy_name(connection, child.name), {})[connection.name] = child

    def _check_group(self, connection: Connection, group: str) -> None:
        """Raise `GroupConflict` where a connection is no alternative to those of its group that are in force."""
        policies = [name for name in self._by_group.get(group, ()) if name in self._members]
        names = {one.name for one in connection.children}
        for child in connection.children:
            for other, standing in self._members.get(policy_name(connection, child.name), {}).items():
                _check_alternative(connection, child, other, standing)
            for policy in policies:
                for other, standing in self._members.get(policy, {}).items():
                    if standing.name not in names:
                        _check_names(connection, child, other, standing)
        mine = [policy_name(connection, name) for name in names]
        self._by_group[group] = dict.fromkeys((*policies, *mine))

    def _change(
        self, fresh: dict[str, Connection], gone: set[str], touched: set[str], conflicts: dict[str, MoatError]
    ) -> SpdChange:
        """Change the SPD; connections that cannot be taken in leave `fresh` for `conflicts`."""
        while True:
            names = dict.fromkeys(touched)
            for connection in fresh.values():
                if not connection.is_template:
                    names.update((policy_name(connection, child.name), None) for child in connection.children)
            wanted = {name: self._wanted(name, fresh) for name in names if self._members.get(name)}
            try:
                return self._spd.change(wanted.values(), gone - wanted.keys())
            except PolicyConflict as conflict:
                refused = [name for name in self._members[conflict.refused] if name in fresh]
                if not refused:
                    raise
                for name in refused:
                    conflicts[name] = conflict
                    self._withdraw(fresh.pop(name), gone)

    def _withdraw(self, connection: Connection, gone: set[str]) -> None:
        """A connection that joined is left out after all."""
        for child in connection.children:
            name = policy_name(connection, child.name)
            members = self._members[name]
            members.pop(connection.name, None)
            if not members:
                del self._members[name]
                gone.add(name)

    def _wanted(self, name: str, fresh: Mapping[str, Connection]) -> WantedPolicy:
        """A configured policy, by all that serve it."""
        members = self._members[name]
        first, child = next(iter(members.items()))
        connection = fresh[first] if first in fresh else self._connections[first].connection
        traps = any(one.start is Start.TRAP for one in members.values())
        return wanted_policy(
            name, child, child.local, child.remote, whom(connection), Missing.TRAP if traps else Missing.DROP
        )

    def _note(self, change: SpdChange) -> None:
        for number in change.remove:
            self._by_id.pop(number, None)
        self._by_id.update({policy.id: policy.name for policy in change.put})

    def _check_exceptions(self, sa: ChildSa, wanted: WantedPolicy) -> None:
        """`PolicyConflict` where a template's peer names addresses that the operator gave to another connection."""
        key = (sa.connection, sa.child)
        if key not in self._exceptions:
            # What holds all that the template may have is the wider rule, and the template the exception to it.
            mine = self.child(sa).remote
            rows = (self._wanted(name, {}) for name in self._members)
            self._exceptions[key] = [
                row for row in rows if intersect(row.remote, mine) and not covers(row.remote, mine)
            ]
        for row in self._exceptions[key]:
            is_other = row.peer != wanted.peer and row.priority == wanted.priority
            if is_other and intersect(row.remote, wanted.remote):
                raise PolicyConflict(wanted, row)


def policy_name(connection: Connection, child: str) -> str:
    """Name of the policy of a child. A space stands in no name of a connection, so that no connection has a group's."""
    return f"group {connection.group}/{child}" if connection.group is not None else f"{connection.name}/{child}"


def whom(connection: Connection) -> str:
    """To whom the policies of a connection with one peer lead."""
    return f'group "{connection.group}"' if connection.group is not None else str(connection.peer.identity.identity)


def wanted_policy(
    name: str, child: Child, local: Selectors, remote: Selectors, peer: str, missing: Missing
) -> WantedPolicy:
    """A PROTECT policy for a child."""
    return WantedPolicy(
        name=name,
        action=Action.PROTECT,
        local=local,
        remote=remote,
        missing=missing,
        priority=child.priority,
        peer=peer,
    )


def set_policies(change: SpdChange) -> SetPolicies:
    """A change of the SPD as a command for a backend."""
    return SetPolicies(put=change.put, remove=change.remove)


def _check_names(connection: Connection, child: Child, other: str, standing: Child) -> None:
    """Raise `GroupConflict` where two children lead to the same networks under different names."""
    if canonical(child.local) == canonical(standing.local) and canonical(child.remote) == canonical(standing.remote):
        raise GroupConflict(
            f'group "{connection.group}": child "{child.name}" of connection "{connection.name}" and child'
            f' "{standing.name}" of "{other}" protect the same networks: give both the same name'
        )


def _check_alternative(connection: Connection, child: Child, other: str, standing: Child) -> None:
    """Raise `GroupConflict` where two children of one name do not lead to the same networks."""
    for word, ours, theirs in (("local", child.local, standing.local), ("remote", child.remote, standing.remote)):
        if canonical(ours) != canonical(theirs):
            raise GroupConflict(
                f'group "{connection.group}": child "{child.name}": {word} is {format_selectors(ours)} in connection'
                f' "{connection.name}" and {format_selectors(theirs)} in "{other}": alternatives protect the same networks;'
                " give the child another name, or the connection another group"
            )
    if child.priority != standing.priority:
        raise GroupConflict(
            f'group "{connection.group}": child "{child.name}": priority is {child.priority} in connection'
            f' "{connection.name}" and {standing.priority} in "{other}": give both the same'
        )
