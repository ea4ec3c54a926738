"""Peers that turned hostile: what they ask for leaves nothing behind, and a change of the configuration holds for them too."""

from dataclasses import replace

import pytest

from openmoat.crypto.kex import make_key_pair, seed_size
from openmoat.ike.events import AskInstall, AskOwnAuth, AskPeerAuth, Question
from openmoat.ike.negotiate.choice import offer_ike
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.ike.wire.payloads import KeyExchange, Nonce, SecurityAssociation
from openmoat.net import HostPort, Path
from scenario.forge import UNKNOWN_PEER, answered, core, establish
from scenario.link import AES_GCM, Host, Link, child, connection, two_hosts


def rekey_request(host: Host, number: int) -> tuple[SecurityAssociation, Nonce, KeyExchange]:
    """What a request for a successor of the IKE SA says."""
    method = AES_GCM.key_exchanges[0].id
    public_value, _ = make_key_pair(method, host.rng.randbytes(seed_size(method)))
    spi = (0xABCD_0000 + number).to_bytes(8, "big")
    return (
        SecurityAssociation(offer_ike([AES_GCM], spi)),
        Nonce(host.rng.randbytes(32)),
        KeyExchange(method, public_value),
    )


def test_a_peer_that_rekeys_again_and_again_while_we_rekey_leaves_one_successor() -> None:
    link = Link()
    home, portal = establish(link)
    theirs, path = core(portal), home.ike().path
    home.do("rekey_ike", home.ike().ike)
    link.flights.clear()  # our request is never answered
    for number in range(20):
        request = theirs.request(ExchangeType.CREATE_CHILD_SA, *rekey_request(portal, number))
        assert len(answered(home, request, path)) == 1
    assert len(home.ike_sas()) <= 2  # the old one, and the successor that the nonces will be compared with


@pytest.mark.parametrize("held", [AskPeerAuth, AskOwnAuth])
def test_a_handshake_that_began_before_a_change_of_its_connection_does_not_outlive_it(held: type[Question]) -> None:
    link = Link()
    _, portal = two_hosts(link, retry=False)
    portal.holds = lambda question: isinstance(question, held)
    link.settle()
    assert portal.held
    (row,) = portal.connections.values()
    # The key of this peer is withdrawn: another peer has its place.
    other = connection(
        "portal.example", "other.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16"), name=row.name
    )
    portal.load(other)
    portal.holds = lambda question: False
    portal.release()
    link.settle()
    assert portal.ike_sas() == []
    assert portal.sas == {}


def test_a_handshake_that_began_before_its_peer_was_taken_down_does_not_come_up() -> None:
    link = Link()
    _, portal = two_hosts(link, retry=False)
    portal.holds = lambda question: isinstance(question, AskOwnAuth)
    link.settle()
    portal.do("take_down", next(iter(portal.connections)))
    portal.holds = lambda question: False
    portal.release()
    link.settle()
    assert portal.ike_sas() == []


def test_a_handshake_goes_on_with_a_connection_that_changed_in_ways_it_can_bear() -> None:
    link = Link()
    home, portal = two_hosts(link, retry=False)
    portal.holds = lambda question: isinstance(question, AskOwnAuth)
    link.settle()
    (row,) = portal.connections.values()
    portal.do(
        "update", [replace(row, lifetimes=replace(row.lifetimes, liveness_after=row.lifetimes.liveness_after + 1))]
    )
    portal.holds = lambda question: False
    portal.release()
    link.settle()
    assert len(portal.ike_sas()) == len(home.ike_sas()) == 1


def test_a_handshake_that_began_before_the_key_of_its_connection_changed_does_not_come_up() -> None:
    link = Link()
    _, portal = two_hosts(link, retry=False)
    portal.holds = lambda question: isinstance(question, AskOwnAuth)
    link.settle()
    portal.load(*portal.connections.values())  # the same in all but what its key file holds
    portal.holds = lambda question: False
    portal.release()
    link.settle()
    assert portal.ike_sas() == []


def test_an_ike_sa_whose_first_child_is_being_installed_ends_with_its_connection() -> None:
    link = Link()
    _, portal = two_hosts(link, retry=False)
    portal.holds = lambda question: isinstance(question, AskInstall)
    link.settle()
    assert portal.held
    portal.do("unload", list(portal.connections))
    portal.holds = lambda question: False
    assert portal.endpoint.ike_sas() == []
    assert portal.endpoint.open_questions == 0


@pytest.mark.parametrize("flights", [2, 3], ids=["request", "response"])
def test_a_copy_of_an_ike_auth_message_from_elsewhere_does_not_redirect_the_packets(flights: int) -> None:
    link = Link()
    home, portal = two_hosts(link)
    for _ in range(flights):
        link.deliver()
    receiver = portal if flights == 2 else home
    (genuine,) = link.flights
    # Somebody on the path sends the same octets first, from an address of his choice.
    path = Path(HostPort(receiver.address, 500), UNKNOWN_PEER)
    answered(receiver, genuine.octets, path)
    link.settle()
    assert home.ike().path.remote.address == portal.address
    assert portal.ike().path.remote.address == home.address
    assert home.child().path.remote.address == portal.address
    assert portal.child().path.remote.address == home.address


def test_the_only_peer_of_a_connection_that_is_taken_down_stays_down_until_it_is_wanted() -> None:
    link = Link()
    home, portal = establish(link)
    peer = home.ike().peer
    assert peer is not None
    home.endpoint.take_down("portal", link.now, peer)
    home.flush()
    link.run(300)
    assert home.ike_sas() == portal.ike_sas() == []
    home.do("initiate", "portal", None)
    link.settle()
    assert home.ike().peer == peer
