"""The security policy database: one total order of policies (RFC 4301 4.4.1). Pure data and a linear truth.

The order is (priority; specificity; shunts before PROTECT; name). It is written into ranks with gaps between them, so
that a new policy takes a place between its neighbours and nobody else moves.
"""

import bisect
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum

import msgspec

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
_STEP = 1 << 15
"""Distance of a policy at either end of the order from its neighbour."""
_ROOM = 1 << 5
_MOST_ROOM = 1 << 10
"""Where a gap is used up, neighbours are moved apart until there is so much room for each: the more when more are moved, so
that those who move many have peace for long. Even with `MAX_POLICIES` there is twice as much for each."""
_RUN = 1 << 6
"""Of a gap in which policies come one after the other, as those of numbered peers do, each takes so small a part."""


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


class Policy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class WantedPolicy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
            f' by "{standing.name}": give both connections the same group if they are alternatives, else one of them another'
            " priority, or other selectors"
        )


class SpdChange(msgspec.Struct, frozen=True, gc=False):
    """What a backend must be told of a change: the fields of `SetPolicies`."""

    put: tuple[Policy, ...] = ()
    remove: tuple[PolicyId, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)


_SortKey = tuple[int, int, bool, str]


class _Entry(msgspec.Struct, frozen=True, gc=False):
    key: _SortKey
    wanted: WantedPolicy
    policy: Policy


class Spd:
    """Policies in their order. Not thread-safe; work grows with a change, not with the number of policies."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._keys: list[_SortKey] = []
        """Of the entries, in the same order: what a place is found by."""
        self._by_name: dict[str, _Entry] = {}
        self._by_remote: dict[Selectors, tuple[str, ...]] = {}
        self._next_id: PolicyId = 1
        self._touched: set[str] = set()
        self._newest: str = ""
        """The policy that was inserted last."""

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

    def change(self, put: Iterable[WantedPolicy] = (), remove: Iterable[str] = ()) -> SpdChange:
        """Add policies or replace them, by name, and take others away; answers what a backend must be told.

        Raises `PolicyConflict` where two peers would get the same packets; then nothing has changed.
        """
        fresh = {wanted.name: wanted for wanted in put}
        standing = {name for name in fresh if name in self._by_name and self._by_name[name].wanted == fresh[name]}
        fresh = {name: wanted for name, wanted in fresh.items() if name not in standing}
        gone = [name for name in dict.fromkeys((*remove, *fresh)) if name in self._by_name and name not in standing]
        self._check(fresh, set(gone))
        self._touched.clear()
        numbers = {name: self._take(self._by_name[name]) for name in gone}
        keys = {name: _sort_key(wanted) for name, wanted in fresh.items()}
        for name in sorted(fresh, key=keys.__getitem__):
            self._insert(keys[name], fresh[name], numbers.pop(name, None))
        changed = sorted((self._by_name[name].policy for name in self._touched), key=lambda policy: policy.rank)
        return SpdChange(put=tuple(changed), remove=tuple(numbers.values()))

    def _check(self, fresh: Mapping[str, WantedPolicy], gone: AbstractSet[str]) -> None:
        if len(self._entries) - len(gone) + len(fresh) > MAX_POLICIES:
            raise ValueError(f"the SPD holds {MAX_POLICIES} policies at most")
        earlier: dict[Selectors, list[WantedPolicy]] = {}
        for wanted in fresh.values():
            if wanted.action is not Action.PROTECT:
                continue
            remote = canonical(wanted.remote)
            names = (name for name in self._by_remote.get(remote, ()) if name not in gone)
            among = earlier.setdefault(remote, [])
            for other in (*(self._by_name[name].wanted for name in names), *among):
                is_ordered = other.priority != wanted.priority or other.peer == wanted.peer
                if not is_ordered and intersect(other.local, wanted.local):
                    raise PolicyConflict(wanted, other)
            among.append(wanted)

    def _take(self, entry: _Entry) -> PolicyId:
        place = bisect.bisect_left(self._keys, entry.key)
        del self._entries[place], self._keys[place]
        del self._by_name[entry.wanted.name]
        if entry.wanted.action is Action.PROTECT:
            remote = canonical(entry.wanted.remote)
            rest = tuple(name for name in self._by_remote[remote] if name != entry.wanted.name)
            if rest:
                self._by_remote[remote] = rest
            else:
                del self._by_remote[remote]
        return entry.policy.id

    def _insert(self, key: _SortKey, wanted: WantedPolicy, number: PolicyId | None) -> None:
        if number is None:
            number = self._next_id
            self._next_id += 1
        place = bisect.bisect_left(self._keys, key)
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
        self._entries.insert(place, entry)
        self._keys.insert(place, key)
        self._by_name[wanted.name] = entry
        self._touched.add(wanted.name)
        self._newest = wanted.name
        if wanted.action is Action.PROTECT:
            remote = canonical(wanted.remote)
            self._by_remote[remote] = (*self._by_remote.get(remote, ()), wanted.name)

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
        if self._entries[place - 1].wanted.name == self._newest:
            return below + max(1, (above - below) // _RUN)
        if self._entries[place].wanted.name == self._newest:
            return above - max(1, (above - below) // _RUN)
        return (below + above) // 2

    def _bounds(self, start: int, end: int) -> tuple[int, int]:
        """Ranks of the neighbours of the places `start` to `end`."""
        below = self._entries[start - 1].policy.rank if start > 0 else 0
        above = self._entries[end].policy.rank if end < len(self._entries) else MAX_RANK + 1
        return below, above

    def _make_room(self, place: int) -> None:
        """Spread as few neighbours as it takes over the room between theirs (order maintenance by windows that double)."""
        level = 0
        while True:
            width = 1 << level
            start, end = max(0, place - width), min(len(self._entries), place + width)
            below, above = self._bounds(start, end)
            count = end - start
            room = min(_ROOM << level // 2, _MOST_ROOM)
            if above - below > (count + 2) * room or count == len(self._entries):
                break
            level += 1
        # What lies beyond the ends is for those who come there.
        if end == len(self._entries):
            above = min(above, below + (count + 1) * _STEP)
        elif start == 0:
            below = max(below, above - (count + 1) * _STEP)
        for index in range(count):
            rank = below + (above - below) * (index + 1) // (count + 1)
            self._move(start + index, rank)

    def _move(self, place: int, rank: int) -> None:
        entry = self._entries[place]
        if entry.policy.rank == rank:
            return
        moved = msgspec.structs.replace(entry, policy=msgspec.structs.replace(entry.policy, rank=rank))
        self._entries[place] = self._by_name[entry.wanted.name] = moved
        self._touched.add(entry.wanted.name)


def _sort_key(wanted: WantedPolicy) -> _SortKey:
    """Equal selectors have equal volume, so among them a shunt comes first; what holds another comes after it."""
    versions = {selector.version for selector in wanted.local}
    size = sum(volume(wanted.local, version) * volume(wanted.remote, version) for version in versions)
    return wanted.priority, size, wanted.action is Action.PROTECT, wanted.name
