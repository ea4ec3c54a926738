"""Negotiations that lead to nothing: the notify the RFC wants on the wire, and words that help on our side."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from openmoat_lab.pairs import Pair, Terms
from openmoat_lab.processes import LabError, wait_until

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan]


def wrong_psk(pair: Pair) -> None:
    pair.proof.moat_files["psk"] = b"another secret altogether"  # type: ignore[index]


def wrong_identity(pair: Pair) -> None:
    pair.tables["swan"]["peer"]["identity"] = "somebody.example"


def other_proposal(pair: Pair) -> None:
    pair.tables["swan"]["proposals"] = ["aes256gcm16-prfsha384-ecp384"]


def other_selectors(pair: Pair) -> None:
    pair.tables["swan"]["children"]["net"]["remote"] = ["10.77.0.0/24"]


def other_esp_proposal(pair: Pair) -> None:
    pair.tables["swan"]["children"]["net"]["proposals"] = ["aes256-sha512"]


@dataclass(frozen=True)
class Case:
    """What is wrong, the notify that goes over the wire, and what our side must say of it."""

    change: Callable[[Pair], None]
    notify: str
    """As strongSwan's log has it."""
    as_initiator: str
    as_responder: str
    candidate: str
    """Field on which the nearest connection parts from what a beginning peer wants."""


CASES = {
    "psk": Case(wrong_psk, "AUTH_FAILED", "compare our identity", "pre-shared key differs", "authentication"),
    "identity": Case(wrong_identity, "AUTH_FAILED", "identity", "no connection accepts it", "identity"),
    "proposal": Case(other_proposal, "NO_PROP", "proposal", "proposal", "encryption"),
    "esp-proposal": Case(other_esp_proposal, "NO_PROP", "proposal", "proposal", "encryption"),
    "selectors": Case(other_selectors, "TS_UNACCEPT", "other addresses", "no child serves", "selectors"),
}


def wait_for_failure(pair: Pair, words: str) -> Mapping[str, Any]:
    found: list[Mapping[str, Any]] = []

    def is_there() -> bool:
        found[:] = [row for row in pair.moat.failures() if words in json.dumps(row)]
        return bool(found)

    try:
        wait_until(f"moat explains with {words!r}", is_there, 10)
    except LabError as error:
        error.add_note(json.dumps(pair.moat.failures(), indent=1))
        raise
    return found[0]


@pytest.mark.parametrize("name", CASES)
def test_what_we_want_and_strongswan_refuses_is_explained(name: str) -> None:
    case = CASES[name]
    with Pair(Terms(moat_begins=True)) as pair:
        case.change(pair)
        pair.prepare()
        pair.swan.start()
        pair.moat.start()
        wait_until(f"N({case.notify}) is sent", lambda: f"N({case.notify})" in pair.swan.log(), 15)
        assert wait_for_failure(pair, case.as_initiator)["advice"]


@pytest.mark.parametrize("name", CASES)
def test_what_strongswan_wants_and_we_refuse_is_answered_as_the_rfc_says_and_explained(name: str) -> None:
    case = CASES[name]
    with Pair(Terms(moat_begins=False)) as pair:
        case.change(pair)
        pair.prepare()
        pair.moat.start()
        pair.swan.start()
        pair.swan.initiate(check=False, seconds=5)
        assert f"N({case.notify})" in pair.swan.log()
        failure = wait_for_failure(pair, case.as_responder)
        assert failure["advice"]
        assert any(case.candidate in row["field"] for row in failure["candidates"]), failure["candidates"]
