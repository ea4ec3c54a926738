"""The algebra of selectors against a naive model: sets of packets in a small world."""

import ipaddress
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from openmoat.net import Address
from openmoat.policy.selectors import (
    MAX_PORT,
    Selectors,
    TrafficSelector,
    canonical,
    contains,
    covers,
    intersect,
    narrow,
    on_demand,
    to_prefixes,
    volume,
)

BASE = {4: int(ipaddress.ip_address("10.0.0.0")), 6: int(ipaddress.ip_address("2001:db8::"))}
PROTOCOLS = (6, 17)
PORTS = (None, 0, 1, 2)
Packet = tuple[Address, int, int | None]


def address(version: int, offset: int) -> Address:
    number = BASE[version] + offset
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)


WORLD: list[Packet] = [
    (address(version, offset), protocol, port)
    for version, offset, protocol, port in product((4, 6), range(6), PROTOCOLS, PORTS)
]


@st.composite
def selector_of_the_small_world(draw: st.DrawFn) -> TrafficSelector:
    version = draw(st.sampled_from((4, 6)))
    start, end = sorted((draw(st.integers(0, 5)), draw(st.integers(0, 5))))
    protocol = draw(st.sampled_from((0, *PROTOCOLS)))
    ports = (0, MAX_PORT)
    if protocol:
        ports = draw(st.sampled_from([(0, MAX_PORT), (MAX_PORT, 0), (0, 0), (1, 1), (0, 1), (1, 2), (2, MAX_PORT)]))
    return TrafficSelector.between(address(version, start), address(version, end), protocol, *ports)


@st.composite
def any_selector(draw: st.DrawFn) -> TrafficSelector:
    """Whatever a wire may bring, sense or not."""
    version = draw(st.sampled_from((st.ip_addresses(v=4), st.ip_addresses(v=6))))
    port = st.integers(0, MAX_PORT)
    return TrafficSelector.between(draw(version), draw(version), draw(st.integers(0, 255)), draw(port), draw(port))


LISTS = st.lists(selector_of_the_small_world(), max_size=4).map(tuple)


def packets(selectors: Selectors) -> set[Packet]:
    return {packet for packet in WORLD if contains(selectors, *packet)}


@given(LISTS, LISTS)
def test_intersection_selects_what_both_lists_select(left: Selectors, right: Selectors) -> None:
    assert packets(intersect(left, right)) == packets(left) & packets(right)


@given(LISTS, LISTS)
def test_no_member_of_an_intersection_lies_within_another(left: Selectors, right: Selectors) -> None:
    common = intersect(left, right)
    assert not [1 for a, b in product(common, common) if a is not b and a.covers(b)]


@given(LISTS, LISTS)
def test_covers_says_that_nothing_lies_outside(outer: Selectors, inner: Selectors) -> None:
    # A selector with ports up to 65535 reaches beyond the small world, so the model bounds one direction only.
    if covers(outer, inner):
        assert packets(inner) <= packets(outer)
    assert covers(outer, intersect(outer, inner))
    assert covers(inner, inner)


@given(LISTS, LISTS)
def test_covers_is_exact_where_the_small_world_holds_all_ports(outer: Selectors, inner: Selectors) -> None:
    ports = {(0, 0), (1, 1), (0, 1), (1, 2), (MAX_PORT, 0)}
    small = tuple(s for s in inner if (s.start_port, s.end_port) in ports and s.protocol)
    assert covers(outer, small) == (packets(small) <= packets(outer))


@given(LISTS, LISTS)
def test_narrowing_keeps_the_first_choice_wherever_it_is_allowed(proposed: Selectors, allowed: Selectors) -> None:
    narrowed = narrow(proposed, allowed)
    assert packets(narrowed) == packets(proposed) & packets(allowed)
    if covers(allowed, proposed[:1]):
        assert covers(narrowed, proposed[:1])


@given(LISTS, st.sampled_from(WORLD))
def test_an_on_demand_request_names_its_packet_first(selectors: Selectors, packet: Packet) -> None:
    wanted = on_demand(selectors, *packet)
    assert packets(wanted) == packets(selectors)
    if contains(selectors, *packet):
        assert wanted[0].contains(*packet)
        assert wanted[0].start == wanted[0].end


@given(LISTS)
def test_prefixes_hold_exactly_the_addresses(selectors: Selectors) -> None:
    prefixes = to_prefixes(selectors)
    addresses = {s for v, o in product((4, 6), range(6)) for s in [address(v, o)]}
    assert {a for a in addresses if any(a in p for p in prefixes)} == {
        a
        for a in addresses
        if any(s.start.version == a.version and s.start <= a <= s.end for s in selectors)  # type: ignore[operator]
    }
    assert not [1 for a, b in product(prefixes, prefixes) if a is not b and a.overlaps(b)]


@given(LISTS)
def test_the_canonical_form_forgets_order_and_cuts(selectors: Selectors) -> None:
    assert packets(canonical(selectors)) == packets(selectors)
    assert canonical(tuple(reversed(selectors))) == canonical(selectors)
    assert canonical(canonical(selectors)) == canonical(selectors)


@given(selector_of_the_small_world(), selector_of_the_small_world())
def test_a_part_is_smaller_than_the_whole(part: TrafficSelector, whole: TrafficSelector) -> None:
    version = whole.start.version
    assert volume((part, whole), version) >= volume((whole,), version)
    if whole.covers(part) and part != whole:
        assert volume((part,), version) < volume((whole,), version)


@given(
    st.one_of(any_selector(), selector_of_the_small_world()), st.one_of(any_selector(), selector_of_the_small_world())
)
def test_the_algebra_is_total(one: TrafficSelector, other: TrafficSelector) -> None:
    common = intersect((one,), (other,))
    assert covers((one,), common)
    assert covers((other,), common)
    assert one.is_empty == (not intersect((one,), (one,)))
    canonical((one, other))
    to_prefixes((one, other))
    str(one)


@given(any_selector())
def test_the_text_form_reads_back(selector: TrafficSelector) -> None:
    if not selector.is_empty:
        assert TrafficSelector.parse(str(selector)) == selector


@given(st.text(alphabet="0123456789./-:[]tcpudimoqe x", max_size=40))
def test_any_text_is_a_selector_or_a_value_error(text: str) -> None:
    try:
        selector = TrafficSelector.parse(text)
    except ValueError:
        return
    assert not selector.is_empty
