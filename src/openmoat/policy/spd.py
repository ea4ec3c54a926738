"""The security policy database: one total order of policies (RFC 4301 4.4.1). Pure data and a linear truth.

The order is (priority; specificity; shunts before PROTECT; name). It is written into ranks with gaps between them, so
that a new policy takes a place between its neighbours and nobody else moves.
"""

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from openmoat.errors import MoatError
from openmoat.policy.selectors import Flow, Selectors, canonical, contains, format_selectors, intersect, volume

__all__ = [
    "MAX_POLICIES",
    "MAX_RANK",
    "Action",
    "Missing",
    "Policy",
    "PolicyConflict",
    "PolicyId",
    "Spd",
    "SpdChange",
    "WantedPolicy",
]

PolicyId = int
"""Number the daemon gives a policy for as long as it exists; 1 to 2**32 - 1."""

MAX_RANK = 2**31 - 1
MAX_POLICIES = 1 << 20
"""So many find a rank with room around them."""
_FIRST_RANK = 1 << 30
_STEP = 1 << 10
"""Distance of a policy at either end of the order from its neighbour."""
_ROOM = 1 << 5
"""Where a gap is used up, neighbours are moved apart until there is at least so much room for each."""


class Action(Enum):
    """What happens to outbound packets a policy selects."""

    PROTECT = "protect"
    PASS = "pass"
    DROP = "drop"
    REJECT = "reject"


class Missing(Enum):
    """What happens to a packet of a PROTECT policy while no SA serves it."""

    DROP = "drop"
    TRAP = "trap"
    """Tell the daemon (`Acquire`), hold the first packets for a short time, then reject with ICMP."""
    REJECT = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One entry of the SPD, in both directions: `local` is the source of outbound and the destination of inbound packets."""

    id: PolicyId
    name: str
    rank: int
    """Place in the total order, unique, 1 to 2**31 - 1, lowest wins. Gaps are left so that an insertion moves nobody."""
    action: Action
    local: Selectors
    remote: Selectors
    missing: Missing = Missing.DROP

    def selects(self, flow: Flow) -> bool:
        """Whether an outbound packet with these values is this policy's."""
        return contains(self.local, flow.source, flow.protocol, flow.source_port) and contains(
            self.remote, flow.destination, flow.protocol, flow.destination_port
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPolicy:
    """A policy as somebody wants it, before it has a number and a place."""

    name: str
    """Unique; the policy keeps its number as long as it is wanted under this name."""
    action: Action
    local: Selectors
    remote: Selectors
    missing: Missing = Missing.DROP
    priority: int = 0
    """Lower is looked at first, before everything else is compared."""
    peer: str = ""
    """Identity of the peer that a PROTECT policy leads to, in any one form; equal for policies of the same peer."""


class PolicyConflict(MoatError):
    """Two peers are to get the same packets; which one would be an accident, so the second is refused.

    Different priorities declare an order, and are accepted.
    """

    def __init__(self, refused: WantedPolicy, standing: WantedPolicy) -> None:
        self.refused = refused.name
        self.standing = standing.name
        super().__init__(
            f'policy "{refused.name}": remote {format_selectors(refused.remote)} already leads to {standing.peer or "a peer"}'
            f' by "{standing.name}": give one of them another priority, or other selectors'
        )


@dataclass(frozen=True, slots=True)
class SpdChange:
    """What leads from one SPD to another: the fields of `SetPolicies`."""

    put: tuple[Policy, ...] = ()
    remove: tuple[PolicyId, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)


_SortKey = tuple[int, int, bool, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    key: _SortKey
    wanted: WantedPolicy
    policy: Policy


@dataclass(frozen=True, slots=True)
class Spd:
    """Policies in their order. A change gives a new `Spd`; the old one stands."""

    _entries: tuple[_Entry, ...] = ()
    _by_name: Mapping[str, _Entry] = field(default_factory=dict)
    _by_remote: Mapping[Selectors, tuple[str, ...]] = field(default_factory=dict)
    """Names of PROTECT policies, under the canonical form of their remote selectors."""
    _next_id: PolicyId = 1

    @property
    def policies(self) -> tuple[Policy, ...]:
        """All policies, lowest rank first."""
        return tuple(entry.policy for entry in self._entries)

    def find(self, name: str) -> Policy | None:
        """The policy of this name."""
        entry = self._by_name.get(name)
        return entry.policy if entry else None

    def lookup(self, flow: Flow) -> Policy | None:
        """The policy of an outbound packet: a linear scan, and the truth that every faster lookup is held against."""
        return next((entry.policy for entry in self._entries if entry.policy.selects(flow)), None)

    def lookup_inbound(self, flow: Flow) -> Policy | None:
        """The policy of an inbound packet: that of its answer."""
        return self.lookup(flow.reversed())

    def changed(self, put: Iterable[WantedPolicy] = (), remove: Iterable[str] = ()) -> "Spd":
        """The SPD with some policies added or replaced, by name, and others taken away.

        Raises `PolicyConflict` where two peers would get the same packets; then nothing has changed. Work grows with the
        change, and with the size only as copying a list of references does.
        """
        return _Draft(self).changed(put, remove)

    def change_to(self, other: "Spd") -> SpdChange:
        """What leads from this one to `other`, which was made from it or from a common ancestor."""
        mine = {entry.policy.id: entry.policy for entry in self._entries}
        theirs = {entry.policy.id: entry.policy for entry in other._entries}
        return SpdChange(
            put=tuple(policy for number, policy in theirs.items() if mine.get(number) != policy),
            remove=tuple(number for number in mine if number not in theirs),
        )


class _Draft:
    """An `Spd` in the making."""

    def __init__(self, spd: Spd) -> None:
        self.entries = list(spd._entries)
        self.by_name = dict(spd._by_name)
        self.by_remote = dict(spd._by_remote)
        self.next_id = spd._next_id

    def changed(self, put: Iterable[WantedPolicy], remove: Iterable[str]) -> Spd:
        numbers: dict[str, PolicyId] = {}
        fresh: dict[str, WantedPolicy] = {wanted.name: wanted for wanted in put}
        for name in (*remove, *fresh):
            old = self.by_name.get(name)
            if old is None or (name in fresh and old.wanted == fresh[name]):
                continue
            numbers[name] = old.policy.id
            self._take(old)
        keyed = [(_sort_key(w), w) for w in fresh.values() if w.name not in self.by_name]
        keyed.sort(key=lambda pair: pair[0])
        for key, wanted in keyed:
            self._refuse_conflict(wanted)
            self._insert(key, wanted, numbers.get(wanted.name))
        return Spd(tuple(self.entries), self.by_name, self.by_remote, self.next_id)

    def _take(self, entry: _Entry) -> None:
        del self.entries[self._place(entry.key)]
        del self.by_name[entry.wanted.name]
        if entry.wanted.action is Action.PROTECT:
            remote = canonical(entry.wanted.remote)
            rest = tuple(name for name in self.by_remote[remote] if name != entry.wanted.name)
            if rest:
                self.by_remote[remote] = rest
            else:
                del self.by_remote[remote]

    def _place(self, key: _SortKey) -> int:
        return bisect.bisect_left(self.entries, key, key=lambda entry: entry.key)

    def _refuse_conflict(self, wanted: WantedPolicy) -> None:
        if wanted.action is not Action.PROTECT:
            return
        for name in self.by_remote.get(canonical(wanted.remote), ()):
            other = self.by_name[name].wanted
            is_ordered = other.priority != wanted.priority or other.peer == wanted.peer
            if not is_ordered and intersect(other.local, wanted.local):
                raise PolicyConflict(wanted, other)

    def _insert(self, key: _SortKey, wanted: WantedPolicy, number: PolicyId | None) -> None:
        if len(self.entries) >= MAX_POLICIES:
            raise ValueError(f'policy "{wanted.name}": the SPD holds {MAX_POLICIES} policies at most')
        if number is None:
            number = self.next_id
            self.next_id += 1
        place = self._place(key)
        policy = Policy(
            id=number,
            name=wanted.name,
            rank=self._rank_at(place),
            action=wanted.action,
            local=wanted.local,
            remote=wanted.remote,
            missing=wanted.missing,
        )
        entry = _Entry(key, wanted, policy)
        self.entries.insert(place, entry)
        self.by_name[wanted.name] = entry
        if wanted.action is Action.PROTECT:
            remote = canonical(wanted.remote)
            self.by_remote[remote] = (*self.by_remote.get(remote, ()), wanted.name)

    def _rank_at(self, place: int) -> int:
        """A free rank for a policy that is to stand at `place`; neighbours move only where there is none."""
        below, above = self._bounds(place, place)
        if above - below < 2:
            self._make_room(place)
            below, above = self._bounds(place, place)
        if below == 0 and above > MAX_RANK:
            return _FIRST_RANK
        if above > MAX_RANK:
            return min(below + _STEP, (below + above) // 2)
        if below == 0:
            return max(above - _STEP, above // 2)
        return (below + above) // 2

    def _bounds(self, start: int, end: int) -> tuple[int, int]:
        """Ranks of the neighbours of the places `start` to `end`."""
        below = self.entries[start - 1].policy.rank if start > 0 else 0
        above = self.entries[end].policy.rank if end < len(self.entries) else MAX_RANK + 1
        return below, above

    def _make_room(self, place: int) -> None:
        """Spread as few neighbours as it takes over the room between theirs (order maintenance by windows that double)."""
        width = 1
        while True:
            start, end = max(0, place - width), min(len(self.entries), place + width)
            below, above = self._bounds(start, end)
            count = end - start
            if above - below > (count + 2) * _ROOM or count == len(self.entries):
                break
            width *= 2
        for index in range(count):
            rank = below + (above - below) * (index + 1) // (count + 1)
            self._move(start + index, rank)

    def _move(self, place: int, rank: int) -> None:
        entry = self.entries[place]
        if entry.policy.rank == rank:
            return
        moved = replace(entry, policy=replace(entry.policy, rank=rank))
        self.entries[place] = self.by_name[entry.wanted.name] = moved


def _sort_key(wanted: WantedPolicy) -> _SortKey:
    """Equal selectors have equal volume, so among them a shunt comes first; what holds another comes after it."""
    size = sum(volume(wanted.local, version) * volume(wanted.remote, version) for version in (4, 6))
    return wanted.priority, size, wanted.action is Action.PROTECT, wanted.name
