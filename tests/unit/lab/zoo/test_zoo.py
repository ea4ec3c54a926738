"""The zoo without a network: what is raised for a choice, what is promised, and how rows are shown."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from openmoat.config.options import CHILD
from openmoat.errors import FieldError
from openmoat_lab.zoo import network, programs
from openmoat_lab.zoo.catalog import (
    MAX_FIRST_OCTET,
    OUTERS,
    PATHS,
    PEER_OURS,
    PEER_SWAN,
    POLICIES,
    SERVERS,
    Outer,
    Policy,
    Row,
    is_kept,
    is_promised,
)
from openmoat_lab.zoo.results import SCHEMA, broken, to_json, to_markdown, to_text, verdict
from openmoat_lab.zoo.run import Options, scenes

FIELDS = [
    "path",
    "policy",
    "class",
    "inner",
    "outer",
    "peer",
    "first_octet_s",
    "octets",
    "complete",
    "fragments_at_sink",
]


def row(**changes: Any) -> Row:
    fields: dict[str, Any] = {
        "path": "clean1500",
        "policy": "virtual",
        "server": "naughty",
        "inner": "IPv4",
        "outer": "IPv4",
        "peer": PEER_OURS,
        "first_octet_s": 0.02,
        "octets": 300_000,
        "complete": True,
        "fragments_at_sink": 0,
    }
    return Row(**{**fields, **changes})


NEVER = {"first_octet_s": None, "octets": 0, "complete": False}


def test_all_eight_kinds_of_servers_meet_all_policies_on_all_paths() -> None:
    assert len(SERVERS) == 8
    ours = [scene for scene in scenes(Options()) if scene.peer == PEER_OURS]
    assert {scene.path.name for scene in ours} == set(PATHS)
    assert {scene.outer.name for scene in ours} == set(OUTERS)
    for scene in ours:
        assert {transfer.policy for transfer in scene.transfers} == set(POLICIES)
        assert {transfer.server for transfer in scene.transfers if transfer.inner == "IPv4"} == set(SERVERS)
        assert {transfer.inner for transfer in scene.transfers} == {"IPv4", "IPv6"}


def test_strongswan_is_met_on_the_five_paths_with_what_makes_a_difference_there() -> None:
    swan = [scene for scene in scenes(Options()) if scene.peer == PEER_SWAN]
    assert [scene.path.name for scene in swan] == ["clean1500", "nofrags1500", "min1400", "blackhole1400", "sinknofrag"]
    assert all("ladder" not in {transfer.policy for transfer in scene.transfers} for scene in swan)


def test_quick_is_the_promise_on_two_paths_unless_more_is_named() -> None:
    quick = scenes(Options(is_quick=True))
    assert [(scene.path.name, scene.outer.name, scene.peer) for scene in quick] == [
        ("clean1500", "IPv4", PEER_OURS),
        ("blackhole1400", "IPv4", PEER_OURS),
    ]
    assert {transfer.policy for scene in quick for transfer in scene.transfers} == {"virtual"}
    named = scenes(
        Options(is_quick=True, paths=("min1400",), policies=("clamp",), servers=("udp-df",), inners=("IPv6",))
    )
    assert [len(scene.transfers) for scene in named] == [1]
    assert named[0].path.name == "min1400"


@pytest.mark.parametrize("what", ["paths", "policies", "servers", "inners", "outers", "peers"])
def test_a_name_that_there_is_not_is_told_with_those_that_there_are(what: str) -> None:
    named: dict[str, Any] = {what: ("unicorn",)}
    with pytest.raises(ValueError, match="'unicorn'"):
        Options(**named)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_every_policy_is_written_in_words_of_the_configuration(policy: Policy) -> None:
    table = {"local": ["10.1.0.0/16"], "remote": ["10.9.1.0/24"], **policy.words}
    errors: list[FieldError] = []
    CHILD.read(table, (), errors)
    assert errors == []


@pytest.mark.parametrize("outer", OUTERS.values(), ids=lambda outer: outer.name)
def test_every_server_and_every_address_of_the_client_is_in_the_network(outer: Outer) -> None:
    raised = network.network(SERVERS, PATHS["clean1500"], outer)
    addresses = {str(address.ip) for end in raised.ends() for address in end.addresses}
    for inner in ("IPv4", "IPv6"):
        assert {network.server_address(name, inner) for name in SERVERS} <= addresses
        assert {network.sink_address(name, inner) for name in POLICIES} <= addresses


def test_naughty_and_incorrigible_differ_in_their_firewall_alone() -> None:
    naughty, incorrigible = SERVERS["naughty"], SERVERS["incorrigible"]
    assert naughty.settings == incorrigible.settings
    eaten = network.network(SERVERS, PATHS["clean1500"], OUTERS["IPv4"]).host("fw1").drops
    assert any(network.server_address("incorrigible", "IPv4") in rule for rule in eaten)
    assert not any(f"{network.server_address('naughty', 'IPv4')} " in rule for rule in eaten)


def test_between_ours_everything_is_promised_from_1280_octets_on() -> None:
    for path in PATHS.values():
        promised = is_promised(row(path=path.name, server="udp-df"))
        assert promised == (path.mtu >= 1280), path.name
    assert not is_promised(row(policy="rfc4301"))


def test_towards_strongswan_tcp_is_promised_everywhere_and_all_else_where_fragments_pass() -> None:
    assert is_promised(row(peer=PEER_SWAN, path="blackhole1400"))
    assert is_promised(row(peer=PEER_SWAN, path="min1400", server="udp-df"))
    assert not is_promised(row(peer=PEER_SWAN, path="blackhole1400", server="udp-df"))


@pytest.mark.parametrize(
    "changes",
    [NEVER, {"complete": False}, {"fragments_at_sink": 1}, {"path": "shrink1400", "recovery_s": 1.01}],
    ids=["never", "cut", "in fragments", "slow to recover"],
)
def test_a_promise_is_broken_by_whatever_does_not_arrive_whole_and_in_time(changes: Mapping[str, Any]) -> None:
    assert is_kept(row())
    assert broken([row(), row(**changes)]) == [row(**changes)]
    assert " !" in to_text([row(**changes)])


def test_udp_that_is_lost_while_a_path_shrinks_is_nobodys_promise() -> None:
    assert is_kept(row(path="shrink1400", server="udp-df", recovery_s=0.4, complete=False))
    assert not is_kept(row(path="shrink1400", recovery_s=0.4, complete=False))


def test_json_has_the_fields_of_its_schema_and_null_for_never() -> None:
    told = json.loads(to_json([row(), row(**NEVER), row(path="shrink1400", recovery_s=0.5)]))
    assert told["schema"] == SCHEMA == "moat.zoo/1"
    assert list(told["rows"][0]) == FIELDS
    assert told["rows"][0]["class"] == "naughty"
    assert told["rows"][1]["first_octet_s"] is None
    assert told["rows"][2]["recovery_s"] == 0.5


ROWS = [
    row(policy="rfc4301", **NEVER),
    row(),
    row(policy="rfc4301", inner="IPv6", first_octet_s=6.54),
    row(inner="IPv6", first_octet_s=0.31, fragments_at_sink=2),
    row(path="shrink1400", first_octet_s=0.2, recovery_s=0.62),
    row(peer=PEER_SWAN, octets=512, complete=False),
]


def test_the_table_has_a_block_for_each_scene_a_line_for_each_server_and_a_column_for_each_policy() -> None:
    assert to_text(ROWS).splitlines() == [
        "clean1500, outside IPv4: 1500 octets, nothing is lost",
        "                 rfc4301  virtual",
        "  naughty        never    .",
        "  naughty, IPv6  6.5      0.3 (f) !",
        "",
        "shrink1400, outside IPv4: 1500 octets, in mid-transfer 1400, in silence",
        "           virtual",
        "  naughty  0.2 +0.6",
        "",
        "clean1500, outside IPv4, far gateway strongswan: 1500 octets, nothing is lost",
        "           virtual",
        "  naughty  . cut !",
        "",
        "Seconds until the first octet arrived; . is less than 0.1 s. (f): the client saw fragments. cut: it began, but did",
        "not arrive whole. +N: the longest pause. !: this breaks a promise.",
        "",
        "6 transfers; promised to arrive whole: 4; 2 did not",
    ]


def test_markdown_has_the_same_cells() -> None:
    lines = to_markdown(ROWS).splitlines()
    assert lines[:5] == [
        "**clean1500, outside IPv4: 1500 octets, nothing is lost**",
        "",
        "|  | rfc4301 | virtual |",
        "| --- | --- | --- |",
        "| naughty | never | . |",
    ]


def test_where_nothing_is_promised_the_verdict_says_so() -> None:
    assert verdict([row(policy="clamp")]) == "1 transfer; nothing is promised"


def test_what_is_sent_can_be_told_from_any_part_of_it_that_is_missing() -> None:
    whole = programs.body(100_001)
    assert len(whole) == 100_001
    assert len({whole[at : at + 8] for at in range(0, 100_000, 8)}) == 12_500
    assert [len(programs.datagram(3, 50, version)) for version in (4, 6)] == [1472, 1452]
    assert programs.datagram(3, 50, 4) != programs.datagram(4, 50, 4)


def test_the_slowest_server_that_recovers_by_itself_has_the_time_for_it() -> None:
    # tcp_retries1 = 6: black-hole detection of Linux begins (2^7 - 1) * 0.2 s after the first retransmission.
    retries = SERVERS["semi-naughty"].settings["ipv4/tcp_retries1"]
    assert 1.3 * (2 ** (retries + 1) - 1) * 0.2 < MAX_FIRST_OCTET
