"""Sizes of outer packets, from IKE SAs that come and go."""

from dataclasses import dataclass, field, replace

from openmoat.daemon.host.path_sizes import MAX_OUTER_SIZE, MOVE_SECONDS, PathSizes
from openmoat.daemon.peers import Peers
from openmoat.ike.events import DownReason, Event, FragmentsProbed, IkeSaDown, PeerMoved, SizeProbed
from openmoat.mtu.discovery import CONFIRM_SECONDS, Discovery
from openmoat.mtu.plan import BASE, PathMtu
from openmoat.policy.selectors import parse_selectors
from unit.daemon.kit import HOME_A, Deadlines, child_sa, ike_up, path

HERE = parse_selectors(["10.2.0.0/16"])
PLAIN, PACKED, NOT_THERE = 100, 101, 99
"""Child SAs of IKE SA 1: without and with AGGFRAG; and none."""


@dataclass
class World:
    """Time, and paths that carry so many octets by IKE SA; probes are answered when time passes."""

    carries: dict[int, int] = field(default_factory=dict)
    sent: int = 0
    was_proved: int = 0
    probes: list[tuple[int, int]] = field(default_factory=list)
    waiting: list[tuple[int, int]] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    passages: list[int] = field(default_factory=list)
    passes: bool | None = True
    """Whether IP fragments pass; None: that is not answered yet."""
    is_discovered: bool = True

    def __post_init__(self) -> None:
        self.deadlines = Deadlines()
        self.peers = Peers(self.deadlines.clock)
        self.peers.install(child_sa(PLAIN, "home", HOME_A, HERE, HERE))
        self.peers.install(replace(child_sa(PACKED, "home", HOME_A, HERE, HERE), aggfrag=True))
        clock, later = self.deadlines.clock, self.deadlines.later
        self.sizes = PathSizes(self.peers, self, self, lambda _connection: self.is_discovered, clock, later)
        self._asked_passages: list[int] = []

    def handle(self, event: Event) -> None:
        self.peers.handle_event(event)
        self.sizes.handle_event(event)

    def up(self, ike: int, replaces: int | None = None) -> None:
        self.handle(ike_up(ike, replaces=replaces))

    def path_mtu(self, ike: int) -> PathMtu:
        return self.peers.path_mtu(ike)

    def found(self, ike: int) -> Discovery | None:
        live = self.peers.ike_sa(ike)
        return live.search.discovery if live is not None and live.search is not None else None

    def answer(self) -> None:
        """Every probe has its outcome, and those that follow from it."""
        while self.waiting:
            ike, size = self.waiting.pop(0)
            self.handle(SizeProbed(ike, size, size if size <= self.carries[ike] else 0))
        while self.passes is not None and self._asked_passages:
            self.handle(FragmentsProbed(self._asked_passages.pop(), passed=self.passes))

    def pass_time(self, seconds: float) -> None:
        self.deadlines.pass_time(seconds, self.answer)

    @property
    def pending(self) -> int:
        return self.deadlines.pending

    # `host.path_sizes.Probes`

    def probe_size(self, ike: int, size: int) -> None:
        self.probes.append((ike, size))
        self.waiting.append((ike, size))

    def probe_fragments(self, ike: int) -> None:
        self.passages.append(ike)
        self._asked_passages.append(ike)

    # `host.path_sizes.Resizer`

    def resize(self, ike: int) -> None:
        self.told.append(ike)

    def carried(self, ike: int) -> int:
        return self.sent

    def proved(self, ike: int) -> int:
        return self.was_proved


def test_each_ike_sa_finds_the_size_of_its_own_path() -> None:
    world = World({1: 1500, 2: 1400})
    world.up(1)
    world.up(2)
    assert (world.path_mtu(1).size, world.path_mtu(2).size) == (BASE, BASE)
    world.answer()
    assert (world.path_mtu(1).size, world.path_mtu(2).size) == (MAX_OUTER_SIZE, 1400)
    assert set(world.told) == {1, 2}


def test_of_an_ike_sa_that_is_not_there_the_base_is_assumed() -> None:
    world = World()
    world.handle(SizeProbed(7, 1500, 1500))
    assert world.path_mtu(7).size == BASE
    assert world.found(7) is None


def test_a_size_in_use_is_confirmed_while_packets_go_and_shrinks_when_it_is_lost() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.pass_time(2 * CONFIRM_SECONDS)
    assert world.probes == [(1, 1500)]
    world.sent, world.carries[1] = 10, 1400
    world.pass_time(CONFIRM_SECONDS)
    assert world.path_mtu(1).size == 1400
    found = world.found(1)
    assert found is not None
    assert found.black_hole is not None


def test_an_answer_about_another_path_proves_nothing_and_is_asked_for_again() -> None:
    world = World({1: 1500}, passes=None)
    world.up(1)
    world.pass_time(MOVE_SECONDS)
    world.handle(PeerMoved(1, path(port=4501), True, ()))
    world.waiting.clear()
    asked = len(world.probes)
    world.handle(SizeProbed(1, 1500, None))
    assert world.path_mtu(1) == PathMtu(BASE)
    assert world.probes[asked:] == [(1, 1500)]
    world.answer()
    assert world.path_mtu(1).size == 1500
    world.handle(FragmentsProbed(1, passed=None))
    assert world.path_mtu(1).fragments_pass is None
    assert len(world.passages) == 2


def test_a_rekey_keeps_what_was_learned_and_goes_on_with_a_probe_under_way() -> None:
    world = World({1: 1400, 2: 1400})
    world.up(1)
    world.answer()
    world.up(2, replaces=1)
    assert (world.path_mtu(1).size, world.path_mtu(2).size) == (BASE, 1400)
    assert world.pending == 1

    world = World({1: 1400, 2: 1400})
    world.up(1)
    world.waiting.clear()
    world.up(2, replaces=1)
    world.answer()
    assert world.path_mtu(2).size == 1400


def test_on_another_path_everything_is_looked_for_anew() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.told.clear()
    world.carries[1] = 1460
    world.pass_time(MOVE_SECONDS)
    world.handle(PeerMoved(1, path(port=1024), True, ()))
    assert (world.path_mtu(1).size, world.told) == (BASE, [1])
    world.answer()
    assert world.path_mtu(1).size == 1460


def test_a_peer_that_moves_without_end_is_probed_every_few_seconds_and_in_the_end_found() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    for port in range(1_000):
        world.handle(PeerMoved(1, path(port=1024 + port), True, ()))
        world.answer()
        world.pass_time(0.01)
    assert len(world.probes) <= 4
    assert world.pending == 1
    world.pass_time(MOVE_SECONDS)
    assert world.path_mtu(1).size == 1500


def test_nothing_is_left_of_an_ike_sa_that_is_gone() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.handle(IkeSaDown(1, "home", HOME_A, DownReason.ASKED))
    assert (world.pending, world.found(1)) == (0, None)


def test_a_suspicion_has_the_size_confirmed_or_shrinks_first() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.told.clear()
    world.sizes.handle_suspicion(PLAIN)
    assert (world.probes, world.path_mtu(1).size) == ([(1, 1500), (1, 1500)], 1500)
    world.carries[1] = 1400
    world.answer()
    assert (world.path_mtu(1).size, world.told[0]) == (1400, 1)
    world.told.clear()
    world.sizes.handle_suspicion(PACKED)
    assert (world.path_mtu(1).size, world.told) == (BASE, [1])
    world.answer()
    assert (world.path_mtu(1).size, world.pending) == (1400, 1)
    world.sizes.handle_suspicion(NOT_THERE)


def test_passage_of_fragments_is_asked_once_the_size_is_known_and_told() -> None:
    world = World({1: 1500}, passes=None)
    world.up(1)
    assert world.passages == []
    world.answer()
    assert (world.passages, world.path_mtu(1).fragments_pass) == ([1], None)
    world.told.clear()
    world.handle(FragmentsProbed(1, passed=False))
    assert (world.path_mtu(1).fragments_pass, world.told) == (False, [1])
    world.pass_time(CONFIRM_SECONDS)
    assert world.passages == [1]
    world.handle(FragmentsProbed(1, passed=True))
    assert world.path_mtu(1).fragments_pass is False


def test_a_connection_whose_sizes_are_configured_is_not_asked() -> None:
    world = World({1: 1500})
    world.is_discovered = False
    world.up(1)
    world.pass_time(2 * CONFIRM_SECONDS)
    assert (world.probes, world.passages, world.path_mtu(1).size) == ([], [], BASE)
    world.is_discovered = True
    world.pass_time(CONFIRM_SECONDS)
    assert world.path_mtu(1).size == 1500


def test_what_padding_leaves_untested_counts_as_lost() -> None:
    world = World()
    world.up(1)
    while world.waiting:
        ike, size = world.waiting.pop(0)
        world.handle(SizeProbed(ike, size, size // 16 * 16))
    assert world.path_mtu(1).size == 1488


def test_a_black_hole_that_a_peer_tells_of_has_its_effect_in_the_same_turn_and_told() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.carries[1] = 1400
    world.told.clear()
    world.sizes.handle_black_hole(PLAIN)
    assert (world.told, world.path_mtu(1).size) == ([1], BASE)
    world.answer()
    assert world.path_mtu(1).size == 1400
    world.sizes.handle_black_hole(NOT_THERE)


def test_a_peer_that_tells_what_came_is_not_probed_and_one_that_stops_is() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.probes.clear()
    for _ in range(3):
        world.sent += 100
        world.was_proved += 1
        world.pass_time(CONFIRM_SECONDS)
    assert world.probes == []
    world.sent += 100
    world.pass_time(CONFIRM_SECONDS)
    assert world.probes == [(1, 1500)]


def test_what_came_of_another_size_proves_nothing_about_this_one() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.was_proved = 5
    world.carries[1] = 1400
    world.sizes.handle_black_hole(PLAIN)
    world.answer()
    world.probes.clear()
    world.sent += 1
    world.pass_time(CONFIRM_SECONDS)
    assert world.probes == [(1, 1400)]


def test_what_was_counted_on_one_path_is_counted_on_after_the_peer_has_moved_or_come_back() -> None:
    world = World({1: 1500, 2: 1500})
    world.up(1)
    world.answer()
    world.carries[1] = 1400
    child = world.peers.child(PACKED)
    assert child is not None
    assert world.sizes.handle_hint(child, 1400, False)
    world.answer()
    peer = world.peers.find("home", HOME_A)
    assert peer is not None
    found = world.found(1)
    assert found is not None
    assert (peer.hints, found.hints) == (0, 1)
    world.pass_time(MOVE_SECONDS)
    world.handle(PeerMoved(1, path(port=1024), True, ()))
    assert (peer.hints, peer.black_hole) == (1, found.black_hole)
    world.handle(IkeSaDown(1, "home", HOME_A, DownReason.PEER_SILENT))
    world.up(2)
    again = world.found(2)
    assert again is not None
    assert (peer.hints, again.hints) == (1, 0)
