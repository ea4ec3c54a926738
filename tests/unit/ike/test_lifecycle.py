from ipaddress import ip_address

from openmoat.crypto.identities import Identity
from openmoat.ike import lifecycle
from openmoat.ike.channel import Channel
from openmoat.ike.config import Count, IkeConfig
from openmoat.ike.context import Timer
from openmoat.ike.events import DownReason, IkeSaDown, IkeSaUp
from openmoat.ike.ike_sa import IkeSa
from openmoat.ike.registry import HalfOpenKey
from openmoat.ike.states import AwaitingAuth, Closed
from unit.ike.parts import PATH, Core, make_channels

KEY: HalfOpenKey = (ip_address("203.0.113.1"), 500, b"digest")
ANOTHER = Identity.parse("m2.moats.example")


def half_open(core: Core, spi: int) -> IkeSa:
    """An IKE SA whose peer has yet to prove anything."""
    channel = Channel(core.context, spi, 9, PATH, is_initiator=False)
    return IkeSa(core.context, core.registry, channel, object.__new__(AwaitingAuth))


def second(core: Core, spi: int = 5) -> IkeSa:
    """Another IKE SA with the same peer."""
    ours, _ = make_channels(core.context)
    return core.add(core.make_session(ours.sibling(spi, spi + 1, is_initiator=True)))


def test_of_what_lingers_the_oldest_goes_when_there_are_too_many() -> None:
    core = Core(config=IkeConfig(max_lingering=1))
    other = second(core)
    core.sa.close(DownReason.PEER_DELETED)
    assert isinstance(core.sa.state, Closed)
    other.close(DownReason.PEER_DELETED)
    assert list(core.registry.sas) == [5]
    assert core.context.counts[Count.LINGERING_LIMIT] == 1


def test_initial_contact_ends_the_older_ike_sas_of_that_peer() -> None:
    core = Core()
    core.context.now = 50.0
    ours, _ = make_channels(core.context)
    session = core.make_session(ours.sibling(5, 6, is_initiator=True))
    new = IkeSa(core.context, core.registry, session.channel, core.sa.state)
    lifecycle.authenticated(core.context, core.registry, new, session, is_initial_contact=True)
    assert core.registry.of_peer("office", session.peer.key) == [new]
    assert (
        IkeSaDown(1, "office", core.session.peer.identity, DownReason.REPLACED, "INITIAL_CONTACT") in core.context.news
    )


def test_one_identity_has_a_bounded_number_of_ike_sas() -> None:
    core = Core(config=IkeConfig(max_ike_sas_per_peer=1))
    new = second(core)
    assert core.sa.is_over
    assert core.registry.of_peer("office", core.session.peer.key) == [new]
    assert core.context.counts[Count.IKE_SAS_PER_PEER_LIMIT] == 1


def test_an_ike_sa_that_ends_takes_its_child_sas_with_it_unless_a_successor_has_them() -> None:
    core = Core()
    core.live(0x100)
    new = second(core)
    core.session.peer.carry(5)
    lifecycle.replaced(core.context, core.registry, core.sa, new)
    core.context.news.clear()
    core.sa.forget(DownReason.PEER_SILENT)
    (down,) = core.context.news
    assert isinstance(down, IkeSaDown)
    assert down.reason is DownReason.REKEYED
    assert core.session.peer.children


def test_a_successor_is_told_with_what_it_replaces() -> None:
    core = Core()
    new = second(core)
    core.context.news.clear()
    lifecycle.replaced(core.context, core.registry, core.sa, new)
    (up,) = core.context.news
    assert isinstance(up, IkeSaUp)
    assert (up.ike, up.replaces) == (5, 1)
    assert core.registry.of_connection("office") == [new]


def test_what_cannot_end_as_it_should_leaves_nothing_and_the_connection_is_looked_at_again() -> None:
    core = Core()
    live = core.live(0x100)
    other = core.make_session(core.ours, peer=str(ANOTHER)).peer
    lifecycle.expel(core.context, core.registry, core.sa)
    assert core.registry.other_owner(other, live.sa.local, live.sa.remote) is None
    assert not core.registry.sas
    assert not core.registry.children
    assert core.registry.of_connection("office") == []
    assert (Timer.KEEP_UP, "office") in core.context.timers


def test_a_half_open_ike_sa_counts_for_its_source_until_it_is_gone() -> None:
    core = Core()
    sa = half_open(core, 77)
    lifecycle.open_half(core.context, core.registry, sa, KEY)
    assert core.registry.half_open == {KEY: sa}
    assert core.registry.half_open_by_source[KEY[0]] == 1
    assert (Timer.HANDSHAKE, 77) in core.context.timers
    sa.forget(DownReason.PEER_SILENT)
    assert not core.registry.half_open
    assert not core.registry.half_open_by_source
    assert 77 not in core.registry.sas
    assert (Timer.HANDSHAKE, 77) not in core.context.timers
