"""The compiler of MTU plans: from the options of a child, the suite and the path of its SA, to the sizes of one SA. Pure."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from openmoat.crypto.suites import EspSuite
from openmoat.daemon.host.icmp_sources import icmp_sources
from openmoat.ike.events import ChildSa
from openmoat.model.connection import Child, EspProposal
from openmoat.mtu.overhead import Overhead
from openmoat.mtu.plan import BASE, Framing, IcmpSource, MtuPlan, PathMtu, PeerFraming, Rung, compile_plan
from openmoat.mtu.words import SizeOptions
from openmoat.net import Address
from openmoat.policy.selectors import Selectors
from openmoat.system.links import InterfaceAddress

__all__ = ["MAX_CACHED_SOURCES", "PlanCompiler", "framing_of"]

MAX_CACHED_SOURCES = 1_024
"""Lists of selectors of our side, each with an address, whose sources of ICMP errors are remembered."""
UNKNOWN = PathMtu(BASE)
"""The path to a peer of which nothing is known."""


class PlanCompiler:
    """Knows what the backend can do, the paths, and the addresses of this host."""

    def __init__(self, rungs: frozenset[Rung], path_mtu: Callable[[int], PathMtu]) -> None:
        """`rungs`: what the backend can do with packets that do not fit. `path_mtu`: what is known of the path to the peer of
        an IKE SA.
        """
        self._rungs = rungs
        self._path_mtu = path_mtu
        self._addresses: Sequence[InterfaceAddress] = ()
        self._icmp_sources: dict[tuple[Selectors, Address, tuple[Address, ...]], tuple[IcmpSource, ...]] = {}

    @property
    def cached_sources(self) -> int:
        """Lists of sources of ICMP errors that are remembered; at most `MAX_CACHED_SOURCES`."""
        return len(self._icmp_sources)

    def use_addresses(self, addresses: Sequence[InterfaceAddress]) -> None:
        """Those of this host, from which ICMP errors may come."""
        self._addresses = addresses
        self._icmp_sources.clear()

    def plan(self, child: Child, sa: ChildSa) -> MtuPlan:
        """Sizes for an SA of a child, as it is and on the path where it is."""
        path = self._path_mtu(sa.ike)
        if child.path_mtu is not None:
            path = msgspec.structs.replace(path, size=child.path_mtu, is_proved=False)
        plan = compile_plan(
            overhead=Overhead(sa.suite, sa.path.remote.address.version, sa.udp),
            path=path,
            rungs=self._rungs,
            peer=PeerFraming(framing_of(sa), sa.takes_slices, sa.has_our_vendor_id),
            options=options_of(child),
        )
        return msgspec.structs.replace(plan, icmp_sources=self._sources(child, sa))

    def cautious(self, child: Child) -> MtuPlan:
        """Sizes before any SA is there: the least room that a proposed suite could leave."""
        return cautious_plan(child.proposals, child.path_mtu, options_of(child), self._rungs)

    def _sources(self, child: Child, sa: ChildSa) -> tuple[IcmpSource, ...]:
        """From where ICMP errors come: of most peers of a template the same."""
        key = sa.local, sa.path.local.address, child.tunnel_address
        found = self._icmp_sources.get(key)
        if found is None:
            if len(self._icmp_sources) >= MAX_CACHED_SOURCES:
                self._icmp_sources.clear()
            found = icmp_sources(sa.local, self._addresses, sa.path.local.address, child.tunnel_address)
            self._icmp_sources[key] = found
        return found


def options_of(child: Child) -> SizeOptions:
    """What a child wants done with packets that do not fit."""
    return SizeOptions(child.mtu_policy, child.df, child.mss)


def framing_of(sa: ChildSa) -> Framing:
    """How inner packets lie in the ESP payloads of an SA, both ways."""
    return Framing.AGGFRAG if sa.aggfrag else Framing.WHOLE


@lru_cache  # of most connections the options are the same
def cautious_plan(
    proposals: tuple[EspProposal, ...],
    path_mtu: int | None,
    options: SizeOptions,
    rungs: frozenset[Rung],
) -> MtuPlan:
    """The least room that any suite of the proposals could leave."""
    path = UNKNOWN if path_mtu is None else msgspec.structs.replace(UNKNOWN, size=path_mtu, is_proved=False)
    overheads = [Overhead(suite, 6, True) for proposal in proposals for suite in suites(proposal)]
    least = min(overheads, key=lambda overhead: overhead.inner_room(path.size))
    return compile_plan(overhead=least, path=path, rungs=rungs, options=options)


def suites(proposal: EspProposal) -> list[EspSuite]:
    """Every suite that a proposal allows; ESN makes no difference in size."""
    if not proposal.integrities:
        return [EspSuite(encryption, None) for encryption in proposal.encryptions]
    return [
        EspSuite(encryption, integrity) for encryption in proposal.encryptions for integrity in proposal.integrities
    ]
