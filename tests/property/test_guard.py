"""The guard's ranges against a naive longest match, and the kernel's answer messages against any octets."""

import ipaddress
import itertools

from hypothesis import given
from hypothesis import strategies as st

from openmoat.net import Network
from openmoat.system.guard import Label, cover, keep
from openmoat.system.netlink import attributes, messages

NETWORKS = st.builds(
    lambda octets, length: ipaddress.IPv4Network((octets, length), strict=False),
    st.binary(min_size=4, max_size=4).map(lambda octets: bytes([10, octets[1] % 4]) + octets[2:]),
    st.integers(0, 32),
)
ROWS = st.lists(st.tuples(NETWORKS, st.sampled_from(Label)), max_size=12)


def naive(rows: list[tuple[Network, Label]], address: int) -> Label | None:
    over = [(net.prefixlen, label) for net, label in rows if int(net[0]) <= address <= int(net[-1])]
    return max(over)[1] if over else None


@given(ROWS)
def test_every_address_lies_in_the_ranges_of_its_longest_prefix_and_in_no_others(
    rows: list[tuple[Network, Label]],
) -> None:
    ranges = cover(rows)
    edges = {0, (1 << 32) - 1}
    for network, _ in rows:
        edges |= {
            int(network[0]),
            int(network[-1]),
            max(0, int(network[0]) - 1),
            min((1 << 32) - 1, int(network[-1]) + 1),
        }
    for address in edges:
        found = [label for label, spans in ranges.items() for first, last in spans if first <= address <= last]
        assert found == [label for label in [naive(rows, address)] if label is not None]


@given(ROWS)
def test_ranges_of_one_label_are_ordered_and_never_touch(rows: list[tuple[Network, Label]]) -> None:
    for spans in cover(rows).values():
        assert all(first <= last for first, last in spans)
        assert all(earlier[1] + 1 < later[0] for earlier, later in itertools.pairwise(spans))


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
