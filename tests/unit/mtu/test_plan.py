"""What becomes of a packet that does not fit: every wish of an operator, and everything that can be known of the outside."""

import itertools

import pytest

from openmoat.crypto.suites import AES_256_GCM_16, EspSuite
from openmoat.mtu.overhead import Overhead
from openmoat.mtu.plan import (
    BASE,
    MAX_PACKET,
    MAX_REMEMBERED_PLANS,
    Framing,
    MtuPlan,
    OuterDf,
    PathMtu,
    PeerFraming,
    Rung,
    compile_plan,
    route_sizes,
    rung_of,
)
from openmoat.mtu.words import Df, Mss, MssRule, MtuPolicy, SizeOptions

GCM = EspSuite(AES_256_GCM_16, None)
ETHERNET = PathMtu(1500)
AGGFRAG = PeerFraming(Framing.AGGFRAG)
EVERY_RUNG = frozenset(Rung)
NATT = Overhead(GCM, 4, udp=True)
INNER, OUTER, REFUSE = Rung.FRAGMENT_INNER, Rung.FRAGMENT_OUTER, Rung.REFUSE
MINIMUM, ANYWAY = Rung.MINIMUM_OUTER, Rung.FRAGMENT_ANYWAY


def plan_of(
    policy: MtuPolicy = MtuPolicy.VIRTUAL,
    df: Df | None = None,
    mss: Mss | None = None,
    path: PathMtu = ETHERNET,
    rungs: frozenset[Rung] = EVERY_RUNG,
) -> MtuPlan:
    return compile_plan(overhead=NATT, path=path, rungs=rungs, options=SizeOptions(policy, df, mss))


def test_the_default_plan_keeps_tcp_at_the_size_of_one_outer_packet() -> None:
    plan = plan_of()
    assert (plan.framing, plan.outer_size, plan.inner_room) == (Framing.WHOLE, 1500, 1438)
    assert (plan.mss_v4, plan.mss_v6) == (1398, 1378)
    assert [route_sizes(plan, version).advmss for version in (4, 6)] == [1398, 1378]


@pytest.mark.parametrize("policy", MtuPolicy)
def test_routes_let_every_packet_come_so_that_the_plan_decides(policy: MtuPolicy) -> None:
    assert [route_sizes(plan_of(policy), version).mtu for version in (4, 6)] == [MAX_PACKET, MAX_PACKET]


def test_an_ipv6_path_carries_1280_octets_whatever_is_said_of_it() -> None:
    plan = compile_plan(overhead=Overhead(GCM, 6, udp=True), path=PathMtu(600), rungs=EVERY_RUNG)
    assert plan.outer_size == 1280


# What is done with a packet that does not fit: IPv4 without DF, IPv4 with DF, IPv6 of 1280 octets, larger IPv6.
LADDERS: dict[tuple[MtuPolicy, Df | None, bool], tuple[Rung, Rung, Rung, Rung]] = {
    (MtuPolicy.VIRTUAL, None, True): (INNER, OUTER, MINIMUM, OUTER),
    (MtuPolicy.VIRTUAL, None, False): (INNER, REFUSE, MINIMUM, REFUSE),
    (MtuPolicy.VIRTUAL, Df.CLEAR, True): (INNER, OUTER, MINIMUM, OUTER),
    (MtuPolicy.VIRTUAL, Df.CLEAR, False): (INNER, REFUSE, MINIMUM, REFUSE),
    (MtuPolicy.VIRTUAL, Df.SET, True): (INNER, REFUSE, MINIMUM, REFUSE),
    (MtuPolicy.VIRTUAL, Df.COPY, True): (INNER, REFUSE, MINIMUM, REFUSE),
    (MtuPolicy.VIRTUAL, Df.IGNORE, True): (INNER, OUTER, MINIMUM, OUTER),
    (MtuPolicy.VIRTUAL, Df.IGNORE, False): (INNER, ANYWAY, MINIMUM, REFUSE),
    (MtuPolicy.RFC4301, None, True): (INNER, REFUSE, MINIMUM, REFUSE),
    (MtuPolicy.RFC4301, Df.COPY, True): (INNER, REFUSE, MINIMUM, REFUSE),
    (MtuPolicy.RFC4301, Df.IGNORE, True): (INNER, ANYWAY, MINIMUM, REFUSE),
    (MtuPolicy.CLAMP, None, True): (INNER, REFUSE, MINIMUM, REFUSE),
    (MtuPolicy.CLAMP, Df.IGNORE, False): (INNER, ANYWAY, MINIMUM, REFUSE),
    (MtuPolicy.OUTER_FRAGMENTS, None, True): (OUTER, OUTER, OUTER, OUTER),
    (MtuPolicy.OUTER_FRAGMENTS, None, False): (OUTER, OUTER, OUTER, OUTER),
    (MtuPolicy.OUTER_FRAGMENTS, Df.SET, True): (INNER, REFUSE, MINIMUM, REFUSE),
    (MtuPolicy.OUTER_FRAGMENTS, Df.IGNORE, False): (OUTER, OUTER, OUTER, OUTER),
    (MtuPolicy.PRE_FRAGMENT, None, True): (INNER, ANYWAY, MINIMUM, REFUSE),
    (MtuPolicy.PRE_FRAGMENT, Df.COPY, False): (INNER, ANYWAY, MINIMUM, REFUSE),
}
"""By policy, by the wish for DF, and by whether fragments are known to pass."""


@pytest.mark.parametrize(("key", "expected"), LADDERS.items())
def test_what_becomes_of_a_packet_follows_from_policy_df_family_and_what_passes(
    key: tuple[MtuPolicy, Df | None, bool], expected: tuple[Rung, ...]
) -> None:
    policy, df, passes = key
    for fragments_pass in (True,) if passes else (None, False):
        plan = plan_of(policy, df, path=PathMtu(1280, fragments_pass=fragments_pass))
        v4 = (rung_of(plan, 4, 1400, is_df=is_df) for is_df in (False, True))
        v6 = (rung_of(plan, 6, size, is_df=True) for size in (1280, 1281))
        assert (*v4, *v6) == expected
        assert rung_of(plan, 4, plan.inner_room, is_df=True) is None


def test_beyond_the_guard_what_may_be_fragmented_before_esp_is_so() -> None:
    assert plan_of(MtuPolicy.OUTER_FRAGMENTS).oversize == (OUTER, INNER, MINIMUM, REFUSE)


@pytest.mark.parametrize("df", [Df.SET, Df.COPY])
@pytest.mark.parametrize("policy", MtuPolicy)
def test_an_outer_packet_that_must_not_be_fragmented_is_never_sent_too_large(policy: MtuPolicy, df: Df) -> None:
    plan = plan_of(policy, df, path=PathMtu(1500, fragments_pass=True))
    assert OUTER not in plan.oversize
    assert plan.outer_df.value == df.value


def test_every_ladder_ends_with_a_refusal_whatever_the_backend_can_do() -> None:
    for policy, df, passes in itertools.product(MtuPolicy, (None, *Df), (None, False, True)):
        path = PathMtu(1500, fragments_pass=passes)
        assert plan_of(policy, df, path=path).oversize[-1] is REFUSE
        assert plan_of(policy, df, path=path, rungs=frozenset()).oversize == (REFUSE,)


def test_outer_packets_may_be_fragmented_on_the_way_until_their_size_is_proved() -> None:
    assert plan_of().outer_df is OuterDf.CLEAR
    proved = PathMtu(1500, is_proved=True)
    assert plan_of(path=proved).outer_df is OuterDf.SET
    assert plan_of(df=Df.CLEAR, path=proved).outer_df is OuterDf.CLEAR
    assert plan_of(MtuPolicy.OUTER_FRAGMENTS, path=proved).outer_df is OuterDf.CLEAR


@pytest.mark.parametrize("policy", MtuPolicy)
def test_tcp_is_clamped_as_the_word_says_and_otherwise_where_the_policy_relies_on_it(policy: MtuPolicy) -> None:
    def bounds(mss: Mss | None) -> tuple[int | None, int | None]:
        plan = plan_of(policy, mss=mss)
        return plan.mss_v4, plan.mss_v6

    relies = policy in (MtuPolicy.VIRTUAL, MtuPolicy.CLAMP)
    assert bounds(None) == ((1398, 1378) if relies else (None, None))
    assert bounds(MssRule.OFF) == (None, None)
    assert bounds(MssRule.FIT) == (1398, 1378)
    assert bounds(1200) == (1200, 1200)


RAW = Overhead(GCM, 4, udp=False)


@pytest.mark.parametrize("df", [None, Df.SET, Df.COPY, Df.IGNORE])
def test_with_aggfrag_every_packet_passes_and_no_outer_one_is_ever_fragmented(df: Df | None) -> None:
    plan = compile_plan(overhead=RAW, path=ETHERNET, rungs=EVERY_RUNG, peer=AGGFRAG, options=SizeOptions(df=df))
    assert (plan.framing, plan.slices, plan.outer_size, plan.inner_room) == (Framing.AGGFRAG, True, 1500, 1442)
    assert (plan.outer_df, plan.oversize, plan.mss_v4, plan.mss_v6) == (OuterDf.SET, (), None, None)
    assert [route_sizes(plan, version).mtu for version in (4, 6)] == [MAX_PACKET, MAX_PACKET]
    assert route_sizes(plan, 4).advmss == 1402


def test_with_aggfrag_wishes_of_the_operator_still_count() -> None:
    plan = compile_plan(
        overhead=RAW, path=ETHERNET, rungs=EVERY_RUNG, peer=AGGFRAG, options=SizeOptions(df=Df.CLEAR, mss=MssRule.FIT)
    )
    assert (plan.slices, plan.outer_df, plan.mss_v4, plan.oversize) == (True, OuterDf.CLEAR, 1402, ())
    plan = compile_plan(
        overhead=RAW, path=ETHERNET, rungs=EVERY_RUNG, peer=AGGFRAG, options=SizeOptions(MtuPolicy.RFC4301)
    )
    assert (plan.slices, plan.oversize, plan.outer_df) == (False, (INNER, MINIMUM, REFUSE), OuterDf.SET)


def test_a_peer_that_takes_no_slices_gets_whole_packets_and_the_ladder() -> None:
    plan = compile_plan(
        overhead=RAW, path=ETHERNET, rungs=EVERY_RUNG, peer=PeerFraming(Framing.AGGFRAG, takes_slices=False)
    )
    assert (plan.framing, plan.slices, plan.inner_room, plan.outer_df) == (Framing.AGGFRAG, False, 1442, OuterDf.SET)
    assert (plan.oversize, plan.mss_v4) == ((INNER, MINIMUM, REFUSE), 1402)


@pytest.mark.parametrize("framing", Framing)
def test_marks_are_only_in_packets_of_aggfrag_to_peers_that_send_them_back(framing: Framing) -> None:
    plans = [
        compile_plan(overhead=RAW, path=ETHERNET, rungs=EVERY_RUNG, peer=PeerFraming(framing, echoes=echoes))
        for echoes in (False, True)
    ]
    assert [plan.echoes for plan in plans] == [False, framing is Framing.AGGFRAG]


@pytest.mark.parametrize("framing", Framing)
def test_packets_are_watched_that_only_a_proved_size_lets_through(framing: Framing) -> None:
    def watched(path: PathMtu) -> tuple[int | None, int]:
        plan = compile_plan(overhead=NATT, path=path, rungs=EVERY_RUNG, peer=PeerFraming(framing))
        return plan.watch_above, plan.inner_room

    _, room_of_base = watched(PathMtu(BASE, is_proved=True))
    assert watched(PathMtu(1500, is_proved=True))[0] == room_of_base
    assert watched(PathMtu(1500))[0] is None
    assert watched(PathMtu(BASE, is_proved=True))[0] is None


def test_plans_of_the_same_wishes_are_one_object_and_no_more_are_kept_than_the_bound() -> None:
    assert plan_of(path=PathMtu(1400)) is plan_of(path=PathMtu(1400))
    assert plan_of(path=PathMtu(1400)) is not plan_of(path=PathMtu(1401))
    for size in range(2_000, 2_000 + MAX_REMEMBERED_PLANS + 5):
        plan_of(path=PathMtu(size))
    assert compile_plan.cache_info().currsize == MAX_REMEMBERED_PLANS
