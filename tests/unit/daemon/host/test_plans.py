"""Sizes of an SA follow the options of its child, its suite and its path."""

import ipaddress
from dataclasses import replace

from openmoat.daemon.host.plans import MAX_CACHED_SOURCES, PlanCompiler, framing_of
from openmoat.ike.events import ChildSa
from openmoat.mtu.plan import Framing, PathMtu, Rung
from openmoat.policy.selectors import parse_selectors
from openmoat.system.links import InterfaceAddress
from unit.daemon.kit import HOME_A, child_sa, connection, exactly, path

CHILD = connection("office", exactly(HOME_A)).children[0]
HERE = parse_selectors(["10.2.0.0/16"])


def compiler(*sizes: int) -> PlanCompiler:
    """Paths of these sizes, by IKE SA from 1 on."""
    return PlanCompiler(frozenset(Rung), lambda ike: PathMtu(sizes[ike - 1]))


def sa(ike: int = 1) -> ChildSa:
    return child_sa(7, "office", HOME_A, HERE, parse_selectors(["10.1.0.0/16"]), ike=ike)


def test_each_ike_sa_has_the_size_of_its_own_path() -> None:
    plans = compiler(1500, 1400)
    assert [plans.plan(CHILD, sa(ike)).outer_size for ike in (1, 2)] == [1500, 1400]


def test_a_configured_size_is_used_whatever_is_known_of_the_path() -> None:
    plan = compiler(1500).plan(replace(CHILD, path_mtu=1300), sa())
    assert (plan.outer_size, plan.watch_above) == (1300, None)


def test_encapsulation_and_the_family_outside_cost_room() -> None:
    plans, udp = compiler(1500), sa()
    raw = replace(udp, udp=False)
    outside = replace(udp, path=path("2001:db8::7"))
    rooms = [plans.plan(CHILD, one).inner_room for one in (raw, udp, outside)]
    assert rooms == sorted(rooms, reverse=True)
    assert len(set(rooms)) > 1


def test_before_there_is_an_sa_no_suite_that_is_proposed_has_less_room() -> None:
    plans = compiler(1280)
    assert plans.cautious(CHILD).inner_room <= plans.plan(CHILD, sa()).inner_room
    assert plans.cautious(replace(CHILD, path_mtu=1000)).outer_size == 1280  # none of IPv6 is smaller


def test_a_framing_is_that_of_the_sa() -> None:
    assert framing_of(sa()) is Framing.WHOLE
    packed = replace(sa(), aggfrag=True)
    assert (framing_of(packed), compiler(1500).plan(CHILD, packed).framing) == (Framing.AGGFRAG, Framing.AGGFRAG)


def test_icmp_errors_come_from_our_addresses_as_they_are_now_and_few_lists_are_remembered() -> None:
    plans = compiler(1500)
    before = plans.plan(CHILD, sa()).icmp_sources
    ours = ipaddress.ip_address("10.2.0.1")
    plans.use_addresses([InterfaceAddress(ours, 16, 3)])
    assert before == ()
    assert {row.address for row in plans.plan(CHILD, sa()).icmp_sources} == {ours}
    for number in range(MAX_CACHED_SOURCES + 1):
        local = parse_selectors([f"10.2.{number // 256}.{number % 256}"])
        plans.plan(CHILD, replace(sa(), local=local))
    assert 0 < plans.cached_sources <= MAX_CACHED_SOURCES
