"""The guard's ranges against a naive longest match, and the kernel's answer messages against any octets."""

import ipaddress
import itertools

from hypothesis import given
from hypothesis import strategies as st

from openmoat.net import Network
from openmoat.system.guard import keep
from openmoat.system.netlink import attributes, messages
from openmoat.system.ranges import Coverage, Label, RangesChange, cover

NETWORKS = st.builds(
    lambda octets, length: ipaddress.IPv4Network((octets, length), strict=False),
    st.binary(min_size=4, max_size=4).map(lambda octets: bytes([10, octets[1] % 4]) + octets[2:]),
    st.integers(0, 32),
)
ROWS = st.lists(st.tuples(NETWORKS, st.sampled_from(Label)), max_size=12)


def spans(rows: list[tuple[Network, Label]]) -> list[tuple[int, int, Label]]:
    return [(int(net[0]), int(net[-1]), label) for net, label in rows]


def naive(rows: list[tuple[Network, Label]], address: int) -> Label | None:
    over = [(net.prefixlen, label) for net, label in rows if int(net[0]) <= address <= int(net[-1])]
    return max(over)[1] if over else None


@given(ROWS)
def test_every_address_lies_in_the_ranges_of_its_longest_prefix_and_in_no_others(
    rows: list[tuple[Network, Label]],
) -> None:
    ranges = cover(spans(rows))
    edges = {0, (1 << 32) - 1}
    for network, _ in rows:
        edges |= {
            int(network[0]),
            int(network[-1]),
            max(0, int(network[0]) - 1),
            min((1 << 32) - 1, int(network[-1]) + 1),
        }
    for address in edges:
        found = [label for label, rows_ in ranges.items() for first, last in rows_ if first <= address <= last]
        assert found == [label for label in [naive(rows, address)] if label is not None]


@given(ROWS)
def test_ranges_of_one_label_are_ordered_and_never_touch(rows: list[tuple[Network, Label]]) -> None:
    for found in cover(spans(rows)).values():
        assert all(first <= last for first, last in found)
        assert all(earlier[1] + 1 < later[0] for earlier, later in itertools.pairwise(found))


@given(st.lists(st.tuples(st.booleans(), NETWORKS, st.sampled_from(Label)), max_size=20))
def test_prefixes_that_come_and_go_leave_the_ranges_of_the_whole_and_tell_each_step(
    steps: list[tuple[bool, Network, Label]],
) -> None:
    coverage, rows = Coverage(32), set[tuple[Network, Label]]()
    told = {label: set[tuple[int, int]]() for label in Label}
    for is_put, network, label in steps:
        (rows.add if is_put else rows.discard)((network, label))
        for where, (gone, new) in (coverage.put if is_put else coverage.remove)(network, label).items():
            assert gone <= told[where]
            assert not new & told[where]
            told[where] = told[where] - gone | new
        whole = {where: set(ranges) for where, ranges in cover(spans(list(rows))).items()}
        assert told == whole
        assert {where: coverage.ranges(where) for where in Label} == whole
        assert {where: Coverage(32, rows).ranges(where) for where in Label} == whole


SPANS = st.frozensets(st.tuples(st.integers(0, 3), st.integers(4, 6)), max_size=4)


@given(st.lists(SPANS, min_size=1, max_size=6))
def test_changes_one_after_another_are_one_change_from_the_first_to_the_last(
    states: list[frozenset[tuple[int, int]]],
) -> None:
    change = RangesChange()
    for before, after in itertools.pairwise(states):
        change.take(set(before - after), set(after - before))
    assert (change.gone, change.new) == (set(states[0] - states[-1]), set(states[-1] - states[0]))


@given(NETWORKS, st.lists(NETWORKS, max_size=8))
def test_a_kept_network_never_holds_a_guarded_address(network: Network, guarded: list[Network]) -> None:
    longer = [inner for inner in guarded if inner.prefixlen > network.prefixlen]
    for row in keep("eth1", network, longer):
        for inner in longer:
            assert row.last < int(inner[0]) or row.first > int(inner[-1])


@given(st.binary(max_size=200))
def test_any_octets_are_walked_without_a_fault(octets: bytes) -> None:
    attributes(octets)
    assert sum(len(answer.body) + 16 for _, answer in messages(octets)) <= len(octets)
