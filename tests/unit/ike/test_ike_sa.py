import pytest

from openmoat.ike.channel import Channel
from openmoat.ike.config import Count
from openmoat.ike.context import Timer
from openmoat.ike.errors import PeerMisbehaved
from openmoat.ike.events import Answer, AskActivity, DownReason, NegotiationFailed, Transmit, Unanswerable
from openmoat.ike.exchange_runner import MAX_QUEUED_EXCHANGES, MAX_TEMPORARY_FAILURES, TEMPORARY_WAIT
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.exchanges.exchange import Again, Ask, Close, Done, Exchange, Send, Step, Want
from openmoat.ike.exchanges.informational import DeleteChildren, Probe, SizeProbe
from openmoat.ike.exchanges.rekey_ike import RekeyIke
from openmoat.ike.ike_sa import DELETE_SECONDS
from openmoat.ike.session import Session
from openmoat.ike.states import Closed, Dead, Deleting
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import Delete, Notify, Payload
from openmoat.ike.wire.rules import Phase
from openmoat.net import Path
from unit.ike.parts import HERE, THERE, Core

BACK = Path(THERE, HERE)


class Scripted(Exchange):
    """Takes the steps that it is given."""

    phase = Phase.INFORMATIONAL

    def __init__(self, *steps: Step) -> None:
        super().__init__()
        self.steps = list(steps)
        self.ended: DownReason | None = None

    def start(self, session: Session) -> Step:
        return self.steps.pop(0)

    def on_response(self, session: Session, message: Message) -> Step:
        return self.steps.pop(0)

    def end(self, session: Session, reason: DownReason) -> Done:
        self.ended = reason
        return Done()


def sent(core: Core) -> list[bytes]:
    """What was sent since the last time."""
    octets = [output.octets for output in core.context.outputs if isinstance(output, Transmit)]
    core.context.outputs.clear()
    return octets


def opened(channel: Channel, octets: bytes) -> Message:
    message = channel.receive(Header.parse(octets), octets, BACK)
    assert isinstance(message, Message)
    return message


def reply(core: Core, *payloads: Payload) -> None:
    """The peer answers our open request."""
    (request,) = sent(core)
    message = opened(core.theirs, request)
    core.theirs.respond(message.header.exchange, payloads)
    (response,) = sent(core)
    core.sa.receive(Header.parse(response), response, BACK)


def test_exchanges_wait_for_their_turn_and_only_one_request_is_open() -> None:
    core = Core()
    first, second = Scripted(Send(()), Done()), Scripted(Send(()), Done())
    core.sa.want(first)
    core.sa.want(second)
    assert (first.is_sent, second.is_sent) == (True, False)
    reply(core)
    assert second.is_sent


def test_what_waits_has_a_bound_that_deletes_do_not_count_against() -> None:
    core = Core()
    for number in range(MAX_QUEUED_EXCHANGES + 3):
        core.sa.want(SizeProbe(1280 + number))
    assert core.context.counts[Count.EXCHANGE_QUEUE_LIMIT] == 2
    core.sa.exchanges.want(DeleteChildren((0x100,)), first=True)
    assert core.context.counts[Count.EXCHANGE_QUEUE_LIMIT] == 2


def test_an_exchange_that_would_do_the_same_again_is_not_queued() -> None:
    core = Core()
    core.sa.want(Probe())
    core.sa.want(Probe())
    reply(core)
    assert sent(core) == []


def test_a_question_of_an_exchange_leads_to_its_next_step_and_is_forgotten_with_the_ike_sa() -> None:
    core, heard = Core(), list[Answer]()

    def then(answer: Answer) -> Step:
        heard.append(answer)
        return Done()

    core.sa.want(Scripted(Ask(lambda t: AskActivity(t, ()), then)))
    (question,) = core.context.outputs
    assert isinstance(question, AskActivity)
    core.context.deliver(Unanswerable(question.ticket, "no"))
    assert len(heard) == 1
    core.sa.want(Scripted(Ask(lambda t: AskActivity(t, ()), then)))
    core.sa.forget(DownReason.ASKED)
    assert core.context.open_questions == 0


def test_a_busy_peer_is_asked_again_after_a_while_and_not_for_ever() -> None:
    core = Core()
    steps = [step for _ in range(MAX_TEMPORARY_FAILURES + 1) for step in (Send(()), Again(is_busy=True))]
    exchange = Scripted(*steps)
    core.sa.want(exchange)
    for attempt in range(MAX_TEMPORARY_FAILURES):
        reply(core)
        assert exchange.attempts == attempt + 1
        at = core.context.timers.deadline((Timer.RESUME, 1))
        assert at is not None
        assert TEMPORARY_WAIT <= at - core.context.now < 2 * TEMPORARY_WAIT
        core.context.timers.stop((Timer.RESUME, 1))
        core.sa.exchanges.pump()
    reply(core)
    assert isinstance(core.sa.state, Deleting)


def test_an_exchange_that_begins_again_goes_before_those_that_wait() -> None:
    core = Core()
    exchange, other = Scripted(Send(()), Again(is_busy=False), Send(()), Done()), Scripted(Send(()), Done())
    core.sa.want(exchange)
    core.sa.want(other)
    reply(core)
    assert (exchange.is_sent, other.is_sent) == (True, False)


def test_what_an_exchange_wants_follows_before_everything_else() -> None:
    core = Core()
    wanted, waiting = Scripted(Send(()), Done()), Scripted(Send(()), Done())
    core.sa.want(Scripted(Send(()), Done((Want(wanted),))))
    core.sa.want(waiting)
    reply(core)
    assert (wanted.is_sent, waiting.is_sent) == (True, False)


def test_a_silent_peer_ends_the_ike_sa_after_the_schedule() -> None:
    core = Core()
    exchange = Scripted(Send(()))
    core.sa.want(exchange)
    for _ in range(core.context.config.retransmission.tries):
        assert len(sent(core)) == 1
        core.sa.retransmit()
    assert isinstance(core.sa.state, Dead)
    assert exchange.ended is DownReason.PEER_SILENT


def test_a_delete_tells_the_peer_and_ends_whatever_comes() -> None:
    core = Core()
    core.sa.delete(DownReason.ASKED)
    assert isinstance(core.sa.state, Deleting)
    assert core.context.timers.deadline((Timer.LINGER, 1)) == core.context.now + DELETE_SECONDS
    reply(core)
    assert isinstance(core.sa.state, Dead)
    assert core.registry.sas == {}


def test_a_delete_waits_for_a_request_that_is_open() -> None:
    core = Core()
    exchange = Scripted(Send(()))
    core.sa.want(exchange)
    core.sa.delete(DownReason.ASKED)
    assert exchange.ended is DownReason.ASKED
    reply(core)  # to the request before it
    (farewell,) = sent(core)
    assert opened(core.theirs, farewell).payloads == (Delete.ike(),)


def test_the_peer_that_deletes_gets_an_answer_also_when_it_asks_again() -> None:
    core = Core()
    core.theirs.request(ExchangeType.INFORMATIONAL, [Delete.ike()])
    (request,) = sent(core)
    core.sa.receive(Header.parse(request), request, BACK)
    answer = sent(core)
    assert isinstance(core.sa.state, Closed)
    core.sa.receive(Header.parse(request), request, BACK)
    assert sent(core) == answer


def test_a_response_that_breaks_the_rules_deletes_the_ike_sa_and_says_why() -> None:
    core = Core()
    core.sa.want(Scripted(Send(()), Done(outcome=Close(DownReason.REFUSED))))
    reply(core, Notify(NotifyType.COOKIE2, b"12345678"))
    assert isinstance(core.sa.state, Closed)
    core = Core()

    class Misled(Scripted):
        def on_response(self, session: Session, message: Message) -> Step:
            raise PeerMisbehaved("it lies")

    core.sa.want(Misled(Send(())))
    (request,) = sent(core)
    message = opened(core.theirs, request)
    core.theirs.respond(message.header.exchange, ())
    (response,) = sent(core)
    core.sa.receive(Header.parse(response), response, BACK)
    assert any(isinstance(output, NegotiationFailed) for output in core.context.outputs)
    assert isinstance(core.sa.state, Deleting)


def test_a_request_for_an_exchange_that_is_not_for_this_state_gets_no_answer() -> None:
    core = Core()
    core.theirs.request(ExchangeType.IKE_AUTH, ())
    (request,) = sent(core)
    core.sa.receive(Header.parse(request), request, BACK)
    assert sent(core) == []
    assert core.context.counts[Count.UNEXPECTED_REQUEST] == 1


def test_what_we_are_at_is_seen_from_each_child_sa() -> None:
    core = Core()
    child, other = core.live(0x100), core.live(0x300)
    assert core.sa.exchanges.doing(0x100) is Ours.NOTHING
    child.is_closing = True
    assert core.sa.exchanges.doing(0x100) is Ours.LEAVING_THIS_CHILD
    core.sa.want(DeleteChildren((0x100,)))
    assert core.sa.exchanges.doing(0x100) is Ours.CLOSING_THIS_CHILD
    assert core.sa.exchanges.doing(other.sa.local_spi) is core.sa.exchanges.doing(None) is Ours.CLOSING_CHILD
    core.sa.delete(DownReason.ASKED)
    assert core.sa.exchanges.doing(None) is Ours.CLOSING_IKE


def test_a_delete_while_a_rekey_is_open_waits_until_it_is_known_what_is_to_be_deleted() -> None:
    core = Core()
    core.sa.want(RekeyIke())
    assert core.sa.is_rekeying
    (question,) = core.context.outputs
    core.sa.delete(DownReason.ASKED)
    assert isinstance(core.sa.state, Deleting)  # nothing was sent yet
    assert question is not None


@pytest.mark.parametrize("is_live", [True, False])
def test_an_exception_in_a_handler_ends_the_ike_sa_and_tells_the_peer(is_live: bool) -> None:
    core = Core()
    if not is_live:
        core.sa.close(DownReason.PEER_DELETED)
    core.sa.break_off()
    assert isinstance(core.sa.state, Deleting if is_live else Dead)
    assert len(sent(core)) == is_live


def test_a_child_sa_that_the_peer_deletes_is_answered_with_our_half() -> None:
    core = Core()
    core.live(0x100)
    core.theirs.request(ExchangeType.INFORMATIONAL, [Delete(ProtocolId.ESP, (0x101, 0x999))])
    (request,) = sent(core)
    core.sa.receive(Header.parse(request), request, BACK)
    (response,) = sent(core)
    assert opened(core.theirs, response).payloads == (Delete(ProtocolId.ESP, (0x100,)),)
    assert not core.session.peer.children
