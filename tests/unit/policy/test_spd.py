"""Places in the order, and two peers that want the same packets."""

import random

import pytest

from openmoat.policy import spd as module
from openmoat.policy.selectors import parse_selectors
from openmoat.policy.spd import Action, Policy, PolicyConflict, Spd, WantedPolicy


def wanted(
    name: str,
    remote: str,
    *,
    local: str = "10.1.0.0/16",
    action: Action = Action.PROTECT,
    priority: int = 0,
    peer: str = "",
) -> WantedPolicy:
    return WantedPolicy(
        name=name,
        action=action,
        local=parse_selectors([local]),
        remote=parse_selectors([remote]),
        priority=priority,
        peer=peer or name,
    )


def spd_of(*policies: WantedPolicy) -> Spd:
    spd = Spd()
    spd.change(policies)
    return spd


def names(spd: Spd) -> list[str]:
    return [policy.name for policy in spd.policies]


def ranks(spd: Spd) -> dict[str, int]:
    return {policy.name: policy.rank for policy in spd.policies}


def test_the_more_specific_policy_is_looked_at_first() -> None:
    spd = spd_of(wanted("all", "0.0.0.0/0"), wanted("office", "10.2.0.0/16"), wanted("web", "10.2.0.0/16[tcp/443]"))
    assert names(spd) == ["web", "office", "all"]


def test_a_shunt_comes_before_protect_at_equal_selectors() -> None:
    spd = spd_of(wanted("a", "10.2.0.0/16"), wanted("z", "10.2.0.0/16", action=Action.PASS))
    assert names(spd) == ["z", "a"]


def test_priority_is_compared_before_everything_else() -> None:
    spd = spd_of(wanted("wide", "0.0.0.0/0", priority=-1), wanted("office", "10.2.0.0/16"))
    assert names(spd) == ["wide", "office"]


def test_ipv6_and_ipv4_policies_of_the_same_names_do_not_disturb_each_other() -> None:
    spd = spd_of(wanted("v6", "::/0", local="2001:db8::/64"), wanted("v4", "0.0.0.0/0"))
    assert names(spd) == ["v4", "v6"]


def test_an_insertion_moves_nobody() -> None:
    spd = spd_of(*[wanted(f"net{n:02}", f"10.{n}.0.0/16") for n in range(0, 60, 2)])
    before = ranks(spd)
    change = spd.change([wanted("net31", "10.31.0.0/16")])
    assert {name: rank for name, rank in ranks(spd).items() if name != "net31"} == before
    assert ([p.name for p in change.put], change.remove) == (["net31"], ())


def test_a_gap_that_is_used_up_moves_a_few_neighbours_only() -> None:
    spd = spd_of(*[wanted(f"m{n:03}", f"10.{n}.0.0/16") for n in range(200)])
    moved = 0
    for n in range(100):
        for place in (50, 150):  # by turns, so that neither is a run
            moved += len(spd.change([wanted(f"m{place:03}-{n:03}", f"192.{n}.{place}.0/24")]).put) - 1
    assert 0 < moved < 1000


def test_numbered_peers_that_come_one_after_the_other_move_almost_nobody() -> None:
    for step in (1, -1):
        spd = spd_of(wanted("m0", "10.0.0.0/32"), wanted("m2", "10.0.0.1/32"))
        peers = [wanted(f"m1-{n:03}", f"10.1.{n}.0/32") for n in range(200)]
        moved = sum(len(spd.change([peer]).put) - 1 for peer in peers[::step])
        assert names(spd) == sorted(names(spd))
        assert moved < 10


def test_swarms_of_numbered_peers_move_less_than_every_second_time_another() -> None:
    # Numbers of four digits come between those of three, where the order is one of names.
    spd, moved = Spd(), 0
    chance = random.Random(7)  # noqa: S311 - the same order each time
    for first in range(100, 2100, 50):
        swarm = [wanted(f"n{n}", f"10.{n // 256}.{n % 256}.0/32") for n in range(first, first + 50)]
        chance.shuffle(swarm)
        moved += sum(len(spd.change([one]).put) - 1 for one in swarm)
    assert names(spd) == sorted(names(spd))
    assert moved < 1000


def test_a_wish_that_did_not_change_is_no_change() -> None:
    spd = spd_of(wanted("office", "10.2.0.0/16"))
    assert not spd.change([wanted("office", "10.2.0.0/16")])


def test_a_changed_policy_keeps_its_number() -> None:
    spd = spd_of(wanted("office", "10.2.0.0/16"))
    before = named(spd, "office")
    change = spd.change([wanted("office", "10.3.0.0/16")])
    assert named(spd, "office") != before
    assert change.put[0].id == before.id
    assert change.remove == ()


def test_a_removed_policy_is_removed_by_number() -> None:
    spd = spd_of(wanted("office", "10.2.0.0/16"), wanted("lab", "10.3.0.0/16"))
    number = named(spd, "lab").id
    assert spd.change(remove=["lab", "never-there"]).remove == (number,)
    assert spd.find("lab") is None


def named(spd: Spd, name: str) -> Policy:
    found = spd.find(name)
    assert found is not None
    return found


def test_two_peers_that_want_the_same_packets_are_refused_by_name() -> None:
    spd = spd_of(wanted("home", "10.9.0.0/24"))
    with pytest.raises(PolicyConflict, match=r'"cabin".*10\.9\.0\.0/24.*"home"') as caught:
        spd.change([wanted("cabin", "10.9.0.0-10.9.0.255")])
    assert (caught.value.refused, caught.value.standing) == ("cabin", "home")
    assert names(spd) == ["home"]


def test_the_same_remote_in_other_pieces_is_the_same_remote() -> None:
    halves = WantedPolicy(
        name="cabin",
        action=Action.PROTECT,
        local=parse_selectors(["10.1.0.0/16"]),
        remote=parse_selectors(["10.9.0.128/25", "10.9.0.0/25"]),
        peer="cabin",
    )
    with pytest.raises(PolicyConflict):
        spd_of(wanted("home", "10.9.0.0/24"), halves)


def test_one_peer_may_have_two_policies_for_the_same_packets() -> None:
    spd = spd_of(wanted("a", "10.9.0.0/24", peer="home"), wanted("b", "10.9.0.0/24", peer="home"))
    assert names(spd) == ["a", "b"]


def test_priorities_declare_an_order_between_peers() -> None:
    spd = spd_of(wanted("spare", "10.9.0.0/24", priority=1), wanted("main", "10.9.0.0/24"))
    assert names(spd) == ["main", "spare"]


def test_peers_with_different_local_ends_do_not_conflict() -> None:
    spd = spd_of(wanted("a", "0.0.0.0/0"), wanted("b", "0.0.0.0/0", local="10.2.0.0/16"))
    assert names(spd) == ["a", "b"]


def test_a_peer_may_take_over_when_the_other_is_gone() -> None:
    spd = spd_of(wanted("home", "10.9.0.0/24"))
    spd.change([wanted("cabin", "10.9.0.0/24")], remove=["home"])
    assert names(spd) == ["cabin"]


def test_the_spd_holds_policies_up_to_the_bound_and_refuses_a_change_beyond_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_POLICIES", 3)  # a million would take minutes
    spd = spd_of(*(wanted(f"p{number}", f"10.{number}.0.0/16") for number in range(3)))
    with pytest.raises(ValueError, match="holds 3 policies at most"):
        spd.change([wanted("more", "10.9.0.0/16")])
    assert names(spd) == ["p0", "p1", "p2"]
    spd.change([wanted("more", "10.9.0.0/16")], ["p0"])
    assert sorted(names(spd)) == ["more", "p1", "p2"]
