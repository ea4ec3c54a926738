"""What the host is told: the prefixes that are protected or reserved, and which of them were touched since it was last told."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from openmoat.mtu.plan import MtuPlan
from openmoat.net import Network
from openmoat.policy.selectors import Selectors, to_prefixes

__all__ = ["MAX_CACHED", "MAX_TOUCHED", "Prefixes", "Protected", "Touched", "prefixes_of"]

MAX_CACHED = 16_384
"""Lists of selectors whose prefixes are remembered."""
MAX_TOUCHED = 256
"""Prefixes that are remembered for the host one by one; where more have changed, everything is planned anew."""


@lru_cache(maxsize=MAX_CACHED)
def prefixes_of(selectors: Selectors) -> tuple[Network, ...]:
    """The prefixes that hold the addresses of these selectors."""
    return tuple(to_prefixes(selectors))


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
        object.__setattr__(self, "prefixes", prefixes_of(self.remote))
        object.__setattr__(self, "ours", prefixes_of(self.local))


@dataclass(frozen=True, slots=True)
class Touched:
    """Prefixes about which the host may have to be told something new."""

    prefixes: Collection[Network]
    """Of the far side."""
    local: Collection[Network]


class Prefixes:
    """Lives in the daemon's event loop. Several of what is protected may share a prefix."""

    def __init__(self) -> None:
        self.local: Counter[Network] = Counter()
        """Prefixes of our side, and how many have each."""
        self.revision = 0
        """Grows whenever `protected` or `reserved` has become another."""
        self.changed = asyncio.Event()
        """Set whenever the revision grows."""
        self._protected: dict[str, Protected] = {}
        self._sharing: dict[Network, dict[str, None]] = {}
        """By prefix of the far side, the names of those that have it."""
        self._reserved: dict[str, list[tuple[Selectors, Selectors]]] = {}
        self._reserved_prefixes: Counter[Network] = Counter()
        self._touched: dict[Network, None] = {}
        self._touched_local: dict[Network, None] = {}
        self._is_all_touched = False

    def find(self, name: str) -> Protected | None:
        """What is protected under this name."""
        return self._protected.get(name)

    def protect(self, name: str, protected: Protected) -> None:
        """Have this protected from now on, instead of what was under this name before."""
        if self._protected.get(name) == protected:
            return
        self.unprotect(name)
        self._protected[name] = protected
        for prefix in protected.prefixes:
            self._sharing.setdefault(prefix, {})[name] = None
        self._touch(protected.prefixes, protected.ours, 1)

    def unprotect(self, name: str) -> None:
        """Nothing is protected under this name any more."""
        before = self._protected.pop(name, None)
        if before is None:
            return
        for prefix in before.prefixes:
            names = self._sharing[prefix]
            del names[name]
            if not names:
                del self._sharing[prefix]
        self._touch(before.prefixes, before.ours, -1)

    def reserve(self, name: str, pairs: list[tuple[Selectors, Selectors]]) -> None:
        """What peers of a template may bring (local, remote), instead of what was reserved for it before."""
        for step, rows in ((-1, self._reserved.pop(name, [])), (1, pairs)):
            for local, remote in rows:
                count(self._reserved_prefixes, prefixes_of(remote), step)
                self._touch(prefixes_of(remote), prefixes_of(local), step)
        if pairs:
            self._reserved[name] = pairs

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
        """Local and remote selectors of all templates: what their peers may bring must not leave in cleartext without them."""
        return tuple(pair for pairs in self._reserved.values() for pair in pairs)

    def _touch(self, prefixes: Iterable[Network], local: Iterable[Network], step: int) -> None:
        self.revision += 1
        self.changed.set()
        before = {prefix: prefix in self.local for prefix in local}
        count(self.local, before, step)
        self._touched.update(dict.fromkeys(prefixes))
        self._touched_local.update((prefix, None) for prefix, was in before.items() if was != (prefix in self.local))
        if len(self._touched) + len(self._touched_local) > MAX_TOUCHED:
            self._touched, self._touched_local, self._is_all_touched = {}, {}, True


def count(counter: Counter[Network], prefixes: Iterable[Network], step: int) -> None:
    """Each once more, or once less; what is at zero is not there."""
    for prefix in prefixes:
        counter[prefix] += step
        if not counter[prefix]:
            del counter[prefix]
