"""What one end of a numbered stream counts."""

from openmoat_lab.endpoints import Received


def received(*numbers: int, expected: int | None) -> Received:
    one = Received()
    for number in numbers:
        one.take(number)
    one.expected = expected
    return one


def test_missing_repeated_and_late_packets_are_counted() -> None:
    account = received(0, 1, 4, 3, 3, expected=6).account()
    del account["longest_gap"]
    assert account == {
        "expected": 6, "received": 4, "missing": 2, "first_missing": [2, 5], "repeated": 1, "late": 2,
    }  # fmt: skip


def test_a_stream_is_complete_once_its_end_is_known_and_all_is_there() -> None:
    assert not received(0, 1, expected=None).is_complete
    assert not received(0, 1, expected=3).is_complete
    assert received(0, 1, 2, expected=3).is_complete


def test_without_its_end_what_lies_between_is_missing() -> None:
    assert received(0, 3, expected=None).account()["first_missing"] == [1, 2]
