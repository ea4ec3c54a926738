"""The account of a soak says what does not add up."""

from collections import Counter
from typing import Any

from openmoat_lab.soak import CHILD_REKEY_SECONDS, MAX_GROWTH, Account


def account(**changes: Any) -> Account:
    whole: dict[str, Any] = {
        "sent": 1000,
        "received": 900,
        "seconds": 8 * CHILD_REKEY_SECONDS,
        "rekeys": 6,
        "drops": Counter({"left: moat0: transmit queue": 90, "right: engine: unknown-spi": 10}),
        "resident": {"left": [50 << 20] * 8},
    }
    return Account(**{**whole, **changes})


def test_an_account_that_adds_up_has_no_fault() -> None:
    assert account().faults() == []


def test_one_packet_too_few_or_too_many_is_a_fault() -> None:
    assert account(received=899).faults() == ["1 packets are missing and counted nowhere"]
    assert account(received=901).faults() == ["-1 packets are missing and counted nowhere"]


def test_changed_and_disordered_packets_and_missing_rekeys_are_faults() -> None:
    assert len(account(changed=1, disordered=2, rekeys=0).faults()) == 3


def test_memory_that_grows_is_a_fault_and_its_start_is_not_looked_at() -> None:
    grown = [1 << 20, 1 << 20, 50 << 20, 50 << 20, 0, 0, (50 << 20) + MAX_GROWTH + 1, (50 << 20) + MAX_GROWTH + 1]
    [fault] = account(resident={"left": grown}).faults()
    assert fault.startswith("moatd on left has grown")
    grown[-2:] = [50 << 20] * 2
    assert account(resident={"left": grown}).faults() == []
