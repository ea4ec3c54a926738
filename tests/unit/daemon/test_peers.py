"""The table follows what comes up and goes, of a template with many peers as well, and loses no count."""

from dataclasses import replace

import pytest

from openmoat.crypto.identities import Identity
from openmoat.daemon import peers as table
from openmoat.daemon.peers import Down, PathSearch, Peers, WatchedNames
from openmoat.dataplane.backend import SaCounters
from openmoat.ike.events import ChildSa, ChildSaDown, ChildSaUp, DownReason, IkeSaDown, NegotiationFailed, PeerMoved
from openmoat.mtu.discovery import Bounds, Discovery
from openmoat.mtu.plan import BASE, PathMtu
from openmoat.policy.selectors import parse_selectors
from unit.daemon.kit import HOME_A, HOME_B, Deadlines, child_sa, ike_up, path

HERE = parse_selectors(["10.1.0.0/16"])
PORTAL = Identity.parse("portal.example")


def child(number: int, replaces: int | None = None, *, peer: Identity | None = None, ike: int | None = None) -> ChildSa:
    peer = peer or Identity.parse(f"n{number}.homes.example")
    sa = child_sa(number, "homes", peer, HERE, HERE, child="net", ike=number if ike is None else ike)
    return replace(sa, remote_spi=number, replaces=replaces)


def counters(handle: int, packets: int) -> SaCounters:
    return SaCounters(
        handle=handle,
        inbound_packets=packets,
        inbound_octets=100 * packets,
        outbound_packets=2 * packets,
        outbound_octets=200 * packets,
        drops={"replayed": packets},
    )


def up(peers: Peers, *children: ChildSa) -> None:
    for one in children:
        peers.install(one)
        peers.handle_event(ChildSaUp(one))


def test_a_child_of_a_template_is_down_when_the_last_peer_has_lost_it() -> None:
    peers = Peers(lambda: 7.0)
    peers.load(["homes"], [])
    record = peers.record("homes")
    assert record is not None
    up(peers, child(1), child(2), child(3, replaces=2))

    def down(number: int, reason: DownReason) -> None:
        peers.remove(number)
        peers.handle_event(ChildSaDown(child(number), reason))

    down(2, DownReason.REKEYED)
    down(1, DownReason.PEER_DELETED)
    down(1, DownReason.PEER_DELETED)  # told twice, counted once
    assert ([one.local_spi for one in peers.children()], record.child_downs) == ([3], {})
    down(3, DownReason.PEER_SILENT)
    assert record.child_downs["net"].reason is DownReason.PEER_SILENT
    up(peers, child(1))
    assert record.child_downs == {}


def test_a_rekey_loses_no_packet_of_the_sum() -> None:
    peers = Peers(lambda: 7.0)
    up(peers, child(1, peer=PORTAL))
    peer = peers.find("homes", PORTAL)
    assert peer is not None
    assert peer.sums({1: counters(1, 5)}).inbound_packets == 5
    up(peers, child(2, replaces=1, peer=PORTAL))
    peers.remove(1)
    assert peer.sums({1: counters(1, 6), 2: counters(2, 1)}).inbound_packets == 7  # its last packets are on their way
    peers.retire(counters(1, 7))
    assert peer.sums({2: counters(2, 1)}) == counters(0, 8)
    assert peer.sums({2: counters(2, 1)}, "other").inbound_packets == 0


def test_counters_of_a_pair_that_is_nobodys_are_ignored() -> None:
    peers = Peers(lambda: 7.0)
    peers.retire(counters(9, 3))
    assert list(peers.of("homes")) == []


def test_counters_of_peers_long_gone_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_GONE", 10)
    assert table.MAX_GONE == 10
    peers = Peers(lambda: 7.0)
    for number in range(15):
        up(peers, child(number))
        peers.remove(number)
        peers.retire(counters(number, 1))
    assert [str(peer.identity) for peer in peers.of("homes")] == [f"n{n}.homes.example" for n in range(5, 15)]


def test_a_peer_that_comes_back_under_another_spelling_is_the_same() -> None:
    peers = Peers(lambda: 7.0)
    peers.handle_event(ike_up(1, "homes", Identity.parse("Portal.Example")))
    peers.handle_event(IkeSaDown(1, "homes", PORTAL, DownReason.PEER_SILENT))
    peers.handle_event(ike_up(2, "homes", PORTAL))
    (peer,) = peers.of("homes")
    assert list(peer.ike_sas) == [2]


def test_an_ike_rekey_keeps_since_children_path_search_and_names() -> None:
    deadlines = Deadlines(now=10.0)
    peers = Peers(deadlines.clock)
    peers.load(["homes"], [])
    peers.handle_event(ike_up(1, "homes", HOME_A))
    up(peers, child(7, peer=HOME_A, ike=1))
    live = peers.ike_sa(1)
    assert live is not None
    live.search, live.names = PathSearch(Discovery(Bounds(4))), WatchedNames(("portal.example",))
    deadlines.now = 20.0
    peers.handle_event(ike_up(2, "homes", HOME_A, replaces=1))
    peers.handle_event(IkeSaDown(1, "homes", HOME_A, DownReason.REKEYED))
    successor = peers.ike_sa(2)
    assert successor is not None
    assert (successor.since, successor.rekeyed) == (10.0, 20.0)
    assert (successor.search, successor.names) == (live.search, live.names)
    assert [one.ike for one in peers.children_of(2)] == [2]
    assert peers.children_of(1) == ()
    (peer,) = peers.of("homes")
    assert (peer.since, peer.down) == (10.0, None)


def test_why_a_peer_went_is_kept_until_it_is_back_and_one_ike_sa_of_two_is_no_loss() -> None:
    deadlines = Deadlines(now=10.0)
    peers = Peers(deadlines.clock)
    peers.load(["homes"], [])
    peers.handle_event(ike_up(1, "homes", HOME_A))
    peers.handle_event(ike_up(2, "homes", HOME_A))
    (peer,) = peers.of("homes")
    peers.handle_event(IkeSaDown(1, "homes", HOME_A, DownReason.COLLISION))
    assert (peer.since, peer.down) == (10.0, None)
    deadlines.now = 30.0
    peers.handle_event(IkeSaDown(2, "homes", HOME_A, DownReason.PEER_SILENT, "no answer"))
    assert (peer.since, peer.down) == (30.0, Down(30.0, DownReason.PEER_SILENT, "no answer"))
    deadlines.now = 40.0
    peers.handle_event(ike_up(3, "homes", HOME_A))
    (again,) = peers.of("homes")
    assert (again.since, again.down) == (40.0, None)


def test_what_waits_for_an_ike_sa_ends_with_it() -> None:
    deadlines = Deadlines()
    peers = Peers(deadlines.clock)
    peers.handle_event(ike_up(1, "homes", HOME_A))
    live = peers.ike_sa(1)
    assert live is not None
    live.search = PathSearch(Discovery(Bounds(4)), timer=deadlines.later(5.0, lambda: None))
    live.names = WatchedNames(("portal.example",), timer=deadlines.later(5.0, lambda: None))
    peers.handle_event(IkeSaDown(1, "homes", HOME_A, DownReason.ASKED))
    assert deadlines.pending == 0
    assert (peers.ike_sa(1), peers.path_mtu(1)) == (None, PathMtu(BASE))


def test_when_packets_last_came_and_went_is_when_their_counters_grew() -> None:
    deadlines = Deadlines(now=10.0)
    peers = Peers(deadlines.clock)
    up(peers, child(1, peer=PORTAL))
    peer = peers.find("homes", PORTAL)
    assert peer is not None
    peers.note_counters([SaCounters(handle=1, drops={})])
    assert (peer.last_in, peer.last_out) == (None, None)
    peers.note_counters([SaCounters(handle=1, outbound_packets=1, drops={})])
    deadlines.now = 20.0
    peers.note_counters([SaCounters(handle=1, outbound_packets=1, inbound_packets=4, drops={})])
    assert (peer.last_in, peer.last_out) == (20.0, 10.0)


def test_a_peer_that_moved_is_found_where_it_is_now() -> None:
    peers = Peers(lambda: 7.0)
    peers.handle_event(ike_up(1, "homes", PORTAL))
    up(peers, child(5, peer=PORTAL, ike=1))
    there, here = path().remote.address, path("203.0.113.9")
    assert peers.sender(there, 5) is not None
    peers.handle_event(PeerMoved(1, here, False, (5,)))
    moved = peers.sender(here.remote.address, 5)
    assert moved is not None
    assert (peers.sender(there, 5), moved.path, moved.udp) == (None, here, False)
    live = peers.ike_sa(1)
    assert live is not None
    assert live.path == here


def test_a_failure_is_remembered_until_something_is_up_again() -> None:
    peers = Peers(lambda: 7.0)
    peers.load(["homes"], [])
    record = peers.record("homes")
    assert record is not None
    peers.handle_event(failed("homes"))
    assert (record.failure, record.missed) == (1, 7.0)
    peers.handle_event(ike_up(1, "homes", HOME_B))
    assert record.failure is None
    peers.load([], ["homes"])
    peers.handle_event(failed("homes"))
    assert peers.record("homes") is None


def failed(connection: str) -> NegotiationFailed:
    return NegotiationFailed(
        ike=1,
        connection=connection,
        peer=None,
        path=path(),
        is_initiator=True,
        exchange=34,
        notify=None,
        notify_sent=False,
        reason=DownReason.PEER_SILENT,
        text="nothing came",
        at=7.0,
    )
