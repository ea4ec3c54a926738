"""Who holds a connection holds a valid one."""

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from openmoat.crypto.identities import Identity, IdentityPattern, PatternKind
from openmoat.crypto.numbers import IdType
from openmoat.crypto.suites import CHACHA20_POLY1305, ENCRYPTIONS, Aead
from openmoat.errors import FieldErrors
from openmoat.model.connection import (
    MAX_ADDRESSES,
    MAX_CHILDREN,
    MAX_ORDER,
    MAX_PRIORITY,
    MAX_REPLAY_WINDOW,
    Child,
    ChildLifetimes,
    Connection,
    IkeLifetimes,
    Peer,
    Psk,
    Start,
)
from openmoat.model.proposals import (
    DEFAULT_ESP_PROPOSALS,
    DEFAULT_IKE_PROPOSALS,
    format_esp_proposal,
    format_ike_proposal,
    parse_esp_proposal,
    parse_ike_proposal,
)
from openmoat.model.settings import Settings
from openmoat.mtu.words import MAX_MSS, MIN_MSS
from openmoat.policy.selectors import TrafficSelector, parse_selectors

HOME = Identity(IdType.FQDN, b"home.example")
PORTAL = IdentityPattern(PatternKind.EXACT, Identity(IdType.FQDN, b"portal.example"))


def child(**changes: Any) -> Child:
    fields: dict[str, Any] = {
        "name": "office",
        "local": parse_selectors(["10.1.0.0/24"]),
        "remote": parse_selectors(["10.2.0.0/16"]),
        "proposals": DEFAULT_ESP_PROPOSALS,
    }
    return Child(**{**fields, **changes})


def connection(**changes: Any) -> Connection:
    fields: dict[str, Any] = {
        "name": "home",
        "local_identity": HOME,
        "own": Psk("home"),
        "peer": Peer(addresses=(ipaddress.ip_address("192.0.2.1"),), identity=PORTAL, credential=Psk("home")),
        "children": (child(),),
        "proposals": DEFAULT_IKE_PROPOSALS,
    }
    return Connection(**{**fields, **changes})


def test_a_connection_with_defaults_is_valid() -> None:
    assert not connection().is_template


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "ho me"}, "^name: "),
        ({"children": ()}, "children: 1 to 64, not 0"),
        ({"children": (child(), child())}, "^children: office: more than one child has this name"),
        ({"proposals": ()}, "^proposals: "),
        ({"order": 1}, "^order: only with group, not alone; give all alternatives"),
        ({"group": "office", "order": MAX_ORDER + 1}, "^order: -1000 to 1000, not 1001"),
        ({"group": "of fice"}, "^group: 1 to 64 letters"),
        ({"peer": Peer(identity=PORTAL, credential=Psk("x"))}, "because the peer has no address"),
        (
            {
                "peer": Peer(
                    addresses=("portal.example",), identity=IdentityPattern(PatternKind.ANY), credential=Psk("x")
                )
            },
            "a template waits",
        ),
    ],
)
def test_a_faulty_connection_is_refused_with_the_field(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        connection(**changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": ""}, "^name: "),
        ({"local": ()}, "^local: 1 to 64 selectors, not 0"),
        ({"remote": parse_selectors(["2001:db8::/64"])}, "^remote: an address family"),
        (
            {"remote": (TrafficSelector.between(ipaddress.ip_address("10.0.0.9"), ipaddress.ip_address("10.0.0.1")),)},
            "selects nothing",
        ),
        ({"proposals": ()}, "^proposals: "),
        ({"replay_window": 100}, "^replay_window: a multiple of 64"),
        ({"replay_window": 0}, "noesn"),
        ({"tunnel_address": (ipaddress.ip_address("10.1.1.1"),)}, "^tunnel_address: one inside local, not 10.1.1.1"),
        ({"tunnel_address": (ipaddress.ip_address("fd00::1"),)}, "^tunnel_address: one inside local"),
        ({"tunnel_address": tuple(map(ipaddress.ip_address, ["10.1.0.1", "10.1.0.2"]))}, "one of each family"),
        ({"path_mtu": 100}, "^path_mtu: 576 to 65535, not 100"),
        ({"mss": MIN_MSS - 1}, "^mss: 536 to 65495, not 535"),
        ({"mss": MAX_MSS + 1}, "^mss: 536 to 65495, not 65496"),
        ({"priority": 5000}, "^priority: "),
    ],
)
def test_a_faulty_child_is_refused_with_the_field(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        child(**changes)


def test_all_that_is_wrong_with_an_object_is_told_together() -> None:
    with pytest.raises(FieldErrors) as caught:
        child(priority=MAX_PRIORITY + 1, replay_window=1, name="")
    assert [error.path for error in caught.value.errors] == [("name",), ("priority",), ("replay_window",)]


def test_a_template_waits_for_its_peers() -> None:
    anyone = Peer(identity=IdentityPattern(PatternKind.ANY), credential=Psk("x"))
    assert connection(peer=anyone, children=(child(start=Start.NONE),)).is_template


def test_a_window_of_nothing_needs_short_sequence_numbers() -> None:
    proposals = tuple(replace(proposal, esn=(False,)) for proposal in DEFAULT_ESP_PROPOSALS)
    assert child(replay_window=0, proposals=proposals).replay_window == 0


@pytest.mark.parametrize("name", ["portal.example", "portal", "a-b.example.", "_moat.example"])
def test_a_peer_may_be_a_dns_name(name: str) -> None:
    assert Peer(addresses=(name,), identity=PORTAL, credential=Psk("x")).addresses == (name,)


@pytest.mark.parametrize("name", ["", "a b", "-a.example", "portal..example", "x" * 64])
def test_what_is_no_dns_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^addresses: "):
        Peer(addresses=(name,), identity=PORTAL, credential=Psk("x"))


@pytest.mark.parametrize(
    ("lifetimes", "complaint"),
    [
        ({"rekey_after": 100.0, "hard": 100.0}, "^rekey_after: less than hard .100"),
        ({"rekey_octets": 10, "hard_octets": 5}, "^rekey_octets: less than hard_octets"),
        ({"rekey_packets": -1}, "^rekey_packets: 0 or more"),
        ({"jitter": 0.9}, "^jitter: 0 to 0.5"),
    ],
)
def test_lifetimes_end_after_they_are_renewed(lifetimes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ChildLifetimes(**lifetimes)


def test_a_limit_of_nothing_is_no_limit() -> None:
    assert IkeLifetimes(rekey_after=3600, hard=0).hard == 0
    with pytest.raises(ValueError, match="liveness_after"):
        IkeLifetimes(liveness_after=-1)


@pytest.mark.parametrize(
    "text",
    [
        "aes256gcm16-prfsha256-x25519",
        "aes256gcm16-chacha20poly1305-prfsha384-prfsha256-ecp256-x448",
        "aes128-aes256-sha256-sha512-prfsha256-modp2048",
    ],
)
def test_an_ike_proposal_is_written_as_it_was_read(text: str) -> None:
    assert format_ike_proposal(parse_ike_proposal(text)) == text


@pytest.mark.parametrize(
    "text", ["aes256gcm16", "aes128-sha256-x25519-noesn", "null-aes128gmac-esn", "aes128gcm16-ecp256"]
)
def test_an_esp_proposal_is_written_as_it_was_read(text: str) -> None:
    assert format_esp_proposal(parse_esp_proposal(text)) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("aes256x-prfsha256-x25519", 'no algorithm "aes256x". Did you mean "aes256"'),
        ("aes256gcm16-prfsha256", "a key exchange is needed"),
        ("aes256gcm16-x25519", "a PRF is needed"),
        ("aes256-prfsha256-x25519", "aes256 needs an integrity algorithm"),
        ("aes256gcm16-sha256-prfsha256-x25519", "leave sha256 out"),
        ("aes256gcm16-aes256-sha256-prfsha256-x25519", "a proposal each"),
        ("null-aes128gmac-prfsha256-x25519", "RFC 8247"),
        ("aes256gcm16-aes256gcm16-prfsha256-x25519", "twice"),
        ("aes256gcm16-prfsha256-x25519-esn", 'no algorithm "esn"'),
        ("", "an encryption algorithm"),
    ],
)
def test_a_faulty_ike_proposal_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_ike_proposal(text)


def test_an_esp_proposal_has_no_prf() -> None:
    with pytest.raises(ValueError, match='no algorithm "prfsha256"'):
        parse_esp_proposal("aes256gcm16-prfsha256")


def test_the_defaults_hold_no_weak_algorithm_and_put_aeads_first() -> None:
    strong = {row.name for row in ENCRYPTIONS if row.ike.value in {"must", "should"}}
    for proposal in DEFAULT_IKE_PROPOSALS:
        assert {row.name for row in proposal.encryptions} <= strong
    assert CHACHA20_POLY1305 in DEFAULT_IKE_PROPOSALS[0].encryptions
    assert all(isinstance(row, Aead) for row in DEFAULT_ESP_PROPOSALS[0].encryptions)
    assert DEFAULT_IKE_PROPOSALS[-1].key_exchanges[-1].name == "modp2048"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"device": "a" * 16}, "^device: "),
        ({"control_socket": "control.sock"}, "^control_socket: "),
        ({"fragment_size": 0}, "^fragment_size: 576 to 65535, not 0"),
        ({"log_level": "loud"}, "^log_level: "),
    ],
)
def test_faulty_settings_are_refused_with_the_field(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Settings(**changes)


def test_a_connection_has_children_up_to_the_bound() -> None:
    children = tuple(child(name=f"c{number}") for number in range(MAX_CHILDREN + 1))
    assert len(connection(children=children[:-1]).children) == MAX_CHILDREN
    with pytest.raises(ValueError, match=f"^children: 1 to {MAX_CHILDREN}, not {MAX_CHILDREN + 1}"):
        connection(children=children)


def test_a_peer_has_addresses_up_to_the_bound() -> None:
    addresses = tuple(ipaddress.ip_address("192.0.2.1") + number for number in range(MAX_ADDRESSES + 1))
    peer = Peer(addresses=addresses[:-1], identity=PORTAL, credential=Psk("home"))
    assert len(peer.addresses) == MAX_ADDRESSES
    with pytest.raises(ValueError, match=f"^addresses: {MAX_ADDRESSES} at most, not {MAX_ADDRESSES + 1}"):
        replace(peer, addresses=addresses)


def test_a_replay_window_is_as_wide_as_the_bound_and_not_one_step_wider() -> None:
    assert child(replay_window=MAX_REPLAY_WINDOW).replay_window == MAX_REPLAY_WINDOW == 4096
    with pytest.raises(ValueError, match=f"0 to {MAX_REPLAY_WINDOW}, not {MAX_REPLAY_WINDOW + 64}"):
        child(replay_window=MAX_REPLAY_WINDOW + 64)
