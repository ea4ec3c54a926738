"""Which addresses the peers of a template hold: none may take packets away from another by naming a part of them."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from openmoat.crypto.identities import Identity
from openmoat.policy.selectors import Selectors

__all__ = ["Claims"]

Place = tuple[str, int]
"""A template by name, and the IP version."""
Range = tuple[int, int]
"""First and last address as numbers."""


class Claims:
    """Address ranges by template and identity. Protocols and ports do not count: a host stands behind one peer.

    A look-up walks over the ranges of two identities at most, because those of different ones never overlap; how many
    one identity has is bounded by its IKE SAs, Child SAs and selectors.
    """

    def __init__(self) -> None:
        self._ranges: dict[Place, list[Range]] = {}
        """In order."""
        self._owners: dict[tuple[Place, Range], dict[Identity, int]] = {}

    def other(self, template: str, peer: Identity, remote: Selectors) -> Identity | None:
        """Another identity that holds some of these addresses. Identities are folded ones."""
        found = (self._overlapping(place, wanted, peer) for place, wanted in _places(template, remote))
        return next((owner for owner in found if owner is not None), None)

    def add(self, template: str, peer: Identity, remote: Selectors) -> None:
        """It holds them, once more."""
        for place, wanted in _places(template, remote):
            owners = self._owners.setdefault((place, wanted), {})
            if not owners:
                insort(self._ranges.setdefault(place, []), wanted)
            owners[peer] = owners.get(peer, 0) + 1

    def drop(self, template: str, peer: Identity, remote: Selectors) -> None:
        """It holds them once less."""
        for place, held in _places(template, remote):
            owners = self._owners[place, held]
            owners[peer] -= 1
            if not owners[peer]:
                del owners[peer]
            if not owners:
                del self._owners[place, held]
                ranges = self._ranges[place]
                del ranges[bisect_left(ranges, held)]
                if not ranges:
                    del self._ranges[place]

    def _overlapping(self, place: Place, wanted: Range, peer: Identity) -> Identity | None:
        ranges = self._ranges.get(place, [])
        at = bisect_left(ranges, wanted)
        for index in range(at, len(ranges)):
            row = ranges[index]
            if row[0] > wanted[1]:
                break
            if (owner := self._other_owner(place, row, peer)) is not None:
                return owner
        nearest: Identity | None = None
        for index in range(at - 1, -1, -1):
            row = ranges[index]
            owner = self._other_owner(place, row, peer)
            if owner is None or (nearest is not None and owner != nearest):
                break  # whatever began before this one ends before it
            if row[1] >= wanted[0]:
                return owner
            nearest = owner
        return None

    def _other_owner(self, place: Place, row: Range, peer: Identity) -> Identity | None:
        return next((owner for owner in self._owners[place, row] if owner != peer), None)


def _places(template: str, remote: Selectors) -> Iterator[tuple[Place, Range]]:
    for selector in remote:
        yield (template, selector.version), (selector.first, selector.last)
