"""Which connection of a group carries each policy: pairs that can send are announced here, and told whether they do.

Order and life decide: of the connections whose IKE SA and Child SA stand, the one of lowest order carries. The others keep
their SAs, receive by them, and take over by one `Activate`.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from openmoat.daemon.host.spd import SpdCompiler, UnknownChild
from openmoat.daemon.status.journal import Journal
from openmoat.dataplane.backend import Spi
from openmoat.ike.events import ChildSa
from openmoat.policy.groups import Alternatives, Member

__all__ = ["Standing", "Switches"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a connection stands among the alternatives for one of its children."""

    child: str
    active: str | None
    """The connection that carries it; None where none is up."""
    since: float | None
    """Wall clock: since when it is that one."""
    before: tuple[str, ...]
    """Connections that come before the active one in order, and are not up, or do not answer."""


@dataclass(slots=True)
class _Policy:
    group: str
    child: str
    alternatives: Alternatives
    since: float | None = None


class Switches:
    """Lives in the daemon's event loop."""

    def __init__(self, spd: SpdCompiler, journal: Journal, wall_clock: Callable[[], float]) -> None:
        self._spd = spd
        self._journal = journal
        self._wall_clock = wall_clock
        self._policies: dict[str, _Policy] = {}
        """By name, policies of groups that pairs can serve."""
        self._by_pair: dict[Spi, str] = {}

    def announce(self, child: ChildSa) -> tuple[Spi, ...]:
        """A Child SA can send. Answers with the pairs to activate now, in this order; the last one sends."""
        group = self._spd.group(child.connection)
        try:
            name = self._spd.policy_of(child)
        except UnknownChild:
            group, name = None, ""  # taken out of the configuration, and about to be deleted
        if group is None:
            return (child.local_spi,)
        policy = self._policies.setdefault(name, _Policy(group, child.child, Alternatives()))
        self._by_pair[child.local_spi] = name
        before = policy.alternatives.active
        pairs = policy.alternatives.add(child.local_spi, self._spd.member(child.connection))
        self._tell(policy, before)
        return pairs

    def withdraw(self, pair: Spi) -> tuple[Spi, ...]:
        """A pair sends nothing any more. Answers with the pairs to activate before it goes."""
        name = self._by_pair.pop(pair, None)
        if name is None:
            return ()
        policy = self._policies[name]
        before = policy.alternatives.active
        pairs = policy.alternatives.remove(pair)
        self._tell(policy, before)
        if not policy.alternatives:
            del self._policies[name]
        return pairs

    def suspect(self, pair: Spi, *, is_silent: bool) -> tuple[Spi, ...]:
        """The peer of a pair does not answer, or answers again. Answers with the pairs to activate now."""
        policy = self._policies.get(self._by_pair.get(pair, ""))
        if policy is None:
            return ()
        before = policy.alternatives.active
        pairs = policy.alternatives.suspect(pair, is_silent=is_silent)
        self._tell(policy, before, "; it does not answer" if is_silent else "")
        return pairs

    def reorder(self, connections: Iterable[str]) -> tuple[Spi, ...]:
        """Orders may have become others. Answers with the pairs to activate now."""
        pairs: tuple[Spi, ...] = ()
        for connection in connections:
            member = self._spd.member(connection)
            for policy in self._policies.values():
                if connection in policy.alternatives.members:
                    before = policy.alternatives.active
                    pairs += policy.alternatives.rank(member)
                    self._tell(policy, before)
        return pairs

    def standings(self, connection: str) -> tuple[Standing, ...]:
        """Where a connection of a group stands, child by child."""
        return tuple(self._standing(connection, child.name) for child in self._spd.children(connection))

    def _standing(self, connection: str, child: str) -> Standing:
        name, members = self._spd.alternatives(connection, child)
        policy = self._policies.get(name)
        active = policy.alternatives.active if policy is not None else None
        before = tuple(one.connection for one in members if active is not None and one < active)
        return Standing(
            child, active.connection if active else None, policy.since if policy is not None else None, before
        )

    def _tell(self, policy: _Policy, before: Member | None, why: str = "") -> None:
        active = policy.alternatives.active
        after = active.connection if active is not None else None
        if after == (before.connection if before is not None else None):
            return
        policy.since = self._wall_clock()
        if after is None:
            level, text = logging.WARNING, f'group "{policy.group}": nothing carries child "{policy.child}": none is up'
        elif before is None:
            level, text = logging.INFO, f'group "{policy.group}": "{after}" carries child "{policy.child}"'
        else:
            text = f'group "{policy.group}": "{after}" carries child "{policy.child}" now, instead of "{before.connection}"{why}'
            is_well = before.connection in policy.alternatives.members and not why
            level = logging.INFO if is_well else logging.WARNING
        self._journal.note("group-switched", level, text, {"conn": after or "-"})
