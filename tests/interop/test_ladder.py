"""Packets that do not fit, rung by rung, over real sockets and a link of 1280 octets: what is on the wire, what is counted."""

import re
from collections.abc import Iterator

import pytest

from interop.engines import GCM, Gateway, Tunnel, connect, disconnect, gateways
from openmoat.dataplane.backend import Encapsulation, SaCounters
from openmoat.mtu.overhead import Overhead
from openmoat.mtu.plan import MtuPlan, PathMtu, Rung, compile_plan
from openmoat.mtu.words import Df, MtuPolicy, SizeOptions

pytestmark = pytest.mark.namespaces
SIZE = 1280


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Gateway, Gateway]]:
    with gateways() as pair:
        for gateway in pair:
            gateway.let_every_size_come()
            # Otherwise packets are joined on the wire that tcpdump sees.
            gateway.host.run("ip link set out0 gso_max_segs 1")
        yield pair


def plan_for(
    outside: int,
    encapsulation: Encapsulation,
    policy: MtuPolicy = MtuPolicy.VIRTUAL,
    df: Df | None = None,
    fragments_pass: bool | None = None,
) -> MtuPlan:
    return compile_plan(
        overhead=Overhead(GCM, outside, encapsulation is Encapsulation.UDP),
        path=PathMtu(SIZE, is_proved=True, fragments_pass=fragments_pass),
        rungs=frozenset(Rung),
        options=SizeOptions(policy, df),
    )


def pinged(
    both: tuple[Gateway, Gateway], tunnel: Tunnel, *pings: str, link: int = 1500
) -> tuple[str, str, list[SaCounters]]:
    """Ping the right host from the left one; answers what ping says, what tcpdump sees leave, and the final counters."""
    left, right = both
    for gateway in both:
        # What a ping was told before is forgotten.
        gateway.host.run(f"ip link set out0 mtu {link}; ip route flush cache; ip -6 route flush cache")
    handles = connect(left, right, tunnel)
    what = "esp or udp port 4500 or (ip[6:2] & 0x1fff != 0) or ip6 proto 44"
    commands = "; ".join(f"ping -n -c 2 -i 0.05 -W 1 {words}" for words in pings)
    script = f"""
        tcpdump -nvi out0 --immediate-mode -Q out '{what}' >/tmp/{left.host.name}.seen 2>/tmp/{left.host.name}.start & watcher=$!
        until grep -q listening /tmp/{left.host.name}.start; do sleep 0.02; done
        {commands}
        sleep 0.1; kill $watcher; wait $watcher
    """
    said = left.host.run(script, check=False)
    seen = left.host.run(f"cat /tmp/{left.host.name}.seen; rm /tmp/{left.host.name}.seen /tmp/{left.host.name}.start")
    return said, seen, list(disconnect((left, handles[0]), (right, handles[1])))


def outer_sizes(seen: str) -> list[int]:
    """Octets of outer packets, which follow from what tcpdump says of their headers."""
    v4 = [int(size) for size in re.findall(r"\(tos.*, length (\d+)\)", seen)]
    return v4 + [int(size) + 40 for size in re.findall(r"payload length: (\d+)\)", seen)]


CARRIAGES = [(outside, encapsulation) for outside in (4, 6) for encapsulation in Encapsulation]


@pytest.mark.parametrize(("outside", "encapsulation"), CARRIAGES)
def test_what_may_be_fragmented_is_so_before_esp(
    both: tuple[Gateway, Gateway], outside: int, encapsulation: Encapsulation
) -> None:
    plan = plan_for(outside, encapsulation)
    tunnel = Tunnel(outside=outside, encapsulation=encapsulation, plan=plan)
    said, seen, (ours, theirs) = pinged(both, tunnel, f"-M dont -s 1372 {both[1].inner(4)}")
    assert " 0% packet loss" in said
    assert "frag" not in seen.replace("flags [", "")
    assert max(outer_sizes(seen)) <= SIZE
    assert ours.deeds == theirs.deeds == {"fragment-inner": 2}
    assert ours.outbound_packets == 4


@pytest.mark.parametrize(("outside", "encapsulation"), CARRIAGES)
def test_ipv6_of_1280_octets_passes_whatever_is_known(
    both: tuple[Gateway, Gateway], outside: int, encapsulation: Encapsulation
) -> None:
    plan = plan_for(outside, encapsulation)
    tunnel = Tunnel(outside=outside, encapsulation=encapsulation, plan=plan)
    # Over IPv6 we make fragments that are smaller than the link ourselves.
    link = SIZE if outside == 4 else 1500
    said, seen, (ours, theirs) = pinged(both, tunnel, f"-s 1232 {both[1].inner(6)}", link=link)
    assert " 0% packet loss" in said
    assert max(outer_sizes(seen)) <= SIZE
    assert len(outer_sizes(seen)) == 4
    assert ours.deeds == theirs.deeds == {"minimum-outer": 2}
    assert ours.outbound_packets == ours.inbound_packets == 2


@pytest.mark.parametrize(("outside", "encapsulation"), CARRIAGES)
@pytest.mark.parametrize("inner", [4, 6])
def test_where_fragments_pass_a_packet_that_must_stay_whole_travels_in_outer_ones(
    both: tuple[Gateway, Gateway], inner: int, outside: int, encapsulation: Encapsulation
) -> None:
    plan = plan_for(outside, encapsulation, fragments_pass=True)
    tunnel = Tunnel(outside=outside, encapsulation=encapsulation, plan=plan)
    link = SIZE if outside == 4 else 1500
    pings = [f"-M do -s {size} {both[1].inner(inner)}" for size in (9000, 1352)]
    said, seen, (ours, theirs) = pinged(both, tunnel, *pings, f"-s 100 {both[1].inner(inner)}", link=link)
    assert said.count(" 0% packet loss") == 3
    assert max(outer_sizes(seen)) <= SIZE
    assert ours.deeds == {"fragment-outer": 4}
    assert ours.outbound_packets == 6
    assert theirs.deeds == ({"fragment-inner": 4} if inner == 4 else {"fragment-outer": 4})  # echoes come without DF
    if outside == 4:
        assert seen.count("flags [DF]") == 2  # only what does not fit has none


@pytest.mark.parametrize(("inner", "size", "told"), [(4, 1372, 1226), (6, 1352, 1280)])
@pytest.mark.parametrize("policy", [MtuPolicy.VIRTUAL, MtuPolicy.RFC4301, MtuPolicy.CLAMP])
def test_otherwise_the_sender_is_told_what_fits(
    both: tuple[Gateway, Gateway], policy: MtuPolicy, inner: int, size: int, told: int
) -> None:
    plan = plan_for(4, Encapsulation.RAW, policy)
    tunnel = Tunnel(encapsulation=Encapsulation.RAW, plan=plan)
    said, seen, (ours, _) = pinged(both, tunnel, f"-M do -s {size} {both[1].inner(inner)}")
    assert re.search(rf"mtu ?= ?{told}", said, re.IGNORECASE)
    assert outer_sizes(seen) == []
    assert ours.deeds["refuse"] == ours.drops["too-big"] >= 1


def test_df_is_ignored_by_hand_alone(both: tuple[Gateway, Gateway]) -> None:
    for policy, df in ((MtuPolicy.VIRTUAL, Df.IGNORE), (MtuPolicy.PRE_FRAGMENT, None)):
        tunnel = Tunnel(plan=plan_for(4, Encapsulation.UDP, policy, df))
        said, seen, (ours, _) = pinged(both, tunnel, f"-M do -s 3000 {both[1].inner(4)}")
        assert " 0% packet loss" in said
        assert max(outer_sizes(seen)) <= SIZE
        assert ours.deeds == {"fragment-anyway": 2}


def test_outer_fragments_by_hand_carry_everything_unasked(both: tuple[Gateway, Gateway]) -> None:
    tunnel = Tunnel(plan=plan_for(4, Encapsulation.UDP, MtuPolicy.OUTER_FRAGMENTS))
    pings = [f"-M {df} -s {size} {both[1].inner(4)}" for df in ("do", "dont") for size in (1372, 60_000)]
    said, _, (ours, _) = pinged(both, tunnel, *pings, link=SIZE)
    assert said.count(" 0% packet loss") == 4
    assert ours.deeds == {"fragment-outer": 8}
