import ipaddress
from collections.abc import Set as AbstractSet
from dataclasses import replace

from openmoat.net import Network
from openmoat.system.firewall import parse_foreign, parse_guard
from openmoat.system.guard import NO_GUARD, Guard, GuardSets, change_text, keep, removal_text


def net(text: str) -> Network:
    return ipaddress.ip_network(text)


def span(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last or first))


def guard(*prefixes: str) -> Guard:
    return Guard(device="moat0", sets=GuardSets([net(prefix) for prefix in prefixes], []).sets)


def test_a_pass_is_cut_out_of_the_guarded_prefix_around_it() -> None:
    sets = GuardSets([net("10.0.0.0/8")], [net("10.2.0.0/16")]).sets
    assert sets["guarded4"] == {span("10.0.0.0-10.1.255.255"), span("10.3.0.0-10.255.255.255")}


def test_a_guarded_prefix_inside_a_pass_is_guarded_again() -> None:
    sets = GuardSets([net("10.0.0.0/8"), net("10.2.3.0/24")], [net("10.2.0.0/16")]).sets
    assert span("10.2.3.0-10.2.3.255") in sets["guarded4"]


def test_of_equal_prefixes_the_pass_decides() -> None:
    assert GuardSets([net("10.0.0.0/8")], [net("10.0.0.0/8")]).sets["guarded4"] == frozenset()


def test_prefixes_that_touch_are_one_range() -> None:
    assert GuardSets([net("10.0.0.0/24"), net("10.0.1.0/24")], []).sets["guarded4"] == {span("10.0.0.0-10.0.1.255")}


def test_what_only_the_whole_house_covers_stands_apart_and_leaves_out_what_never_leaves_a_link() -> None:
    sets = GuardSets([net("::/0"), net("2001:db8:2::/48")], []).sets
    assert sets["guarded6"] == {span("2001:db8:2::-2001:db8:2:ffff:ffff:ffff:ffff:ffff")}
    covered = [address for address in ("::1", "2001:db8:3::1", "ff05::1") if holds(sets["rest6"], address)]
    assert covered == ["::1", "2001:db8:3::1", "ff05::1"]
    assert not any(holds(sets["rest6"], address) for address in ("::", "fe80::1", "ff02::1", "2001:db8:2::1"))


def holds(ranges: AbstractSet[tuple[int, int]], address: str) -> bool:
    return any(first <= int(ipaddress.ip_address(address)) <= last for first, last in ranges)


def test_a_kept_network_gives_way_to_guarded_prefixes_inside_it() -> None:
    rows = keep("eth1", net("10.0.0.0/8"), [net("10.2.0.0/16"), net("192.168.0.0/16"), net("fd00::/8")])
    assert [(row.first, row.last) for row in rows] == [span("10.0.0.0-10.1.255.255"), span("10.3.0.0-10.255.255.255")]


def test_one_more_prefix_is_one_element_and_an_equal_guard_is_no_text() -> None:
    have, want = guard("10.2.0.0/16"), guard("10.2.0.0/16", "10.9.0.0/16")
    assert change_text(have, want) == "add element inet openmoat guarded4 { 10.9.0.0-10.9.255.255 }\n"
    assert change_text(want, have) == "delete element inet openmoat guarded4 { 10.9.0.0-10.9.255.255 }\n"
    assert change_text(have, have) == ""


def test_another_frame_replaces_the_table_within_one_transaction() -> None:
    text = change_text(guard("10.2.0.0/16"), replace(guard("10.2.0.0/16"), restore=("net/ipv4/ip_forward: 0 -> 1",)))
    assert text.startswith(removal_text() + "table inet openmoat {")
    assert "elements = { 10.2.0.0-10.2.255.255 };" in text
    assert 'comment "before: net/ipv4/ip_forward: 0 -> 1"' in text


def test_other_ports_of_our_own_pass_instead_of_the_usual_ones() -> None:
    text = change_text(NO_GUARD, replace(guard("0.0.0.0/0"), ports=(10500, 14500)))
    assert "udp sport { 10500, 14500 } accept" in text
    assert "udp dport { 10500, 14500 } accept" in text
    assert "4500 }" not in text.replace("14500 }", "")


def test_a_table_nobody_can_read_is_replaced_and_one_without_purpose_is_removed() -> None:
    unreadable = parse_guard({"nftables": [{"table": {"name": "openmoat"}}]})
    assert change_text(unreadable, guard("10.2.0.0/16")).startswith("add table")
    assert change_text(unreadable, NO_GUARD) == removal_text()
    assert change_text(NO_GUARD, NO_GUARD) == ""


def chain(family: str, table: str, name: str, **more: object) -> dict[str, object]:
    return {"chain": {"family": family, "table": table, "name": name, **more}}


def rule(family: str, table: str, name: str, *expressions: object) -> dict[str, object]:
    return {"rule": {"family": family, "table": table, "chain": name, "expr": list(expressions)}}


def match(key: str, operator: str, right: object) -> dict[str, object]:
    return {"match": {"op": operator, "left": {"meta": {"key": key}}, "right": right}}


FORWARD = chain("ip", "filter", "FORWARD", hook="forward", policy="drop")
POSTROUTING = chain("ip", "nat", "POSTROUTING", hook="postrouting", policy="accept")


def notes(*rows: object) -> list[str]:
    return parse_foreign({"nftables": list(rows)}, "moat0")


def test_a_forward_policy_of_drop_is_noted_with_the_rules_to_add() -> None:
    [note] = notes(FORWARD)
    assert 'nft insert rule ip filter FORWARD iifname "moat0" accept' in note
    assert 'nft insert rule ip filter FORWARD oifname "moat0" accept' in note


def test_a_forward_policy_with_a_rule_for_the_device_is_fine() -> None:
    accept: dict[str, object] = {"accept": None}
    assert notes(FORWARD, rule("ip", "filter", "FORWARD", match("iifname", "==", "moat0"), accept)) == []
    assert (
        notes(FORWARD, rule("ip", "filter", "FORWARD", match("iifname", "==", {"set": ["a", "moat0"]}), accept)) == []
    )
    assert notes(FORWARD, rule("ip", "filter", "FORWARD", match("oifname", "==", "moat*"), accept)) == []
    assert len(notes(FORWARD, rule("ip", "filter", "FORWARD", match("iifname", "==", "eth0"), accept))) == 1


def test_masquerading_is_noted_only_where_it_would_catch_the_device() -> None:
    masquerade: dict[str, object] = {"masquerade": None}
    place = ("ip", "nat", "POSTROUTING")
    assert len(notes(POSTROUTING, rule(*place, masquerade))) == 1
    assert len(notes(POSTROUTING, rule(*place, match("oifname", "!=", "lo"), masquerade))) == 1
    assert notes(POSTROUTING, rule(*place, match("oifname", "==", "eth0"), masquerade)) == []
    assert notes(POSTROUTING, rule(*place, match("oifname", "!=", "moat0"), masquerade)) == []
    before = rule(*place, match("oifname", "==", "moat0"), {"accept": None})
    assert notes(POSTROUTING, before, rule(*place, masquerade)) == []
