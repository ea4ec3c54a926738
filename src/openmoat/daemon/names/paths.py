"""Where peers are: names are looked up outside the protocol, with a deadline, and never on the way of a packet.

Answers `AskPath`: every address of the peer, in the configured order, each with the local address the kernel would use.
"""

import asyncio
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from openmoat.daemon.status.line_rate import LineRate
from openmoat.ike.events import AskPath, Paths
from openmoat.model.connection import Connection
from openmoat.net import IKE_PORT, Address, HostPort, Path

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver  # 5 MB, which a daemon that looks up no names saves

__all__ = ["LINES_PER_MINUTE", "LOOKUP_SECONDS", "MAX_NAMES", "MAX_PATHS", "MAX_TTL", "MIN_TTL", "Names", "PathFinder"]

LOOKUP_SECONDS = 5.0
"""Deadline of all look-ups for one name."""
MIN_TTL = 5.0
MAX_TTL = 3600.0
"""Bounds put on what the DNS says about how long an answer holds, in seconds."""
MAX_NAMES = 16_384
"""Names whose addresses are remembered."""
MAX_PATHS = 8
"""Paths tried for one connection, in turn."""
LINES_PER_MINUTE = 10
"""Lines about addresses that are not tried: the DNS can cause one with each attempt of each connection."""
HOSTS_FILE = FilePath("/etc/hosts")

log = logging.getLogger("openmoat.daemon.names.paths")


@dataclass(frozen=True, slots=True)
class _Known:
    addresses: tuple[Address, ...]
    until: float


class Names:
    """Addresses of DNS names, remembered as long as their TTL says."""

    def __init__(
        self,
        clock: Callable[[], float],
        hosts_file: FilePath = HOSTS_FILE,
        resolver: "Callable[[], Resolver] | None" = None,
    ) -> None:
        """`resolver` makes one as the host is configured now; by default that of dnspython."""
        self.clock = clock
        """Seconds by which answers grow old."""
        self._hosts_file = hosts_file
        self._resolver = resolver
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def addresses(self, name: str, is_fresh_wanted: bool) -> tuple[Address, ...]:
        """All addresses of a name, IPv6 first; empty where there is none or no answer in time."""
        known = self._known.get(name)
        if known is not None and not is_fresh_wanted and known.until > self.clock():
            return known.addresses
        local = self._from_hosts_file(name)
        if local:
            return local
        found, ttl = await self._ask(name)
        if found:
            self.remember(name, found, self.clock() + min(max(ttl, MIN_TTL), MAX_TTL))
            return found
        return known.addresses if known is not None else ()

    def until(self, name: str) -> float | None:
        """When the answer that is remembered ends to hold, by the clock; None where none is, as for names of /etc/hosts."""
        known = self._known.get(name)
        return known.until if known is not None else None

    async def _ask(self, name: str) -> tuple[tuple[Address, ...], float]:
        import dns.asyncresolver
        import dns.exception
        import dns.resolver

        from openmoat.daemon.names.dns import outer_backend

        try:
            resolver = (self._resolver or dns.asyncresolver.Resolver)()
        except dns.resolver.NoResolverConfiguration:
            return (), 0.0
        resolver.lifetime = LOOKUP_SECONDS
        backend = outer_backend()
        answers = await asyncio.gather(
            *(resolver.resolve(name, kind, backend=backend) for kind in ("AAAA", "A")), return_exceptions=True
        )
        found: list[Address] = []
        ttl = MAX_TTL
        for answer in answers:
            if isinstance(answer, dns.resolver.Answer) and answer.rrset is not None:
                found += [ipaddress.ip_address(record.to_text()) for record in answer.rrset]
                ttl = min(ttl, float(answer.rrset.ttl))
            elif isinstance(answer, dns.exception.DNSException | OSError):
                log.debug("name %s: %s", name, answer)
            elif isinstance(answer, BaseException):
                raise answer
        return tuple(found), ttl

    def remember(self, name: str, addresses: tuple[Address, ...], until: float) -> None:
        """Keep an answer; where there are too many names, the one that was not asked for longest is forgotten."""
        self._known[name] = _Known(addresses, until)
        self._known.move_to_end(name)
        while len(self._known) > MAX_NAMES:
            oldest, _ = self._known.popitem(last=False)
            log.warning(
                "name %s: its addresses are forgotten, those of %d names are kept; name some peers by address",
                oldest,
                MAX_NAMES,
            )

    def _from_hosts_file(self, name: str) -> tuple[Address, ...]:
        found: list[Address] = []
        try:
            lines = self._hosts_file.read_text(errors="replace").splitlines()
        except OSError:
            return ()
        for line in lines:
            words = line.partition("#")[0].split()
            if name.lower() in (word.lower() for word in words[1:]):
                try:
                    found.append(ipaddress.ip_address(words[0]))
                except ValueError:
                    continue
        return tuple(found)


class PathFinder:
    """Answers `AskPath` from the configuration, the DNS and the kernel's routes."""

    def __init__(self, names: Names, source_for: Callable[[Address], Address | None]) -> None:
        self._names = names
        self._source_for = source_for
        self._lines = LineRate(LINES_PER_MINUTE, 60, names.clock)

    async def find(self, question: AskPath, connection: Connection) -> Paths:
        """Paths to every address of the peer that there is a route to, at most `MAX_PATHS`."""
        addresses: list[Address] = []
        unknown: list[str] = []
        for place in connection.peer.addresses:
            found = await self._names.addresses(place, question.attempt > 0) if isinstance(place, str) else (place,)
            addresses += [address for address in found if address not in addresses]
            if not found:
                unknown.append(str(place))
        if len(addresses) > MAX_PATHS and self._lines.permits():
            log.warning(
                "connection %s: not tried: %s; a peer is tried at %d addresses, name fewer%s",
                question.connection,
                ", ".join(str(address) for address in addresses[MAX_PATHS:]),
                MAX_PATHS,
                self._lines.gap(),
            )
        paths = self._paths(addresses, connection.local_address)
        return Paths(question.ticket, paths, "" if paths else self._why_none(addresses, unknown))

    def _paths(self, addresses: Sequence[Address], wanted: Address | None) -> tuple[Path, ...]:
        paths: list[Path] = []
        for address in addresses[:MAX_PATHS]:
            source = wanted if wanted is not None else self._source_for(address)
            if source is not None and source.version == address.version:
                paths.append(Path(HostPort(source, IKE_PORT), HostPort(address, IKE_PORT)))
        return tuple(paths)

    def _why_none(self, addresses: Sequence[Address], unknown: Sequence[str]) -> str:
        if addresses:
            return f"no route to {', '.join(str(address) for address in addresses)}"
        if unknown:
            return f"no address for {', '.join(unknown)} in /etc/hosts or the DNS"
        return "the connection names no address of its peer: it can only wait for it"
