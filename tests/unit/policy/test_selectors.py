"""Text forms of selectors, and the examples of RFC 7296 2.9."""

import ipaddress

import pytest

from openmoat.policy.selectors import (
    MAX_PROTOCOL,
    MAX_SELECTORS,
    Flow,
    TrafficSelector,
    covers,
    format_selectors,
    intersect,
    narrow,
    on_demand,
    parse_selectors,
    to_prefixes,
)


@pytest.mark.parametrize(
    "text",
    [
        "10.2.0.0/16",
        "10.2.0.5",
        "10.2.0.1-10.2.0.9",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::1-2001:db8::5",
        "10.2.0.0/16[tcp]",
        "10.2.0.0/16[tcp/443]",
        "10.2.0.0/16[udp/1024-65535]",
        "10.2.0.0/16[tcp/opaque]",
        "10.2.0.0/16[icmp/8]",
        "10.2.0.0/16[icmp/3/4]",
        "::/0[icmpv6/133-136]",
        "10.2.0.0/16[200]",
    ],
)
def test_a_text_form_is_written_as_it_was_read(text: str) -> None:
    assert str(TrafficSelector.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("10.2.0.5/16", 'Did you mean "10.2.0.0/16"'),
        ("10.2.0.9-10.2.0.1", "lower to a higher"),
        ("10.2.0.1-::1", "one family"),
        ("office", "not an address"),
        ("10.2.0.0/16[tcp/443", "bracket"),
        ("10.2.0.0/16[web/443]", "protocol is one of"),
        ("10.2.0.0/16[tcp/70000]", "0 to 65535"),
        ("10.2.0.0/16[tcp/9-8]", "lower to a higher"),
        ("10.2.0.0/16[icmp/300]", "0 to 255"),
        ("10.2.0.0/16[0]", "1 to 255"),
        ("", "not an address"),
    ],
)
def test_a_faulty_text_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TrafficSelector.parse(text)


def test_icmp_types_and_codes_are_ports() -> None:
    selector = TrafficSelector.parse("10.0.0.0/8[icmp/3/4]")
    assert (selector.protocol, selector.start_port, selector.end_port) == (1, 772, 772)


def test_a_responder_narrows_to_its_own_selectors() -> None:
    assert narrow(parse_selectors(["10.0.0.0/8"]), parse_selectors(["10.2.0.0/16"])) == parse_selectors(["10.2.0.0/16"])


def test_nothing_in_common_narrows_to_nothing() -> None:
    assert narrow(parse_selectors(["10.0.0.0/8"]), parse_selectors(["192.168.0.0/16", "::/0"])) == ()


def test_the_specific_first_selector_vanishes_in_the_wider_one_that_holds_it() -> None:
    wide = parse_selectors(["198.51.100.0/24"])
    proposed = on_demand(wide, ipaddress.ip_address("198.51.100.43"), 6, 50_000)
    assert format_selectors(proposed) == "198.51.100.43[tcp/50000], 198.51.100.0/24"
    assert narrow(proposed, wide) == wide


def test_the_first_choice_survives_where_only_it_is_allowed() -> None:
    proposed = on_demand(parse_selectors(["198.51.100.0/24"]), ipaddress.ip_address("198.51.100.43"), 6, 443)
    assert format_selectors(narrow(proposed, parse_selectors(["198.51.100.43"]))) == "198.51.100.43"


def test_a_packet_outside_the_policy_adds_no_selector() -> None:
    selectors = parse_selectors(["198.51.100.0/24"])
    assert on_demand(selectors, ipaddress.ip_address("203.0.113.1"), 6, 443) == selectors


def test_a_peer_that_sends_many_selectors_is_heard_up_to_a_bound() -> None:
    many = parse_selectors(f"10.{n // 256}.{n % 256}.0/32" for n in range(300))
    assert len(narrow(many, parse_selectors(["0.0.0.0/0"]))) == MAX_SELECTORS


def test_any_ports_include_packets_that_show_none_and_a_range_does_not() -> None:
    address = ipaddress.ip_address("10.0.0.1")
    assert TrafficSelector.parse("10.0.0.0/8[tcp]").contains(address, 6, None)
    assert TrafficSelector.parse("10.0.0.0/8[tcp/opaque]").contains(address, 6, None)
    assert not TrafficSelector.parse("10.0.0.0/8[tcp/0-65534]").contains(address, 6, None)
    assert not TrafficSelector.parse("10.0.0.0/8[tcp/opaque]").contains(address, 6, 80)


def test_two_halves_cover_the_whole() -> None:
    assert covers(parse_selectors(["10.0.0.0/9", "10.128.0.0/9"]), parse_selectors(["10.0.0.0/8"]))
    assert not covers(parse_selectors(["10.0.0.0/9", "10.128.0.0/10"]), parse_selectors(["10.0.0.0/8"]))


def test_selectors_with_swapped_ends_select_nothing() -> None:
    low, high = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.9")
    swapped = TrafficSelector.between(high, low)
    assert swapped.is_empty
    assert intersect((swapped,), parse_selectors(["0.0.0.0/0"])) == ()
    assert TrafficSelector.between(low, high, 0, 80, 80).is_empty


def test_a_range_becomes_the_fewest_prefixes() -> None:
    prefixes = to_prefixes(parse_selectors(["2001:db8::/64", "10.0.0.1-10.0.0.6", "10.0.0.7"]))
    assert [str(p) for p in prefixes] == ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/30", "2001:db8::/64"]


def test_the_answer_flows_the_other_way() -> None:
    flow = Flow(ipaddress.ip_address("10.1.0.1"), ipaddress.ip_address("10.2.0.1"), 6, 50_000, 443)
    assert flow.reversed().reversed() == flow
    assert flow.reversed().source_port == 443


def test_a_protocol_is_a_number_up_to_the_bound() -> None:
    assert TrafficSelector.parse(f"10.2.0.0/16[{MAX_PROTOCOL}]").protocol == MAX_PROTOCOL == 2**8 - 1
    with pytest.raises(ValueError, match=f"not '{MAX_PROTOCOL + 1}'"):
        TrafficSelector.parse(f"10.2.0.0/16[{MAX_PROTOCOL + 1}]")
