"""Everything that is dropped, refused or repeated is counted by its name, and the bounds that a peer can meet are met."""

import gc
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import TypeVar

import pytest

from openmoat.crypto.keymat import IkeKeymat
from openmoat.crypto.suites import X448
from openmoat.errors import Secret
from openmoat.ike.config import IkeConfig
from openmoat.ike.endpoint import HINT_QUIET
from openmoat.ike.events import AskSpis
from openmoat.ike.exchange_runner import MAX_QUEUED_EXCHANGES
from openmoat.ike.session import Session
from openmoat.ike.wire.fragments import MAX_FRAGMENTS, seal_fragments
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType
from openmoat.ike.wire.payloads import Notify
from openmoat.net import HostPort, Path
from scenario.chaos import faults
from scenario.forge import UNKNOWN_PEER, answered, core, establish, init_request, offer_of, request
from scenario.link import Host, Link, child, connection, ike_proposal, two_hosts


def with_version(octets: bytes, version: int) -> bytes:
    return octets[:17] + bytes((version,)) + octets[18:]


def with_flags(octets: bytes, flip: int) -> bytes:
    return octets[:19] + bytes((octets[19] ^ flip,)) + octets[20:]


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "unsupported_version": lambda octets: with_version(octets, 0x30),
    "wrong_role_flag": lambda octets: with_flags(octets, 0x08),
    "bad_icv": lambda octets: octets[:-1] + bytes((octets[-1] ^ 1,)),
    "malformed": lambda octets: octets[:-1],
    "request_ahead": lambda octets: octets[:20] + (77).to_bytes(4, "big") + octets[24:],
    "stale_request": lambda octets: octets[:20] + bytes(4) + octets[24:],
    "not_protected": lambda octets: octets[:16] + bytes(1) + octets[17:24] + (28).to_bytes(4, "big"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_request_is_counted_by_what_is_wrong_with_it(name: str) -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    octets = request(sa, ExchangeType.INFORMATIONAL)
    forged = FORGERIES[name](octets)
    if name == "wrong_role_flag":  # then the other SPI names the SA
        forged = octets[8:16] + octets[:8] + forged[16:]
    before = portal.endpoint.counts().get(name, 0)
    answered(portal, forged, path)
    assert portal.endpoint.counts()[name] == before + 1
    assert answered(portal, octets, path)  # and the genuine one is as welcome as ever


def test_a_request_that_is_being_worked_on_is_counted_when_it_comes_again() -> None:
    link = Link()
    home, portal = establish(link)
    portal.holds = lambda question: type(question).__name__ == "AskInstall"
    octets = request(core(home), ExchangeType.CREATE_CHILD_SA, *offer_of(home))
    for _ in range(2):
        answered(portal, octets, portal.ike().path)
    assert portal.endpoint.counts()["busy_request"] == 1


def test_more_fragments_than_the_bound_are_counted_and_not_kept() -> None:
    link = Link()
    home, portal = establish(link)
    sa, path = core(home), portal.ike().path
    header = Header(sa.initiator_spi, sa.responder_spi, ExchangeType.INFORMATIONAL, True, False, sa.next_id)
    whole = Message(header, (Notify(NotifyType.NO_NATS_ALLOWED, bytes(3000)),))
    first = seal_fragments(whole, sa.outgoing, sa.next_iv, 1000)[0]
    # Total is authenticated, so it is sealed anew where it is too great.
    place = 28 + 6
    associated = first[:place] + (MAX_FRAGMENTS + 1).to_bytes(2, "big")
    size = len(first) - len(associated) - sa.outgoing.iv_size - sa.outgoing.icv_size - 1
    answered(portal, associated + sa.outgoing.seal(associated, bytes(size), sa.next_iv()), path)
    assert portal.endpoint.counts()["fragment_refused"] == 1


def test_exchanges_that_wait_for_their_turn_have_a_bound() -> None:
    link = Link()
    home, _ = establish(link)
    link.drop = lambda octets: True
    for number in range(MAX_QUEUED_EXCHANGES + 3):
        home.do("probe_size", home.ike().ike, 1280 + number)
    assert home.endpoint.counts()["exchange_queue_limit"] == 2


def test_an_empty_stock_of_spis_refuses_one_child_and_is_filled_again() -> None:
    link = Link()
    home = link.host("home", "192.0.2.1")
    portal = link.host("portal", "198.51.100.1", config=IkeConfig(spi_stock=1))
    portal.holds = lambda question: isinstance(question, AskSpis)
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16")
    portal.load(connection("portal.example", "home.example", None, there))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.settle()  # the first Child SA takes all that there is
    sa, path = core(home), portal.ike().path
    answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, *offer_of(home)), path)
    assert portal.endpoint.counts()["spi_stock_empty"] == 1
    portal.release()
    answered(portal, request(sa, ExchangeType.CREATE_CHILD_SA, *offer_of(home)), path)
    assert len(portal.sas) == 2


def test_a_first_message_with_nothing_in_common_is_counted() -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None, proposals=(ike_proposal(X448),)))
    answered(portal, init_request(1), Path(HostPort(portal.address, 500), UNKNOWN_PEER))
    assert portal.endpoint.counts()["init_refused"] == 1


def test_a_peer_that_falls_silent_half_way_is_counted_on_both_sides() -> None:
    link = Link()
    home, portal = two_hosts(link, retry=False)
    link.drop = lambda octets: True
    link.deliver()
    link.run(portal.config.half_open_life + 1)
    assert portal.endpoint.counts()["half_open_expired"] == 1
    assert home.endpoint.counts()["retransmitted"] == home.config.retransmission.tries - 1


def test_an_unprotected_refusal_is_counted_and_does_not_end_the_attempt() -> None:
    link = Link()
    home, portal = two_hosts(link)
    first = Header.parse(link.flights[0].octets)
    header = Header(first.initiator_spi, 0, ExchangeType.IKE_SA_INIT, False, True, 0)
    forged = Message(header, (Notify(NotifyType.NO_PROPOSAL_CHOSEN),)).emit()
    answered(home, forged, Path(HostPort(home.address, 500), HostPort(portal.address, 500)))
    assert home.endpoint.counts()["unauthenticated_error"] == 1
    link.settle()
    assert home.ike_sas()


def test_no_word_of_a_key_is_in_what_a_host_can_print() -> None:
    link = Link()
    home, portal = two_hosts(link)
    link.deliver()  # IKE_SA_INIT request -->
    link.deliver()  # <-- IKE_SA_INIT response
    secrets = kept(home)
    assert len(secrets) == 5
    text = printed(home)
    link.settle()
    text += printed(home) + printed(portal)
    for secret in secrets:
        assert secret.hex() not in text
        assert repr(bytes(secret))[2:-1] not in text


def test_of_the_keys_of_an_ike_sa_only_that_for_further_ones_is_kept() -> None:
    link = Link()
    home, portal = establish(link)
    assert kept(home) == kept(portal) == []
    first, spi = home.ike_sas()[0].ike, home.endpoint.children()[0].sa.local_spi
    home.do("rekey_ike", first)
    link.settle()
    assert [row.ike for row in home.ike_sas()] != [first]
    for host in (home, portal):
        assert kept(host) == []
        assert all(len(keys(session)) == 1 for session in reachable(host.endpoint, Session))
    link.settle()
    home.do("rekey_child", spi)
    link.settle()
    assert [row.sa.local_spi for row in home.endpoint.children()] != [spi]


def kept(host: Host) -> list[Secret]:
    return [secret for keymat in reachable(host.endpoint, IkeKeymat) for secret in keys(keymat)]


def keys(holder: object) -> list[Secret]:
    return [value for name in dir(holder) if isinstance(value := getattr(holder, name), Secret) and value]


Kind = TypeVar("Kind")


def reachable(root: object, kind: type[Kind]) -> list[Kind]:
    """Every object of ours of this kind that hangs on another, wherever it is kept."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, (type, ModuleType, FunctionType, Host)):
            continue
        seen[id(found)] = found
        waiting += gc.get_referents(found)
    return [found for found in seen.values() if isinstance(found, kind)]


def printed(host: Host) -> str:
    """Every event, SA and state as a traceback or a debug line would show it."""
    found = [row for row in reachable(host.endpoint, object) if type(row).__module__.startswith("openmoat.ike.")]
    return repr((host.events, host.sas, found, host.ike_sas(), host.endpoint.children()))


def test_an_unprotected_invalid_ike_spi_changes_nothing() -> None:
    link = Link()
    home, portal = establish(link)
    sa = home.ike()
    header = Header(sa.ike, sa.peer_spi, ExchangeType.INFORMATIONAL, False, True, 0)
    octets = Message(header, (Notify(NotifyType.INVALID_IKE_SPI),)).emit()
    assert answered(home, octets, sa.path) == []
    assert faults(home, portal) == []


def test_an_invalid_ike_spi_from_the_address_of_a_quiet_peer_makes_us_ask_it_once() -> None:
    link = Link()
    home, portal = establish(link)
    sa = home.ike()
    header = Header(sa.ike, sa.peer_spi, ExchangeType.INFORMATIONAL, False, True, 0)
    hint = Message(header, (Notify(NotifyType.INVALID_IKE_SPI),)).emit()
    link.now += HINT_QUIET  # and no timer of ours has fired
    elsewhere = Path(sa.path.local, UNKNOWN_PEER)
    assert answered(home, hint, elsewhere) == []
    (probe,) = answered(home, hint, sa.path)
    assert Header.parse(probe).exchange is ExchangeType.INFORMATIONAL
    assert answered(home, hint, sa.path) == []  # one is open
    link.settle()
    assert answered(home, hint, sa.path) == []  # it has just answered
    assert home.endpoint.counts()["unauthenticated_error"] == 2
    assert faults(home, portal) == []
