from dataclasses import replace

from openmoat.ike.context import Timer
from openmoat.ike.events import ActivateOutbound, ChildSaDown, ChildSaUp, DownReason, RemoveChildSa
from openmoat.ike.news import ChildFailed, ChildInstalled
from openmoat.model.connection import Aggfrag, ChildLifetimes
from unit.ike.parts import Core, child


def test_a_child_sa_is_found_by_both_spis_and_has_its_timers() -> None:
    core = Core()
    live = core.live(0x100)
    peer = core.session.peer
    assert peer.by_remote == {0x101: 0x100}
    assert core.registry.children == {0x100: peer}
    assert (Timer.REKEY_CHILD, 0x100) in core.context.timers
    assert core.context.news[-1] == ChildInstalled("office")
    peer.end(0x100, DownReason.ASKED)
    assert (Timer.REKEY_CHILD, 0x100) not in core.context.timers
    assert not core.registry.children
    assert not peer.children
    assert not peer.by_remote
    assert list(core.context.outputs) == [RemoveChildSa(0x100), ChildSaDown(live.sa, DownReason.ASKED)]


def test_the_hard_lifetime_is_what_the_child_sa_says() -> None:
    core = Core(child(lifetimes=ChildLifetimes(rekey_after=0, hard=50)))
    live = core.live(0x100)
    assert (Timer.HARD_CHILD, 0x100) not in core.context.timers
    core.session.peer.end(0x100, DownReason.ASKED)
    live.sa = replace(live.sa, hard_at=77.0)
    core.session.peer.add(live)
    assert core.context.timers.deadline((Timer.HARD_CHILD, 0x100)) == 77.0


def test_a_child_sa_is_activated_once() -> None:
    core = Core()
    live = core.live(0x100)
    core.session.peer.activate(live)
    core.session.peer.activate(live)
    assert list(core.context.outputs) == [ActivateOutbound(0x100), ChildSaUp(live.sa)]


def test_a_successor_sends_before_its_predecessor_goes() -> None:
    core = Core()
    old, new = core.live(0x100), core.live(0x200, replaces=0x100)
    assert old.is_replaced
    assert core.session.peer.lasting("net") is new
    core.session.peer.remove(0x100, DownReason.PEER_DELETED)
    assert [type(output) for output in core.context.outputs] == [
        ActivateOutbound,
        ChildSaUp,
        RemoveChildSa,
        ChildSaDown,
    ]
    down = core.context.outputs[-1]
    assert isinstance(down, ChildSaDown)
    assert down.reason is DownReason.REKEYED


def test_a_child_sa_whose_successor_is_gone_is_not_replaced_any_more() -> None:
    core = Core()
    old = core.live(0x100)
    core.live(0x200, replaces=0x100)
    core.session.peer.end(0x200, DownReason.PEER_DELETED)
    assert not old.is_replaced
    assert core.session.peer.lasting("net") is old


def test_child_sas_go_over_to_the_successor_of_the_ike_sa() -> None:
    core = Core()
    live = core.live(0x100)
    core.session.peer.carry(99)
    assert (live.sa.ike, core.session.peer.carrier) == (99, 99)
    assert not core.session.is_carrier


def test_what_a_peer_cannot_have_is_not_asked_for_again() -> None:
    core = Core()
    spec, peer = replace(core.connection.children[0], aggfrag=Aggfrag.PREFER), core.session.peer
    assert peer.offered(spec) is spec
    peer.demanding |= {spec.name}
    assert peer.offered(spec).aggfrag is Aggfrag.NEVER
    required = replace(spec, aggfrag=Aggfrag.REQUIRE)
    assert peer.offered(required) is required


def test_a_child_sa_that_could_not_be_had_is_news_for_upkeep_alone() -> None:
    core = Core()
    core.session.peer.fail("net", DownReason.LOCAL, "no room")
    (news,) = core.context.news
    assert news == ChildFailed("office", "net", core.session.peer.key, DownReason.LOCAL, "no room")
    assert not core.context.outputs
