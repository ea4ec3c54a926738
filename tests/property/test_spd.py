"""The order of policies against a sorted list, and changes against the policies they lead to."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from openmoat.policy.selectors import Flow, TrafficSelector, covers
from openmoat.policy.spd import MAX_RANK, Action, Policy, Spd, WantedPolicy

BASE = int(ipaddress.ip_address("10.0.0.0"))
NAMES = st.sampled_from([f"p{n}" for n in range(12)])


@st.composite
def selectors(draw: st.DrawFn) -> tuple[TrafficSelector, ...]:
    start, end = sorted((draw(st.integers(0, 15)), draw(st.integers(0, 15))))
    protocol = draw(st.sampled_from((0, 0, 6)))
    return (TrafficSelector.between(ipaddress.IPv4Address(BASE + start), ipaddress.IPv4Address(BASE + end), protocol),)


WANTED = st.builds(
    WantedPolicy,
    name=NAMES,
    action=st.sampled_from(Action),
    local=selectors(),
    remote=selectors(),
    priority=st.integers(0, 1),
)
ADDRESSES = st.integers(0, 15).map(lambda n: ipaddress.IPv4Address(BASE + n))
FLOWS = st.builds(Flow, source=ADDRESSES, destination=ADDRESSES, protocol=st.sampled_from((6, 17)))


class Changes(RuleBasedStateMachine):
    """Any sequence of changes; a second SPD follows by the answers alone, as a backend does."""

    def __init__(self) -> None:
        super().__init__()
        self.spd = Spd()
        self.wanted: dict[str, WantedPolicy] = {}
        self.backend: dict[int, Policy] = {}

    @rule(put=st.lists(WANTED, max_size=4), remove=st.lists(NAMES, max_size=3))
    def change(self, put: list[WantedPolicy], remove: list[str]) -> None:
        kept = {p.name: p.id for p in self.spd.policies}
        change = self.spd.change(put, remove)
        for number in change.remove:
            del self.backend[number]
        self.backend.update({policy.id: policy for policy in change.put})
        assert all(kept.get(p.name, p.id) == p.id for p in self.spd.policies)
        for name in remove:
            self.wanted.pop(name, None)
        self.wanted.update({w.name: w for w in put})

    @rule(flow=FLOWS)
    def a_packet_meets_the_lowest_rank_that_selects_it(self, flow: Flow) -> None:
        selecting = [p for p in self.backend.values() if p.selects(flow)]
        assert self.spd.lookup(flow) == min(selecting, key=lambda p: p.rank, default=None)

    @invariant()
    def the_backend_holds_what_is_wanted(self) -> None:
        assert set(self.backend.values()) == set(self.spd.policies)
        assert {p.name for p in self.spd.policies} == set(self.wanted)
        assert all(
            (p.local, p.remote, p.action)
            == (self.wanted[p.name].local, self.wanted[p.name].remote, self.wanted[p.name].action)
            for p in self.spd.policies
        )

    @invariant()
    def ranks_are_unique_rising_and_in_bounds(self) -> None:
        ranks = [p.rank for p in self.spd.policies]
        assert ranks == sorted(set(ranks))
        assert all(1 <= rank <= MAX_RANK for rank in ranks)

    @invariant()
    def priority_then_inclusion_decide(self) -> None:
        order = [self.wanted[p.name] for p in self.spd.policies]
        for place, later in enumerate(order):
            for earlier in order[:place]:
                assert earlier.priority <= later.priority
                if earlier.priority == later.priority:
                    includes = covers(earlier.local, later.local) and covers(earlier.remote, later.remote)
                    is_equal = covers(later.local, earlier.local) and covers(later.remote, earlier.remote)
                    assert not includes or is_equal, "what holds another comes after it"
                    if includes and is_equal:
                        assert earlier.action is not Action.PROTECT or later.action is Action.PROTECT


TestChanges = Changes.TestCase


@given(st.permutations([f"c{n:03}" for n in range(40)]))
def test_the_order_does_not_depend_on_the_way_there(names: list[str]) -> None:
    one = (TrafficSelector.parse("10.0.0.0/24"),)
    spd = Spd()
    for name in names:
        spd.change([WantedPolicy(name=name, action=Action.DROP, local=one, remote=one)])
    assert [p.name for p in spd.policies] == sorted(names)
