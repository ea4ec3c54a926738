"""Sizes of outer packets, from IKE SAs that come and go."""

import heapq
import ipaddress
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import AuthMethod, IdType
from openmoat.crypto.suites import AES_128_GCM_16, PRF_HMAC_SHA2_256, X25519, IkeSuite
from openmoat.daemon.host.path_sizes import MAX_OUTER_SIZE, MOVE_SECONDS, PathSizes
from openmoat.ike.events import DownReason, FragmentsProbed, IkeSaDown, IkeSaUp, PeerMoved, SizeProbed
from openmoat.mtu.discovery import CONFIRM_SECONDS
from openmoat.mtu.plan import BASE, Outside
from openmoat.net import HostPort, Path

PEER = Identity(IdType.FQDN, b"home.example")
SUITE = IkeSuite(AES_128_GCM_16, None, PRF_HMAC_SHA2_256, X25519)


def path(port: int = 4500) -> Path:
    return Path(HostPort(ipaddress.ip_address("192.0.2.1"), 4500), HostPort(ipaddress.ip_address("198.51.100.7"), port))


@dataclass
class Call:
    """One deadline of the loop."""

    act: Callable[[], None]
    is_wanted: bool = True

    def cancel(self) -> None:
        self.is_wanted = False


@dataclass
class World:
    """Time, and paths that carry so many octets by IKE SA; probes are answered when time passes."""

    carries: dict[int, int] = field(default_factory=dict)
    now: float = 0.0
    sent: int = 0
    proved: int = 0
    probes: list[tuple[int, int]] = field(default_factory=list)
    waiting: list[tuple[int, int]] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    passages: list[int] = field(default_factory=list)
    passes: bool | None = True
    """Whether IP fragments pass; None: that is not answered yet."""

    def __post_init__(self) -> None:
        self._calls: list[tuple[float, int, Call]] = []
        self._order = itertools.count()
        self.sizes = PathSizes(lambda: self.now)
        self.sizes.later = self._later
        self.sizes.probe = self._probe
        self.sizes.probe_fragments = self._probe_fragments
        self._asked_passages: list[int] = []
        self.sizes.carried = lambda _ike: self.sent
        self.sizes.proved = lambda _ike: self.proved
        self.sizes.on_size = self.told.append

    def up(self, ike: int, replaces: int | None = None) -> None:
        self.sizes.hear(
            IkeSaUp(
                ike=ike,
                peer_spi=9,
                connection="home",
                peer=PEER,
                is_initiator=True,
                path=path(),
                suite=SUITE,
                own_method=AuthMethod.PSK,
                peer_method=AuthMethod.PSK,
                behind_nat=False,
                peer_behind_nat=False,
                replaces=replaces,
            )
        )

    def answer(self) -> None:
        """Every probe has its outcome, and those that follow from it."""
        while self.waiting:
            ike, size = self.waiting.pop(0)
            self.sizes.hear(SizeProbed(ike, size, size if size <= self.carries[ike] else 0))
        while self.passes is not None and self._asked_passages:
            self.sizes.hear(FragmentsProbed(self._asked_passages.pop(), passed=self.passes))

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self._calls and self._calls[0][0] <= end:
            at, _, call = heapq.heappop(self._calls)
            self.now = max(self.now, at)
            if call.is_wanted:
                call.act()
                self.answer()
        self.now = end

    @property
    def pending(self) -> int:
        return sum(call.is_wanted for _, _, call in self._calls)

    def _later(self, seconds: float, act: Callable[[], None]) -> Call:
        call = Call(act)
        heapq.heappush(self._calls, (self.now + seconds, next(self._order), call))
        return call

    def _probe(self, ike: int, size: int) -> None:
        self.probes.append((ike, size))
        self.waiting.append((ike, size))

    def _probe_fragments(self, ike: int) -> None:
        self.passages.append(ike)
        self._asked_passages.append(ike)


def test_each_ike_sa_finds_the_size_of_its_own_path() -> None:
    world = World({1: 1500, 2: 1400})
    world.up(1)
    world.up(2)
    assert (world.sizes.outside(1).size, world.sizes.outside(2).size) == (BASE, BASE)
    world.answer()
    assert (world.sizes.outside(1).size, world.sizes.outside(2).size) == (MAX_OUTER_SIZE, 1400)
    assert set(world.told) == {1, 2}


def test_of_an_ike_sa_that_is_not_there_the_base_is_assumed() -> None:
    world = World()
    world.sizes.hear(SizeProbed(7, 1500, 1500))
    assert world.sizes.outside(7).size == BASE
    assert world.sizes.found(7) is None


def test_a_size_in_use_is_confirmed_while_packets_go_and_shrinks_when_it_is_lost() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.pass_time(2 * CONFIRM_SECONDS)
    assert world.probes == [(1, 1500)]
    world.sent, world.carries[1] = 10, 1400
    world.pass_time(CONFIRM_SECONDS)
    assert world.sizes.outside(1).size == 1400
    found = world.sizes.found(1)
    assert found is not None
    assert found.black_hole is not None


def test_an_answer_about_another_path_proves_nothing_and_is_asked_for_again() -> None:
    world = World({1: 1500}, passes=None)
    world.up(1)
    world.pass_time(MOVE_SECONDS)
    world.sizes.hear(PeerMoved(1, path(4501), True, ()))
    world.waiting.clear()
    asked = len(world.probes)
    world.sizes.hear(SizeProbed(1, 1500, None))
    assert world.sizes.outside(1) == Outside(BASE)
    assert world.probes[asked:] == [(1, 1500)]
    world.answer()
    assert world.sizes.outside(1).size == 1500
    world.sizes.hear(FragmentsProbed(1, passed=None))
    assert world.sizes.outside(1).fragments_pass is None
    assert len(world.passages) == 2


def test_a_rekey_keeps_what_was_learned_and_goes_on_with_a_probe_under_way() -> None:
    world = World({1: 1400, 2: 1400})
    world.up(1)
    world.answer()
    world.up(2, replaces=1)
    assert (world.sizes.outside(1).size, world.sizes.outside(2).size) == (BASE, 1400)
    assert world.pending == 1

    world = World({1: 1400, 2: 1400})
    world.up(1)
    world.waiting.clear()
    world.up(2, replaces=1)
    world.answer()
    assert world.sizes.outside(2).size == 1400


def test_on_another_path_everything_is_looked_for_anew() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.told.clear()
    world.carries[1] = 1460
    world.pass_time(MOVE_SECONDS)
    world.sizes.hear(PeerMoved(1, path(port=1024), True, ()))
    assert (world.sizes.outside(1).size, world.told) == (BASE, [1])
    world.answer()
    assert world.sizes.outside(1).size == 1460


def test_a_peer_that_moves_without_end_is_probed_every_few_seconds_and_in_the_end_found() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    for port in range(1_000):
        world.sizes.hear(PeerMoved(1, path(1024 + port), True, ()))
        world.answer()
        world.pass_time(0.01)
    assert len(world.probes) <= 4
    assert world.pending == 1
    world.pass_time(MOVE_SECONDS)
    assert world.sizes.outside(1).size == 1500


def test_nothing_is_left_of_an_ike_sa_that_is_gone() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.sizes.hear(IkeSaDown(1, "home", PEER, DownReason.ASKED))
    assert (world.pending, world.sizes.found(1)) == (0, None)


def test_a_suspicion_has_the_size_confirmed_or_shrinks_first() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.told.clear()
    world.sizes.suspect(1, shrinks=False)
    assert (world.probes, world.sizes.outside(1).size) == ([(1, 1500), (1, 1500)], 1500)
    world.carries[1] = 1400
    world.answer()
    assert (world.sizes.outside(1).size, world.told[0]) == (1400, 1)
    world.told.clear()
    world.sizes.suspect(1, shrinks=True)
    assert (world.sizes.outside(1).size, world.told) == (BASE, [1])
    world.answer()
    assert (world.sizes.outside(1).size, world.pending) == (1400, 1)
    world.sizes.suspect(99, shrinks=True)


def test_passage_of_fragments_is_asked_once_the_size_is_known_and_told() -> None:
    world = World({1: 1500}, passes=None)
    world.up(1)
    assert world.passages == []
    world.answer()
    assert (world.passages, world.sizes.outside(1).fragments_pass) == ([1], None)
    world.told.clear()
    world.sizes.hear(FragmentsProbed(1, passed=False))
    assert (world.sizes.outside(1).fragments_pass, world.told) == (False, [1])
    world.pass_time(CONFIRM_SECONDS)
    assert world.passages == [1]
    world.sizes.hear(FragmentsProbed(1, passed=True))
    assert world.sizes.outside(1).fragments_pass is False


def test_a_connection_whose_sizes_are_configured_is_not_asked() -> None:
    world = World({1: 1500})
    world.sizes.discovers = lambda connection: connection != "home"
    world.up(1)
    world.pass_time(2 * CONFIRM_SECONDS)
    assert (world.probes, world.passages, world.sizes.outside(1).size) == ([], [], BASE)
    world.sizes.discovers = lambda _connection: True
    world.pass_time(CONFIRM_SECONDS)
    assert world.sizes.outside(1).size == 1500


def test_what_padding_leaves_untested_counts_as_lost() -> None:
    world = World()
    world.up(1)
    while world.waiting:
        ike, size = world.waiting.pop(0)
        world.sizes.hear(SizeProbed(ike, size, size // 16 * 16))
    assert world.sizes.outside(1).size == 1488


def test_a_black_hole_that_a_peer_tells_of_is_heeded_in_the_same_turn_and_told() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.carries[1] = 1400
    world.told.clear()
    world.sizes.black_hole(1)
    assert (world.told, world.sizes.outside(1).size) == ([1], BASE)
    world.answer()
    assert world.sizes.outside(1).size == 1400
    world.sizes.black_hole(99)


def test_a_peer_that_tells_what_came_is_not_probed_and_one_that_stops_is() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.probes.clear()
    for _ in range(3):
        world.sent += 100
        world.proved += 1
        world.pass_time(CONFIRM_SECONDS)
    assert world.probes == []
    world.sent += 100
    world.pass_time(CONFIRM_SECONDS)
    assert world.probes == [(1, 1500)]


def test_what_came_of_another_size_proves_nothing_about_this_one() -> None:
    world = World({1: 1500})
    world.up(1)
    world.answer()
    world.proved = 5
    world.carries[1] = 1400
    world.sizes.black_hole(1)
    world.answer()
    world.probes.clear()
    world.sent += 1
    world.pass_time(CONFIRM_SECONDS)
    assert world.probes == [(1, 1400)]
