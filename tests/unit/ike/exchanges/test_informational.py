"""INFORMATIONAL step by step, without an IKE SA that runs it: Deletes, probes, notices of both roles."""

import pytest

from openmoat.ike.events import ChildSaDown, DownReason, Event, FragmentsProbed, RemoveChildSa, SizeProbed
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.exchanges.exchange import Close, Doing, Done, Reply, Send, Step
from openmoat.ike.exchanges.informational import (
    FRAGMENTED_SIZE,
    MAX_SIZE_PROBES,
    AnswerInformational,
    DeleteChildren,
    FragmentProbe,
    PaddedProbe,
    Probe,
    SizeProbe,
    close_replaced,
    give_up,
)
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import Delete, Notify, Payload
from openmoat.net import Path
from unit.ike.parts import HERE, THERE, Core, child

INFORMATIONAL = ExchangeType.INFORMATIONAL


def message(*payloads: Payload, is_response: bool = False) -> Message:
    return Message(Header(1, 2, INFORMATIONAL, True, is_response, 2), payloads, is_protected=True)


def at(ours: Ours) -> Doing:
    return lambda _spi: ours


def close(core: Core, *spis: int, ours: Ours = Ours.NOTHING) -> Step:
    request = message(Delete(ProtocolId.ESP, spis))
    return AnswerInformational(request).start(core.session, at(ours))


def named(step: Step) -> tuple[int, ...]:
    """SPIs that the response names."""
    assert isinstance(step, Reply)
    return tuple(spi for payload in step.payloads if isinstance(payload, Delete) for spi in payload.spis)


def told(core: Core, kind: type[Event]) -> list[Event]:
    return [output for output in core.context.outputs if isinstance(output, kind)]


def test_a_delete_of_ours_names_our_halves_and_takes_the_pairs_out_with_the_response() -> None:
    core = Core(child())
    core.live(0x100)
    exchange = DeleteChildren((0x100,), DownReason.EXPIRED, "hard lifetime")
    assert exchange.start(core.session) == Send([Delete(ProtocolId.ESP, (0x100,))])
    assert core.session.peer.children  # until the peer has answered
    assert exchange.on_response(core.session, message(is_response=True)) == Done()
    assert not core.session.peer.children
    assert RemoveChildSa(0x100) in core.context.outputs
    (down,) = told(core, ChildSaDown)
    assert isinstance(down, ChildSaDown)
    assert (down.reason, down.text) == (DownReason.EXPIRED, "hard lifetime")


def test_what_is_left_of_a_delete_goes_on_only_where_another_ike_sa_carries_the_child_sas() -> None:
    core = Core(child())
    core.live(0x100)
    exchange = DeleteChildren((0x100, 0x300), DownReason.ASKED)
    assert exchange.end(core.session, DownReason.PEER_SILENT) == Done()
    core.session.peer.carrier = 77
    (want,) = exchange.end(core.session, DownReason.REKEYED).wants
    assert isinstance(want.exchange, DeleteChildren)
    assert want.exchange.spis == (0x100,)
    assert not want.first


def test_a_delete_that_another_holds_already_is_the_same() -> None:
    assert DeleteChildren((1, 2)).is_same(DeleteChildren((2,)))
    assert not DeleteChildren((2,)).is_same(DeleteChildren((1, 2)))
    assert DeleteChildren((1, 2)).is_same(DeleteChildren((2, 1)))
    assert not DeleteChildren((1,)).is_same(Probe())
    assert Probe().is_same(Probe())


def test_a_delete_names_its_own_child_sas_in_the_table_of_collisions() -> None:
    exchange = DeleteChildren((1,))
    assert [exchange.ours(spi) for spi in (1, 2, None)] == [
        Ours.CLOSING_THIS_CHILD,
        Ours.CLOSING_CHILD,
        Ours.CLOSING_CHILD,
    ]


def test_a_replaced_or_lost_child_sa_is_deleted_once() -> None:
    core = Core(child())
    live = core.live(0x100)
    (want,) = close_replaced(core.session, 0x100)
    assert isinstance(want.exchange, DeleteChildren)
    assert (want.exchange.spis, want.exchange.reason) == ((0x100,), DownReason.REKEYED)
    assert (
        close_replaced(core.session, 0x100)
        == close_replaced(core.session, 0x999)
        == close_replaced(core.session, None)
        == ()
    )
    (want,) = give_up(live)
    assert isinstance(want.exchange, DeleteChildren)
    assert want.exchange.reason is DownReason.COLLISION
    assert live.is_lost


def test_the_peer_deletes_by_its_own_spi_and_is_told_ours() -> None:
    core = Core(child())
    core.live(0x100)
    core.live(0x200)
    assert named(close(core, 0x101, 0x101, 0x201, 0x999)) == (0x100, 0x200)  # each once, and what is unknown not at all
    assert not core.session.peer.children
    assert [event.reason for event in told(core, ChildSaDown) if isinstance(event, ChildSaDown)] == [
        DownReason.PEER_DELETED,
        DownReason.PEER_DELETED,
    ]


def test_where_our_own_delete_is_on_its_way_the_response_does_not_name_our_half() -> None:
    core = Core(child())
    core.live(0x100)
    assert named(close(core, 0x101, ours=Ours.CLOSING_THIS_CHILD)) == ()
    assert not core.session.peer.children


class Making(Probe):
    """An exchange of ours that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: list[int] = []

    def note_deleted(self, remote_spi: int) -> None:
        self.deleted.append(remote_spi)


def test_an_exchange_that_may_be_making_what_the_peer_deletes_is_told() -> None:
    core = Core(child())
    request = message(Delete(ProtocolId.ESP, (0x999,)))
    making = Making()
    answering = AnswerInformational(request)
    answering.ours = making
    assert named(answering.start(core.session, at(Ours.CREATING_CHILD))) == ()
    assert making.deleted == [0x999]


def test_a_delete_of_the_ike_sa_is_answered_empty_and_ends_it() -> None:
    core = Core(child())
    core.live(0x100)
    request = message(Delete(ProtocolId.ESP, (0x101,)), Delete(ProtocolId.IKE))
    step = AnswerInformational(request).start(core.session, at(Ours.REKEYING_IKE))
    assert isinstance(step, Reply)
    assert not step.payloads
    assert step.then() == Done(outcome=Close(DownReason.PEER_DELETED))


@pytest.mark.parametrize(
    ("notify", "reason"),
    [
        (NotifyType.AUTHENTICATION_FAILED, DownReason.AUTHENTICATION_FAILED),
        (NotifyType.INVALID_SYNTAX, DownReason.REFUSED),
    ],
)
def test_a_peer_that_gives_the_ike_sa_up_is_believed(notify: NotifyType, reason: DownReason) -> None:
    step = AnswerInformational(message(Notify(notify))).start(Core().session, at(Ours.NOTHING))
    assert isinstance(step, Reply)
    done = step.then()
    assert isinstance(done.outcome, Close)
    assert done.failure is not None
    assert (done.outcome.reason, done.failure.reason, done.failure.notify) == (reason, reason, int(notify))


def test_what_means_nothing_is_answered_empty() -> None:
    core = Core(child())
    core.live(0x100)
    for payloads in ((), (Notify(NotifyType.SIZE_PROBE, b"pad"),), (Delete(ProtocolId.AH, (0x101,)),)):
        step = AnswerInformational(message(*payloads)).start(core.session, at(Ours.NOTHING))
        assert isinstance(step, Reply)
        assert not step.payloads
        assert step.then() == Done()
    assert core.session.peer.children


def sent(core: Core, probe: PaddedProbe) -> Send:
    """The request of a probe, out on the channel."""
    step = probe.start(core.session)
    assert isinstance(step, Send)
    core.ours.request_whole(INFORMATIONAL, step.payloads, df=step.df)
    return step


def test_a_probe_that_is_answered_proves_what_was_sent() -> None:
    core, probe = Core(), SizeProbe(1400)
    step = sent(core, probe)
    assert (step.is_whole, step.df) == (True, True)
    proved = core.ours.datagram_size(step.payloads)
    assert 1360 <= proved <= 1400
    assert probe.on_response(core.session, message(is_response=True)) == Done()
    assert told(core, SizeProbed) == [SizeProbed(1, 1400, proved)]


def test_a_probe_without_response_goes_on_empty_and_its_size_counts_as_lost() -> None:
    core, probe = Core(), SizeProbe(1400)
    sent(core, probe)
    assert [probe.wait(times) is None for times in range(1, MAX_SIZE_PROBES + 2)] == [False] * MAX_SIZE_PROBES + [True]
    sizes = []
    for times in range(2, MAX_SIZE_PROBES + 3):
        probe.on_again(core.session, times)
        assert core.ours.window.sent is not None
        sizes.append(sum(map(len, core.ours.window.sent.datagrams)))
    assert min(sizes[: MAX_SIZE_PROBES - 1]) > 1300
    assert sizes[-2] == sizes[-1] < 200
    probe.on_response(core.session, message(is_response=True))
    assert told(core, SizeProbed) == [SizeProbed(1, 1400, 0)]


def test_a_probe_says_nothing_of_a_path_that_has_changed_meanwhile() -> None:
    core, probe = Core(), FragmentProbe()
    step = sent(core, probe)
    assert (probe.size, step.df) == (FRAGMENTED_SIZE, False)
    core.ours.path = Path(THERE, HERE)
    probe.on_response(core.session, message(is_response=True))
    assert told(core, FragmentsProbed) == [FragmentsProbed(1, passed=None)]


def test_probes_are_the_same_where_kind_and_size_are() -> None:
    assert SizeProbe(1400).is_same(SizeProbe(1400))
    assert not SizeProbe(1400).is_same(SizeProbe(1300))
    assert not SizeProbe(FRAGMENTED_SIZE).is_same(FragmentProbe())
