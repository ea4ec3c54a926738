"""What happens on an established IKE SA: rekeys, deletes, liveness, paths; message by message where order matters."""

import pytest

from openmoat.crypto.suites import ECP_256, X25519
from openmoat.ike.events import (
    ActivateOutbound,
    ChildSaDown,
    DownReason,
    IkeSaDown,
    IkeSaUp,
    NegotiationFailed,
    PeerMoved,
    PeerSilent,
    RemoveChildSa,
)
from openmoat.ike.upkeep import Phase
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.model.connection import ChildLifetimes, IkeLifetimes
from openmoat.net import HostPort, Path
from scenario.chaos import faults
from scenario.link import Host, Link, Nat, child, connection, two_hosts


def establish(link: Link, **options: bool) -> tuple[Host, Host]:
    home, portal = two_hosts(link, **options)
    link.settle()
    assert faults(home, portal) == []
    return home, portal


def pair(link: Link, **options: object) -> tuple[Host, Host]:
    """Like `establish`, with options for the child on both sides."""
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16", **options)  # type: ignore[arg-type]
    portal.load(connection("portal.example", "home.example", None, there))
    home.load(connection("home.example", "portal.example", "198.51.100.1", child(**options)))  # type: ignore[arg-type]
    link.settle()
    return home, portal


# Child rekeys.


@pytest.mark.parametrize("beginner", ["home", "portal"])
@pytest.mark.parametrize("methods", [(), (X25519,), (ECP_256, X25519)])
def test_a_child_rekey_replaces_the_child_on_both_sides(beginner: str, methods: tuple[object, ...]) -> None:
    link = Link()
    home, portal = pair(link, methods=methods)
    host = home if beginner == "home" else portal
    old = host.child()
    host.do("rekey_child", old.local_spi)
    link.settle()
    assert faults(home, portal) == []
    assert host.child().replaces == old.local_spi
    assert host.told(ChildSaDown)[0].reason is DownReason.REKEYED


def test_after_a_rekey_the_initiator_sends_first_and_the_responder_with_the_first_packet() -> None:
    link = Link()
    home, portal = establish(link)
    home.do("rekey_child", home.child().local_spi)
    link.deliver()  # CREATE_CHILD_SA request {N(REKEY_SA), SA, Ni, TSi, TSr} -->
    new = max(portal.sas)
    assert not portal.sas[new].is_active  # installed, and only receiving
    link.deliver()  # <-- CREATE_CHILD_SA response {SA, Nr, TSi, TSr}
    assert home.sending() is home.sas[max(home.sas)]
    link.exchange_packets()
    assert portal.sending() is portal.sas[new]
    link.settle()  # INFORMATIONAL request {D} -->, <-- INFORMATIONAL response {D}
    assert faults(home, portal) == []


def test_the_delete_of_the_old_child_makes_the_responder_send_with_the_new_one_before_it_is_gone() -> None:
    link = Link()
    home, portal = establish(link)
    order: list[object] = []
    carry_out = portal.carry_out

    def watch(output: object) -> None:
        order.append(output)
        carry_out(output)  # type: ignore[arg-type]

    portal.carry_out = watch  # type: ignore[method-assign]
    home.do("rekey_child", home.child().local_spi)
    link.settle()
    effects = [type(item) for item in order if isinstance(item, (ActivateOutbound, RemoveChildSa))]
    assert effects == [ActivateOutbound, RemoveChildSa]


def test_a_soft_lifetime_rekeys_a_child_and_the_ike_sa() -> None:
    link = Link()
    home, portal = pair(link, lifetimes=ChildLifetimes(rekey_after=100, hard=200))
    first = home.child().local_spi
    link.run(150)
    assert home.child().local_spi != first
    assert faults(home, portal) == []


def test_a_hard_lifetime_ends_a_child_that_could_not_be_rekeyed() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    own = child(lifetimes=ChildLifetimes(rekey_after=0, hard=50))
    home.load(connection("home.example", "portal.example", "198.51.100.1", own))
    link.settle()
    first = home.child().local_spi
    link.run(49)
    assert home.child().local_spi == first
    link.run(3)
    assert first not in home.sas
    assert home.told(ChildSaDown)[0].reason is DownReason.EXPIRED
    link.run(3)
    assert faults(home, portal) == []  # kept up: it has come back


def test_a_limit_reached_in_the_data_plane_rekeys_and_a_hard_one_ends() -> None:
    link = Link()
    home, portal = establish(link)
    first = home.child().local_spi
    home.call("handle_limit", first, False, now=link.now)
    link.settle()
    assert first not in home.sas
    second = home.child().local_spi
    home.call("handle_limit", second, True, now=link.now)
    link.run(3)
    assert second not in home.sas
    assert faults(home, portal) == []


# Rekeys of the IKE SA.


@pytest.mark.parametrize("beginner", ["home", "portal"])
def test_an_ike_rekey_keeps_the_children_and_deletes_the_old_ike_sa(beginner: str) -> None:
    link = Link()
    home, portal = establish(link)
    host = home if beginner == "home" else portal
    old, child_spi = host.ike().ike, home.child().local_spi
    host.do("rekey_ike", old)
    link.settle()
    assert faults(home, portal) == []
    assert home.child().local_spi == child_spi
    assert host.ike().ike != old
    assert host.told(IkeSaUp)[-1].replaces == old
    assert host.told(IkeSaDown)[0].reason is DownReason.REKEYED
    assert not host.told(ChildSaDown)
    host.do("rekey_child", next(iter(host.sas)))  # and the new one works
    link.settle()
    assert faults(home, portal) == []


def test_ike_lifetimes_rekey_and_a_hard_one_ends_the_ike_sa() -> None:
    link = Link()
    home, portal = link.host("home", "192.0.2.1"), link.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    lifetimes = IkeLifetimes(rekey_after=100, hard=150)
    home.load(connection("home.example", "portal.example", "198.51.100.1", lifetimes=lifetimes))
    link.settle()
    first = home.ike().ike
    link.run(120)
    assert home.ike().ike != first
    assert faults(home, portal) == []


# Delete.


@pytest.mark.parametrize("beginner", ["home", "portal"])
def test_a_deleted_child_that_is_kept_up_comes_back(beginner: str) -> None:
    link = Link()
    home, portal = establish(link)
    host = home if beginner == "home" else portal
    gone = host.child().local_spi
    host.do("delete_child", gone)
    link.settle()
    assert not home.sas
    assert not portal.sas
    link.run(3)
    assert faults(home, portal) == []
    assert gone not in host.sas


def test_a_connection_taken_down_stays_down_until_it_is_wanted_again() -> None:
    link = Link()
    home, portal = establish(link)
    home.do("take_down", "portal")
    link.run(120)
    assert home.ike_sas() == portal.ike_sas() == []
    assert home.endpoint.connections()[0].phase is Phase.DOWN
    assert home.told(IkeSaDown)[0].reason is DownReason.ASKED
    assert portal.told(IkeSaDown)[0].reason is DownReason.PEER_DELETED
    home.do("initiate", "portal", None)
    link.run(1)
    assert faults(home, portal) == []


def test_a_connection_that_its_peer_begins_waits_again_when_it_is_wanted_again() -> None:
    link = Link()
    _, portal = establish(link)
    portal.do("take_down", "home")
    portal.do("initiate", "home", None)
    [status] = portal.endpoint.connections()
    assert (status.phase, status.reason) == (Phase.IDLE, None)


def test_the_wish_to_end_is_no_reason_once_it_is_wanted_again() -> None:
    link = Link()
    home, _ = establish(link)
    home.do("take_down", "portal")
    home.do("initiate", "portal", None)
    [status] = home.endpoint.connections()
    assert (status.phase, status.reason) == (Phase.CONNECTING, None)


def test_a_connection_taken_down_refuses_its_peer_too() -> None:
    link = Link()
    home, portal = establish(link)
    portal.do("take_down", "home")
    link.run(30)
    assert home.ike_sas() == portal.ike_sas() == []
    portal.endpoint.load(portal.connections.values(), link.now)  # it has changed
    portal.flush()
    link.run(150)
    assert faults(home, portal) == []


def test_unloading_deletes_what_lives() -> None:
    link = Link()
    home, portal = establish(link)
    home.do("unload", ["portal"])
    link.settle()
    assert portal.ike_sas() == []
    assert home.endpoint.connections() == []
    assert home.endpoint.is_idle


def test_close_deletes_everything() -> None:
    link = Link()
    home, portal = establish(link)
    portal.do("close")
    link.settle()
    assert portal.endpoint.is_idle
    assert not portal.sas
    assert not home.sas


def test_who_closes_refuses_nobody_so_that_peers_try_again() -> None:
    link = Link()
    home, portal = establish(link)
    portal.do("close")
    refusals = len(home.told(NegotiationFailed))
    link.run(5.0)
    assert portal.endpoint.counts()["closing"] > 0
    assert len(home.told(NegotiationFailed)) == refusals


def test_both_deleting_the_same_child_answer_without_delete() -> None:
    link = Link()
    home, portal = establish(link, retry=False)
    home.do("delete_child", home.child().local_spi)
    portal.do("delete_child", portal.child().local_spi)
    link.settle()
    assert not home.sas
    assert not portal.sas
    assert len(home.ike_sas()) == len(portal.ike_sas()) == 1
    assert len({len(t.octets) for t in home.transmits[-2:]}) == 2  # request with, response without


def test_both_deleting_the_ike_sa_end_at_once() -> None:
    link = Link()
    home, portal = establish(link, retry=False)
    home.do("delete_ike", home.ike().ike)
    portal.do("delete_ike", portal.ike().ike)
    link.settle()
    assert home.ike_sas() == portal.ike_sas() == []


# Liveness.


def test_a_peer_that_leaves_a_request_unanswered_for_a_while_is_told_of_and_so_is_its_answer() -> None:
    link = Link()
    home, portal = establish(link, retry=False)
    ike = home.ike().ike
    link.loss = 1.0
    home.do("probe", ike)
    link.run(4)
    assert home.told(PeerSilent) == []
    link.run(1)
    assert home.told(PeerSilent) == [PeerSilent(ike, is_silent=True)]
    link.loss = 0.0
    link.run(10)
    assert home.told(PeerSilent) == [PeerSilent(ike, is_silent=True), PeerSilent(ike, is_silent=False)]
    assert portal.told(PeerSilent) == []
    assert home.ike().ike == ike


def test_a_peer_that_dies_is_noticed_and_replaced_within_a_minute() -> None:
    link = Link()
    home, portal = establish(link)
    link.run(100)
    portal.restart()
    died = link.now
    while faults(home, portal) and link.now < died + 60:
        link.run(1)
    assert faults(home, portal) == []
    assert DownReason.PEER_SILENT in {event.reason for event in home.told(IkeSaDown)}


def test_a_peer_that_talks_is_not_asked() -> None:
    link = Link()
    home, portal = establish(link)
    before = len(home.transmits) + len(portal.transmits)
    link.run(600)
    assert len(home.transmits) + len(portal.transmits) == before


def test_a_tunnel_without_traffic_is_asked_for_rarely() -> None:
    link = Link()
    home, _ = establish(link)
    link.tick = lambda: None
    before = len(home.transmits)
    link.run(1200)
    assert 2 <= len(home.transmits) - before <= 30


def test_a_probe_by_hand_is_one_empty_exchange() -> None:
    link = Link()
    home, _ = establish(link)
    home.do("probe", home.ike().ike)
    assert list(link.exchanges()) == [ExchangeType.INFORMATIONAL]
    link.settle()


# NAT.


def test_behind_a_nat_both_move_to_port_4500_and_use_udp() -> None:
    link = Link()
    nat = Nat("203.0.113.1")
    portal = link.host("portal", "198.51.100.1")
    home = link.host("home", "10.0.0.2", nat)
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.settle()
    assert faults(home, portal) == []
    assert home.child().udp
    assert portal.child().udp
    assert home.child().keepalive
    assert not portal.child().keepalive
    assert (home.child().path.local.port, home.child().path.remote.port) == (4500, 4500)
    assert portal.child().path.remote == nat.mappings[HostPort(home.address, 4500)]


def test_without_a_nat_esp_goes_raw_unless_encapsulation_is_forced() -> None:
    link = Link()
    home, portal = establish(link)
    assert not home.child().udp
    assert home.child().path.remote.port == 0
    forced = Link()
    home, portal = forced.host("home", "192.0.2.1"), forced.host("portal", "198.51.100.1")
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    home.load(connection("home.example", "portal.example", "198.51.100.1", force_encapsulation=True))
    forced.settle()
    assert faults(home, portal) == []
    assert home.child().udp
    assert portal.child().udp


def test_three_peers_behind_one_nat_come_up() -> None:
    link = Link()
    nat = Nat("203.0.113.1")
    portal = link.host("portal", "198.51.100.1")
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16")
    portal.load(connection("portal.example", "*.moats.example", None, there, name="moats"))
    for number in range(3):
        home = link.host(f"home{number}", f"10.0.0.{number + 2}", nat)
        own = child(local=f"10.1.{number}.0/24")
        home.load(connection(f"m{number}.moats.example", "portal.example", "198.51.100.1", own))
    link.settle()
    assert len(portal.sas) == 3
    assert len({sa.child.path.remote for sa in portal.sas.values()}) == 3


def test_a_nat_that_forgets_its_mapping_is_followed_by_the_next_authenticated_message() -> None:
    link = Link()
    nat = Nat("203.0.113.1")
    portal = link.host("portal", "198.51.100.1")
    home = link.host("home", "10.0.0.2", nat)
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.settle()
    nat.forget()
    home.do("probe", home.ike().ike)
    link.settle()
    moved = portal.told(PeerMoved)[0]
    assert moved.path.remote == nat.mappings[HostPort(home.address, 4500)]
    assert moved.children == (portal.child().local_spi,)
    assert portal.ike().path.remote == moved.path.remote


def test_a_new_path_seen_by_the_data_plane_is_followed_and_a_peer_without_nat_is_not() -> None:
    link = Link()
    nat = Nat("203.0.113.1")
    portal = link.host("portal", "198.51.100.1")
    home = link.host("home", "10.0.0.2", nat)
    portal.load(connection("portal.example", "home.example", None, child(local="10.2.0.0/16", remote="10.1.0.0/16")))
    home.load(connection("home.example", "portal.example", "198.51.100.1"))
    link.settle()
    path = portal.ike().path
    moved = Path(path.local, HostPort(path.remote.address, 50000))
    portal.call("handle_new_path", portal.child().local_spi, moved, now=link.now)
    assert portal.ike().path == moved
    # Home sees no NAT before the portal: whatever comes from elsewhere does not move it.
    path = home.ike().path
    home.call(
        "handle_new_path", home.child().local_spi, Path(path.local, HostPort(path.remote.address, 1)), now=link.now
    )
    assert home.ike().path == path


# Loss.


def test_a_lost_response_is_sent_again_as_it_was() -> None:
    link = Link()
    home, portal = establish(link)
    home.do("probe", home.ike().ike)
    link.deliver()
    link.flights.clear()  # the response is lost
    link.run(1)
    assert portal.transmits[-1].octets == portal.transmits[-2].octets
    assert portal.endpoint.counts()["repeated_request"] == 1


def test_the_last_delete_is_answered_again_although_the_ike_sa_is_gone() -> None:
    link = Link()
    home, portal = establish(link, retry=False)
    home.do("delete_ike", home.ike().ike)
    link.deliver()
    link.flights.clear()
    link.run(1)
    assert home.endpoint.is_idle
    link.run(60)
    assert portal.endpoint.poll_timeout() is None


def test_a_peer_silent_on_an_exchange_loses_the_ike_sa_with_its_children() -> None:
    link = Link()
    home, _ = establish(link, retry=False)
    link.loss = 1.0
    home.do("probe", home.ike().ike)
    link.run(30)
    assert home.ike_sas() == []
    assert not home.sas
    assert home.told(IkeSaDown)[0].reason is DownReason.PEER_SILENT
