"""IKE_SA_INIT and IKE_AUTH between two endpoints, message by message."""

from dataclasses import replace

from openmoat.crypto.suites import ECP_256, X25519
from openmoat.errors import Secret
from openmoat.ike.config import IkeConfig
from openmoat.ike.events import (
    Certificate,
    ChildSaUp,
    DownReason,
    IkeSaDown,
    IkeSaUp,
    NegotiationFailed,
    Refused,
    Transmit,
)
from openmoat.ike.exchanges.sa_init import MAX_RESTARTS
from openmoat.ike.upkeep import Phase
from openmoat.ike.wire.fragments import datagram_size
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType
from openmoat.ike.wire.payloads import Notify
from openmoat.model.connection import Start
from openmoat.policy.selectors import parse_selectors
from scenario.link import Host, Link, child, connection, ike_proposal, two_hosts


def assert_they_fit(home: Host, portal: Host) -> None:
    ours, theirs = next(iter(home.sas.values())), next(iter(portal.sas.values()))
    assert len(home.sas) == len(portal.sas) == 1
    assert (ours.child.local_spi, ours.child.remote_spi) == (theirs.child.remote_spi, theirs.child.local_spi)
    assert (ours.keys.inbound, ours.keys.outbound) == (theirs.keys.outbound, theirs.keys.inbound)
    assert (ours.child.local, ours.child.remote) == (theirs.child.remote, theirs.child.local)


def refuse(link: Link, notify: Notify) -> bytes:
    """What anybody could answer to the IKE_SA_INIT request on its way."""
    request = Header.parse(link.flights[0].octets)
    header = Header(request.initiator_spi, 0, ExchangeType.IKE_SA_INIT, False, True, 0)
    return Message(header, (notify,)).emit()


def test_two_endpoints_with_a_shared_secret_come_up_with_one_child_in_four_messages() -> None:
    link = Link()
    home, portal = two_hosts(link)
    # IKE_SA_INIT request -->, <-- IKE_SA_INIT response, IKE_AUTH request -->, <-- IKE_AUTH response
    kinds = [link.deliver().exchange for _ in range(4)]
    assert kinds == [ExchangeType.IKE_SA_INIT] * 2 + [ExchangeType.IKE_AUTH] * 2
    assert not link.flights
    assert_they_fit(home, portal)
    assert home.sending() is not None
    assert portal.sending() is not None
    assert len(home.told(IkeSaUp)) == len(portal.told(IkeSaUp)) == 1
    assert len(home.told(ChildSaUp)) == len(portal.told(ChildSaUp)) == 1
    assert home.endpoint.connections()[0].phase is Phase.UP


def test_the_responder_installs_before_the_response_lets_the_initiator_send() -> None:
    link = Link()
    _, portal = two_hosts(link)
    portal.holds = lambda question: type(question).__name__ == "AskInstall"
    for _ in range(3):
        link.deliver()
    sent = len(portal.transmits)
    assert not link.flights
    portal.release()
    assert len(portal.transmits) == sent + 1


def test_an_initiator_without_local_key_method_begins_again_with_the_one_the_responder_names() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.NONE)
    portal.load(connection("portal.example", "home.example", None, there, proposals=(ike_proposal(ECP_256),)))
    home.load(connection("home.example", "portal.example", "198.51.100.1", proposals=(ike_proposal(X25519, ECP_256),)))
    link.deliver()  # IKE_SA_INIT request {KE: X25519} -->
    link.deliver()  # <-- N(INVALID_KE_PAYLOAD: ECP-256)
    link.settle()
    assert_they_fit(home, portal)
    suite = home.ike().suite
    assert suite is not None
    assert suite.key_exchange is ECP_256


def test_a_responder_under_load_wants_its_cookie_back_before_it_keeps_anything() -> None:
    link = Link()
    home = link.host("home", "192.0.2.1")
    portal = link.host("portal", "198.51.100.1", config=IkeConfig(cookie_threshold=0))
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.NONE)
    portal.load(connection("portal.example", "home.example", None, there))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.deliver()  # IKE_SA_INIT request -->
    assert portal.endpoint.ike_sas() == []
    assert len(portal.transmits[0].octets) < len(home.transmits[0].octets)
    link.settle()  # <-- N(COOKIE), the request again with it -->, and so on
    assert_they_fit(home, portal)
    assert portal.endpoint.counts()["cookie_demanded"] == 1


def test_a_mangled_cookie_is_refused_and_counted() -> None:
    link = Link()
    home = link.host("home", "192.0.2.1")
    portal = link.host("portal", "198.51.100.1", config=IkeConfig(cookie_threshold=0))
    portal.load(connection("portal.example", "home.example", None, child(start=Start.NONE)))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    forged = refuse(link, Notify(NotifyType.COOKIE, b"forged"))
    path = home.endpoint.ike_sas()[0].path
    home.call("handle_datagram", forged, path, now=link.now)
    link.deliver()
    link.deliver()
    assert portal.endpoint.counts()["cookie_refused"] == 1
    assert portal.endpoint.ike_sas() == []


def test_an_unauthenticated_refusal_does_not_end_a_handshake() -> None:
    link = Link()
    home, portal = two_hosts(link)
    path = home.endpoint.ike_sas()[0].path
    home.call("handle_datagram", refuse(link, Notify(NotifyType.NO_PROPOSAL_CHOSEN)), path, now=link.now)
    link.settle()
    assert_they_fit(home, portal)


def test_a_refusal_that_nothing_better_follows_is_believed_in_the_end() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None, child(), proposals=(ike_proposal(ECP_256),)))
    home.load(connection("home.example", "portal.example", "198.51.100.1", proposals=(ike_proposal(X25519),)))
    link.run(10)
    failed = home.told(NegotiationFailed)[0]
    assert failed.reason is DownReason.NO_COMMON_GROUND
    assert failed.notify == NotifyType.NO_PROPOSAL_CHOSEN
    assert home.endpoint.connections()[0].phase is Phase.WAITING


def test_cookie_demands_without_end_are_not_followed_without_end() -> None:
    link = Link()
    home, _ = two_hosts(link)
    path = home.endpoint.ike_sas()[0].path
    for number in range(MAX_RESTARTS):
        home.call("handle_datagram", refuse(link, Notify(NotifyType.COOKIE, bytes([number]))), path, now=link.now)
        assert len(home.transmits) == number + 2
    assert "init_restart_limit" not in home.endpoint.counts()
    home.call("handle_datagram", refuse(link, Notify(NotifyType.COOKIE, b"more")), path, now=link.now)
    assert len(home.transmits) == MAX_RESTARTS + 1
    assert home.endpoint.counts()["init_restart_limit"] == 1


def test_a_wrong_secret_is_told_to_both_operators_and_leaves_no_sa() -> None:
    link = Link()
    home, portal = two_hosts(link, retry=False)
    portal.psk = Secret(b"something else")
    link.settle()
    assert not home.sas
    assert not portal.sas
    assert home.ike_sas() == portal.ike_sas() == []
    assert portal.told(NegotiationFailed)[0].reason is DownReason.AUTHENTICATION_FAILED
    assert home.told(NegotiationFailed)[0].notify == NotifyType.AUTHENTICATION_FAILED
    assert home.told(IkeSaDown)[0].reason is DownReason.AUTHENTICATION_FAILED


def test_an_initiator_that_cannot_authenticate_the_responder_tells_it() -> None:
    link = Link()
    home, portal = two_hosts(link, retry=False)
    portal.own_psk = Secret(b"something else")
    for _ in range(4):
        link.deliver()
    assert len(portal.ike_sas()) == 1  # it has answered, and cannot know yet
    assert link.deliver().exchange is ExchangeType.INFORMATIONAL  # N(AUTHENTICATION_FAILED) -->
    assert portal.ike_sas() == []
    assert portal.told(IkeSaDown)[0].reason is DownReason.AUTHENTICATION_FAILED
    link.settle()
    assert home.ike_sas() == []
    assert home.told(NegotiationFailed)[0].notify_sent, "the fault was found on this side"
    assert not home.sas
    assert not portal.sas


def test_an_identity_nobody_knows_is_refused_with_its_name() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "other.example", None, child()))
    home.load(connection("home.example", "portal.example", "198.51.100.1", retry=False))
    link.settle()
    assert "home.example" in portal.told(NegotiationFailed)[0].text
    assert home.endpoint.connections()[0].phase is Phase.FAILED


def test_selectors_without_common_ground_fail_the_child_and_not_the_ike_sa() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None, child(local="10.9.0.0/16", start=Start.NONE)))
    home.load(connection("home.example", "portal.example", "198.51.100.1", retry=False))
    link.settle()
    assert not home.sas
    assert len(home.ike_sas()) == len(portal.ike_sas()) == 1
    assert home.told(NegotiationFailed)[0].notify == NotifyType.TS_UNACCEPTABLE


def test_the_responder_narrows_to_its_own_selectors() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    there = child(local="10.2.0.0/16", remote="0.0.0.0/0", start=Start.NONE)
    portal.load(connection("portal.example", "home.example", None, there))
    home.load(connection("home.example", "portal.example", "198.51.100.1", child(remote="10.0.0.0/8")))
    link.settle()
    assert home.child().remote == portal.child().local == parse_selectors(["10.2.0.0/16"])
    assert home.child().local == portal.child().remote == parse_selectors(["10.1.0.0/16"])


def test_a_data_plane_that_refuses_the_first_child_leaves_a_childless_ike_sa() -> None:
    link = Link()
    home, portal = two_hosts(link, retry=False)
    portal.refuses = Refused(0, "table is full", is_temporary=False)
    link.settle()
    assert not home.sas
    assert not portal.sas
    assert home.ike().peer is not None
    assert home.told(NegotiationFailed)[0].notify == NotifyType.NO_ADDITIONAL_SAS


def test_further_children_follow_by_create_child_sa() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    names = ("one", "two", "three")
    portal.load(
        connection(
            "portal.example",
            "home.example",
            None,
            *(child(n, local=f"10.{i}.2.0/24", remote="10.0.0.0/24", start=Start.NONE) for i, n in enumerate(names)),
        )
    )
    home.load(
        connection(
            "home.example",
            "portal.example",
            "198.51.100.1",
            *(child(n, local="10.0.0.0/24", remote=f"10.{i}.2.0/24") for i, n in enumerate(names)),
        )
    )
    link.settle()
    assert sorted(sa.child.child for sa in home.sas.values()) == sorted(names)
    assert sorted(sa.child.child for sa in portal.sas.values()) == sorted(names)


def test_one_record_serves_many_peers_that_match_its_pattern() -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1")
    any_home = child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.NONE)
    portal.load(connection("portal.example", "*.moats.example", None, any_home, name="moats"))
    homes = []
    for number in range(5):
        home = link.host(f"home{number}", f"192.0.2.{number + 1}")
        own = child(local=f"10.1.{number}.0/24")
        home.load(connection(f"m{number}.moats.example", "portal.example", "198.51.100.1", own))
        homes.append(home)
    link.settle()
    assert len(portal.sas) == 5
    peers = {str(sa.child.peer) for sa in portal.sas.values()}
    assert peers == {f"m{number}.moats.example" for number in range(5)}
    # What lives is keyed by (connection, peer): one peer of the record goes down, the others stay.
    portal.endpoint.take_down("moats", link.now, next(iter(portal.sas.values())).child.peer)
    portal.flush()
    link.settle()
    assert len(portal.sas) == 4


def test_large_certificates_travel_in_fragments() -> None:
    link = Link()
    home, portal = two_hosts(link)
    home.certificates = tuple(Certificate(4, bytes(1500)) for _ in range(3))
    portal.certificates = home.certificates
    link.settle()
    assert_they_fit(home, portal)
    for host in (home, portal):
        sizes = [datagram_size(transmit.path, len(transmit.octets)) for transmit in host.transmits]
        assert len(sizes) > 4
        # RFC 7383 2.5.1: the IP packet, with UDP and perhaps a non-ESP marker, has at most 1280 octets.
        assert max(sizes) <= 1280


def test_a_lost_fragment_is_sent_again_with_its_whole_message() -> None:
    link = Link()
    home, portal = two_hosts(link)
    home.certificates = tuple(Certificate(4, bytes(1500)) for _ in range(3))
    link.deliver()
    link.deliver()
    del link.flights[1]
    link.run(2)
    assert_they_fit(home, portal)


def test_a_peer_that_does_not_offer_fragmentation_gets_whole_messages() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    home.load(connection("home.example", "portal.example", "198.51.100.1", fragmentation=False))
    home.certificates = tuple(Certificate(4, bytes(1500)) for _ in range(3))
    link.settle()
    assert_they_fit(home, portal)
    assert max(len(transmit.octets) for transmit in home.transmits) > 4500


def test_a_restarted_initiator_says_initial_contact_and_replaces_what_it_has_forgotten() -> None:
    link = Link()
    home, portal = two_hosts(link)
    link.settle()
    home.restart()
    link.settle()
    assert_they_fit(home, portal)
    assert portal.told(IkeSaDown)[0].reason is DownReason.REPLACED


def test_when_both_sides_begin_at_once_one_ike_sa_and_one_child_stay() -> None:
    for seed in range(10):
        link = Link(seed)
        home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
        there = child(local="10.2.0.0/16", remote="10.1.0.0/16")
        portal.load(connection("portal.example", "home.example", "192.0.2.1", there))
        home.load(connection("home.example", "portal.example", "198.51.100.1", child()))
        link.run(5)
        assert_they_fit(home, portal)
        assert len(home.ike_sas()) == len(portal.ike_sas()) == 1


def test_the_next_path_is_tried_where_the_first_is_silent() -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1")
    home = link.host("home", "192.0.2.1")
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    row = connection("home.example", "portal.example", "198.51.100.1")
    first = connection("home.example", "portal.example", "203.0.113.9").peer
    peer = replace(first, addresses=(*first.addresses, *row.peer.addresses))
    home.load(replace(row, peer=peer))
    link.run(40)
    assert_they_fit(home, portal)


def test_a_silent_peer_is_tried_again_with_growing_pauses() -> None:
    link = Link()
    home = link.host("home", "192.0.2.1")
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.run(300)
    failures = home.told(NegotiationFailed)
    assert {failed.reason for failed in failures} == {DownReason.PEER_SILENT}
    assert 6 <= len(failures) <= 10
    status = home.endpoint.connections()[0]
    assert status.failures == len(failures)
    assert status.text


def test_without_retry_one_attempt_is_made() -> None:
    link = Link()
    home = link.host("home", "192.0.2.1")
    home.load(connection("home.example", "portal.example", "198.51.100.1", retry=False))
    link.run(300)
    assert len(home.told(NegotiationFailed)) == 1
    assert home.endpoint.connections()[0].phase is Phase.FAILED
    assert home.endpoint.poll_timeout() is None


def test_every_transmit_of_a_request_again_is_the_same_to_the_bit() -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.loss = 1.0
    link.flights.clear()
    link.run(20)
    assert len(home.transmits) == 8
    assert len({transmit.octets for transmit in home.transmits}) == 1
    assert all(isinstance(transmit, Transmit) for transmit in home.transmits)
