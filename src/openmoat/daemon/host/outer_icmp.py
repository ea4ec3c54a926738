"""ICMP about outer packets that were too large: read with a bound, and used only where it quotes what we have just sent.

Anybody can forge it, in any number. What passes the checks here is still no more than a hint (see `mtu.discovery`), but
for connections that say `outer-icmp = "trust"`.
"""

import asyncio
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from openmoat.daemon.core.installer import Installer
from openmoat.daemon.peers import Peers
from openmoat.daemon.timers import Timer
from openmoat.dataplane.backend import Spi
from openmoat.ike.events import ChildSa
from openmoat.model.connection import OuterIcmp
from openmoat.mtu.reports import Report, parse_v4, parse_v6

__all__ = ["MAX_REPORTS", "MAX_WATCHED", "RECENT_SECONDS", "USE_SECONDS", "OuterIcmpReader"]

MAX_REPORTS = 64
"""Messages read in a second. What comes beyond them fills the small buffer of the socket, and is lost there."""
MAX_WATCHED = 256
"""Pairs of which it is remembered what they had sent when somebody reported something of them."""
RECENT_SECONDS = 2.0
"""Only reports about packets sent within this time are used."""
USE_SECONDS = 1.0
"""At most one report of a pair is used in this time."""
REPORT_OCTETS = 576
"""Read of each: all headers that may be quoted stand within (RFC 1812 4.3.2.3)."""
SEQUENCES = 1 << 32


@dataclass(slots=True)
class _Watched:
    """What a pair had sent, and when that was looked at."""

    at: float
    sequence: int
    used: float


class OuterIcmpReader:
    """Lives in the daemon's event loop. Owns its sockets."""

    def __init__(
        self,
        sockets: Sequence[tuple[int, int]],
        peers: Peers,
        installer: Installer,
        wanted: Callable[[str], OuterIcmp],
        hint: Callable[[ChildSa, int, bool], bool],
        clock: Callable[[], float],
    ) -> None:
        """`sockets`: descriptors with the IP version of each. `wanted`: what a connection does about such ICMP. `hint` is
        given the Child SA, the size that is named, and whether to trust it, and answers whether that was news.
        """
        self._sockets = sockets
        self._peers = peers
        self._installer = installer
        self._wanted = wanted
        self._hint = hint
        self._clock = clock
        self._watched: OrderedDict[Spi, _Watched] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._second = 0
        self._read = 0
        self._pause: Timer | None = None
        self.counts: Counter[str] = Counter()
        """What became of messages: `used`, or by the reason why not."""

    def start(self) -> None:
        """Begin to listen; the running loop is ours from here on."""
        self._loop = asyncio.get_running_loop()
        self._listen()

    def stop(self) -> None:
        """Listen no more, and close the sockets."""
        if self._pause is not None:
            self._pause.cancel()
        for descriptor, _version in self._sockets:
            if self._loop is not None:
                self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._sockets, self._loop = (), None

    def readable(self, descriptor: int, version: int) -> None:
        """Read one message, unless this second has had its share: then nothing is looked at until the next one."""
        now = self._clock()
        if int(now) != self._second:
            self._second, self._read = int(now), 0
        if self._read >= MAX_REPORTS:
            self._rest(now)
            return
        with suppress(BlockingIOError):
            octets = os.read(descriptor, REPORT_OCTETS)
            self._read += 1
            self.handle_message(octets, version)

    def handle_message(self, octets: bytes, version: int) -> None:
        """One message as the socket of this IP version reads it."""
        report = parse_v4(octets) if version == 4 else parse_v6(octets)
        self.counts[self._handle_report(report) if report is not None else "not-esp"] += 1

    def _handle_report(self, report: Report) -> str:
        """Do what is to be done, and say what that was."""
        child = self._peers.sender(report.remote, report.spi)
        if child is None:
            return "unknown-spi"
        ends = child.path.local.address, (child.path.local.port, child.path.remote.port) if child.udp else None
        if (report.local, report.ports) != ends:
            return "other-path"
        wanted = self._wanted(child.connection)
        if wanted is OuterIcmp.IGNORE:
            return "ignored"
        now = self._clock()
        watched = self._watch(child.local_spi, now)
        if not self._is_recent(report, child.local_spi, watched):
            return "not-sent-lately"
        if now - watched.used < USE_SECONDS:
            return "too-soon"
        watched.used = now
        return "used" if self._hint(child, report.mtu, wanted is OuterIcmp.TRUST) else "no-news"

    def _watch(self, handle: Spi, now: float) -> _Watched:
        """What a pair had sent at a moment of the last seconds; of a pair not watched yet that moment is now.

        So the first report of a pair only has it watched. Packets go on to be lost, and the next report says more.
        """
        watched = self._watched.get(handle)
        if watched is None or now - watched.at > RECENT_SECONDS:
            used = watched.used if watched is not None else now - USE_SECONDS
            watched = self._watched[handle] = _Watched(now, self._installer.last_sent(handle), used)
            self._watched.move_to_end(handle)
            if len(self._watched) > MAX_WATCHED:
                self._watched.popitem(last=False)
        return watched

    def _is_recent(self, report: Report, handle: Spi, watched: _Watched) -> bool:
        """Whether the quoted packet left since the pair is watched. Numbers are compared by their low halves."""
        since = (report.sequence - watched.sequence) % SEQUENCES
        return 0 < since <= self._installer.last_sent(handle) - watched.sequence

    def _listen(self) -> None:
        self._pause = None
        if self._loop is not None:
            for descriptor, version in self._sockets:
                self._loop.add_reader(descriptor, self.readable, descriptor, version)

    def _rest(self, now: float) -> None:
        if self._loop is None or self._pause is not None:
            return
        for descriptor, _version in self._sockets:
            self._loop.remove_reader(descriptor)
        self.counts["rests"] += 1
        self._pause = self._loop.call_later(1.0 - now % 1.0, self._listen)
