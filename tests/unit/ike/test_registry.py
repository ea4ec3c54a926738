from ipaddress import ip_address

from openmoat.crypto.identities import Identity
from openmoat.ike.events import DownReason
from openmoat.ike.registry import HalfOpenKey
from unit.ike.parts import Core

KEY: HalfOpenKey = (ip_address("203.0.113.1"), 500, b"digest")
ANOTHER = Identity.parse("m2.moats.example")


def test_an_ike_sa_that_is_up_is_found_by_spi_connection_and_peer() -> None:
    core = Core()
    peer = core.session.peer
    assert core.registry.sas == {1: core.sa}
    assert core.registry.of_connection("office") == core.registry.established("office") == [core.sa]
    assert core.registry.of_peer("office", peer.key) == [core.sa]
    assert not core.registry.has_others(1, "office", peer.identity)
    assert core.registry.has_others(2, "office", peer.identity)


def test_selectors_belong_to_the_first_identity_that_has_them_until_it_gives_them_back() -> None:
    core = Core()
    live = core.live(0x100)
    other = core.make_session(core.ours, peer=str(ANOTHER)).peer
    assert core.registry.other_owner(other, live.sa.local, live.sa.remote) == core.session.peer.key
    assert core.registry.other_owner(core.session.peer, live.sa.local, live.sa.remote) is None
    core.session.peer.end(0x100, DownReason.ASKED)
    assert core.registry.other_owner(other, live.sa.local, live.sa.remote) is None


def test_half_open_ike_sas_are_counted_by_source_and_nothing_follows_from_that() -> None:
    core = Core()
    sa = core.sa
    core.registry.open_half(sa, KEY)
    assert core.registry.half_open == {KEY: sa}
    assert core.registry.half_open_by_source == {KEY[0]: 1}
    core.registry.close_half(sa)
    core.registry.close_half(sa)  # once more is no matter
    assert not core.registry.half_open
    assert not core.registry.half_open_by_source
    assert not core.context.outputs
    assert not len(core.context.timers)


def test_who_leaves_stands_for_no_peer_any_more_and_is_still_found_by_its_spi() -> None:
    core = Core()
    assert core.registry.leave(core.sa)
    assert not core.registry.leave(core.sa)
    assert core.registry.of_peer("office", core.session.peer.key) == core.registry.of_connection("office") == []
    assert core.registry.sas == {1: core.sa}
    core.registry.remove(core.sa)
    assert core.registry.sas == {}
