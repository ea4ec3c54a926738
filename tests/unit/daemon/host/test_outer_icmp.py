"""ICMP about outer packets: what is used, and how little the rest costs."""

import asyncio
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest

from openmoat.daemon.core.installer import Installer
from openmoat.daemon.host.outer_icmp import MAX_REPORTS, MAX_WATCHED, RECENT_SECONDS, USE_SECONDS, OuterIcmpReader
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.host.switches import Switches
from openmoat.daemon.peers import Peers
from openmoat.daemon.status.journal import Journal
from openmoat.dataplane.memory import MemoryBackend
from openmoat.ike.events import AskInstall, ChildSa, PeerMoved, RemoveChildSa
from openmoat.model.connection import OuterIcmp
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import parse_selectors
from unit.daemon.kit import HOME_A, KEYS, Deadlines, child_sa, connection, exactly, path
from unit.mtu.test_reports import ESP, ip4, needed

PEER_SPI = 0x1000_0000


@dataclass
class World:
    """A gateway with Child SAs to one peer, and what it uses."""

    now: float = 1000.0
    wanted: OuterIcmp = OuterIcmp.HINT
    used: list[tuple[int, int, bool]] = field(default_factory=list)
    is_news: bool = True
    sockets: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        self.backend = MemoryBackend()
        self.peers = Peers(lambda: self.now)
        policies = Policies(self.backend.capabilities().rungs, self.peers.path_mtu)
        switches = Switches(policies.spd, Journal(lambda: self.now), lambda: self.now)
        self.installer = Installer(self.backend, policies, switches, self.peers, Deadlines().later)
        self.installer.load([connection("home", exactly(HOME_A), "10.1.0.0/16", "10.2.0.0/16")], [])
        self.reader = OuterIcmpReader(
            self.sockets, self.peers, self.installer, lambda _: self.wanted, self.use, lambda: self.now
        )

    def use(self, child: ChildSa, told: int, trusts: bool) -> bool:
        self.used.append((child.local_spi, told, trusts))
        return self.is_news

    def child(self, *, udp: bool = False) -> ChildSa:
        """A pair that is up; its peer has an SPI of its own."""
        [spi] = self.backend.reserve_spis(1)
        local, remote = parse_selectors(["10.1.0.0/16"]), parse_selectors(["10.2.0.0/16"])
        child = replace(child_sa(spi, "home", HOME_A, local, remote), remote_spi=PEER_SPI + spi, udp=udp)
        self.installer.install(AskInstall(1, child, KEYS))
        return child

    def send(self, child: ChildSa, packets: int = 1) -> int:
        """Packets go out; answers the number of the last."""
        self.backend.pairs[child.local_spi].outbound_packets += packets
        return self.backend.pairs[child.local_spi].outbound_packets

    def report(self, child: ChildSa, sequence: int, *, spi: int | None = None, ends: Path | None = None) -> str:
        """Somebody quotes a packet; answers what became of it."""
        way = ends or child.path
        esp = struct.pack(">II", child.remote_spi if spi is None else spi, sequence % (1 << 32))
        ports = struct.pack(">HHHH", way.local.port, way.remote.port, 1480, 0) if child.udp else b""
        before = dict(self.reader.counts)
        quoted = ip4(17 if child.udp else 50, ports + esp, (way.local.address, way.remote.address))
        self.reader.handle_message(needed(quoted), 4)
        [word] = [word for word, count in self.reader.counts.items() if count != before.get(word, 0)]
        return word


@pytest.fixture(params=[False, True], ids=["raw", "udp"])
def world(request: pytest.FixtureRequest) -> tuple[World, ChildSa]:
    """A pair that has sent ten packets, and is watched since."""
    here = World()
    child = here.child(udp=request.param)
    here.send(child, 10)
    assert here.report(child, 10) == "not-sent-lately"
    return here, child


def test_a_packet_that_was_just_sent_is_used(world: tuple[World, ChildSa]) -> None:
    here, child = world
    assert here.report(child, here.send(child)) == "used"
    assert here.used == [(child.local_spi, 1400, False)]
    here.wanted, here.now = OuterIcmp.TRUST, here.now + USE_SECONDS
    assert here.report(child, here.send(child)) == "used"
    assert here.used[-1] == (child.local_spi, 1400, True)


def test_one_report_of_a_pair_is_used_in_a_second(world: tuple[World, ChildSa]) -> None:
    here, child = world
    sequence = here.send(child)
    said = [here.report(child, sequence) for _ in range(50)]
    assert said == ["used"] + ["too-soon"] * 49
    here.now += USE_SECONDS
    assert here.report(child, here.send(child)) == "used"


@pytest.mark.parametrize("far", [-1, -10, 1, 2, 1 << 31, (1 << 32) - 2])
def test_numbers_not_sent_lately_are_refused(world: tuple[World, ChildSa], far: int) -> None:
    here, child = world
    sequence = here.send(child)
    assert here.report(child, sequence + far) == "not-sent-lately"
    here.now += RECENT_SECONDS + 0.1
    assert here.report(child, sequence) == "not-sent-lately"
    assert here.used == []


def test_forged_reports_without_what_is_on_the_wire_are_refused(world: tuple[World, ChildSa]) -> None:
    here, child = world
    sequence, way = here.send(child), child.path
    elsewhere = path("198.51.100.8")
    other_end = Path(HostPort(elsewhere.remote.address, way.local.port), way.remote)
    assert here.report(child, sequence, spi=child.local_spi) == "unknown-spi"
    assert here.report(child, sequence, spi=0) == "not-esp"
    assert here.report(child, sequence, ends=elsewhere) == "unknown-spi"
    assert here.report(child, sequence, ends=other_end) == "other-path"
    if child.udp:
        port = Path(way.local, HostPort(way.remote.address, way.remote.port + 1))
        assert here.report(child, sequence, ends=port) == "other-path"
    assert here.used == []


def test_a_connection_may_ignore_it_and_what_is_no_news_is_said(world: tuple[World, ChildSa]) -> None:
    here, child = world
    here.wanted = OuterIcmp.IGNORE
    assert here.report(child, here.send(child)) == "ignored"
    assert here.used == []
    here.wanted, here.is_news = OuterIcmp.HINT, False
    assert here.report(child, here.send(child)) == "no-news"


def test_the_pair_is_found_where_its_peer_is_now_and_not_once_it_is_gone(world: tuple[World, ChildSa]) -> None:
    here, child = world
    moved = replace(child, path=path("198.51.100.9"))
    event = PeerMoved(child.ike, moved.path, child.udp, (child.local_spi,))
    here.installer.move(event)
    here.peers.handle_event(event)
    assert here.report(child, here.send(child)) == "unknown-spi"
    assert here.report(moved, here.send(child)) == "used"
    here.installer.remove(RemoveChildSa(child.local_spi))
    assert here.report(moved, 12) == "unknown-spi"


def test_low_halves_of_long_numbers_are_compared_round_the_corner() -> None:
    here = World()
    child = here.child()
    here.send(child, (1 << 32) - 1)
    here.report(child, 1)
    assert here.report(child, here.send(child, 3)) == "used"


def test_as_many_pairs_are_watched_as_there_is_room_for() -> None:
    here = World()
    children = [here.child() for _ in range(MAX_WATCHED + 1)]
    for child in children:
        here.report(child, here.send(child))
    assert here.report(children[0], here.send(children[0])) == "not-sent-lately"
    assert here.report(children[-1], here.send(children[-1])) == "used"


def test_a_flood_is_read_so_far_and_no_further_in_each_second() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        theirs.setblocking(False)
        here = World(sockets=((os.dup(ours.fileno()), 4),))
        ours.close()
        here.reader.start()

        async def flood() -> int:
            """Send until the socket is full however long it is left alone; answers how many were looked at."""
            before = sum(here.reader.counts.values()) - here.reader.counts["rests"]
            for _ in range(2 * MAX_REPORTS):
                with suppress(BlockingIOError):
                    theirs.send(needed(ip4(50, ESP)))
                await asyncio.sleep(0)
            return sum(here.reader.counts.values()) - here.reader.counts["rests"] - before

        assert await flood() == MAX_REPORTS
        assert (here.reader.counts["rests"], await flood()) == (1, 0)
        here.reader.stop()
        theirs.close()

    asyncio.run(run())
