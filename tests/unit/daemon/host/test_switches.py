"""One connection of a group sends at a time: the engine is told by one activation, before anything goes."""

import ipaddress
import logging
from dataclasses import replace

from openmoat.daemon.core.installer import Installer
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.host.switches import Standing, Switches
from openmoat.daemon.peers import Peers
from openmoat.daemon.status.journal import Journal
from openmoat.dataplane.memory import MemoryBackend
from openmoat.ike.events import (
    ActivateOutbound,
    AskInstall,
    AskSpis,
    ChildSa,
    Installed,
    RemoveChildSa,
    StopOutbound,
)
from openmoat.mtu.plan import PathMtu, Rung
from openmoat.policy.selectors import parse_selectors
from unit.daemon.kit import HOME_A, HOME_B, KEYS, Deadlines, child_sa, connection, exactly

NEAR, FAR = parse_selectors(["10.2.0.0/16"]), parse_selectors(["10.1.0.0/16"])
A = connection("a", exactly(HOME_A), child="lan", group="corp")
B = connection("b", exactly(HOME_B), child="lan", group="corp", order=1)


class World:
    """A group of two gateways, over a backend in memory."""

    def __init__(self) -> None:
        self.deadlines = Deadlines(now=10.0)
        self.backend = MemoryBackend()
        self.journal = Journal(self.deadlines.clock)
        self.policies = Policies(frozenset(Rung), lambda _ike: PathMtu(1280))
        self.switches = Switches(self.policies.spd, self.journal, self.deadlines.clock)
        peers = Peers(self.deadlines.clock)
        self.installer = Installer(self.backend, self.policies, self.switches, peers, self.deadlines.later)
        self.owners: dict[int, str] = {}
        assert not self.installer.load([A, B], [])

    def up(self, name: str, replaces: int | None = None) -> ChildSa:
        (spi,) = self.installer.reserve(AskSpis(1, 1)).spis
        peer = HOME_A if name == "a" else HOME_B
        sa = replace(child_sa(spi, name, peer, NEAR, FAR, child="lan"), replaces=replaces)
        assert self.installer.install(AskInstall(7, sa, KEYS)) == Installed(7)
        self.installer.activate(ActivateOutbound(spi))
        self.owners[spi] = name
        return sa

    def down(self, sa: ChildSa) -> None:
        self.installer.remove(RemoveChildSa(sa.local_spi))

    def sender(self) -> str | None:
        """The connection by which packets go out."""
        (policy,) = self.backend.policies
        handle = self.backend.sender(policy)
        return self.owners[handle] if handle is not None else None

    def told(self) -> list[tuple[str, str]]:
        rows = [row for row in self.journal.entries() if row.kind == "group-switched"]
        return [(logging.getLevelName(row.level).lower(), row.text) for row in rows]


def test_the_first_in_order_carries_and_the_next_takes_over_the_moment_it_goes() -> None:
    world = World()
    standby = world.up("b")
    assert world.sender() == "b"
    first = world.up("a")
    assert world.sender() == "a"
    world.down(first)
    assert world.sender() == "b"
    again = world.up("a")
    assert world.sender() == "a"
    world.down(standby)
    world.down(again)
    assert world.sender() is None
    assert world.told() == [
        ("info", 'group "corp": "b" carries child "lan"'),
        ("info", 'group "corp": "a" carries child "lan" now, instead of "b"'),
        ("warning", 'group "corp": "b" carries child "lan" now, instead of "a"'),
        ("info", 'group "corp": "a" carries child "lan" now, instead of "b"'),
        ("warning", 'group "corp": nothing carries child "lan": none is up'),
    ]


def test_a_standby_receives_and_does_not_send() -> None:
    world = World()
    world.up("a")
    standby = world.up("b")
    assert standby.local_spi in world.backend.pairs
    assert not world.backend.pairs[standby.local_spi].is_active


def test_rekeys_of_either_do_not_move_the_traffic() -> None:
    world = World()
    first, standby = world.up("a"), world.up("b")
    for name, old in (("a", first), ("b", standby)):
        new = world.up(name, replaces=old.local_spi)
        assert world.sender() == "a"
        world.down(old)
        world.deadlines.pass_time(5.0)
        assert (world.sender(), old.local_spi in world.backend.pairs) == ("a", False)
        assert world.backend.pairs[new.local_spi].is_active is (name == "a")


def test_a_hard_lifetime_hands_over_before_the_pair_is_gone() -> None:
    world = World()
    first, _ = world.up("a"), world.up("b")
    world.installer.stop(StopOutbound(first.local_spi))
    assert world.sender() == "b"


def test_another_order_moves_the_traffic_without_a_new_sa() -> None:
    world = World()
    world.up("a")
    world.up("b")
    assert not world.installer.load([replace(A, order=5)], [])
    world.installer.refresh({"a"})
    assert (world.sender(), len(world.backend.pairs)) == ("b", 2)


def test_where_each_stands_is_told_with_those_before_it_that_are_not_up() -> None:
    world = World()
    assert world.switches.standings("a") == (Standing("lan", None, None, ()),)
    world.up("b")
    assert world.switches.standings("a") == (Standing("lan", "b", 10.0, ("a",)),)
    world.deadlines.now = 20.0
    world.up("a")
    assert world.switches.standings("b") == (Standing("lan", "a", 20.0, ()),)


def test_the_routes_have_the_smallest_sizes_of_the_alternatives_and_one_switch_leaves_them() -> None:
    world = World()
    first, _ = world.up("a"), world.up("b")
    revision = world.policies.prefixes.revision
    assert len(world.policies.prefixes.sharing(ipaddress.ip_network("10.1.0.0/16"))) == 2
    world.down(first)
    assert world.policies.prefixes.revision == revision
