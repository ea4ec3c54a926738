import ipaddress
from dataclasses import replace

from msgspec import structs

from openmoat.crypto.identities import Identity, IdentityPattern
from openmoat.crypto.suites import AES_128_GCM_16, AES_256_GCM_16, MODP_2048, PRF_HMAC_SHA2_256, X25519
from openmoat.ike.events import DownReason, NegotiationFailed
from openmoat.ike.negotiate.choice import offer_esp, offer_ike
from openmoat.ike.negotiate.explain import (
    MAX_CANDIDATES,
    MAX_FAILURES,
    MAX_FAILURES_PER_SOURCE,
    Failures,
    explain,
)
from openmoat.ike.wire.numbers import ExchangeType, NotifyType
from openmoat.ike.wire.proposals import emit_proposals
from openmoat.model.connection import Aggfrag, Child, Connection, EspProposal, IkeProposal, Peer, Psk, Start
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import parse_selectors

IKE = IkeProposal(encryptions=(AES_256_GCM_16,), prfs=(PRF_HMAC_SHA2_256,), key_exchanges=(X25519,))
OLD = IkeProposal(encryptions=(AES_256_GCM_16,), prfs=(PRF_HMAC_SHA2_256,), key_exchanges=(MODP_2048,))
ESP = EspProposal(encryptions=(AES_256_GCM_16,))


def path(remote: str) -> Path:
    return Path(HostPort(ipaddress.ip_address("192.0.2.1"), 500), HostPort(ipaddress.ip_address(remote), 500))


def connection(name: str, peer: str = "cabin.example", remote: str = "10.1.0.0/16") -> Connection:
    return Connection(
        name=name,
        local_identity=Identity.parse("gate.example"),
        own=Psk(name),
        peer=Peer(identity=IdentityPattern.parse(peer), credential=Psk(name)),
        children=(
            Child(
                name="lan",
                local=parse_selectors(["10.2.0.0/16"]),
                remote=parse_selectors([remote]),
                proposals=(ESP,),
                start=Start.NONE,
            ),
        ),
        proposals=(IKE,),
    )


INIT = NegotiationFailed(
    at=1.0,
    ike=7,
    connection=None,
    path=path("198.51.100.7"),
    is_initiator=False,
    exchange=ExchangeType.IKE_SA_INIT,
    notify=NotifyType.NO_PROPOSAL_CHOSEN,
    notify_sent=True,
    reason=DownReason.NO_COMMON_GROUND,
    text="no common proposal",
    proposals=emit_proposals(offer_ike((OLD,))),
)
AUTH = structs.replace(INIT, exchange=ExchangeType.IKE_AUTH, proposals=b"", peer=Identity.parse("cabin.example"))


def test_the_algorithm_that_is_not_shared_is_named_with_both_sides() -> None:
    explanation = explain(INIT, [connection("cabin")])
    assert str(explanation.candidates[0]) == "cabin: key exchange: ours is x25519; received modp2048"
    assert "IKE proposal 1: aes256gcm16, prfsha256, modp2048" in explanation.received


def test_the_connection_whose_identity_fits_comes_before_the_others() -> None:
    failure = structs.replace(
        AUTH,
        notify=NotifyType.TS_UNACCEPTABLE,
        selectors=(parse_selectors(["10.9.0.0/16"]), parse_selectors(["10.2.0.0/16"])),
    )
    rows = [connection("attic", "attic.example"), connection("cabin")]
    first, second = explain(failure, rows).candidates
    assert str(first) == "cabin: remote selectors of child lan: ours is 10.1.0.0/16; received 10.9.0.0/16"
    assert str(second) == "attic: identity of the peer: ours is attic.example; received cabin.example"


def test_an_identity_of_ours_that_nobody_has_is_named() -> None:
    failure = structs.replace(AUTH, asked_identity=Identity.parse("other.example"))
    assert explain(failure, [connection("cabin")]).candidates[0].field == "our identity"


def test_a_wrong_key_is_named_where_all_else_fits() -> None:
    failure = structs.replace(AUTH, reason=DownReason.AUTHENTICATION_FAILED, notify=NotifyType.AUTHENTICATION_FAILED)
    explanation = explain(failure, [connection("cabin")])
    assert explanation.candidates[0].field == "authentication"
    assert "moat keys show" in explanation.advice


def test_esp_proposals_are_compared_with_those_of_the_children() -> None:
    offered = EspProposal(encryptions=(AES_128_GCM_16,))
    failure = structs.replace(AUTH, proposals=emit_proposals(offer_esp((offered,), b"spi1", with_key_exchange=False)))
    candidate = explain(failure, [connection("cabin")]).candidates[0]
    assert (candidate.field, candidate.ours, candidate.received) == ("encryption", "aes256gcm16", "aes128gcm16")


def test_a_refusal_that_came_from_the_peer_says_what_to_compare() -> None:
    failure = structs.replace(
        INIT, is_initiator=True, connection="cabin", notify_sent=False, proposals=b"", reason=DownReason.REFUSED
    )
    explanation = explain(failure, [connection("attic"), connection("cabin")])
    assert explanation.candidates == ()
    assert "NO_PROPOSAL_CHOSEN received" in explanation.summary
    assert "compare proposals" in explanation.advice


def test_silence_is_explained_without_candidates() -> None:
    failure = structs.replace(
        INIT, is_initiator=True, connection="cabin", notify=None, proposals=b"", reason=DownReason.PEER_SILENT
    )
    assert "UDP 500 and 4500" in explain(failure, [connection("cabin")]).advice


def test_proposals_that_do_not_parse_explain_nothing_and_break_nothing() -> None:
    assert explain(structs.replace(INIT, proposals=b"\xff\xff"), [connection("cabin")]).candidates[0].field == "none"


def test_no_more_candidates_are_shown_than_the_bound() -> None:
    rows = [connection(f"c{number}", remote=f"10.{number}.0.0/16") for number in range(3, 60)]
    assert len(explain(INIT, rows).candidates) == MAX_CANDIDATES


def test_one_source_cannot_push_out_what_others_did() -> None:
    failures = Failures()
    other = failures.note(structs.replace(INIT, path=path("203.0.113.1")))
    numbers = [failures.note(INIT) for _ in range(1000)]
    assert failures.find(other) is not None
    assert [number for number, _ in failures.newest()] == [*reversed(numbers[-MAX_FAILURES_PER_SOURCE:]), other]


def test_strangers_make_room_before_connections_of_ours_do() -> None:
    failures = Failures()
    ours = failures.note(structs.replace(INIT, connection="cabin"))
    for number in range(2 * MAX_FAILURES):
        failures.note(structs.replace(INIT, path=path(str(ipaddress.ip_address("10.0.0.0") + number))))
    assert failures.find(ours) is not None
    assert len(failures.newest()) == MAX_FAILURES
    assert failures.newest("cabin") == [(ours, structs.replace(INIT, connection="cabin"))]


def test_an_address_that_is_not_the_configured_one_is_named_before_anybody_said_who_it_is() -> None:
    row = connection("cabin")
    row = replace(row, peer=replace(row.peer, addresses=(ipaddress.ip_address("203.0.113.5"),)))
    candidate = explain(INIT, [row]).candidates[0]
    assert (candidate.field, candidate.ours, candidate.received) == (
        "address of the peer",
        "203.0.113.5",
        "198.51.100.7",
    )


def test_our_side_of_the_traffic_is_compared_too() -> None:
    sides = (parse_selectors(["10.1.0.0/16"]), parse_selectors(["10.66.0.0/16"]))
    candidate = explain(structs.replace(AUTH, selectors=sides), [connection("cabin")]).candidates[0]
    assert str(candidate) == "cabin: local selectors of child lan: ours is 10.2.0.0/16; received 10.66.0.0/16"


def test_where_all_that_is_known_fits_it_says_so() -> None:
    candidate = explain(structs.replace(AUTH, reason=DownReason.PEER_MISBEHAVED), [connection("cabin")]).candidates[0]
    assert str(candidate) == "cabin: everything that is known fits"


def test_aggfrag_that_a_child_requires_is_named_where_everything_else_fits() -> None:
    row = connection("cabin")
    strict = replace(row, children=(replace(row.children[0], aggfrag=Aggfrag.REQUIRE),))
    failure = structs.replace(
        INIT,
        exchange=ExchangeType.IKE_AUTH,
        proposals=emit_proposals(offer_esp((ESP,), b"\0\0\1\0", with_key_exchange=False)),
        selectors=(row.children[0].remote, row.children[0].local),
        aggfrag_obstacle="not offered",
    )
    (candidate,) = explain(failure, [strict]).candidates
    assert (candidate.field, candidate.ours, candidate.received) == ("aggfrag of child lan", "require", "not offered")
    assert explain(failure, [row]).candidates[0].field == "none"
