"""The SPD follows the configuration: who may share networks, who may not, and what the refused are told."""

from dataclasses import replace

import pytest

from openmoat.crypto.identities import IdentityPattern, PatternKind
from openmoat.daemon.host.spd import SpdCompiler, UnknownChild
from openmoat.ike.events import ChildSa
from openmoat.model.connection import Connection, Start
from openmoat.policy.groups import Member
from openmoat.policy.selectors import parse_selectors
from openmoat.policy.spd import Missing
from unit.daemon.kit import HOME_A, HOME_B, child_sa, connection, exactly

ANYBODY = IdentityPattern(PatternKind.ANY)


def gate(name: str, order: int = 0, group: str | None = "corp", **options: object) -> Connection:
    peer = exactly(HOME_A if name == "a" else HOME_B)
    return connection(name, peer, child="lan", group=group, order=order, **options)  # type: ignore[arg-type]


def sa(name: str, spi: int = 1, remote: str = "10.1.0.0/16", peer: object = HOME_A) -> ChildSa:
    one = child_sa(spi, name, HOME_A, parse_selectors(["10.2.0.0/16"]), parse_selectors([remote]), child="lan")
    return replace(one, peer=peer)  # type: ignore[arg-type]


def test_alternatives_serve_one_policy_and_others_are_refused_with_the_option_that_would_help() -> None:
    spd = SpdCompiler()
    loaded = spd.load([gate("a"), gate("b", 1), gate("c", group=None)])
    assert [one.name for one in loaded.taken] == ["a", "b"]
    assert [policy.name for policy in spd.policies] == ["group corp/lan"]
    assert list(loaded.conflicts) == ["c"]
    assert 'leads to group "corp"' in str(loaded.conflicts["c"])
    assert "give both connections the same group" in str(loaded.conflicts["c"])
    (number,) = {spd.serve(sa(name, spi))[0] for spi, name in enumerate(("a", "b"))}
    assert spd.children_of(number) == [("a", "lan"), ("b", "lan")]
    assert spd.alternatives("b", "lan") == ("group corp/lan", [Member(0, "a"), Member(1, "b")])


def test_without_a_group_equal_networks_of_two_peers_are_refused() -> None:
    spd = SpdCompiler()
    assert list(spd.load([gate("a", group=None), gate("b", group=None)]).conflicts) == ["b"]
    assert list(spd.load([gate("b", group=None)], ["a"]).conflicts) == []


def test_the_policy_of_a_group_lasts_as_long_as_one_of_it_does_and_keeps_its_number() -> None:
    spd = SpdCompiler()
    first = spd.load([gate("a"), gate("b")]).changes
    assert spd.load([], ["a"]).changes.remove == ()
    assert [policy.id for policy in spd.policies] == [first.put[0].id]
    assert spd.load([], ["b"]).changes.remove == (first.put[0].id,)
    assert spd.policies == ()


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"local": "10.3.0.0/16"}, "local is 10.3.0.0/16"),
        ({"remote": "10.4.0.0/16"}, "remote is 10.4.0.0/16"),
        ({"priority": 5}, "priority is 5"),
    ],
)
def test_a_child_that_leads_elsewhere_is_no_alternative(other: dict[str, object], word: str) -> None:
    spd = SpdCompiler()
    loaded = spd.load([gate("a"), gate("b", **other)])  # type: ignore[arg-type]
    assert list(loaded.conflicts) == ["b"]
    assert word in str(loaded.conflicts["b"])
    assert 'in "a"' in str(loaded.conflicts["b"])
    assert not spd.load([gate("b")]).conflicts


def test_children_of_other_names_with_the_same_networks_would_never_take_over_and_are_refused() -> None:
    spd = SpdCompiler()
    other = connection("b", exactly(HOME_B), child="net", group="corp")
    assert "give both the same name" in str(spd.load([gate("a"), other]).conflicts["b"])
    assert [policy.name for policy in spd.policies] == ["group corp/lan"]
    assert not spd.load([other], ["a"]).conflicts


def test_a_packet_for_a_group_wants_every_alternative_that_traps() -> None:
    spd = SpdCompiler()
    loaded = spd.load([gate("a", start=Start.TRAP), gate("b", 1, start=Start.AUTO)])
    (policy,) = loaded.changes.put
    assert policy.missing is Missing.TRAP
    (changed,) = spd.load([], ["a"]).changes.put
    assert (changed.id, changed.missing) == (policy.id, Missing.DROP)


def test_a_template_is_in_no_group() -> None:
    spd = SpdCompiler()
    loaded = spd.load([connection("homes", ANYBODY, group="corp")])
    assert "only connections with one peer can be alternatives" in str(loaded.conflicts["homes"])
    assert not spd.load([connection("homes", ANYBODY)]).conflicts


def test_peers_of_a_template_keep_their_policies_when_it_changes_and_lose_them_when_it_goes() -> None:
    spd = SpdCompiler()
    template = connection("homes", ANYBODY, remote="10.0.0.0/8", child="lan")
    spd.load([template])
    spd.serve(sa("homes"))
    before = spd.policies
    assert not spd.load([replace(template, retry=False)]).changes.remove
    assert spd.policies == before
    assert spd.release(sa("homes")) is not None
    assert spd.policies == ()
    spd.serve(sa("homes"))
    spd.load([], ["homes"])
    assert spd.policies == ()
    assert spd.release(sa("homes")) is None


def test_an_sa_of_what_is_not_configured_is_unknown() -> None:
    spd = SpdCompiler()
    spd.load([gate("a")])
    with pytest.raises(UnknownChild, match='no child "other"'):
        spd.child(replace(sa("a"), child="other"))
    with pytest.raises(UnknownChild):
        spd.serve(sa("b"))
