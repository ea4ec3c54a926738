"""Probing for the size of outer packets and for IP fragments: a padded INFORMATIONAL of that size (RFC 8899)."""

import pytest
from msgspec.structs import replace

from openmoat.crypto.suites import AES_128_CBC, HMAC_SHA2_256_128, PRF_HMAC_SHA2_256, X25519
from openmoat.ike.config import IkeConfig
from openmoat.ike.events import FragmentsProbed, IkeSaDown, IkeSaUp, PeerMoved, SizeProbed, Transmit
from openmoat.ike.exchanges.informational import FRAGMENTED_SIZE, MAX_SIZE_PROBES, PROBE_WAITS
from openmoat.model.connection import IkeProposal
from openmoat.net import HostPort
from scenario.link import Host, Link, Nat, connection, two_hosts

OUTER = 20 + 8
"""Octets of IP and UDP around a message on port 500."""
RESPONSE = 0x20
"""Flag of a response in the header (RFC 7296 3.1)."""
MARKER = 4
"""Octets before a message on port 4500 (RFC 3948 2.2)."""


def path_of(link: Link, octets: int, outer: int = OUTER) -> list[int]:
    """From now on the link loses datagrams larger than so many octets, without a word; gives the sizes of all it sees."""
    sizes: list[int] = []

    def is_lost(message: bytes) -> bool:
        sizes.append(len(message) + outer)
        return sizes[-1] > octets

    link.drop = is_lost
    return sizes


def watch_df(link: Link) -> list[bool]:
    """Don't Fragment of every message from now on."""
    seen: list[bool] = []
    carry = link.transmit

    def look(sender: Host, transmit: Transmit) -> None:
        seen.append(transmit.df)
        carry(sender, transmit)

    link.transmit = look  # type: ignore[method-assign]
    return seen


def probed(link: Link, host: Host, size: int) -> SizeProbed:
    """What comes of a probe."""
    before = len(host.told(SizeProbed))
    host.do("probe_size", host.ike().ike, size)
    link.run(30)
    (event,) = host.told(SizeProbed)[before:]
    return event


@pytest.mark.parametrize("size", [9000, 1500, 1492, 1300, 1280, 576])
def test_a_size_that_gets_through_is_proved_to_the_octet(size: int) -> None:
    link = Link()
    home, portal = two_hosts(link)
    link.settle()
    sizes = path_of(link, size)
    assert probed(link, home, size).proved == size
    assert max(sizes) == size
    assert len(home.told(IkeSaUp)) == len(portal.told(IkeSaUp)) == 1


@pytest.mark.parametrize("size", [9000, 1500, 1400, 1281, 1280, 1000])
def test_a_size_that_is_lost_is_told_from_a_peer_that_is(size: int) -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.settle()
    path_of(link, size - 1)
    event = probed(link, home, size)
    assert (event.size, event.proved) == (size, 0)
    assert home.told(IkeSaDown) == []
    assert home.endpoint.counts()["retransmitted"] == MAX_SIZE_PROBES


def test_below_the_least_size_of_all_a_smaller_request_goes_on() -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.settle()
    path_of(link, 575)
    assert probed(link, home, 576).proved == 0
    assert home.told(IkeSaDown) == []


@pytest.mark.parametrize("passes", [True, False])
def test_whether_ip_fragments_pass_is_found_out_and_harms_nothing(passes: bool) -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.settle()
    sizes = path_of(link, FRAGMENTED_SIZE if passes else FRAGMENTED_SIZE - 1)
    seen = watch_df(link)
    home.do("probe_fragments", home.ike().ike)
    link.run(30)
    assert [event.passed for event in home.told(FragmentsProbed)] == [passes]
    assert max(sizes) == FRAGMENTED_SIZE
    assert set(seen) == {False}
    assert home.told(IkeSaDown) == []


def test_a_lost_size_is_told_within_two_seconds_and_each_probe_has_had_one() -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.settle()
    path_of(link, 1499)
    home.do("probe_size", home.ike().ike, 1500)
    link.run(sum(PROBE_WAITS) - 0.01)
    assert home.told(SizeProbed) == []
    link.run(0.1)
    assert [event.proved for event in home.told(SizeProbed)] == [0]
    assert PROBE_WAITS[-1] >= 1.0


def test_a_peer_that_is_gone_is_found_out_by_a_probe_as_by_any_request() -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.settle()
    path_of(link, 0)
    home.do("probe_fragments", home.ike().ike)
    link.run(20)
    assert home.told(IkeSaDown) == []
    link.run(10)
    assert home.told(FragmentsProbed) == []
    assert len(home.told(IkeSaDown)) == 1


def test_a_probe_whose_responses_are_lost_counts_as_lost_and_the_exchange_ends() -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.settle()
    lost = 0

    def is_lost(message: bytes) -> bool:
        nonlocal lost
        lost += bool(message[19] & RESPONSE)
        return bool(message[19] & RESPONSE) and lost <= MAX_SIZE_PROBES

    link.drop = is_lost
    assert probed(link, home, 1500).proved == 0
    assert home.told(IkeSaDown) == []


def test_a_probe_says_don_t_fragment_and_other_messages_do_not() -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.settle()
    seen = watch_df(link)
    home.do("probe", home.ike().ike)
    link.run(1)
    assert seen == [False, False]
    home.do("probe_size", home.ike().ike, 1500)
    link.run(1)
    assert seen[2:] == [True, False]


@pytest.mark.parametrize("vendor_id", [b"", b"another make"])
def test_a_peer_of_another_make_without_ike_fragmentation_is_probed_as_well(vendor_id: bytes) -> None:
    link = Link()
    portal = link.host("portal", "198.51.100.1", config=IkeConfig(vendor_id=vendor_id))
    home = link.host("home", "192.0.2.1")
    portal.load(connection("portal.example", "home.example", None))
    home.load(connection("home.example", "portal.example", "198.51.100.1", fragmentation=False))
    link.settle()
    path_of(link, 1400)
    assert probed(link, home, 1500).proved == 0
    assert probed(link, home, 1400).proved == 1400
    assert probed(link, portal, 1400).proved == 1400


def test_a_probe_goes_on_after_a_rekey_of_the_ike_sa() -> None:
    link = Link()
    home, portal = two_hosts(link)
    link.settle()
    home.do("rekey_ike", home.ike().ike)
    link.settle()
    assert probed(link, home, 1500).proved == 1500
    assert probed(link, portal, 1400).proved == 1400


def test_padding_of_a_block_cipher_proves_what_was_sent_and_no_more() -> None:
    link = Link()
    cbc = IkeProposal(
        encryptions=(AES_128_CBC,),
        integrities=(HMAC_SHA2_256_128,),
        prfs=(PRF_HMAC_SHA2_256,),
        key_exchanges=(X25519,),
    )
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None, proposals=(cbc,)))
    home.load(connection("home.example", "portal.example", "198.51.100.1", proposals=(cbc,)))
    link.settle()
    sizes = path_of(link, 1500)
    event = probed(link, home, 1492)
    assert event.proved == max(sizes)
    assert 1492 - 16 < max(sizes) < 1492


def test_behind_a_nat_the_marker_is_counted() -> None:
    link = Link()
    home = link.host("home", "192.0.2.1", Nat("203.0.113.9"))
    portal = link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.settle()
    sizes = path_of(link, 1500, OUTER + MARKER)
    assert probed(link, home, 1500).proved == 1500
    assert max(sizes) == 1500


@pytest.mark.parametrize("verb", ["probe_size", "probe_fragments"])
def test_an_answer_after_the_peer_has_moved_proves_nothing_of_the_new_path(verb: str) -> None:
    link = Link()
    home = link.host("home", "192.0.2.1", Nat("203.0.113.9"))
    portal = link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.settle()
    portal.do(verb, portal.ike().ike, *([1500] if verb == "probe_size" else []))
    link.deliver()  # the request arrives by the old path
    (answer,) = link.flights
    answer.path = replace(answer.path, remote=HostPort(answer.path.remote.address, 50_000))
    link.settle()
    assert len(portal.told(PeerMoved)) == 1
    assert [event.proved for event in portal.told(SizeProbed)] + [
        event.passed for event in portal.told(FragmentsProbed)
    ] == [None]


def test_two_probes_of_one_size_are_one_and_others_wait_their_turn() -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.settle()
    for size in (1500, 1500, 1400):
        home.do("probe_size", home.ike().ike, size)
    link.run(5)
    assert [event.size for event in home.told(SizeProbed)] == [1500, 1400]


def test_what_the_responder_wants_before_its_response_is_out_comes_right_after_it() -> None:
    link = Link()
    link.slowness = 0.2
    _, portal = two_hosts(link)
    while not portal.told(IkeSaUp):
        link.run(0.01)
    portal.do("probe_size", portal.told(IkeSaUp)[0].ike, 1500)
    assert portal.told(SizeProbed) == []
    link.run(3)
    assert [event.proved for event in portal.told(SizeProbed)] == [1500]


def test_a_probe_of_an_ike_sa_that_is_gone_is_nothing() -> None:
    link = Link()
    home, _ = two_hosts(link)
    link.settle()
    home.do("probe_size", 1, 1500)
    assert home.told(SizeProbed) == []
