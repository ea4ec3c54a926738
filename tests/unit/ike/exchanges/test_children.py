"""Exchanges that make Child SAs, step by step, without an IKE SA that runs them."""

import pytest

from openmoat.crypto.suites import ECP_256, X25519
from openmoat.errors import Secret
from openmoat.ike.context import Timer
from openmoat.ike.errors import Busy, NoAdditionalSas, PeerMisbehaved
from openmoat.ike.events import (
    AskInstall,
    AskKeyPair,
    AskSharedSecret,
    DownReason,
    Installed,
    KeyPair,
    Refused,
    RemoveChildSa,
    SharedSecret,
    Unanswerable,
    WeakPublicValue,
)
from openmoat.ike.exchanges.answer_child import AnswerNew
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.exchanges.create_child import MAX_METHOD_CHANGES, NewChild
from openmoat.ike.exchanges.exchange import Again, Ask, Done, Reply, Send, Step
from openmoat.ike.news import ChildFailed
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import Nonce, Notify, Payload
from unit.ike.parts import Core, asked, child


def message(*payloads: Payload, is_response: bool) -> Message:
    header = Header(1, 2, ExchangeType.CREATE_CHILD_SA, not is_response, is_response, 2)
    return Message(header, payloads, is_protected=True)


def nothing(spi: int | None) -> Ours:
    return Ours.NOTHING


class Pair:
    """Two cores of which one makes a Child SA and the other answers."""

    def __init__(self, *, pfs: bool = False) -> None:
        methods = (X25519,) if pfs else ()
        self.here = Core(child(methods=methods))
        self.there = Core(child(local="10.2.0.0/16", remote="10.1.0.0/16", methods=methods))
        self.here.stock(0x100, 0x200)
        self.there.stock(0x800, 0x900)

    def request(self, exchange: NewChild) -> Message:
        step = exchange.start(self.here.session)
        assert isinstance(step, Send)
        exchange.is_sent = True
        return message(*step.payloads, is_response=False)

    def respond(self, answering: AnswerNew) -> Message:
        step = go_on(answering.start(self.there.session, nothing), Installed(1))
        assert isinstance(step, Reply)
        step.then()
        return message(*step.payloads, is_response=True)


def go_on(step: Step, answer: object) -> Step:
    assert isinstance(step, Ask)
    return step.then(answer)  # type: ignore[arg-type]


def test_a_child_sa_is_installed_by_the_responder_before_it_answers_and_used_when_both_have_it() -> None:
    pair = Pair()
    ours = NewChild(pair.here.connection.children[0])
    theirs = AnswerNew(pair.request(ours))
    step = theirs.start(pair.there.session, nothing)
    installed = asked(step)
    assert isinstance(installed, AskInstall)
    assert (installed.child.local_spi, installed.child.remote_spi) == (0x800, 0x100)
    replied = go_on(step, Installed(1))
    assert isinstance(replied, Reply)
    assert not pair.there.session.peer.children  # not before the response is out
    replied.then()
    assert pair.there.session.peer.lasting("net") is not None
    step = ours.on_response(pair.here.session, message(*replied.payloads, is_response=True))
    assert isinstance(asked(step), AskInstall)
    assert go_on(step, Installed(1)) == Done()
    live = pair.here.session.peer.lasting("net")
    assert live is not None
    assert live.is_active


@pytest.mark.parametrize("answer", [Refused(1, "no room"), Unanswerable(1, "no answer")])
def test_a_child_sa_that_we_cannot_install_is_deleted_at_the_peer(answer: object) -> None:
    pair = Pair()
    ours = NewChild(pair.here.connection.children[0])
    response = pair.respond(AnswerNew(pair.request(ours)))
    done = go_on(ours.on_response(pair.here.session, response), answer)
    assert isinstance(done, Done)
    assert done.failure is not None
    assert done.failure.reason is DownReason.LOCAL
    (want,) = done.wants
    assert "DeleteChildren" in type(want.exchange).__name__
    # Where nobody knows what is left of it, it is taken out.
    removed = any(isinstance(output, RemoveChildSa) for output in pair.here.context.outputs)
    assert removed is isinstance(answer, Unanswerable)
    assert any(isinstance(news, ChildFailed) for news in pair.here.context.news)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Refused(1, "no room", is_temporary=True), Busy),
        (Refused(1, "no room", is_temporary=False), NoAdditionalSas),
        (Unanswerable(1, "no answer"), Busy),
    ],
)
def test_a_child_sa_that_the_responder_cannot_install_is_refused(answer: object, error: type[Exception]) -> None:
    pair = Pair()
    theirs = AnswerNew(pair.request(NewChild(pair.here.connection.children[0])))
    step = theirs.start(pair.there.session, nothing)
    with pytest.raises(error, match="data plane"):
        go_on(step, answer)


def test_keys_of_their_own_are_asked_for_by_both_sides() -> None:
    pair = Pair(pfs=True)
    ours = NewChild(pair.here.connection.children[0])
    step = ours.start(pair.here.session)
    assert isinstance(asked(step), AskKeyPair)
    sent = go_on(step, KeyPair(1, b"p" * 32, Secret(b"s" * 32)))
    assert isinstance(sent, Send)
    theirs = AnswerNew(message(*sent.payloads, is_response=False))
    step = theirs.start(pair.there.session, nothing)
    assert isinstance(asked(step), AskKeyPair)
    step = go_on(step, KeyPair(1, b"q" * 32, Secret(b"t" * 32)))
    assert isinstance(asked(step), AskSharedSecret)
    with pytest.raises(Busy):
        go_on(step, Unanswerable(1, "later"))
    with pytest.raises(PeerMisbehaved):
        go_on(step, WeakPublicValue(1, "0"))
    assert isinstance(asked(go_on(step, SharedSecret(1, Secret(b"x" * 32)))), AskInstall)


def test_another_method_is_tried_within_a_bound_when_the_peer_prefers_it() -> None:
    core = Core(child(methods=(X25519, ECP_256)))
    ours = NewChild(core.connection.children[0])
    steps: list[Step] = []
    for number in range(MAX_METHOD_CHANGES + 1):
        core.stock(0x100)
        go_on(ours.start(core.session), KeyPair(1, b"p" * 32, Secret(b"s" * 32)))
        wanted = int((ECP_256, X25519)[number % 2].id).to_bytes(2, "big")
        refusal = message(Notify(NotifyType.INVALID_KE_PAYLOAD, wanted), is_response=True)
        steps.append(ours.on_response(core.session, refusal))
    assert steps[:-1] == [Again(is_busy=False)] * MAX_METHOD_CHANGES
    assert isinstance(steps[-1], Done)
    assert steps[-1].failure is not None


def test_a_busy_peer_means_once_more_and_the_spi_is_given_back() -> None:
    pair = Pair()
    ours = NewChild(pair.here.connection.children[0])
    pair.request(ours)
    step = ours.on_response(pair.here.session, message(Notify(NotifyType.TEMPORARY_FAILURE), is_response=True))
    assert step == Again(is_busy=True)
    assert [pair.here.context.take_spi() for _ in range(2)] == [0x200, 0x100]


def test_a_child_sa_that_the_peer_does_not_know_is_given_up() -> None:
    core = Core()
    core.stock(0x100)
    core.live(0x300)
    ours = NewChild(core.connection.children[0], replaces=0x300)
    assert isinstance(ours.start(core.session), Send)
    ours.on_response(core.session, message(Notify(NotifyType.CHILD_SA_NOT_FOUND), is_response=True))
    assert not core.session.peer.children


def test_a_rekey_that_ends_with_its_ike_sa_is_tried_again_while_the_old_child_sa_lives() -> None:
    core = Core()
    core.stock(0x100)
    core.live(0x300)
    ours = NewChild(core.connection.children[0], replaces=0x300)
    ours.start(core.session)
    core.context.timers.stop((Timer.REKEY_CHILD, 0x300))
    ours.end(core.session, DownReason.PEER_SILENT)
    assert (Timer.REKEY_CHILD, 0x300) in core.context.timers
    assert core.context.take_spi() == 0x100


def test_a_rekey_of_what_is_not_there_is_refused_by_the_table() -> None:
    pair = Pair()
    rekey = Notify(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=b"\0\0\0\x09")
    asked_for = pair.request(NewChild(pair.here.connection.children[0]))
    request = message(rekey, *asked_for.payloads, is_response=False)
    step = AnswerNew(request).start(pair.there.session, nothing)
    assert isinstance(step, Reply)
    (gone,) = step.payloads
    assert isinstance(gone, Notify)
    assert (gone.type, gone.spi) == (NotifyType.CHILD_SA_NOT_FOUND, rekey.spi)
    with pytest.raises(Busy):
        AnswerNew(request).start(pair.there.session, lambda spi: Ours.CREATING_CHILD)


def test_of_two_rekeys_of_one_child_sa_the_one_with_the_lowest_nonce_is_closed() -> None:
    for lowest in (True, False):
        pair = Pair()
        pair.here.live(0x300)
        ours = NewChild(pair.here.connection.children[0], replaces=0x300)
        request = pair.request(ours)
        response = pair.respond(AnswerNew(message(*request.payloads[1:], is_response=False)))
        nonces = [payload.octets for payload in (*request.payloads, *response.payloads) if isinstance(payload, Nonce)]
        rival = b"\xff" * 32 if lowest else b"\0" * 32
        for nonce in (rival, b"\0" * 32, rival[:16]):  # one is kept, whichever comes first
            ours.meet((nonce, nonce))
        done = go_on(ours.on_response(pair.here.session, response), Installed(1))
        assert isinstance(done, Done)
        assert len(nonces) == 2
        (want,) = done.wants
        closed = want.exchange
        assert closed.ours(0x300) is (Ours.CLOSING_CHILD if lowest else Ours.CLOSING_THIS_CHILD)
