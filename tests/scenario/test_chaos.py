"""On a bad line, with both sides rekeying and deleting at random, two endpoints always find together again."""

import os

import pytest

from openmoat.ike import upkeep
from openmoat.ike.exchanges import answer_child, collisions, create_child, rekey_ike
from openmoat.ike.ike_sa import IkeSa
from scenario.chaos import faults, run_chaos
from scenario.link import Link

SEEDS = int(os.environ.get("CHAOS_SEEDS", "100"))
"""`make chaos` runs 1 000."""
CHUNK = 50
MUTANT_SEEDS = range(40)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_after_the_loss_ends_both_hold_exactly_one_child_that_fits(first: int) -> None:
    bad = {}
    for seed in range(first, min(first + CHUNK, SEEDS)):
        _, home, portal = run_chaos(seed, retry=True)
        if found := faults(home, portal):
            bad[seed] = found
    assert bad == {}


def test_without_retry_nearly_all_are_up_and_the_rest_is_down_on_both_sides() -> None:
    up = clean = 0
    seeds = max(60, SEEDS // 2)
    for seed in range(seeds):
        _, home, portal = run_chaos(seed, retry=False)
        if not faults(home, portal):
            up += 1
        elif not home.sas and not portal.sas:
            clean += 1
    assert up + clean == seeds
    assert up >= 0.95 * seeds


def failing_seeds() -> int:
    return sum(bool(faults(*run_chaos(seed, retry=False)[1:])) for seed in MUTANT_SEEDS)


def test_the_property_fails_for_a_core_that_does_not_retransmit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IkeSa, "retransmit", lambda sa: None)
    assert failing_seeds() > len(MUTANT_SEEDS) // 2


def test_the_property_fails_for_a_core_that_compares_nonces_the_wrong_way(monkeypatch: pytest.MonkeyPatch) -> None:
    links: list[Link] = []

    def is_lowest(own: tuple[bytes, bytes], other: tuple[bytes, bytes]) -> bool:
        link = links[0]
        is_mutant = link.acting is link.hosts[0]
        return collisions.is_lowest(own, other) != is_mutant

    for module in (answer_child, create_child, rekey_ike, upkeep):
        monkeypatch.setattr(module, "is_lowest", is_lowest)
    bad = 0
    for seed in MUTANT_SEEDS:
        links.clear()
        _, home, portal = run_chaos(seed, retry=False, links=links)
        bad += bool(faults(home, portal))
    assert bad > len(MUTANT_SEEDS) // 10
