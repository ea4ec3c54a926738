"""Exchanges of both sides that touch the same SA (RFC 7296 2.8.1, 2.8.2, 2.25), and who wins."""

import itertools

import pytest

from openmoat.ike.config import IkeConfig
from openmoat.ike.events import ChildSaDown, DownReason, PeerSilent
from openmoat.ike.exchanges.collisions import COLLISIONS, Ours, Theirs, Verdict, answer, is_lowest
from openmoat.ike.exchanges.create_child import MAX_REMEMBERED_DELETES
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import Delete, Notify
from scenario.chaos import faults
from scenario.forge import answered, core
from scenario.link import Host, Link, two_hosts

VERBS = ("rekey_child", "rekey_ike", "delete_child", "delete_ike", "probe")


def establish(link: Link) -> tuple[Host, Host]:
    home, portal = two_hosts(link)
    link.settle()
    return home, portal


def do(host: Host, verb: str) -> None:
    host.do(verb, host.child().local_spi if verb.endswith("child") else host.ike().ike)


def test_the_table_has_a_verdict_for_every_pair() -> None:
    assert set(COLLISIONS) == set(itertools.product(Theirs, Ours))


def test_the_table_says_what_the_rfc_says() -> None:
    assert answer(Theirs.REKEY_CHILD, Ours.CLOSING_THIS_CHILD) is Verdict.TEMPORARY_FAILURE
    assert answer(Theirs.REKEY_CHILD, Ours.REKEYING_THIS_CHILD) is Verdict.ANSWER_AND_COMPARE
    assert answer(Theirs.REKEY_MISSING_CHILD, Ours.NOTHING) is Verdict.CHILD_SA_NOT_FOUND
    assert answer(Theirs.DELETE_CHILD, Ours.CLOSING_THIS_CHILD) is Verdict.ANSWER_WITHOUT_DELETE
    assert answer(Theirs.DELETE_CHILD, Ours.REKEYING_THIS_CHILD) is Verdict.ANSWER
    assert answer(Theirs.DELETE_MISSING_CHILD, Ours.NOTHING) is Verdict.ANSWER_WITHOUT_DELETE
    for busy in (Ours.CREATING_CHILD, Ours.REKEYING_THIS_CHILD, Ours.CLOSING_CHILD):
        assert answer(Theirs.REKEY_IKE, busy) is Verdict.TEMPORARY_FAILURE
    assert answer(Theirs.REKEY_IKE, Ours.REKEYING_IKE) is Verdict.ANSWER_AND_COMPARE
    assert answer(Theirs.REKEY_IKE, Ours.CLOSING_IKE) is Verdict.TEMPORARY_FAILURE
    assert {answer(Theirs.DELETE_IKE, ours) for ours in Ours} == {Verdict.ANSWER}  # our own exchanges end with it
    # RFC 7296 1.4.1: our half is left out where our own Delete has been issued; not where it waits for its turn.
    assert answer(Theirs.DELETE_CHILD, Ours.LEAVING_THIS_CHILD) is Verdict.ANSWER
    assert answer(Theirs.REKEY_CHILD, Ours.LEAVING_THIS_CHILD) is Verdict.TEMPORARY_FAILURE
    for theirs in (Theirs.CREATE_CHILD, Theirs.REKEY_CHILD):
        assert answer(theirs, Ours.REKEYING_IKE) is Verdict.TEMPORARY_FAILURE
    assert answer(Theirs.DELETE_CHILD, Ours.REKEYING_IKE) is Verdict.ANSWER


def test_the_lowest_nonce_is_found_octet_by_octet_and_the_shorter_is_the_lower() -> None:
    assert is_lowest((b"\x01\xff", b"\x09"), (b"\x02\x00", b"\x03"))
    assert not is_lowest((b"\x02\x00", b"\x03"), (b"\x01\xff", b"\x09"))
    assert is_lowest((b"\x01\x02", b"\x09"), (b"\x01\x02\x00", b"\x09"))


def test_deletes_of_what_our_exchange_may_be_making_are_remembered_up_to_a_bound() -> None:
    link = Link()
    home, portal = establish(link)
    theirs, path, old = core(portal), home.ike().path, home.child().remote_spi
    do(home, "rekey_child")
    link.deliver()  # CREATE_CHILD_SA request -->
    response = link.flights.pop()
    (made,) = portal.sas.keys() - {old}
    others = range(0xD0000000, 0xD0000000 + MAX_REMEMBERED_DELETES)
    for spi in (made, *others):
        answered(home, theirs.request(ExchangeType.INFORMATIONAL, Delete(ProtocolId.ESP, (spi,))), path)
    link.flights = [response]
    link.deliver()  # <-- CREATE_CHILD_SA response, for a Child SA that is gone again
    assert {sa.child.remote_spi for sa in home.sas.values()} == {old}


@pytest.mark.parametrize("seed", range(6))
def test_a_child_rekey_collision_leaves_the_sa_without_the_lowest_nonce(seed: int) -> None:
    link = Link(seed)
    home, portal = establish(link)
    do(home, "rekey_child")
    do(portal, "rekey_child")
    link.deliver()  # req1: N(REKEY_SA), SA, Ni1 -->
    link.deliver()  # <-- req2: N(REKEY_SA), SA, Ni2
    link.deliver()  # resp1
    link.deliver()  # resp2
    assert len(home.sas) == len(portal.sas) == 3
    link.settle()  # each deletes what is its own to delete
    assert faults(home, portal) == []
    reasons = sorted(event.reason.name for host in (home, portal) for event in host.told(ChildSaDown))
    assert reasons == ["COLLISION", "PEER_DELETED", "REKEYED", "REKEYED"]


def test_a_rekey_the_peer_has_not_noticed_is_answered_with_temporary_failure_and_dropped() -> None:
    link = Link()
    home, portal = establish(link)
    do(home, "rekey_child")
    link.flights.clear()  # req1 is lost
    do(portal, "rekey_child")
    link.settle()  # the portal's rekey goes through, its Delete too
    link.run(2)  # req1 comes again: CHILD_SA_NOT_FOUND, which home can ignore
    assert faults(home, portal) == []
    assert len(home.told(ChildSaDown)) == 1


@pytest.mark.parametrize("seed", range(6))
def test_an_ike_rekey_collision_leaves_one_ike_sa_with_all_children(seed: int) -> None:
    link = Link(seed)
    home, portal = establish(link)
    spi = home.child().local_spi
    do(home, "rekey_ike")
    do(portal, "rekey_ike")
    link.settle()
    assert faults(home, portal) == []
    assert home.child().local_spi == spi
    assert not home.told(ChildSaDown)


def test_an_ike_rekey_that_only_one_side_noticed_ends_with_the_delete_of_the_other() -> None:
    link = Link()
    home, portal = establish(link)
    do(home, "rekey_ike")
    do(portal, "rekey_ike")
    lost = next(f for f in link.flights if f.target is home)
    link.flights.remove(lost)  # req2 is lost: only the portal knows of both
    link.settle()
    link.run(3)
    assert faults(home, portal) == []


@pytest.mark.parametrize("ours", VERBS)
@pytest.mark.parametrize("theirs", VERBS)
@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_every_pair_of_exchanges_in_every_order_leaves_one_child(
    ours: str, theirs: str, order: tuple[int, int]
) -> None:
    for lost in (None, 0, 1):
        link = Link()
        home, portal = establish(link)
        do(home, ours)
        do(portal, theirs)
        flights = sorted(link.flights)
        for place, index in enumerate(order):
            if index < len(flights):
                flights[index].at = link.now + 0.001 * (place + 1)
        if lost is not None and lost < len(flights):
            flights.pop(lost)
        link.flights = flights
        link.flights.sort()
        link.run(60)
        assert faults(home, portal) == [], (lost, home.events, portal.events)


def test_a_child_rekeyed_twice_before_its_delete_has_one_successor() -> None:
    link = Link()
    home, portal = establish(link)
    old = home.child().local_spi
    home.do("rekey_child", old)
    link.deliver()
    link.deliver()
    home.do("rekey_child", old)  # it is about to be deleted: nothing happens
    link.settle()
    assert faults(home, portal) == []


def test_a_delete_that_overtakes_the_response_which_made_the_child_is_remembered() -> None:
    link = Link()
    home, portal = establish(link)
    home.do("rekey_child", home.child().local_spi)
    link.deliver()  # the request arrives, the response is on its way
    response = link.flights[0]
    new = max(portal.sas)
    portal.do("delete_child", new)
    request = next(f for f in link.flights if f is not response)
    assert not Header.parse(request.octets).is_response
    response.at, request.at = request.at + 1, response.at
    link.flights.sort()
    link.run(5)
    assert faults(home, portal) == []
    assert DownReason.PEER_DELETED in {event.reason for event in home.told(ChildSaDown)}


def test_an_ike_rekey_that_yields_to_a_successor_already_deleted_ends_the_ike_sa() -> None:
    link = Link()
    home, portal = establish(link)
    ours, theirs, path = home.ike().ike, core(portal), home.ike().path
    home.do("rekey_ike", home.ike().ike)
    asked = Header.parse(link.flights.pop().octets)  # the portal has yet to see it
    portal.do("rekey_ike", portal.ike().ike)
    link.deliver()  # <-- CREATE_CHILD_SA request of the portal
    link.deliver()  # CREATE_CHILD_SA response -->
    link.flights.clear()  # the Delete of the old IKE SA is lost
    portal.do("delete_ike", portal.ike().ike)
    link.deliver()  # <-- INFORMATIONAL request {D} on the successor
    header = Header(asked.initiator_spi, asked.responder_spi, asked.exchange, False, True, asked.message_id)
    refusal = theirs.seal(Message(header, (Notify(NotifyType.TEMPORARY_FAILURE),)))
    answered(home, refusal, path)  # <-- CREATE_CHILD_SA response {N(TEMPORARY_FAILURE)}
    assert home.endpoint.ike_sa(ours) is None


def test_children_that_go_over_from_a_silent_ike_sa_are_told_to_answer_again() -> None:
    link = Link()
    home, portal = establish(link)
    do(home, "rekey_ike")
    link.flights.clear()  # our request is lost
    do(portal, "rekey_ike")
    for _ in range(2):
        link.deliver()  # the portal's rekey goes through
    link.flights.clear()
    link.loss = 1.0
    link.run(IkeConfig().retransmission.total + 0.2)  # the old IKE SA is given up, and the successor carries
    link.loss = 0.0
    do(home, "probe")
    link.settle()
    old, new = home.told(PeerSilent)
    assert (old.is_silent, new.is_silent) == (True, False)
    assert new.ike == home.ike().ike != old.ike
