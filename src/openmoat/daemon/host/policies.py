"""What is to be protected, compiled: policies of the loaded connections, and of the peers of templates while they are here.

Configuration goes in, `SetPolicies` for the backend and the protected prefixes for the host come out; nothing is applied here.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import msgspec

from openmoat.crypto.identities import Identity
from openmoat.crypto.suites import EspSuite
from openmoat.daemon.host.icmp_sources import icmp_sources
from openmoat.dataplane.backend import Limits, SetPolicies
from openmoat.ike.events import ChildSa
from openmoat.model.connection import Child, Connection, EspProposal, Start
from openmoat.mtu.overhead import Overhead
from openmoat.mtu.plan import BASE, Framing, IcmpSource, MtuPlan, Outside, Rung, compile_plan
from openmoat.mtu.words import Df, Mss, MtuPolicy
from openmoat.net import Address, Network, Path
from openmoat.policy.selectors import Selectors, covers, format_selectors, intersect, to_prefixes
from openmoat.policy.spd import Action, Missing, PolicyConflict, PolicyId, Spd, SpdChange, WantedPolicy
from openmoat.system.links import InterfaceAddress

__all__ = [
    "MAX_CACHED",
    "MAX_CACHED_SOURCES",
    "MAX_TOUCHED",
    "Policies",
    "Protected",
    "Touched",
    "UnknownChild",
    "framing_of",
]

MAX_CACHED = 16_384
"""Lists of selectors whose prefixes are remembered."""
MAX_CACHED_SOURCES = 1_024
"""Lists of selectors of our side, each with an address, whose sources of ICMP errors are remembered."""
MAX_TOUCHED = 256
"""Prefixes that are remembered for the host one by one; where more have changed, everything is planned anew."""
UNKNOWN = Outside(BASE)
"""The way to a peer of which nothing has been heard."""


@lru_cache(maxsize=MAX_CACHED)
def _prefixes(selectors: Selectors) -> tuple[Network, ...]:
    return tuple(to_prefixes(selectors))


class UnknownChild(LookupError):
    """An SA names a child that is not configured any more."""


@dataclass(frozen=True, slots=True)
class Protected:
    """Selectors that the host must bring to the TUN and guard, with the sizes that hold there."""

    local: Selectors
    remote: Selectors
    plan: MtuPlan
    prefixes: tuple[Network, ...] = field(init=False)
    """Those of the far side, found once: sizes change more often."""
    ours: tuple[Network, ...] = field(init=False)
    """Those of our side."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefixes", _prefixes(self.remote))
        object.__setattr__(self, "ours", _prefixes(self.local))


@dataclass(frozen=True, slots=True)
class Touched:
    """Of what something is said to the host that may be new."""

    prefixes: Collection[Network]
    """Of the far side."""
    local: Collection[Network]


class Policies:
    """The SPD as configured and as peers of templates extend it. Lives in the daemon's event loop."""

    def __init__(self, rungs: frozenset[Rung], outside: Callable[[int], Outside]) -> None:
        """`rungs`: what the backend can do with packets that do not fit. `outside`: what is known of the path to the peer of
        an IKE SA.
        """
        self.changed = asyncio.Event()
        """Set whenever the host is to be told something."""
        self._rungs = rungs
        self._outside = outside
        self._addresses: Sequence[InterfaceAddress] = ()
        self._icmp_sources: dict[tuple[Selectors, Address, tuple[Address, ...]], tuple[IcmpSource, ...]] = {}
        self._children: dict[str, dict[str, Child]] = {}
        self._names: dict[str, set[str]] = {}
        self._templates: set[str] = set()
        self._spd = Spd()
        self._users: Counter[str] = Counter()
        self._protected: dict[str, Protected] = {}
        self._sharing: dict[Network, dict[str, None]] = {}
        """By prefix of the far side, the names of those that have it."""
        self.local: Counter[Network] = Counter()
        """Prefixes of our side, and how many have each."""
        self._reserved_prefixes: Counter[Network] = Counter()
        self._touched: dict[Network, None] = {}
        self._touched_local: dict[Network, None] = {}
        self._is_all_touched = False
        self._reserved: dict[str, list[tuple[Selectors, Selectors]]] = {}
        self.revision = 0
        """Grows whenever `protected` or `reserved` has become another."""
        self._configured: dict[str, list[WantedPolicy]] = {}
        """By connection with one peer."""
        self._names_by_id: dict[PolicyId, str] = {}
        """Names of the policies of connections with one peer."""
        self._exceptions: dict[tuple[str, str], list[WantedPolicy]] = {}
        """By template and child; found when first wanted after a load."""

    @property
    def spd(self) -> Spd:
        """As it stands."""
        return self._spd

    @property
    def addresses(self) -> Sequence[InterfaceAddress]:
        """Those of this host, from which ICMP errors may come."""
        return self._addresses

    @addresses.setter
    def addresses(self, addresses: Sequence[InterfaceAddress]) -> None:
        self._addresses = addresses
        self._icmp_sources.clear()

    def load(
        self, put: Iterable[Connection], remove: Iterable[str] = ()
    ) -> tuple[SetPolicies, Mapping[str, PolicyConflict]]:
        """Take connections in, replacing those of the same name, and others out.

        A connection whose selectors another peer already has is left out whole, and answered with the conflict.
        """
        fresh = {connection.name: connection for connection in put}
        gone = {policy for name in (*remove, *fresh) for policy in self._forget(name)}
        self._exceptions.clear()
        conflicts: dict[str, PolicyConflict] = {}
        policies = {name: wanted_policies(connection) for name, connection in fresh.items()}
        while True:
            wanted = [policy for name in fresh for policy in policies[name]]
            try:
                change = self._spd.change(wanted, gone - {policy.name for policy in wanted})
                break
            except PolicyConflict as conflict:
                name = conflict.refused.partition("/")[0]
                conflicts[name] = conflict
                del fresh[name]
        for connection in fresh.values():
            self._learn(connection, policies[connection.name])
        for number in change.remove:
            self._names_by_id.pop(number, None)
        self._names_by_id.update({policy.id: policy.name for policy in change.put})
        return set_policies(change), conflicts

    def children_of(self, policy: PolicyId) -> list[tuple[str, str]]:
        """Connection and child of a policy that was loaded."""
        connection, _, child = self._names_by_id.get(policy, "").partition("/")
        return [(connection, child)] if child else []

    def child(self, sa: ChildSa) -> Child:
        """The configuration of an SA; raises `UnknownChild`."""
        try:
            return self._children[sa.connection][sa.child]
        except KeyError:
            raise UnknownChild(f'connection "{sa.connection}": no child "{sa.child}"') from None

    def serve(self, sa: ChildSa) -> tuple[PolicyId, MtuPlan, SetPolicies | None]:
        """The policy whose packets an SA is to carry, its sizes, and the change that brings the policy about where it is a
        template's.

        Raises `UnknownChild`, and `PolicyConflict` where another peer already has these selectors; then there is nothing to
        `release`.
        """
        child, change = self.child(sa), SpdChange()
        name = self._policy_name(sa)
        local, remote = child.local, child.remote
        if sa.connection in self._templates:
            local, remote = sa.local, sa.remote
            wanted = wanted_policy(name, child, local, remote, str(sa.peer), Missing.DROP)
            self._check_exceptions(sa, wanted)
            change = self._spd.change([wanted])
            self._names[sa.connection].add(name)
        policy = self._spd.find(name)
        if policy is None:
            raise UnknownChild(f'connection "{sa.connection}": child "{sa.child}" has no policy')
        plan = self.plan(sa, sa.path, sa.udp)
        self._protect(name, Protected(local, remote, plan))
        self._users[name] += 1
        return policy.id, plan, set_policies(change) if change else None

    def release(self, sa: ChildSa) -> SetPolicies | None:
        """An SA is gone: the policy of a template's peer goes with the last SA that served it."""
        name = self._policy_name(sa)
        users = self._users[name] - 1
        if users > 0:
            self._users[name] = users
            return None
        self._users.pop(name, None)
        if sa.connection not in self._templates or self._spd.find(name) is None:
            return None
        self._unprotect(name)
        self._names[sa.connection].discard(name)
        return set_policies(self._spd.change(remove=[name]))

    def limits(self, sa: ChildSa) -> Limits:
        """Octets and packets of the child's lifetimes."""
        lifetimes = self.child(sa).lifetimes
        return Limits(
            soft_octets=lifetimes.rekey_octets,
            hard_octets=lifetimes.hard_octets,
            soft_packets=lifetimes.rekey_packets,
            hard_packets=lifetimes.hard_packets,
        )

    def plan(self, sa: ChildSa, path: Path, udp: bool) -> MtuPlan:
        """Sizes for an SA on a path."""
        overhead = Overhead(sa.suite, path.remote.address.version, udp)
        plan = self._plan(sa, overhead)
        return msgspec.structs.replace(plan, icmp_sources=self._sources(sa, path.local.address))

    def _sources(self, sa: ChildSa, outside: Address) -> tuple[IcmpSource, ...]:
        """From where ICMP errors come: of most peers of a template the same."""
        tunnel = self.child(sa).tunnel_address
        key = sa.local, outside, tunnel
        found = self._icmp_sources.get(key)
        if found is None:
            if len(self._icmp_sources) >= MAX_CACHED_SOURCES:
                self._icmp_sources.clear()
            found = self._icmp_sources[key] = icmp_sources(sa.local, self._addresses, outside, tunnel)
        return found

    def discovers(self, connection: str) -> bool:
        """Whether the size of the way to its peers is to be found out for any of its children."""
        return any(child.path_mtu is None for child in self._children.get(connection, {}).values())

    def resize(self, sa: ChildSa, path: Path, udp: bool) -> MtuPlan:
        """The same, for the routes of its policy as well."""
        name, plan = self._policy_name(sa), self.plan(sa, path, udp)
        if name in self._protected:
            self._protect(name, replace(self._protected[name], plan=plan))
        return plan

    def take_touched(self) -> Touched | None:
        """Prefixes of which the host is to be told since this was last called; None where there are more than it keeps."""
        touched = None if self._is_all_touched else Touched(tuple(self._touched), tuple(self._touched_local))
        self._touched, self._touched_local, self._is_all_touched = {}, {}, False
        return touched

    def sharing(self, prefix: Network) -> list[Protected]:
        """All that is protected and has this prefix on its far side."""
        return [self._protected[name] for name in self._sharing.get(prefix, ())]

    def is_reserved(self, prefix: Network) -> bool:
        """Whether some template names this very prefix; "any address" reserves nothing."""
        return bool(prefix.prefixlen) and prefix in self._reserved_prefixes

    def protected(self) -> tuple[Protected, ...]:
        """Everything that must go through the tunnel, whether an SA is there or not."""
        return tuple(self._protected.values())

    def reserved(self) -> tuple[tuple[Selectors, Selectors], ...]:
        """Local and remote selectors of all templates: what their peers may bring must not go out in clear without them."""
        return tuple(pair for pairs in self._reserved.values() for pair in pairs)

    def _check_exceptions(self, sa: ChildSa, wanted: WantedPolicy) -> None:
        """`PolicyConflict` where a template's peer names addresses that the operator gave to another connection."""
        key = (sa.connection, sa.child)
        if key not in self._exceptions:
            # What holds all that the template may have is the wider rule, and the template the exception to it.
            mine = self.child(sa).remote
            rows = (row for rows in self._configured.values() for row in rows)
            inside = [row for row in rows if intersect(row.remote, mine) and not covers(row.remote, mine)]
            self._exceptions[key] = inside
        for row in self._exceptions[key]:
            is_other = row.peer != wanted.peer and row.priority == wanted.priority
            if is_other and intersect(row.remote, wanted.remote):
                raise PolicyConflict(wanted, row)

    def _plan(self, sa: ChildSa, overhead: Overhead) -> MtuPlan:
        child, outside = self.child(sa), self._outside(sa.ike)
        if child.path_mtu is not None:
            outside = msgspec.structs.replace(outside, size=child.path_mtu, is_proved=False)
        return compile_plan(
            overhead=overhead,
            outside=outside,
            rungs=self._rungs,
            framing=framing_of(sa),
            slices=sa.takes_slices,
            echoes=sa.is_kin,
            policy=child.mtu_policy,
            df=child.df,
            mss=child.mss,
        )

    def _policy_name(self, sa: ChildSa) -> str:
        if sa.connection not in self._templates:
            return policy_name(sa.connection, sa.child)
        # A peer may have several Child SAs of one child, each for a part of it.
        part = f"{format_selectors(sa.local)} to {format_selectors(sa.remote)}"
        return f"{policy_name(sa.connection, sa.child, sa.peer)}, {part}"

    def _learn(self, connection: Connection, policies: list[WantedPolicy]) -> None:
        self._names[connection.name] = set()
        if connection.is_template:
            self._templates.add(connection.name)
            self._reserve(connection.name, [(child.local, child.remote) for child in connection.children])
        else:
            self._configured[connection.name] = policies
        self._children[connection.name] = {child.name: child for child in connection.children}
        for child in connection.children:
            if not connection.is_template:
                name = policy_name(connection.name, child.name)
                self._names[connection.name].add(name)
                self._protect(
                    name,
                    Protected(
                        child.local,
                        child.remote,
                        cautious_plan(
                            child.proposals, child.path_mtu, child.mtu_policy, child.df, child.mss, self._rungs
                        ),
                    ),
                )

    def _protect(self, name: str, protected: Protected) -> None:
        before = self._protected.get(name)
        if before == protected:
            return
        self._unprotect(name)
        self._protected[name] = protected
        for prefix in protected.prefixes:
            self._sharing.setdefault(prefix, {})[name] = None
        self._touch(protected.prefixes, protected.ours, 1)

    def _unprotect(self, name: str) -> None:
        before = self._protected.pop(name, None)
        if before is None:
            return
        for prefix in before.prefixes:
            names = self._sharing[prefix]
            del names[name]
            if not names:
                del self._sharing[prefix]
        self._touch(before.prefixes, before.ours, -1)

    def _reserve(self, connection: str, pairs: list[tuple[Selectors, Selectors]]) -> None:
        """What peers of a template may bring, instead of what was reserved for it before."""
        for step, rows in ((-1, self._reserved.pop(connection, [])), (1, pairs)):
            for local, remote in rows:
                count(self._reserved_prefixes, _prefixes(remote), step)
                self._touch(_prefixes(remote), _prefixes(local), step)
        if pairs:
            self._reserved[connection] = pairs

    def _touch(self, prefixes: Iterable[Network], local: Iterable[Network], step: int) -> None:
        self.revision += 1
        self.changed.set()
        before = {prefix: prefix in self.local for prefix in local}
        count(self.local, before, step)
        self._touched.update(dict.fromkeys(prefixes))
        self._touched_local.update((prefix, None) for prefix, was in before.items() if was != (prefix in self.local))
        if len(self._touched) + len(self._touched_local) > MAX_TOUCHED:
            self._touched, self._touched_local, self._is_all_touched = {}, {}, True

    def _forget(self, connection: str) -> set[str]:
        """Drop a connection, and answer the names of its policies, which still stand in the SPD."""
        names = self._names.pop(connection, set())
        for name in names:
            self._unprotect(name)
        self._children.pop(connection, None)
        self._templates.discard(connection)
        self._reserve(connection, [])
        self._configured.pop(connection, None)
        return names


def count(counter: Counter[Network], prefixes: Iterable[Network], step: int) -> None:
    """Each once more, or once less; what is at zero is not there."""
    for prefix in prefixes:
        counter[prefix] += step
        if not counter[prefix]:
            del counter[prefix]


def framing_of(sa: ChildSa) -> Framing:
    """How inner packets lie in the ESP payloads of an SA, both ways."""
    return Framing.AGGFRAG if sa.aggfrag else Framing.WHOLE


def policy_name(connection: str, child: str, peer: Identity | None = None) -> str:
    """Name of the policy of a child; with a peer where the connection is a template."""
    name = f"{connection}/{child}"
    return f"{name}@{peer}" if peer is not None else name


def wanted_policies(connection: Connection) -> list[WantedPolicy]:
    """The policies of a connection with one peer; a template has none until its peers are here."""
    if connection.is_template:
        return []
    peer = str(connection.peer.identity.identity)
    return [
        wanted_policy(
            policy_name(connection.name, child.name),
            child,
            child.local,
            child.remote,
            peer,
            Missing.TRAP if child.start is Start.TRAP else Missing.DROP,
        )
        for child in connection.children
    ]


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


@lru_cache  # all connections, mostly, wish the same
def cautious_plan(
    proposals: tuple[EspProposal, ...],
    path_mtu: int | None,
    policy: MtuPolicy,
    df: Df | None,
    mss: Mss | None,
    rungs: frozenset[Rung],
) -> MtuPlan:
    """Sizes before any SA is there: the least room that a proposed suite could leave."""
    outside = UNKNOWN if path_mtu is None else msgspec.structs.replace(UNKNOWN, size=path_mtu, is_proved=False)
    overheads = [Overhead(suite, 6, True) for proposal in proposals for suite in suites(proposal)]
    least = min(overheads, key=lambda overhead: overhead.inner_room(outside.size))
    return compile_plan(overhead=least, outside=outside, rungs=rungs, policy=policy, df=df, mss=mss)


def suites(proposal: EspProposal) -> list[EspSuite]:
    """Every suite that a proposal allows; ESN makes no difference in size."""
    if not proposal.integrities:
        return [EspSuite(encryption, None) for encryption in proposal.encryptions]
    return [
        EspSuite(encryption, integrity) for encryption in proposal.encryptions for integrity in proposal.integrities
    ]


def set_policies(change: SpdChange) -> SetPolicies:
    """A change of the SPD as a command for a backend."""
    return SetPolicies(put=change.put, remove=change.remove)
