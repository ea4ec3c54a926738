import pytest
from msgspec.structs import replace

from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import AuthMethod, IdType, KeMethod
from openmoat.ike.errors import MalformedMessage, UnsupportedCriticalPayload
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, PayloadType
from openmoat.ike.wire.payloads import (
    Auth,
    IdInitiator,
    IdResponder,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    TsInitiator,
    TsResponder,
    Unknown,
)
from openmoat.ike.wire.rules import EXCHANGES, MAX_NOTIFIES, RULES, Phase
from openmoat.ike.wire.rules import check as check_phase
from unit.ike.wire.checked import check_first_phase as check

E = ExchangeType
SA, KE, NONCE = SecurityAssociation(()), KeyExchange(KeMethod.X25519, bytes(32)), Nonce(bytes(32))
ID = Identity(IdType.FQDN, b"gate.example")
ID_I, ID_R, AUTH = IdInitiator(ID), IdResponder(ID), Auth(AuthMethod.PSK, bytes(32))
TS_I, TS_R = TsInitiator(()), TsResponder(())
INIT: tuple[Payload, ...] = (SA, KE, NONCE)
FULL_AUTH: tuple[Payload, ...] = (ID_I, AUTH, SA, TS_I, TS_R)


def message(exchange: ExchangeType, *payloads: Payload, response: bool = False) -> Message:
    header = Header(1, 2, exchange, is_initiator=True, is_response=response, message_id=1)
    return Message(header, payloads, is_protected=exchange is not E.IKE_SA_INIT)


@pytest.mark.parametrize("absent", range(3))
def test_ike_sa_init_needs_sa_ke_and_nonce(absent: int) -> None:
    with pytest.raises(MalformedMessage, match="at least 1; there is none"):
        check(message(E.IKE_SA_INIT, *(p for i, p in enumerate(INIT) if i != absent)))


def test_payloads_may_come_in_any_order() -> None:
    assert check(message(E.IKE_SA_INIT, NONCE, SA, KE)).payloads == (NONCE, SA, KE)


def test_a_payload_may_not_be_repeated() -> None:
    with pytest.raises(MalformedMessage, match="NONCE: at most 1, not 2"):
        check(message(E.IKE_SA_INIT, *INIT, NONCE))


@pytest.mark.parametrize("absent", [SA, TS_I, TS_R])
def test_sa_and_selectors_of_ike_auth_come_together(absent: Payload) -> None:
    with pytest.raises(MalformedMessage, match="comes only with"):
        check(message(E.IKE_AUTH, *(p for p in FULL_AUTH if p is not absent)))


def test_ike_auth_needs_an_identity_and_its_response_an_auth() -> None:
    with pytest.raises(MalformedMessage, match="ID_I"):
        check(message(E.IKE_AUTH, *FULL_AUTH[1:]))
    with pytest.raises(MalformedMessage, match="AUTH: at least"):
        check(message(E.IKE_AUTH, ID_R, response=True))


def test_a_response_with_an_error_may_leave_out_the_rest() -> None:
    error = Notify(NotifyType.NO_PROPOSAL_CHOSEN)
    assert check(message(E.IKE_SA_INIT, error, response=True)).error() == error
    cookie = Notify(NotifyType.COOKIE, b"c")
    assert check(message(E.IKE_SA_INIT, cookie, response=True)).notify(NotifyType.COOKIE) == cookie


def test_an_error_in_a_request_excuses_nothing() -> None:
    with pytest.raises(MalformedMessage, match="at least 1"):
        check(message(E.IKE_SA_INIT, Notify(NotifyType.NO_PROPOSAL_CHOSEN)))


def test_every_phase_has_rules_for_both_directions() -> None:
    assert set(RULES) == {(phase, is_response) for phase in Phase for is_response in (False, True)}
    assert set(EXCHANGES) == set(Phase)


def test_a_handler_may_name_another_phase_of_the_same_exchange() -> None:
    child, ike = (SA, NONCE, TS_I, TS_R), (SA, NONCE, KE)
    assert check_phase(message(E.CREATE_CHILD_SA, *child), Phase.CREATE_CHILD).payloads == child
    assert check_phase(message(E.CREATE_CHILD_SA, *ike), Phase.REKEY_IKE).payloads == ike
    with pytest.raises(MalformedMessage, match="TS_I: at least 1"):
        check_phase(message(E.CREATE_CHILD_SA, *ike), Phase.CREATE_CHILD)
    with pytest.raises(MalformedMessage, match="TS_I: at most 0"):
        check_phase(message(E.CREATE_CHILD_SA, *child), Phase.REKEY_IKE)


def test_a_message_of_another_exchange_does_not_pass_for_this_phase() -> None:
    with pytest.raises(MalformedMessage, match="INFORMATIONAL response: no such exchange"):
        check_phase(message(E.INFORMATIONAL, response=True), Phase.CREATE_CHILD)


@pytest.mark.parametrize("exchange", EXCHANGES.values())
@pytest.mark.parametrize("response", [False, True])
def test_an_unknown_critical_payload_is_refused_in_every_exchange(exchange: ExchangeType, response: bool) -> None:
    with pytest.raises(UnsupportedCriticalPayload) as caught:
        check(message(exchange, Unknown(PayloadType(200), True, b""), response=response))
    assert caught.value.data == b"\xc8"


def test_an_unknown_payload_that_is_not_critical_is_passed_over() -> None:
    assert check(message(E.IKE_SA_INIT, *INIT, Unknown(PayloadType(200), False, b""))).payloads == INIT


@pytest.mark.parametrize("exchange", [0, 33, 38, 255])
def test_an_exchange_we_do_not_know_is_refused(exchange: int) -> None:
    with pytest.raises(MalformedMessage, match="no such exchange"):
        check(message(ExchangeType(exchange)))


def test_only_ike_sa_init_travels_in_clear() -> None:
    with pytest.raises(MalformedMessage, match="must be encrypted"):
        check(replace(message(E.IKE_AUTH, *FULL_AUTH), is_protected=False))
    with pytest.raises(MalformedMessage, match="must not be encrypted"):
        check(replace(message(E.IKE_SA_INIT, *INIT), is_protected=True))


def test_a_status_notify_out_of_place_is_not_shown_to_handlers() -> None:
    rekey, natd = Notify(NotifyType.REKEY_SA), Notify(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20))
    assert check(message(E.IKE_SA_INIT, *INIT, rekey, natd)).payloads == (*INIT, natd)


@pytest.mark.parametrize("size", [0, 19, 21])
def test_a_nat_detection_hash_has_20_octets(size: int) -> None:
    with pytest.raises(MalformedMessage, match="data: 20 to 20 octets"):
        check(message(E.IKE_SA_INIT, *INIT, Notify(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(size))))


def test_more_notifies_than_the_bound_are_refused() -> None:
    with pytest.raises(MalformedMessage, match="NOTIFY: at most 32, not 33"):
        check(message(E.INFORMATIONAL, *[Notify(NotifyType(50_000))] * (MAX_NOTIFIES + 1)))
