"""USE_AGGFRAG between two endpoints (RFC 9347 5.1): what each side wants, and what peers say that do it otherwise."""

from dataclasses import replace

import pytest

from openmoat.ike.config import IkeConfig
from openmoat.ike.events import ChildSaDown, ChildSaUp, DownReason, NegotiationFailed
from openmoat.ike.negotiate.explain import explain
from openmoat.ike.upkeep import Phase
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType
from openmoat.ike.wire.payloads import Notify, Payload
from openmoat.model.connection import Aggfrag, Child, ChildLifetimes, Start
from scenario.chaos import faults
from scenario.forge import core
from scenario.link import Host, Link, child, connection

USE_AGGFRAG = NotifyType.USE_AGGFRAG
WORDS = {"prefer": Aggfrag.PREFER, "require": Aggfrag.REQUIRE, "never": Aggfrag.NEVER}


def here(word: str) -> Child:
    return replace(child(), aggfrag=WORDS[word])


def there(word: str) -> Child:
    return replace(child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.NONE), aggfrag=WORDS[word])


def pair(link: Link, home_word: str = "prefer", portal_word: str = "prefer", plain: str = "") -> tuple[Host, Host]:
    """A home that begins and a portal that waits, nothing delivered yet; the data plane of `plain` has no AGGFRAG."""
    home = link.host("home", "192.0.2.1", config=IkeConfig(aggfrag=plain != "home"))
    portal = link.host("portal", "198.51.100.1", config=IkeConfig(aggfrag=plain != "portal"))
    portal.load(connection("portal.example", "home.example", None, there(portal_word)))
    home.load(connection("home.example", "portal.example", "198.51.100.1", here(home_word)))
    return home, portal


def up(link: Link, home_word: str = "prefer", portal_word: str = "prefer") -> tuple[Host, Host]:
    home, portal = pair(link, home_word, portal_word)
    link.settle()
    assert faults(home, portal) == []
    return home, portal


def opened(link: Link, sender: Host) -> Message:
    """The next datagram, which `sender` has protected."""
    return core(sender).open(link.flights[0].octets)


def say(link: Link, sender: Host, *notifies: Notify) -> None:
    """Let the next datagram say these instead of its USE_AGGFRAG, and its sender believe that it did."""
    sa, message = core(sender), opened(link, sender)
    kept: list[Payload] = [p for p in message.payloads if not (isinstance(p, Notify) and p.type is USE_AGGFRAG)]
    link.flights[0].octets = sa.seal(Message(message.header, (*kept, *notifies)))


def flags(data: str) -> Notify:
    return Notify(USE_AGGFRAG, bytes.fromhex(data))


def to_auth(link: Link, deliveries: int) -> None:
    """IKE_SA_INIT both ways; with one more delivery the IKE_AUTH response is next."""
    for _ in range(deliveries):
        link.deliver()


# What both want.


@pytest.mark.parametrize("portal_word", ["prefer", "require"])
@pytest.mark.parametrize("home_word", ["prefer", "require"])
def test_two_that_can_use_aggfrag_use_it_both_ways(home_word: str, portal_word: str) -> None:
    home, portal = up(Link(), home_word, portal_word)
    for host in (home, portal):
        assert host.child().aggfrag
        assert host.child().takes_slices
        assert not host.child().has_changed_mode
        assert host.told(ChildSaUp)[0].child.aggfrag


@pytest.mark.parametrize(("home_word", "portal_word"), [("never", "prefer"), ("prefer", "never"), ("never", "never")])
def test_where_one_side_never_uses_it_there_is_plain_tunnel_mode(home_word: str, portal_word: str) -> None:
    home, portal = up(Link(), home_word, portal_word)
    assert not home.child().aggfrag
    assert not portal.child().aggfrag


def test_the_notify_goes_with_the_first_child_further_ones_and_rekeys_as_one_octet_without_flags() -> None:
    link = Link()
    home, portal = pair(link)
    link.deliver()
    link.deliver()
    assert opened(link, home).notify(USE_AGGFRAG) == flags("00")  # IKE_AUTH request -->
    link.deliver()
    assert opened(link, portal).notify(USE_AGGFRAG) == flags("00")  # <-- IKE_AUTH response
    link.settle()
    for host, other in ((home, portal), (portal, home)):
        host.do("rekey_child", host.child().local_spi)
        assert opened(link, host).notify(USE_AGGFRAG) == flags("00")  # CREATE_CHILD_SA request {N(REKEY_SA), ...} -->
        link.deliver()
        assert opened(link, other).notify(USE_AGGFRAG) == flags("00")
        link.settle()
        assert faults(home, portal) == []
        assert home.child().aggfrag
        assert portal.child().aggfrag
        assert not host.child().has_changed_mode


def test_a_data_plane_without_aggfrag_neither_offers_nor_grants_it() -> None:
    for plain in ("home", "portal"):
        link = Link()
        home, portal = pair(link, plain=plain)
        link.settle()
        assert faults(home, portal) == []
        assert not home.child().aggfrag
        assert not portal.child().aggfrag


def test_a_child_that_requires_it_is_not_asked_for_where_our_own_data_plane_has_none() -> None:
    link = Link()
    home, portal = pair(link, home_word="require", plain="home")
    link.run(30)
    assert not portal.ike_sas()
    status = home.endpoint.connections()[0]
    assert status.phase is Phase.FAILED
    assert "the data plane has" in status.text


# One requires it, the other has none.


def test_a_responder_that_requires_it_refuses_the_child_keeps_the_ike_sa_and_explains() -> None:
    link = Link()
    home, portal = pair(link, home_word="never", portal_word="require")
    to_auth(link, 3)
    refused = opened(link, portal).error()
    assert refused is not None
    assert refused.type is NotifyType.NO_PROPOSAL_CHOSEN
    link.settle()
    assert not portal.sas
    assert not home.sas
    assert len(portal.ike_sas()) == len(home.ike_sas()) == 1
    failure = portal.told(NegotiationFailed)[0]
    told = explain(failure, portal.connections.values())
    assert 'USE_AGGFRAG: child "net" requires it; received: not offered' in told.summary
    assert (told.candidates[0].field, told.candidates[0].ours) == ("aggfrag of child net", "require")
    assert "aggfrag" in explain(home.told(NegotiationFailed)[0], home.connections.values()).advice


def test_an_initiator_that_requires_it_deletes_the_plain_child_and_tries_again_later() -> None:
    link = Link()
    home, portal = pair(link, home_word="require", portal_word="never")
    link.settle()
    assert not home.sas  # it has never been installed here
    assert not portal.sas
    assert portal.told(ChildSaDown)[0].reason is DownReason.PEER_DELETED
    told = explain(home.told(NegotiationFailed)[0], home.connections.values())
    assert 'child "net" requires it; the peer declines' in told.summary
    assert home.endpoint.connections()[0].phase is Phase.WAITING
    portal.call("update", [connection("portal.example", "home.example", None, there("prefer"))], now=link.now)
    link.run(10)
    assert faults(home, portal) == []
    assert home.child().aggfrag


# What peers say that do it otherwise. Trap 1: some send no octet of flags, others refuse any length but one.


@pytest.mark.parametrize("beginner", ["home", "portal"])
def test_a_notify_without_flags_means_none(beginner: str) -> None:
    link = Link()
    home, portal = pair(link)
    to_auth(link, 2 if beginner == "home" else 3)
    say(link, home if beginner == "home" else portal, flags(""))
    link.settle()
    assert faults(home, portal) == []
    hearer = portal if beginner == "home" else home
    assert hearer.child().aggfrag
    assert hearer.child().remarks == ("USE_AGGFRAG came without its octet of flags: none is taken as set",)
    assert next(host for host in (home, portal) if host is not hearer).child().remarks == ()


@pytest.mark.parametrize("data", ["0000", "01" * 1000])
def test_more_flags_than_we_know_get_plain_tunnel_mode(data: str) -> None:
    link = Link()
    home, portal = pair(link)
    to_auth(link, 2)
    say(link, home, flags(data))
    link.settle()
    assert faults(home, portal) == []
    assert not portal.child().aggfrag


# Trap 2: AGGFRAG is refused, not the child, where the peer demands what we do not do.


@pytest.mark.parametrize("data", ["02", "03", "04", "80", "ff"])
def test_a_request_with_demands_we_cannot_meet_gets_plain_tunnel_mode(data: str) -> None:
    link = Link()
    home, portal = pair(link)
    to_auth(link, 2)
    say(link, home, flags(data))
    link.deliver()
    assert opened(link, portal).notify(USE_AGGFRAG) is None
    link.settle()
    assert faults(home, portal) == []
    assert not portal.child().aggfrag


@pytest.mark.parametrize("data", ["02", "40", "0000"])
def test_a_response_with_demands_we_cannot_meet_leads_to_the_same_child_without_aggfrag(data: str) -> None:
    link = Link()
    home, portal = pair(link)
    to_auth(link, 3)
    say(link, portal, flags(data))
    link.settle()  # the child is deleted, and asked for again in plain tunnel mode, at once
    assert faults(home, portal) == []
    assert not home.child().aggfrag
    assert not portal.child().aggfrag
    assert "USE_AGGFRAG" in home.told(NegotiationFailed)[0].text
    home.do("rekey_child", home.child().local_spi)
    assert opened(link, home).notify(USE_AGGFRAG) is None  # it is not tried with this peer again
    link.settle()
    assert faults(home, portal) == []


@pytest.mark.parametrize(("home_word", "data"), [("require", "02"), ("never", "00"), ("never", "01")])
def test_a_child_whose_aggfrag_we_cannot_or_will_not_have_is_never_installed_and_deleted(
    home_word: str, data: str
) -> None:
    link = Link()
    home, portal = pair(link, home_word=home_word)
    to_auth(link, 3)
    say(link, portal, flags(data))
    refused = portal.child()
    link.deliver()
    assert not home.sas
    assert "USE_AGGFRAG" in home.told(NegotiationFailed)[0].text
    link.settle()
    assert (portal.told(ChildSaDown)[0].child, portal.told(ChildSaDown)[0].reason) == (refused, DownReason.PEER_DELETED)


# Trap 3: a peer's flag D binds what we send; ours would not bind everybody, so we never say it.


@pytest.mark.parametrize("beginner", ["home", "portal"])
def test_a_peer_that_takes_no_slices_is_remembered_through_its_rekeys(beginner: str) -> None:
    link = Link()
    home, portal = pair(link)
    sender, receiver = (home, portal) if beginner == "home" else (portal, home)
    to_auth(link, 2 if beginner == "home" else 3)
    say(link, sender, flags("01"))
    link.settle()
    assert receiver.child().aggfrag
    assert not receiver.child().takes_slices
    assert sender.child().takes_slices
    receiver.do("rekey_child", receiver.child().local_spi)
    link.deliver()
    say(link, sender, flags("01"))
    link.settle()
    assert receiver.child().aggfrag
    assert not receiver.child().takes_slices


def test_it_never_goes_together_with_transport_mode() -> None:
    link = Link()
    home, portal = pair(link)
    to_auth(link, 2)
    say(link, home, flags("00"), Notify(NotifyType.USE_TRANSPORT_MODE))
    link.deliver()
    answer = opened(link, portal)
    assert answer.notify(USE_AGGFRAG) is None
    assert answer.notify(NotifyType.USE_TRANSPORT_MODE) is None
    assert not portal.child().aggfrag


# Rekeys: never silently.


def test_a_rekey_of_ours_that_loses_aggfrag_goes_on_in_plain_tunnel_mode_and_says_so() -> None:
    link = Link()
    home, portal = up(link)
    portal.call("update", [connection("portal.example", "home.example", None, there("never"))], now=link.now)
    home.do("rekey_child", home.child().local_spi)
    link.settle()
    assert faults(home, portal) == []
    for host in (home, portal):
        assert not host.child().aggfrag
        assert host.child().has_changed_mode
        link.exchange_packets()
        assert host.told(ChildSaUp)[-1].child.has_changed_mode


def test_a_rekey_that_wins_aggfrag_says_so_too() -> None:
    link = Link()
    home, portal = up(link, portal_word="never")
    portal.call("update", [connection("portal.example", "home.example", None, there("prefer"))], now=link.now)
    home.do("rekey_child", home.child().local_spi)
    link.settle()
    assert home.child().aggfrag
    assert home.child().has_changed_mode


def test_a_rekey_of_ours_that_loses_what_is_required_is_deleted_and_packets_go_on_with_the_old_child() -> None:
    link = Link()
    home, portal = up(link, home_word="require")
    old = home.child()
    portal.call("update", [connection("portal.example", "home.example", None, there("never"))], now=link.now)
    home.do("rekey_child", old.local_spi)
    link.deliver()
    link.deliver()
    assert [row.child for row in home.sas.values()] == [old]  # nothing was installed
    link.settle()
    assert faults(home, portal) == []
    assert home.child() == old
    sending = home.sending()
    assert sending is not None
    assert sending.child == old
    assert "requires it; the peer declines" in home.told(NegotiationFailed)[0].text
    portal.call("update", [connection("portal.example", "home.example", None, there("prefer"))], now=link.now)
    link.run(30)  # it is tried again
    assert faults(home, portal) == []
    assert home.child().replaces == old.local_spi
    assert home.child().aggfrag


def test_a_rekey_of_the_peer_that_loses_what_is_required_is_refused_and_packets_go_on_with_the_old_child() -> None:
    link = Link()
    home, portal = up(link, portal_word="require")
    old = portal.child()
    home.call("update", [connection("home.example", "portal.example", "198.51.100.1", here("never"))], now=link.now)
    home.do("rekey_child", home.child().local_spi)
    link.deliver()
    refused = opened(link, portal).error()
    assert refused is not None
    assert refused.type is NotifyType.NO_PROPOSAL_CHOSEN
    link.settle()
    assert faults(home, portal) == []
    assert portal.child() == old


def test_a_rekey_whose_answer_demands_what_we_cannot_do_is_done_again_without_and_packets_find_a_way() -> None:
    link = Link()
    home, portal = up(link)
    home.do("rekey_child", home.child().local_spi)
    link.deliver()
    say(link, portal, flags("02"))
    link.deliver()
    sending = home.sending()
    assert sending is not None
    assert sending.child.aggfrag  # the old one, still
    link.settle()
    assert faults(home, portal) == []
    assert not home.child().aggfrag
    assert home.child().has_changed_mode
    assert portal.child().has_changed_mode


def test_an_operator_that_turns_it_off_gets_plain_tunnel_mode_with_the_next_rekey() -> None:
    link = Link()
    home, portal = up(link)
    home.call("update", [connection("home.example", "portal.example", "198.51.100.1", here("never"))], now=link.now)
    home.do("rekey_child", home.child().local_spi)
    assert next(link.exchanges()) is ExchangeType.CREATE_CHILD_SA
    link.settle()
    assert faults(home, portal) == []
    assert not home.child().aggfrag
    assert home.child().has_changed_mode


def test_a_hard_lifetime_ends_a_required_child_that_could_only_be_rekeyed_without() -> None:
    link = Link()
    lifetimes = ChildLifetimes(rekey_after=100, hard=200)
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None, there("prefer")))
    ours = replace(here("require"), lifetimes=lifetimes)
    home.load(connection("home.example", "portal.example", "198.51.100.1", ours))
    link.settle()
    portal.call("update", [connection("portal.example", "home.example", None, there("never"))], now=link.now)
    link.run(190)
    assert home.child().aggfrag
    link.run(60)
    assert not any(row.child.aggfrag for row in home.sas.values())
    assert home.endpoint.connections()[0].phase is Phase.WAITING
