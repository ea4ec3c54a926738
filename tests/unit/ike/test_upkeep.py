import pytest

from openmoat.ike.context import Timer
from openmoat.ike.events import (
    Activity,
    AskActivity,
    AskPath,
    ChildSaDown,
    DownReason,
    IkeSaDown,
    IkeSaUp,
    StopOutbound,
    Transmit,
)
from openmoat.ike.news import ChildFailed
from openmoat.ike.states import FindingPath
from openmoat.ike.upkeep import RECOVERY_SECONDS, Phase, Upkeep
from openmoat.model.connection import ChildLifetimes, Start
from unit.ike.parts import Core, child, make_connection


class Kept:
    """A core whose connections are looked after."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.upkeep = Upkeep(core.context, core.registry, core.connections)

    @property
    def record(self) -> Phase:
        return self.upkeep.records["office"].phase

    def asked(self) -> list[str]:
        """Kinds of what was put out since the last time."""
        kinds = [type(output).__name__ for output in self.core.context.outputs]
        self.core.context.outputs.clear()
        return kinds

    def retry(self) -> float | None:
        at = self.core.context.timers.deadline((Timer.KEEP_UP, "office"))
        return None if at is None else at - self.core.context.now


def alone(*children_: object) -> Kept:
    """Without an IKE SA."""
    core = Core(*children_)  # type: ignore[arg-type]
    core.sa.forget(DownReason.ASKED)
    core.context.news.clear()
    core.context.outputs.clear()
    return Kept(core)


def test_what_is_wanted_from_the_start_is_negotiated_when_it_is_loaded() -> None:
    kept = alone()
    kept.upkeep.load(kept.core.connection)
    assert kept.asked() == ["AskPath"]
    assert kept.record is Phase.CONNECTING
    kept.upkeep.look("office")
    assert kept.asked() == []  # an attempt is on its way


def test_what_nobody_wants_is_idle_until_a_packet_asks_for_it() -> None:
    kept = alone(child(start=Start.TRAP))
    kept.upkeep.load(kept.core.connection)
    assert (kept.asked(), kept.record) == ([], Phase.IDLE)
    kept.upkeep.acquire("office", "net")
    assert (kept.asked(), kept.record) == (["AskPath"], Phase.CONNECTING)


def test_asking_for_it_begins_anew_whatever_an_attempt_waits_for() -> None:
    kept = alone()
    kept.upkeep.load(kept.core.connection)
    (first,) = kept.core.registry.of_connection("office")
    kept.asked()
    kept.upkeep.initiate("office", None)
    (second,) = kept.core.registry.of_connection("office")
    assert second is not first
    assert isinstance(second.state, FindingPath)
    assert any(isinstance(output, AskPath) for output in kept.core.context.outputs)
    kept.upkeep.handle_news()
    assert kept.record is Phase.CONNECTING


def test_an_unknown_child_is_refused_with_those_that_there_are() -> None:
    kept = alone()
    kept.upkeep.load(kept.core.connection)
    with pytest.raises(ValueError, match="no child 'nat'; it has net"):
        kept.upkeep.initiate("office", "nat")


def test_a_connection_that_is_down_stays_down() -> None:
    kept = alone()
    kept.upkeep.load(kept.core.connection)
    kept.upkeep.take_down("office", None)
    kept.upkeep.handle_news()
    kept.asked()
    kept.upkeep.acquire("office", "net")
    kept.upkeep.look("office")
    assert (kept.asked(), kept.record) == ([], Phase.DOWN)
    assert kept.core.connections.candidates(kept.core.session.peer.identity, None, kept.core.session.suite) == ()
    kept.upkeep.initiate("office", None)
    assert kept.record is Phase.CONNECTING


@pytest.mark.parametrize(("reason", "longest"), [(DownReason.PEER_SILENT, 16.0), (DownReason.REFUSED, 120.0)])
def test_an_attempt_that_fails_is_repeated_after_a_time_that_grows_up_to_a_bound(
    reason: DownReason, longest: float
) -> None:
    kept = alone()
    kept.upkeep.load(kept.core.connection)
    waits = []
    for _ in range(10):
        (attempt,) = kept.core.registry.of_connection("office")
        attempt.forget(reason)
        kept.upkeep.handle_news()
        assert kept.record is Phase.WAITING
        wait = kept.retry()
        assert wait is not None
        waits.append(wait)
        kept.core.context.now += wait
        kept.core.context.timers.stop((Timer.KEEP_UP, "office"))
        kept.upkeep.look_again("office")
    assert 1 <= waits[0] < 1.25
    assert longest <= waits[-1] < longest * 1.25


def test_an_ike_sa_that_an_error_of_ours_has_ended_comes_back_after_the_back_off() -> None:
    kept = Kept(Core())
    kept.upkeep.load(kept.core.connection)
    kept.core.sa.forget(DownReason.ERROR, "an error")
    kept.upkeep.handle_news()
    assert kept.upkeep.records["office"].failures >= 1
    wait = kept.retry()
    assert wait is not None
    assert wait >= RECOVERY_SECONDS


def test_a_child_sa_that_is_lost_comes_back_soon_unless_another_stays() -> None:
    kept = Kept(Core())
    kept.upkeep.load(kept.core.connection)
    live = kept.core.live(0x100)
    kept.core.live(0x200, replaces=0x100)
    kept.core.context.news.clear()
    kept.core.session.peer.end(0x100, DownReason.PEER_DELETED)
    kept.upkeep.handle_news()
    assert kept.retry() is None
    kept.core.session.peer.end(0x200, DownReason.PEER_DELETED)
    assert any(isinstance(news, ChildSaDown) for news in kept.core.context.news)
    kept.upkeep.handle_news()
    wait = kept.retry()
    assert wait is not None
    assert wait < RECOVERY_SECONDS
    assert live.sa.child == "net"


def test_a_child_sa_that_could_not_be_had_is_tried_again() -> None:
    kept = Kept(Core())
    kept.upkeep.load(kept.core.connection)
    kept.core.context.news.clear()
    kept.core.context.report(ChildFailed("office", "net", kept.core.session.peer.key, DownReason.LOCAL, "no room"))
    kept.upkeep.handle_news()
    assert kept.record is Phase.WAITING
    assert kept.upkeep.records["office"].text == "no room"


def test_an_ike_sa_that_is_up_gets_its_timers_and_makes_attempts_pointless() -> None:
    kept = alone()
    kept.upkeep.load(kept.core.connection)
    (attempt,) = kept.core.registry.of_connection("office")
    sa = kept.core.add(kept.core.make_session(kept.core.ours.sibling(5, 6, is_initiator=False)))
    assert any(isinstance(news, IkeSaUp) for news in kept.core.context.news)
    kept.upkeep.handle_news()
    assert kept.core.registry.of_connection("office") == [sa]
    assert attempt.own_spi not in kept.core.registry.sas
    for timer in (Timer.REKEY_IKE, Timer.HARD_IKE, Timer.LIVENESS):
        assert (timer, 5) in kept.core.context.timers


def test_the_end_of_a_hard_lifetime_stops_the_outbound_half_before_anything_else() -> None:
    kept = Kept(Core(child(lifetimes=ChildLifetimes())))
    kept.upkeep.load(kept.core.connection)
    kept.core.live(0x100)
    kept.asked()
    kept.upkeep.expire_child(0x100)
    assert isinstance(kept.core.context.outputs[0], StopOutbound)
    assert isinstance(kept.core.context.outputs[1], Transmit)
    kept.asked()
    kept.upkeep.expire_child(0x100)  # also where its Delete is on its way
    assert kept.asked() == ["StopOutbound"]


def test_half_a_liveness_time_without_a_request_asks_for_the_activity_of_the_children() -> None:
    kept = Kept(Core())
    kept.upkeep.load(kept.core.connection)
    kept.core.live(0x100)
    kept.core.context.outputs.clear()
    kept.upkeep.check_liveness(kept.core.sa)
    (question,) = [output for output in kept.core.context.outputs if isinstance(output, AskActivity)]
    assert question.children == (0x100,)
    kept.core.context.now += 60
    kept.core.context.outputs.clear()
    kept.core.context.deliver(Activity(question.ticket, 0, 9))
    assert [type(output) for output in kept.core.context.outputs] == [Transmit]  # is the peer there?


def test_a_connection_that_is_gone_takes_its_ike_sas_with_it() -> None:
    kept = Kept(Core())
    kept.upkeep.load(kept.core.connection)
    kept.upkeep.unload("office")
    assert any(isinstance(news, IkeSaDown) for news in kept.core.context.news)
    kept.upkeep.handle_news()
    assert kept.core.sa.is_over
    assert "office" not in kept.upkeep.records


def test_changed_lifetimes_reach_the_sas_that_there_are() -> None:
    kept = Kept(Core())
    kept.upkeep.load(kept.core.connection)
    live = kept.core.live(0x100)
    changed = make_connection(child(lifetimes=ChildLifetimes(rekey_after=50, hard=99)))
    kept.upkeep.update(changed)
    assert kept.core.sa.connection is changed
    assert live.spec.lifetimes.hard == 99
