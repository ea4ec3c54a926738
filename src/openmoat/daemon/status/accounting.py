"""Counters that survive rekeys: sums per (connection, peer identity) of retired SAs and of those that live.

Every backend counts per SA and forgets with the SA; what people and metrics see is monotonic (D12 in `docs/decisions`).
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from openmoat.crypto.identities import Identity
from openmoat.dataplane.backend import SaCounters, Spi

__all__ = ["MAX_RETIRED_OWNERS", "Accounting", "Owner", "Totals"]

MAX_RETIRED_OWNERS = 65_536
"""Owners without a live SA whose sums are kept; beyond it the one that was active longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom packets are counted for."""

    connection: str
    peer: Identity


@dataclass(frozen=True, slots=True)
class Totals:
    """Packets and octets of inner packets since the daemon started."""

    inbound_packets: int = 0
    inbound_octets: int = 0
    outbound_packets: int = 0
    outbound_octets: int = 0

    def plus(self, counters: SaCounters) -> "Totals":
        """With the counters of one SA added."""
        return Totals(
            self.inbound_packets + counters.inbound_packets,
            self.inbound_octets + counters.inbound_octets,
            self.outbound_packets + counters.outbound_packets,
            self.outbound_octets + counters.outbound_octets,
        )


class Accounting:
    """Who owns which SA, and what the SAs of an owner have carried so far."""

    def __init__(self) -> None:
        self._owners: dict[Spi, Owner] = {}
        self._retired: OrderedDict[Owner, Totals] = OrderedDict()

    def installed(self, handle: Spi, owner: Owner) -> None:
        """From now on the pair counts for `owner`."""
        self._owners[handle] = owner

    def retire(self, final: SaCounters) -> None:
        """Add the final counters of a pair that was removed; a pair nobody owned is ignored."""
        owner = self._owners.pop(final.handle, None)
        if owner is None:
            return
        self._retired[owner] = self._retired.pop(owner, Totals()).plus(final)
        while len(self._retired) > MAX_RETIRED_OWNERS:
            self._retired.popitem(last=False)

    def totals(self, live: Iterable[SaCounters]) -> dict[Owner, Totals]:
        """Sums of every owner, given the counters of all live pairs."""
        sums = dict(self._retired)
        for counters in live:
            owner = self._owners.get(counters.handle)
            if owner is not None:
                sums[owner] = sums.get(owner, Totals()).plus(counters)
        return sums
