"""The rekey of an IKE SA step by step, both roles, without an IKE SA that runs it."""

import pytest

from openmoat.crypto.suites import X25519
from openmoat.errors import Secret
from openmoat.ike.context import Timer
from openmoat.ike.errors import Busy, MalformedMessage, PeerMisbehaved, WrongKeyExchange
from openmoat.ike.events import (
    Answer,
    AskKeyPair,
    AskSharedSecret,
    DownReason,
    KeyPair,
    SharedSecret,
    Unanswerable,
    WeakPublicValue,
)
from openmoat.ike.exchanges.collisions import Ours
from openmoat.ike.exchanges.exchange import (
    Again,
    Ask,
    Close,
    Done,
    Offered,
    Reply,
    Send,
    Step,
    Succeed,
    Successor,
    Yield,
)
from openmoat.ike.exchanges.rekey_ike import RETRY_REKEY, AnswerRekey, RekeyIke
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType
from openmoat.ike.wire.payloads import KeyExchange, Nonce, Notify, Payload, SecurityAssociation
from unit.ike.parts import Core, asked, child

OURS, THEIRS = b"o" * 32, b"t" * 32
SECRET = SharedSecret(1, Secret(b"s" * 32))


def message(*payloads: Payload, is_response: bool) -> Message:
    header = Header(1, 2, ExchangeType.CREATE_CHILD_SA, not is_response, is_response, 2)
    return Message(header, payloads, is_protected=True)


def key_pair(public: bytes) -> KeyPair:
    return KeyPair(1, public, Secret(b"p" * 32))


def go_on(step: Step, answer: Answer) -> Step:
    assert isinstance(step, Ask)
    return step.then(answer)


def request(core: Core, exchange: RekeyIke) -> Message:
    step = exchange.start(core.session)
    assert isinstance(asked(step), AskKeyPair)
    step = go_on(step, key_pair(OURS))
    assert isinstance(step, Send)
    return message(*step.payloads, is_response=False)


def answered(core: Core, asks: Message, doing: Ours = Ours.NOTHING) -> Reply:
    step = AnswerRekey(asks).start(core.session, lambda _spi: doing)
    assert isinstance(asked(step), AskKeyPair)
    step = go_on(step, key_pair(THEIRS))
    question = asked(step)
    assert isinstance(question, AskSharedSecret)
    assert question.peer_value == OURS
    step = go_on(step, SECRET)
    assert isinstance(step, Reply)
    return step


def successor(step: Step) -> Successor:
    assert isinstance(step, Done)
    assert isinstance(step.outcome, (Succeed, Offered))
    return step.outcome.successor


def refused(core: Core, exchange: RekeyIke, notify: NotifyType, data: bytes = b"") -> Step:
    request(core, exchange)
    return exchange.on_response(core.session, message(Notify(notify, data), is_response=True))


def retries(core: Core) -> bool:
    return (Timer.REKEY_IKE, core.ours.own_spi) in core.context.timers


def test_both_sides_make_the_same_successor() -> None:
    here, there = Core(child()), Core(child())
    exchange = RekeyIke()
    reply = answered(there, request(here, exchange))
    step = exchange.on_response(here.session, message(*reply.payloads, is_response=True))
    question = asked(step)
    assert isinstance(question, AskSharedSecret)
    assert question.peer_value == THEIRS
    ours, theirs = successor(go_on(step, SECRET)), successor(reply.then())
    assert ours.spis == theirs.spis[::-1]
    assert ours.nonces == theirs.nonces
    assert ours.keymat == theirs.keymat
    assert (ours.is_ours, theirs.is_ours) == (True, False)


@pytest.mark.parametrize("ours_is_lowest", [True, False])
def test_of_two_successors_that_with_the_lowest_nonce_yields(ours_is_lowest: bool) -> None:
    here, there = Core(child()), Core(child())
    exchange = RekeyIke()
    reply = answered(there, request(here, exchange))
    nonce = (b"\xff" if ours_is_lowest else b"\0") * 32
    made = successor(reply.then())
    exchange.meet(Successor((7, 8), made.suite, made.keymat, (nonce, nonce), is_ours=False))
    step = go_on(exchange.on_response(here.session, message(*reply.payloads, is_response=True)), SECRET)
    assert isinstance(step, Done)
    if ours_is_lowest:
        assert isinstance(step.outcome, Yield)
        assert (step.outcome.rival, step.outcome.successor is not None) == (7, True)
    else:
        assert isinstance(step.outcome, Succeed)
        assert step.outcome.rival == 7


def test_a_peer_that_refuses_ours_after_making_its_own_has_the_only_one() -> None:
    core, exchange = Core(child()), RekeyIke()
    made = successor(answered(Core(child()), request(Core(child()), RekeyIke())).then())
    exchange.meet(made)
    assert refused(core, exchange, NotifyType.TEMPORARY_FAILURE) == Done(outcome=Yield(made.spis[0]))
    assert exchange.end(core.session, DownReason.REKEYED) == Done(outcome=Yield(made.spis[0]))


def test_what_a_refusal_leads_to() -> None:
    core = Core(child())
    assert refused(core, RekeyIke(), NotifyType.TEMPORARY_FAILURE) == Again(is_busy=True)
    step = refused(core, RekeyIke(), NotifyType.INVALID_SYNTAX)
    assert isinstance(step, Done)
    assert isinstance(step.outcome, Close)
    assert not step.outcome.tells  # the peer has it no more
    assert not retries(core)
    step = refused(core, RekeyIke(), NotifyType.NO_PROPOSAL_CHOSEN)
    assert isinstance(step, Done)
    assert step.failure is not None
    assert step.failure.notify == NotifyType.NO_PROPOSAL_CHOSEN
    assert step.outcome is None
    assert core.context.timers.deadline((Timer.REKEY_IKE, core.ours.own_spi)) == core.context.now + RETRY_REKEY


def test_a_method_that_was_not_offered_is_not_tried() -> None:
    core = Core(child())
    step = refused(core, RekeyIke(), NotifyType.INVALID_KE_PAYLOAD, (9999).to_bytes(2, "big"))
    assert isinstance(step, Done)
    assert step.failure is not None
    assert retries(core)


def test_a_successor_that_we_cannot_have_ends_the_ike_sa_with_a_delete() -> None:
    here, exchange = Core(child()), RekeyIke()
    reply = answered(Core(child()), request(here, exchange))
    step = exchange.on_response(here.session, message(*reply.payloads, is_response=True))
    done = go_on(step, Unanswerable(1, "no answer"))
    assert isinstance(done, Done)
    assert isinstance(done.outcome, Close)
    assert (done.outcome.reason, done.outcome.tells) == (DownReason.LOCAL, True)
    with pytest.raises(PeerMisbehaved, match="KE response"):
        go_on(step, WeakPublicValue(1, "all zeros"))


def test_without_a_key_pair_it_is_tried_again_later() -> None:
    core = Core(child())
    step = go_on(RekeyIke().start(core.session), Unanswerable(1, "no answer"))
    assert isinstance(step, Done)
    assert step.failure is not None
    assert step.failure.reason is DownReason.LOCAL
    assert retries(core)


def test_only_what_carries_the_child_sas_is_rekeyed() -> None:
    core = Core(child())
    step = RekeyIke().start(core.session)
    core.session.peer.carrier = 77
    assert go_on(step, key_pair(OURS)) == Done()
    assert RekeyIke().start(core.session) == Done()


@pytest.mark.parametrize("missing", [SecurityAssociation, Nonce, KeyExchange])
def test_a_message_without_a_payload_that_is_needed_is_malformed(missing: type[Payload]) -> None:
    here, there, exchange = Core(child()), Core(child()), RekeyIke()
    asks = request(here, exchange)
    reply = answered(there, asks)
    cut = [payload for payload in asks.payloads if not isinstance(payload, missing)]
    with pytest.raises(MalformedMessage, match="request"):
        AnswerRekey(message(*cut, is_response=False)).start(there.session, lambda _spi: Ours.NOTHING)
    cut = [payload for payload in reply.payloads if not isinstance(payload, missing)]
    with pytest.raises(MalformedMessage, match="response"):
        exchange.on_response(here.session, message(*cut, is_response=True))


def test_a_responder_names_the_method_that_it_wants() -> None:
    there = Core(child())
    asks = request(Core(child()), RekeyIke())
    other = [
        KeyExchange(type(p.method)(19), p.public_value) if isinstance(p, KeyExchange) else p for p in asks.payloads
    ]
    with pytest.raises(WrongKeyExchange) as raised:
        AnswerRekey(message(*other, is_response=False)).start(there.session, lambda _spi: Ours.NOTHING)
    assert raised.value.data == int(X25519.id).to_bytes(2, "big")


def test_a_responder_asks_the_table_of_collisions_before_each_step() -> None:
    there, doing = Core(child()), [Ours.NOTHING]
    asks = request(Core(child()), RekeyIke())
    with pytest.raises(Busy, match="CREATING_CHILD"):
        AnswerRekey(asks).start(there.session, lambda _spi: Ours.CREATING_CHILD)
    step = go_on(AnswerRekey(asks).start(there.session, lambda _spi: doing[0]), key_pair(THEIRS))
    doing[0] = Ours.CLOSING_IKE
    with pytest.raises(Busy, match="CLOSING_IKE"):
        go_on(step, SECRET)
    assert isinstance(answered(there, asks, Ours.REKEYING_IKE).then().outcome, Offered)
