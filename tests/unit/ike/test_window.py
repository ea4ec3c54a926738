from ipaddress import ip_address

import pytest

from openmoat.ike.window import MAX_MESSAGE_ID, Arrival, RetransmissionSchedule, Window
from openmoat.ike.wire.numbers import ExchangeType
from openmoat.net import HostPort, Path

PATH = Path(HostPort(ip_address("192.0.2.1"), 500), HostPort(ip_address("198.51.100.1"), 500))
INFORMATIONAL = ExchangeType.INFORMATIONAL


def test_one_request_is_open_at_a_time_and_ids_go_up_by_one() -> None:
    window = Window()
    assert window.send(INFORMATIONAL, (b"a",)).message_id == 0
    assert not window.is_open
    with pytest.raises(ValueError, match="must wait"):
        window.send(INFORMATIONAL, (b"b",))
    assert window.is_response_expected(0, INFORMATIONAL)
    assert not window.is_response_expected(0, ExchangeType.CREATE_CHILD_SA)
    assert not window.is_response_expected(1, INFORMATIONAL)
    window.complete()
    assert window.send(INFORMATIONAL, (b"b",)).message_id == 1


def test_the_last_message_id_closes_the_window() -> None:
    window = Window()
    window.next_id = MAX_MESSAGE_ID
    assert not window.is_used_up
    window.send(INFORMATIONAL, (b"last",))
    assert not window.is_used_up
    window.complete()
    assert not window.is_open
    assert window.is_used_up


def test_a_request_is_new_then_busy_then_repeated_then_stale() -> None:
    window = Window()
    assert window.classify(0) is Arrival.NEW
    assert window.classify(0) is Arrival.NEW  # looking at it changes nothing
    window.accept(PATH)
    assert window.classify(0) is Arrival.BUSY
    assert window.answer((b"response",)) == PATH
    assert window.classify(0) is Arrival.REPEATED
    assert window.classify(1) is Arrival.NEW
    window.accept(PATH)
    window.answer((b"next",))
    assert window.classify(0) is Arrival.STALE
    assert window.classify(3) is Arrival.AHEAD


def test_an_abandoned_request_is_as_if_it_had_not_come() -> None:
    window = Window()
    window.accept(PATH)
    window.abandon_answer()
    assert window.classify(0) is Arrival.NEW
    with pytest.raises(ValueError, match="no request waits"):
        window.answer((b"response",))


def test_the_schedule_grows_and_its_parts_make_the_total() -> None:
    schedule = RetransmissionSchedule()
    waits = [schedule.wait(sent) for sent in range(1, schedule.tries + 1)]
    assert waits == sorted(waits)
    assert len(set(waits)) == len(waits)
    assert schedule.total == pytest.approx(24.6, abs=0.1)


@pytest.mark.parametrize("fields", [{"first": 0.0}, {"factor": 1.0}, {"tries": 0}])
def test_a_schedule_that_does_not_grow_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must grow"):
        RetransmissionSchedule(**fields)  # type: ignore[arg-type]
