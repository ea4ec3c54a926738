"""What strangers, and peers that have turned hostile, can make an endpoint do: nothing to others, and little to us."""

import itertools
from dataclasses import replace
from ipaddress import ip_address

import pytest

from openmoat.crypto.identities import Identity
from openmoat.errors import Secret
from openmoat.ike.config import IkeConfig
from openmoat.ike.endpoint import MAX_INIT
from openmoat.ike.events import (
    AskInstall,
    ChildSaDown,
    ChildSaUp,
    DownReason,
    IkeSaUp,
    NegotiationFailed,
    Question,
    Refused,
)
from openmoat.ike.exchanges import sa_init
from openmoat.ike.wire.message import HEADER_SIZE, Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, PayloadType, ProtocolId
from openmoat.ike.wire.payloads import (
    Auth,
    Delete,
    IdInitiator,
    Nonce,
    Notify,
    SecurityAssociation,
    TsInitiator,
    TsResponder,
    Unknown,
)
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import parse_selectors
from scenario.chaos import faults
from scenario.forge import UNKNOWN_PEER, answered, core, establish, init_request, offer_of, request
from scenario.link import Host, Link, child, connection, two_hosts

# Before authentication.


LEFT_OUT = [
    kinds
    for size in (1, 2, 3)
    for kinds in itertools.combinations((IdInitiator, Auth, SecurityAssociation, TsInitiator, TsResponder), size)
]


@pytest.mark.parametrize("left_out", LEFT_OUT, ids=lambda kinds: "-".join(kind.__name__ for kind in kinds))
def test_ike_auth_with_payloads_left_out_gets_a_notify_and_leaves_no_sa(left_out: tuple[type, ...]) -> None:
    link = Link()
    home, portal = two_hosts(link, retry=False)
    for _ in range(2):
        link.deliver()
    sa = core(home)
    genuine = link.flights.pop()
    assert portal.ike_sas() == []
    message = sa.open(genuine.octets)
    kept = tuple(payload for payload in message.payloads if not isinstance(payload, left_out))
    forged = sa.seal(Message(message.header, kept))
    replies = answered(portal, forged, genuine.path)
    is_childless = not {SecurityAssociation, TsInitiator, TsResponder} - set(left_out)
    if is_childless and not {IdInitiator, Auth} & set(left_out):
        assert len(portal.ike_sas()) == 1
    else:
        assert len(replies) == 1
        assert portal.ike_sas() == []
        assert not portal.sas


def test_a_malformed_first_message_and_then_an_exchange_on_its_spi_find_nothing() -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None))
    path = Path(HostPort(portal.address, 500), UNKNOWN_PEER)
    octets = init_request(1)
    answered(portal, octets[: HEADER_SIZE + 4] + bytes(len(octets) - HEADER_SIZE - 4), path)
    header = Header.parse(octets)
    for exchange in ExchangeType:
        forged = Header(header.initiator_spi, 0, exchange, True, False, 1)
        answered(portal, Message(forged, ()).emit(), path)
    assert portal.endpoint.ike_sas() == []


@pytest.mark.parametrize("exchange", [ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA])
def test_no_exchange_counts_before_ike_auth_even_under_good_keys(exchange: ExchangeType) -> None:
    link = Link()
    home, portal = two_hosts(link)
    for _ in range(2):
        link.deliver()
    genuine = link.flights.pop()
    sa = core(home)
    sa.next_id = 1
    assert [row.state for row in portal.endpoint.ike_sas()] == ["InitAnswered"]
    # Keys are computed for IKE_AUTH only; with one that does not open they are there, and nothing else is.
    spoiled = genuine.octets[:-1] + bytes([genuine.octets[-1] ^ 1])
    answered(portal, spoiled, genuine.path)
    assert [row.state for row in portal.endpoint.ike_sas()] == ["AwaitingAuth"]
    nonce = Nonce(bytes(32))
    for payloads in ((), (Delete.ike(),), (nonce,), (Notify(NotifyType.REKEY_SA, protocol=ProtocolId.IKE), nonce)):
        assert answered(portal, request(sa, exchange, *payloads), genuine.path) == []
        sa.next_id = 1
    assert portal.told(IkeSaUp) == []
    assert answered(portal, genuine.octets, genuine.path) != []  # and the genuine one is still welcome
    link.settle()
    assert faults(home, portal) == []


def test_a_corrupt_ike_auth_neither_ends_the_sa_nor_uses_up_its_keys() -> None:
    link = Link()
    home, portal = two_hosts(link)
    link.deliver()
    link.deliver()
    genuine = link.flights[0]
    for place in range(HEADER_SIZE + 4, len(genuine.octets), 7):
        octets = bytearray(genuine.octets)
        octets[place] ^= 0x55
        assert answered(portal, bytes(octets), genuine.path) == []
    assert portal.endpoint.counts()["bad_icv"] > 10
    link.settle()
    assert faults(home, portal) == []


def test_what_a_refused_stranger_says_after_that_is_counted_and_no_fault() -> None:
    link = Link()
    home, portal = two_hosts(link)
    home.own_psk = Secret(b"a guess of somebody else")
    link.deliver()
    link.deliver()
    sa = core(home)
    link.deliver()
    assert [failed.text for failed in portal.told(NegotiationFailed)]
    path = Path(HostPort(portal.address, 500), HostPort(home.address, 500))
    malformed = portal.endpoint.counts().get("malformed", 0)
    for _ in range(3):
        sa.next_id = 2
        short = Unknown(PayloadType.DELETE, is_critical=False, octets=b"?")
        assert answered(portal, request(sa, ExchangeType.INFORMATIONAL, short), path) == []
    assert portal.endpoint.counts()["malformed"] == malformed + 3
    assert len(portal.told(NegotiationFailed)) == 1


def test_a_stranger_that_goes_on_to_ike_auth_holds_a_bounded_number_of_datagrams() -> None:
    link = Link()
    _, portal = two_hosts(link)
    portal.holds = lambda question: type(question).__name__ == "AskSharedSecret"
    for _ in range(2):
        link.deliver()
    genuine = link.flights.pop()
    for number in range(100):
        answered(portal, genuine.octets[:-2] + number.to_bytes(2, "big"), genuine.path)
    assert len(portal.held) == 1  # one shared secret is computed, however many datagrams come
    assert portal.endpoint.counts()["held_too_many"] == 100 - sa_init.MAX_HELD


def test_what_is_held_for_a_stranger_is_bounded_in_octets_too() -> None:
    link = Link()
    _, portal = two_hosts(link)
    portal.holds = lambda question: type(question).__name__ == "AskSharedSecret"
    for _ in range(2):
        link.deliver()
    genuine = link.flights.pop()
    long = genuine.octets[:24] + (30_000).to_bytes(4, "big") + genuine.octets[28:]
    for _ in range(5):
        answered(portal, long + bytes(30_000 - len(long)), genuine.path)
    assert portal.endpoint.counts()["held_too_many"] == 5 - sa_init.MAX_HELD_OCTETS // 30_000


def test_a_first_message_of_excessive_length_is_dropped_before_anything_is_kept() -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None))
    genuine = Message.parse(init_request(1))
    notifies = (Notify(NotifyType.NO_NATS_ALLOWED, bytes(4000)),) * 5
    octets = Message(genuine.header, (*genuine.payloads, *notifies)).emit()
    assert len(octets) > MAX_INIT
    assert answered(portal, octets, Path(HostPort(portal.address, 500), UNKNOWN_PEER)) == []
    assert not portal.endpoint.ike_sas()
    assert portal.endpoint.counts()["init_too_long"] == 1


def test_half_open_sas_are_bounded_in_all_and_from_one_address_and_forgotten_in_time() -> None:
    link = Link()
    config = IkeConfig(max_half_open=20, max_half_open_per_source=5, cookie_threshold=1000)
    portal = link.host("portal", "198.51.100.1", config=config)
    portal.load(connection("portal.example", "home.example", None))
    local = HostPort(portal.address, 500)
    requests = [init_request(number) for number in range(60)]
    for octets in requests[:10]:
        answered(portal, octets, Path(local, UNKNOWN_PEER))
    assert len(portal.endpoint.ike_sas()) == 5
    assert portal.endpoint.counts()["half_open_source_limit"] == 5
    for number, octets in enumerate(requests[10:]):
        answered(portal, octets, Path(local, HostPort(ip_address(f"203.0.113.{number}"), 500)))
    assert len(portal.endpoint.ike_sas()) == 20
    assert portal.endpoint.counts()["half_open_limit"] == 35
    link.run(config.half_open_life + 1)
    assert portal.endpoint.ike_sas() == []
    assert portal.endpoint.poll_timeout() is None


def test_a_flood_of_first_messages_does_not_touch_who_is_established() -> None:
    link = Link()
    home = link.host("home", "192.0.2.1")
    portal = link.host("portal", "198.51.100.1", config=IkeConfig(max_half_open=10, cookie_threshold=5))
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.settle()
    for number in range(50):
        path = Path(HostPort(portal.address, 500), HostPort(ip_address(f"203.0.113.{number}"), 500))
        answered(portal, init_request(number), path)
    portal.do("rekey_child", portal.child().local_spi)
    link.settle()
    assert portal.child().remote_spi == home.child().local_spi
    assert portal.child().replaces is not None
    assert portal.endpoint.counts()["cookie_demanded"] > 0


def test_nobody_is_sent_more_than_three_times_what_he_sent_before_he_has_proved_his_address() -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None))
    octets = init_request(1)
    path = Path(HostPort(portal.address, 500), UNKNOWN_PEER)
    received = sent = 0
    for _ in range(3):
        sent += sum(map(len, answered(portal, octets, path)))
        received += len(octets)
    before = len(portal.transmits)
    link.run(100)
    assert len(portal.transmits) == before  # a responder never sends by itself
    assert sent <= 3 * received


def test_answers_to_unknown_spis_are_smaller_than_the_question_and_limited_in_rate() -> None:
    link = Link()
    _, portal = establish(link)
    path = Path(HostPort(portal.address, 500), UNKNOWN_PEER)
    replies: list[bytes] = []
    for number in range(1, 200):
        header = Header(number, number, ExchangeType.INFORMATIONAL, True, False, 0)
        forged = Message(header, ()).emit() + bytes(12)
        forged = forged[:24] + len(forged).to_bytes(4, "big") + forged[28:]
        replies += answered(portal, forged, path)
    assert len(replies) == 10
    assert portal.endpoint.counts()["answer_rate_limit"] == 189
    response = Header(1, 1, ExchangeType.INFORMATIONAL, True, True, 0)
    assert answered(portal, Message(response, ()).emit(), path) == []


def test_the_same_spi_from_two_addresses_makes_two_sas_and_the_same_request_only_one() -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None))
    octets = init_request(1)
    local = HostPort(portal.address, 500)
    first = answered(portal, octets, Path(local, UNKNOWN_PEER))
    assert answered(portal, octets, Path(local, UNKNOWN_PEER)) == first
    assert len(portal.endpoint.ike_sas()) == 1
    second = answered(portal, octets, Path(local, HostPort(ip_address("203.0.113.67"), 500)))
    assert len(portal.endpoint.ike_sas()) == 2
    assert Header.parse(first[0]).responder_spi != Header.parse(second[0]).responder_spi


def test_old_far_and_unasked_message_ids_get_the_kept_response_or_nothing() -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    good = request(sa, ExchangeType.INFORMATIONAL)
    response = answered(portal, good, path)
    assert len(response) == 1
    assert answered(portal, good, path) == response  # exactly the kept one
    # The same ID with other content: authentic, so its sender may have lost our response.
    sa.next_id -= 1
    assert answered(portal, request(sa, ExchangeType.INFORMATIONAL, Delete.ike()), path) == response
    assert len(portal.ike_sas()) == 1
    assert answered(portal, good[:-1] + bytes([good[-1] ^ 1]), path) == []  # not authentic: nothing
    sa.next_id += 100
    assert answered(portal, request(sa, ExchangeType.INFORMATIONAL), path) == []  # far ahead
    assert portal.endpoint.counts()["request_ahead"] == 1
    unasked = Header(sa.initiator_spi, sa.responder_spi, ExchangeType.INFORMATIONAL, True, True, 7)
    assert answered(portal, sa.seal(Message(unasked, ())), path) == []
    assert portal.endpoint.counts()["unexpected_response"] == 1


def test_a_spoofed_source_does_not_move_the_peer_and_a_replay_does_not_either() -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    good = request(sa, ExchangeType.INFORMATIONAL)
    elsewhere = Path(path.local, UNKNOWN_PEER)
    answered(portal, good[:-1] + bytes([good[-1] ^ 1]), elsewhere)
    assert portal.ike().path == path
    answered(portal, good, path)
    answered(portal, good, elsewhere)  # a replay: answered from what is kept, and nothing moves
    assert portal.ike().path == path


@pytest.mark.parametrize("message", [0, 1])
@pytest.mark.parametrize("place", range(0, 230, 9))
def test_a_changed_octet_of_ike_sa_init_never_leads_to_an_sa(message: int, place: int) -> None:
    link = Link()
    home, portal = two_hosts(link, retry=False)
    for _ in range(message):
        link.deliver()
    link.spoil(place)
    # Either it is dropped as malformed, or the AUTH payloads, which cover it, do not fit (RFC 7296 2.15).
    link.settle()
    assert not home.sas
    assert not portal.told(ChildSaUp) or not portal.sas


# Peers that are authenticated.


@pytest.mark.parametrize("protocol", [0, 1, 2, 255])
def test_a_rekey_that_names_no_esp_sa_gets_a_notify_and_the_sa_goes_on(protocol: int) -> None:
    link = Link()
    home, portal = establish(link)
    sa, old = core(home), home.child()
    rekey = Notify(NotifyType.REKEY_SA, protocol=ProtocolId(protocol), spi=old.local_spi.to_bytes(4, "big"))
    offer = offer_of(home)
    replies = answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, rekey, *offer), portal.ike().path)
    assert len(replies) == 1
    assert len(portal.ike_sas()) == 1
    assert len(portal.sas) == 1


def test_one_child_rekeyed_twice_before_its_delete_keeps_one_successor() -> None:
    link = Link()
    home, portal = establish(link)
    sa, old, path = core(home), home.child(), portal.ike().path
    rekey = Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=old.local_spi.to_bytes(4, "big"))
    for number in range(2):
        offer = offer_of(home, spi=0xCAFE0001 + number)
        answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, rekey, *offer), path)
    assert len(portal.sas) == 2  # the old one and one successor; the second got TEMPORARY_FAILURE
    answered(portal, request(sa, ExchangeType.INFORMATIONAL, Delete(ProtocolId.ESP, (old.local_spi,))), path)
    assert len(portal.sas) == 1
    assert next(iter(portal.sas.values())).is_active


def test_a_peer_cannot_make_us_keep_more_children_than_the_bound() -> None:
    link = Link()
    home = link.host("home", "192.0.2.1")
    portal = link.host("portal", "198.51.100.1", config=IkeConfig(max_children=3))
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.settle()
    sa, path = core(home), portal.ike().path
    for number in range(6):
        offer = offer_of(home, spi=0xCAFE0001 + number)
        answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, *offer), path)
        link.flights.clear()
    assert len(portal.sas) <= 3
    assert portal.endpoint.counts()["children_limit"] >= 3


def three_peers(link: Link) -> tuple[Host, Host, Host]:
    portal = link.host("portal", "198.51.100.1")
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16")
    portal.load(connection("portal.example", "*.moats.example", None, there, name="moats"))
    homes = []
    for number in (1, 2):
        home = link.host(f"home{number}", f"192.0.2.{number}")
        own = child(local=f"10.1.{number}.0/24")
        home.load(connection(f"m{number}.moats.example", "portal.example", "198.51.100.1", own))
        homes.append(home)
    link.settle()
    return homes[0], homes[1], portal


def test_a_delete_or_initial_contact_of_one_peer_does_not_touch_another() -> None:
    link = Link()
    evil, victim, portal = three_peers(link)
    sa = core(evil)
    path = next(s.path for s in portal.endpoint.ike_sas() if s.peer == Identity.parse("m1.moats.example"))
    for spi in (victim.child().local_spi, victim.child().remote_spi):
        answered(portal, request(sa, ExchangeType.INFORMATIONAL, Delete(ProtocolId.ESP, (spi,))), path)
        rekey = Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=spi.to_bytes(4, "big"))
        answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, rekey, *offer_of(evil, local="10.1.1.0/24")), path)
    assert not portal.told(ChildSaDown)
    evil.restart()  # comes back with INITIAL_CONTACT
    link.settle()
    assert len(portal.sas) == 2
    assert {str(event.child.peer) for event in portal.told(ChildSaDown)} == {"m1.moats.example"}


def test_a_second_peer_that_claims_the_subnet_of_the_first_is_refused_with_its_name() -> None:
    link = Link()
    _, first, portal = three_peers(link)
    third = link.host("home3", "192.0.2.3")
    claim = child(local="10.1.2.0/24")
    third.load(connection("m3.moats.example", "portal.example", "198.51.100.1", claim, retry=False))
    link.settle()
    assert not third.sas
    assert first.child().local_spi in {sa.child.remote_spi for sa in portal.sas.values()}
    assert "m2.moats.example" in portal.told(NegotiationFailed)[-1].text
    assert portal.told(NegotiationFailed)[-1].selectors is not None


@pytest.mark.parametrize("claim", ["10.1.2.0/25", "10.1.2.7/32", "10.1.0.0/16", "10.1.1.128-10.1.2.0"])
def test_a_second_peer_that_claims_a_part_of_the_subnet_of_the_first_gets_none_of_its_packets(claim: str) -> None:
    link = Link()
    evil, victim, portal = three_peers(link)
    path = next(s.path for s in portal.endpoint.ike_sas() if s.peer == Identity.parse("m1.moats.example"))
    offer = offer_of(evil, local=claim)
    answered(portal, request(core(evil), ExchangeType.CREATE_CHILD_SA, *offer), path)
    assert len(portal.sas) == 2
    assert "m2.moats.example" in portal.told(NegotiationFailed)[-1].text
    victim.do("take_down", "portal")
    link.settle()
    offer = offer_of(evil, local=claim)
    answered(portal, request(core(evil), ExchangeType.CREATE_CHILD_SA, *offer), path)
    assert len(portal.sas) == 2  # what nobody holds any more can be had


@pytest.mark.parametrize("claim", ["10.2.0.5/32", "10.0.0.0/8", "198.51.100.1/32[udp/500]", "0.0.0.0/0"])
def test_a_peer_of_a_template_does_not_get_the_packets_to_our_own_side(claim: str) -> None:
    link = Link()
    portal, evil = link.host("portal", "198.51.100.1"), link.host("evil", "192.0.2.1")
    there = child(local="10.2.0.0/16", remote="0.0.0.0/0")
    portal.load(connection("portal.example", "*.moats.example", None, there, name="moats"))
    evil.load(
        connection("m1.moats.example", "portal.example", "198.51.100.1", child(local="10.1.1.0/24,198.51.100.0/24"))
    )
    link.settle()
    assert not portal.sas
    assert portal.told(NegotiationFailed)[-1].notify == NotifyType.TS_UNACCEPTABLE
    path = portal.ike().path
    answered(portal, request(core(evil), ExchangeType.CREATE_CHILD_SA, *offer_of(evil, local=claim)), path)
    assert not portal.sas
    assert "our own side" in portal.told(NegotiationFailed)[-1].text
    answered(portal, request(core(evil), ExchangeType.CREATE_CHILD_SA, *offer_of(evil, local="10.1.1.0/24")), path)
    assert len(portal.sas) == 1


def test_peers_of_a_template_that_speak_with_each_other_through_us_are_served() -> None:
    link = Link()
    portal, home = link.host("portal", "198.51.100.1"), link.host("home", "192.0.2.1")
    there = child(local="10.0.0.0/8", remote="10.0.0.0/8")
    portal.load(connection("portal.example", "*.moats.example", None, there, name="moats"))
    home.load(
        connection(
            "m1.moats.example", "portal.example", "198.51.100.1", child(local="10.1.1.0/24", remote="10.0.0.0/8")
        )
    )
    link.settle()
    assert len(portal.sas) == 1


def test_a_peer_whose_children_the_data_plane_refuses_does_not_spoil_the_stock_of_spis() -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    asked: list[int] = []

    def note(question: Question) -> bool:
        asked.extend([question.child.local_spi] if isinstance(question, AskInstall) else [])
        return False

    portal.holds = note
    portal.refuses = Refused(0, "another has these selectors", is_temporary=False)
    for _ in range(2 * portal.config.spi_stock):
        answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, *offer_of(home)), path)
    assert len(asked) == len(set(asked)) == 2 * portal.config.spi_stock
    portal.refuses = None
    portal.do("rekey_child", portal.child().local_spi)
    link.settle()
    assert portal.child().replaces is not None


def test_a_peer_that_answers_our_rekey_with_the_addresses_of_another_does_not_get_them() -> None:
    link = Link()
    evil, victim, portal = three_peers(link)
    ours = next(sa.child for sa in portal.sas.values() if str(sa.child.peer) == "m1.moats.example")
    honest = evil.connections["portal"]
    liar = replace(honest.children[0], local=parse_selectors(["10.1.2.0/25"]))
    evil.do("update", [replace(honest, children=(liar,))])
    portal.do("rekey_child", ours.local_spi)
    link.settle()
    held = [sa.child for sa in portal.sas.values() if str(sa.child.peer) == "m1.moats.example"]
    assert all(row.remote == parse_selectors(["10.1.1.0/24"]) for row in held)
    assert "m2.moats.example" in portal.told(NegotiationFailed)[-1].text
    assert victim.child().local_spi in {sa.child.remote_spi for sa in portal.sas.values()}


def test_selectors_beyond_our_policy_are_cut_to_it_and_foreign_ones_refused() -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    wide = offer_of(home, local="0.0.0.0/0", remote="0.0.0.0/0")
    answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, *wide), path)
    for held in portal.sas.values():
        assert held.child.local == parse_selectors(["10.2.0.0/16"])
        assert held.child.remote == parse_selectors(["10.1.0.0/16"])
    count = len(portal.sas)
    foreign = offer_of(home, local="10.2.0.1/32", remote="10.1.0.0/16")
    answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, *foreign), path)
    assert len(portal.sas) == count
    assert portal.told(NegotiationFailed)[-1].reason is DownReason.NO_COMMON_GROUND


def test_a_peer_that_rekeys_without_end_leaves_a_bounded_number_of_old_ike_sas() -> None:
    link = Link()
    home = link.host("home", "192.0.2.1")
    portal = link.host("portal", "198.51.100.1", config=IkeConfig(max_lingering=4))
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.settle()
    for _ in range(20):
        home.do("rekey_ike", home.ike().ike)
        link.settle()
    assert len(portal.endpoint.ike_sas()) + portal.endpoint.lingering <= 5
    assert portal.endpoint.counts()["lingering_limit"] >= 15
    assert faults(home, portal) == []


def test_the_ike_sas_of_one_identity_are_bounded() -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1", config=IkeConfig(max_ike_sas_per_peer=2))
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16")
    portal.load(connection("portal.example", "*.moats.example", None, there, name="moats"))
    for number in range(5):
        home = link.host(f"home{number}", f"192.0.2.{number + 1}")
        own = child(local=f"10.1.{number}.0/24")
        home.load(connection("m.moats.example", "portal.example", "198.51.100.1", own, retry=False))
        link.deliver()
        link.deliver()
        sa, genuine = core(home), link.flights[0]
        message = sa.open(genuine.octets)
        initial_contact = message.notify(NotifyType.INITIAL_CONTACT)
        kept = tuple(payload for payload in message.payloads if payload is not initial_contact)
        genuine.octets = sa.seal(Message(message.header, kept))
        link.settle()
    assert len(portal.ike_sas()) == 2
    assert portal.endpoint.counts()["ike_sas_per_peer_limit"] == 3
