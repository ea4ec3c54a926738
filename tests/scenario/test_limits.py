"""A hard lifetime is hard: at its end nothing more is sent, whatever the peer says and whatever waits (RFC 4301 4.4.2.1)."""

import pytest

from openmoat.ike.events import AskInstall, ChildSaDown, DownReason, Refused
from openmoat.ike.exchange_runner import MAX_QUEUED_EXCHANGES
from openmoat.ike.upkeep import Phase
from openmoat.model.connection import ChildLifetimes, IkeLifetimes, Start
from scenario.chaos import faults
from scenario.link import Host, Link, child, connection

HARD = 100.0
LIFETIMES = ChildLifetimes(rekey_after=0, hard=HARD)


def pair(link: Link, *, rekey_after: float = 0, ike_hard: float = 0) -> tuple[Host, Host]:
    """Hosts whose home lets its Child SA grow old, and asks for no sign of life."""
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.NONE)
    ike = IkeLifetimes(rekey_after=0, hard=ike_hard, liveness_after=0)
    portal.load(connection("portal.example", "home.example", None, there, lifetimes=ike))
    own = child(lifetimes=ChildLifetimes(rekey_after=rekey_after, hard=HARD))
    home.load(connection("home.example", "portal.example", "198.51.100.1", own, lifetimes=ike))
    link.settle()
    assert faults(home, portal) == []
    return home, portal


def test_at_its_hard_lifetime_a_child_sa_sends_nothing_more_and_another_takes_its_place() -> None:
    link = Link()
    home, portal = pair(link)
    old = home.child()
    assert old.hard_at == link.now + HARD
    link.run(old.hard_at - link.now - 0.001)
    assert home.sending() is not None
    link.run(0.002)
    assert home.sending() is None
    link.run(5)
    assert faults(home, portal) == []
    assert home.told(ChildSaDown)[0].reason is DownReason.EXPIRED


@pytest.mark.parametrize("waiting", [0, 1, MAX_QUEUED_EXCHANGES, MAX_QUEUED_EXCHANGES + 9])
def test_with_a_silent_peer_and_exchanges_that_wait_nothing_is_sent_after_the_hard_lifetime(waiting: int) -> None:
    link = Link()
    home, portal = pair(link)
    old = home.child()
    assert old.hard_at is not None
    link.run(old.hard_at - link.now - 1)
    link.drop = lambda octets: True
    for number in range(waiting):
        home.do("probe_size", home.ike().ike, 1280 + number)
    link.run(1.001)
    assert home.sending() is None
    for _ in range(60):
        link.run(1)
        assert home.sending() is None
    assert old.local_spi not in home.sas  # its peer is silent, so the IKE SA is gone, too
    link.drop = lambda octets: False
    link.run(60)
    assert faults(home, portal) == []


def test_the_delete_of_a_child_sa_is_not_lost_when_more_exchanges_wait_than_the_bound() -> None:
    link = Link()
    home, portal = pair(link)
    spi = home.child().local_spi
    for number in range(MAX_QUEUED_EXCHANGES + 9):
        home.do("probe_size", home.ike().ike, 1280 + number)
    home.do("delete_child", spi)
    assert home.endpoint.counts()["exchange_queue_limit"] == 8
    link.run(120)
    assert spi not in home.sas
    assert faults(home, portal) == []


def test_at_its_hard_lifetime_an_ike_sa_stops_its_child_sas_at_once() -> None:
    link = Link()
    home, portal = pair(link, ike_hard=50.0)
    link.drop = lambda octets: True
    link.run(50.0)
    assert home.sending() is None
    link.drop = lambda octets: False
    link.run(60)
    assert faults(home, portal) == []


def test_the_hard_limit_of_packets_stops_a_child_sa_as_that_of_time_does() -> None:
    link = Link()
    home, portal = pair(link)
    link.drop = lambda octets: True
    home.do("handle_limit", home.child().local_spi, True)
    assert home.sending() is None
    link.drop = lambda octets: False
    link.run(60)
    assert faults(home, portal) == []


@pytest.mark.parametrize("is_temporary", [True, False])
def test_a_data_plane_that_refuses_for_a_while_leaves_both_established_afterwards(is_temporary: bool) -> None:
    link = Link()
    home, portal = pair(link)
    for host in (home, portal):
        host.refuses = Refused(0, "no room", is_temporary)
        home.do("rekey_child", home.child().local_spi)
        link.run(20)
        assert len(home.sas) == len(portal.sas) == 1
        host.refuses = None
    link.run(60)
    assert faults(home, portal) == []
    assert home.endpoint.open_questions == portal.endpoint.open_questions == 0


def test_what_somebody_asks_for_begins_at_once_whatever_an_attempt_waits_for() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.NONE)
    portal.load(connection("portal.example", "home.example", None, there))
    link.drop = lambda octets: True
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.run(20)
    assert home.endpoint.connections()[0].phase is Phase.CONNECTING
    link.drop = lambda octets: False
    home.do("initiate", "portal", None)
    link.settle()
    assert faults(home, portal) == []


def test_a_question_of_an_ike_sa_that_is_gone_does_not_wait() -> None:
    link = Link()
    home, _ = pair(link)
    home.holds = lambda question: isinstance(question, AskInstall)
    home.do("rekey_child", home.child().local_spi)
    link.settle()
    assert home.endpoint.open_questions == 1
    home.do("delete_ike", home.ike().ike)
    assert home.endpoint.open_questions == 0


def test_when_an_address_of_the_host_is_gone_what_used_it_is_ended_and_negotiated_anew() -> None:
    link = Link()
    home, portal = pair(link)
    old = home.ike().ike
    home.do("handle_addresses", frozenset({home.address}))
    assert home.ike().ike == old
    home.do("handle_addresses", frozenset({portal.address}))
    assert home.ike_sas() == []
    assert home.sas == {}
    link.run(60)
    assert faults(home, portal) == []
    assert home.ike().ike != old
