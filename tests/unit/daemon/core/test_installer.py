"""Child SAs become pairs and policies of the backend, and leave nothing behind when they go."""

import ipaddress
from dataclasses import replace

import pytest
from msgspec import structs

from openmoat.crypto.identities import Identity, IdentityPattern, PatternKind
from openmoat.daemon.core.installer import KEEPALIVE_SECONDS, MAX_LINGERING, PAIRS_A_TURN, Installer
from openmoat.daemon.host.plans import MAX_CACHED_SOURCES
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.host.switches import Switches
from openmoat.daemon.peers import Peers
from openmoat.daemon.status.journal import Journal
from openmoat.dataplane.backend import Encapsulation
from openmoat.dataplane.memory import MemoryBackend
from openmoat.ike.events import (
    ActivateOutbound,
    AskInstall,
    AskSpis,
    ChildSa,
    Installed,
    PeerMoved,
    Refused,
    RemoveChildSa,
)
from openmoat.model.connection import Connection
from openmoat.mtu.plan import Framing, PathMtu, Rung
from openmoat.policy.selectors import parse_selectors
from openmoat.policy.spd import Action
from openmoat.system.links import InterfaceAddress
from unit.daemon.kit import GATE, HOME_A, HOME_B, KEYS, Deadline, Deadlines, child_sa, connection, exactly, ike_up, path


class Bench:
    """An installer over a backend in memory, with the connections of one test loaded."""

    def __init__(self, *connections: Connection) -> None:
        self.backend = MemoryBackend()
        self.sizes: dict[int, int] = {}
        self.policies = Policies(frozenset(Rung), lambda ike: PathMtu(self.sizes.get(ike, 1280)))
        self.deadlines = Deadlines()
        self.peers = Peers(self.deadlines.clock)
        self.journal = Journal(self.deadlines.clock)
        self.switches = Switches(self.policies.spd, self.journal, self.deadlines.clock)
        self.installer = Installer(self.backend, self.policies, self.switches, self.peers, self.deadlines.later)
        assert not self.installer.load(connections, [])

    def install(self, name: str, peer: Identity, local: str, remote: str) -> tuple[ChildSa, Installed | Refused]:
        (spi,) = self.installer.reserve(AskSpis(1, 1)).spis
        sa = child_sa(spi, name, peer, parse_selectors([local]), parse_selectors([remote]))
        return sa, self.installer.install(AskInstall(7, sa, KEYS))


@pytest.fixture
def site() -> Bench:
    return Bench(connection("office", exactly(HOME_A), "10.2.0.0/16", "10.1.0.0/16"))


@pytest.fixture
def template() -> Bench:
    return Bench(connection("homes", IdentityPattern(PatternKind.ANY), "10.2.0.0/16", "10.0.0.0/8"))


def test_a_loaded_connection_has_its_policy_before_any_sa(site: Bench) -> None:
    (policy,) = site.backend.policies.values()
    assert (policy.name, policy.action) == ("office/office", Action.PROTECT)


def test_a_pair_serves_the_policy_of_its_connection_and_sends_when_activated(site: Bench) -> None:
    sa, answer = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    assert answer == Installed(7)
    pair = site.backend.pairs[sa.local_spi]
    assert pair.outbound is not None
    assert pair.outbound.policy in site.backend.policies
    assert (pair.outbound.keepalive_seconds, pair.outbound.plan.inner_room) == (KEEPALIVE_SECONDS, 1218)
    assert not pair.is_active
    site.installer.activate(ActivateOutbound(sa.local_spi))
    assert pair.is_active


def test_the_policy_of_a_connection_outlives_its_sas(site: Bench) -> None:
    sa, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    site.installer.remove(RemoveChildSa(sa.local_spi))
    assert not site.backend.pairs
    assert len(site.backend.policies) == 1
    assert site.peers.find("office", HOME_A) is not None


def test_a_template_has_a_policy_for_each_peer_while_an_sa_serves_it(template: Bench) -> None:
    assert not template.backend.policies
    old, _ = template.install("homes", HOME_A, "10.2.0.0/16", "10.1.1.0/24")
    new, _ = template.install("homes", HOME_A, "10.2.0.0/16", "10.1.1.0/24")
    (policy,) = template.backend.policies.values()
    assert policy.name == f"homes/homes@{HOME_A}, 10.2.0.0/16 to 10.1.1.0/24"
    template.installer.remove(RemoveChildSa(old.local_spi))
    assert len(template.backend.policies) == 1
    template.installer.remove(RemoveChildSa(new.local_spi))
    assert not template.backend.policies


def test_a_second_peer_cannot_take_the_selectors_of_the_first(template: Bench) -> None:
    template.install("homes", HOME_A, "10.2.0.0/16", "10.1.1.0/24")
    sa, answer = template.install("homes", HOME_B, "10.2.0.0/16", "10.1.1.0/24")
    assert isinstance(answer, Refused)
    assert not answer.is_temporary
    assert "a.homes.example" in answer.text
    assert sa.local_spi not in template.backend.pairs
    assert sa.local_spi not in template.backend.reserved


def test_a_peer_of_a_template_has_a_policy_for_each_part_it_has_a_child_for(template: Bench) -> None:
    first, _ = template.install("homes", HOME_A, "10.2.0.0/16", "10.1.1.0/24")
    template.install("homes", HOME_A, "10.2.0.0/16", "10.1.3.0/24")
    assert {policy.remote for policy in template.backend.policies.values()} == {
        parse_selectors([text]) for text in ("10.1.1.0/24", "10.1.3.0/24")
    }
    template.installer.remove(RemoveChildSa(first.local_spi))
    assert [policy.remote for policy in template.backend.policies.values()] == [parse_selectors(["10.1.3.0/24"])]


def test_a_peer_that_is_refused_more_keeps_what_it_has(template: Bench) -> None:
    template.install("homes", HOME_A, "10.2.0.0/16", "10.1.1.0/24")
    template.install("homes", HOME_B, "10.2.0.0/16", "10.1.2.0/24")
    before = dict(template.backend.policies)
    _, answer = template.install("homes", HOME_B, "10.2.0.0/16", "10.1.1.0/24")
    assert isinstance(answer, Refused)
    assert template.backend.policies == before


@pytest.mark.parametrize("claim", ["10.9.0.7/32", "10.9.0.0/16", "10.8.0.0/15"])
def test_a_peer_of_a_template_cannot_take_addresses_of_a_configured_connection(claim: str) -> None:
    bench = Bench(
        connection("homes", IdentityPattern(PatternKind.ANY), "10.2.0.0/16", "10.0.0.0/8"),
        connection("cabin", exactly(HOME_A), "10.2.0.0/16", "10.9.0.0/16"),
        connection("house", exactly(GATE), "10.2.0.0/16", "0.0.0.0/0"),
    )
    before = dict(bench.backend.policies)
    _, answer = bench.install("homes", HOME_B, "10.2.0.0/16", claim)
    assert isinstance(answer, Refused)
    assert "a.homes.example" in answer.text
    assert bench.backend.policies == before
    assert isinstance(bench.install("homes", HOME_B, "10.2.0.0/16", "10.7.0.0/16")[1], Installed)


def test_an_sa_of_a_connection_that_is_gone_is_refused(site: Bench) -> None:
    site.backend.apply([site.policies.load([], remove=["office"])[0]])
    _, answer = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    assert isinstance(answer, Refused)
    assert not site.backend.policies


def test_children_of_a_peer_that_moved_use_its_new_path(site: Bench) -> None:
    sa, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    elsewhere = path("203.0.113.9")
    moved = PeerMoved(1, elsewhere, True, (sa.local_spi,))
    site.installer.move(moved)
    site.peers.handle_event(moved)
    outbound = site.backend.pairs[sa.local_spi].outbound
    assert outbound is not None
    assert (outbound.path, outbound.encapsulation) == (elsewhere, Encapsulation.UDP)


def test_two_connections_with_the_same_far_side_are_not_both_loaded() -> None:
    bench = Bench(connection("one", exactly(HOME_A), "10.2.0.0/16", "10.1.0.0/16"))
    _, conflicts = bench.policies.load([connection("two", exactly(HOME_B), "10.2.0.0/16", "10.1.0.0/16")])
    assert list(conflicts) == ["two"]
    assert [policy.name for policy in bench.policies.spd.policies] == ["one/one"]


def test_a_rekey_and_the_loss_of_a_site_leave_the_host_as_it_is(site: Bench) -> None:
    first, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")  # sizes of the suite that was agreed
    revision, protected = site.policies.prefixes.revision, site.policies.prefixes.protected()
    second, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    site.installer.remove(RemoveChildSa(first.local_spi))
    site.installer.remove(RemoveChildSa(second.local_spi))
    assert (site.policies.prefixes.revision, site.policies.prefixes.protected()) == (revision, protected)


def test_what_changes_for_the_host_is_told_by_the_revision(template: Bench) -> None:
    seen = [
        (
            template.policies.prefixes.revision,
            template.policies.prefixes.protected(),
            template.policies.prefixes.reserved(),
        )
    ]

    def look() -> None:
        now = (
            template.policies.prefixes.revision,
            template.policies.prefixes.protected(),
            template.policies.prefixes.reserved(),
        )
        assert (now[1:] != seen[-1][1:]) == (now[0] > seen[-1][0])
        seen.append(now)

    sa, _ = template.install("homes", HOME_A, "10.2.0.0/16", "10.1.1.0/24")
    look()
    again, _ = template.install("homes", HOME_A, "10.2.0.0/16", "10.1.1.0/24")
    look()
    template.installer.remove(RemoveChildSa(sa.local_spi))
    look()
    template.installer.remove(RemoveChildSa(again.local_spi))
    look()
    template.policies.load([connection("office", exactly(HOME_A), "10.2.0.0/16", "10.1.0.0/16")], ["homes"])
    look()
    assert len({row[0] for row in seen}) == 4


def test_pairs_follow_the_size_of_their_ike_sa_and_no_others(site: Bench) -> None:
    sa, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    pair = site.backend.pairs[sa.local_spi]
    assert pair.outbound is not None
    site.sizes[1] = 1492
    site.installer.resize(2)
    assert pair.outbound.plan.outer_size == 1280
    site.installer.resize(1)
    assert site.backend.pairs[sa.local_spi].outbound == structs.replace(pair.outbound, plan=site.policies.plan(sa))
    assert site.backend.pairs[sa.local_spi].outbound.plan.outer_size == 1492  # type: ignore[union-attr]
    assert [one.plan.outer_size for one in site.policies.prefixes.protected()] == [1492]


def test_after_a_rekey_of_the_ike_sa_its_pairs_follow_the_successor(site: Bench) -> None:
    sa, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    site.peers.handle_event(ike_up(2, "office", replaces=1))
    site.sizes[2] = 1400
    site.installer.resize(2)
    outbound = site.backend.pairs[sa.local_spi].outbound
    assert outbound is not None
    assert outbound.plan.outer_size == 1400
    site.installer.remove(RemoveChildSa(sa.local_spi))
    site.installer.resize(2)
    assert site.installer.carried(2) == 0


def rekeyed(site: Bench, times: int = 1) -> list[Deadline]:
    """Deadlines after so many rekeys of one Child SA, whose old pairs were removed."""
    old, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    for _ in range(times):
        (spi,) = site.installer.reserve(AskSpis(1, 1)).spis
        new = replace(old, local_spi=spi, replaces=old.local_spi)
        assert site.installer.install(AskInstall(7, new, KEYS)) == Installed(7)
        site.installer.remove(RemoveChildSa(old.local_spi))
        old = new
    return site.deadlines.made


def test_a_pair_that_was_rekeyed_receives_for_a_while_what_was_on_its_way(site: Bench) -> None:
    (deadline,) = rekeyed(site)
    assert len(site.backend.pairs) == 2
    deadline.act()
    assert len(site.backend.pairs) == 1
    peer = site.peers.find("office", HOME_A)
    assert peer is not None
    assert peer.retired


def test_a_pair_without_a_successor_is_taken_out_at_once(site: Bench) -> None:
    rekeyed(site)[0].act()
    (last,) = site.backend.pairs
    site.installer.remove(RemoveChildSa(last))
    assert not site.backend.pairs


def test_more_pairs_than_the_bound_do_not_linger(site: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmoat.daemon.core.installer.MAX_LINGERING", 3)
    assert MAX_LINGERING > 3
    assert len(rekeyed(site, times=5)) == 3
    assert len(site.backend.pairs) == 4


def test_nothing_lingers_when_the_daemon_ends(site: Bench) -> None:
    (deadline,) = rekeyed(site)
    site.installer.close()
    assert len(site.backend.pairs) == 1
    assert not deadline.is_wanted


def test_that_df_is_not_heeded_is_told_once_for_a_child_until_it_is_configured_anew(site: Bench) -> None:
    first, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    second, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    told = [site.installer.ignored_df(sa.local_spi) for sa in (first, first, second)]
    assert told == [first, None, None]
    site.installer.refresh({"office"})
    assert site.installer.ignored_df(second.local_spi) == second
    assert site.installer.ignored_df(0xDEAD) is None


def test_icmp_errors_come_from_the_addresses_that_the_host_has_now(site: Bench) -> None:
    site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    for _ in range(PAIRS_A_TURN + 5):
        site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    ours = ipaddress.ip_address("10.2.0.1")
    site.installer.readdress([InterfaceAddress(ours, 16, 3)])

    def told() -> int:
        plans = [pair.outbound.plan for pair in site.backend.pairs.values() if pair.outbound is not None]
        return sum([row.address for row in plan.icmp_sources] == [ours, ours] for plan in plans)

    assert told() == PAIRS_A_TURN
    site.deadlines.pass_time(0.0)
    assert told() == PAIRS_A_TURN + 6


def test_sources_of_icmp_errors_are_remembered_within_a_bound(site: Bench) -> None:
    before, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    for number in range(MAX_CACHED_SOURCES):
        sa = replace(before, local=parse_selectors([f"10.2.{number // 256}.{number % 256}"]))
        site.policies.plan(sa)
        assert site.policies.plans.cached_sources <= MAX_CACHED_SOURCES
    assert site.policies.plans.cached_sources


def test_a_configured_size_is_not_discovered() -> None:
    row = connection("office", exactly(HOME_A), "10.2.0.0/16", "10.1.0.0/16")
    site = Bench(replace(row, children=(replace(row.children[0], path_mtu=1400),)))
    site.sizes[1] = 1492
    sa, _ = site.install("office", HOME_A, "10.2.0.0/16", "10.1.0.0/16")
    outbound = site.backend.pairs[sa.local_spi].outbound
    assert outbound is not None
    assert outbound.plan.outer_size == 1400


@pytest.mark.parametrize("takes_slices", [True, False])
def test_a_child_sa_with_aggfrag_is_framed_so_both_ways(site: Bench, takes_slices: bool) -> None:
    (spi,) = site.installer.reserve(AskSpis(1, 1)).spis
    plain = child_sa(spi, "office", HOME_A, parse_selectors(["10.2.0.0/16"]), parse_selectors(["10.1.0.0/16"]))
    sa = replace(plain, aggfrag=True, takes_slices=takes_slices)
    assert site.installer.install(AskInstall(7, sa, KEYS)) == Installed(7)
    pair = site.backend.pairs[spi]
    assert pair.outbound is not None
    assert (pair.inbound.framing, pair.outbound.plan.framing) == (Framing.AGGFRAG, Framing.AGGFRAG)
    assert pair.outbound.plan.slices is takes_slices
    (protected,) = site.policies.prefixes.protected()
    assert protected.plan == pair.outbound.plan


def test_routes_are_sized_for_the_successor_of_a_pair_that_was_framed_otherwise(site: Bench) -> None:
    plain = child_sa(0, "office", HOME_A, parse_selectors(["10.2.0.0/16"]), parse_selectors(["10.1.0.0/16"]))
    first, second = site.installer.reserve(AskSpis(1, 2)).spis
    old, new = replace(plain, local_spi=first, aggfrag=True), replace(plain, local_spi=second, replaces=first)
    for sa in (old, new):
        assert site.installer.install(AskInstall(7, sa, KEYS)) == Installed(7)
    site.sizes[1] = 1400
    site.installer.resize(1)
    (protected,) = site.policies.prefixes.protected()
    assert (protected.plan.framing, protected.plan.outer_size) == (Framing.WHOLE, 1400)
    outbound = site.backend.pairs[first].outbound
    assert outbound is not None
    assert (outbound.plan.framing, outbound.plan.outer_size) == (Framing.AGGFRAG, 1400)
