"""The SPD, the sizes and what the host is told stay in step, as connections and SAs come and go."""

from dataclasses import replace

from openmoat.crypto.identities import IdentityPattern, PatternKind
from openmoat.daemon.host.policies import Policies
from openmoat.ike.events import ChildSa
from openmoat.model.connection import Connection
from openmoat.mtu.plan import PathMtu, Rung
from openmoat.policy.selectors import parse_selectors
from unit.daemon.kit import HOME_A, HOME_B, child_sa, connection, exactly

NEAR = parse_selectors(["10.2.0.0/16"])
OFFICE = connection("office", exactly(HOME_A), child="lan")
HOMES = connection("homes", IdentityPattern(PatternKind.ANY), remote="10.0.0.0/8", child="lan")


class World:
    """Policies, and paths of a size that a test sets."""

    def __init__(self, *connections: Connection) -> None:
        self.size = 1280
        self.policies = Policies(frozenset(Rung), lambda _ike: PathMtu(self.size))
        assert not self.policies.load(connections)[1]

    @property
    def sizes(self) -> list[int]:
        """Of all that is protected."""
        return [one.plan.outer_size for one in self.policies.prefixes.protected()]

    @property
    def guarded(self) -> list[str]:
        return [str(prefix) for one in self.policies.prefixes.protected() for prefix in one.prefixes]

    @property
    def names(self) -> list[str]:
        return [policy.name for policy in self.policies.spd.policies]


def sa(name: str, spi: int = 1, remote: str = "10.1.0.0/16") -> ChildSa:
    return child_sa(spi, name, HOME_A, NEAR, parse_selectors([remote]), child="lan")


def test_a_connection_is_guarded_with_cautious_sizes_before_it_has_an_sa() -> None:
    world = World(OFFICE)
    assert (world.names, world.guarded, world.sizes) == (["office/lan"], ["10.1.0.0/16"], [1280])


def test_sizes_that_an_sa_has_brought_stay_when_the_connection_is_loaded_again() -> None:
    world = World(OFFICE)
    world.size = 1500
    world.policies.serve(sa("office"))
    assert world.sizes == [1500]
    world.policies.load([replace(OFFICE, retry=False)])
    assert world.sizes == [1500]
    world.policies.load([], ["office"])
    assert (world.names, world.guarded) == ([], [])


def test_a_size_that_is_configured_is_in_force_where_there_is_no_sa_and_is_not_looked_for() -> None:
    world = World(OFFICE)
    assert world.policies.discovers("office")
    world.policies.load([replace(OFFICE, children=(replace(OFFICE.children[0], path_mtu=1400),))])
    assert world.sizes == [1400]
    assert not world.policies.discovers("office")
    assert not world.policies.discovers("nobody")


def test_a_child_that_is_taken_out_is_guarded_no_more_and_its_siblings_are() -> None:
    other = replace(OFFICE.children[0], name="net", remote=parse_selectors(["10.3.0.0/16"]))
    world = World(replace(OFFICE, children=(*OFFICE.children, other)))
    world.policies.load([OFFICE])
    assert (world.names, world.guarded) == (["office/lan"], ["10.1.0.0/16"])


def test_peers_of_a_template_are_guarded_while_they_are_here_and_what_they_may_bring_always() -> None:
    world = World(HOMES)
    assert [str(one) for pair in world.policies.prefixes.reserved() for one in pair[1]] == ["10.0.0.0/8"]
    world.policies.serve(sa("homes", remote="10.1.7.0/24"))
    assert world.guarded == ["10.1.7.0/24"]
    world.policies.load([replace(HOMES, retry=False)])
    assert (world.guarded, len(world.names)) == (["10.1.7.0/24"], 1)
    world.policies.release(sa("homes", remote="10.1.7.0/24"))
    assert (world.guarded, world.names) == ([], [])
    world.policies.serve(sa("homes", remote="10.1.8.0/24"))
    world.policies.load([], ["homes"])
    assert (world.guarded, world.policies.prefixes.reserved()) == ([], ())


def test_alternatives_have_one_policy_and_sizes_of_their_own() -> None:
    one = connection("a", exactly(HOME_A), child="lan", group="corp")
    two = connection("b", exactly(HOME_B), child="lan", group="corp")
    world = World(one, two)
    world.size = 1500
    world.policies.serve(sa("a", 1))
    world.size = 1400
    world.policies.serve(sa("b", 2))
    assert (world.names, world.sizes) == (["group corp/lan"], [1500, 1400])
