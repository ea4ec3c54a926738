"""Addresses that peers of a template hold, against a plain search through all of them."""

import random
from ipaddress import IPv4Address

from openmoat.crypto.identities import Identity
from openmoat.ike.claims import Claims
from openmoat.policy.selectors import Selectors, TrafficSelector

PEERS = [Identity.parse(f"m{number}.example") for number in range(4)]


def ranges(low: int, high: int) -> Selectors:
    return (TrafficSelector.between(IPv4Address(low), IPv4Address(high), 0, 0, 65535),)


def test_a_claim_meets_another_where_a_plain_search_finds_one() -> None:
    chance = random.Random(1)  # noqa: S311
    met = 0
    for _ in range(100):
        claims, held = Claims(), list[tuple[Identity, int, int]]()
        for _ in range(60):
            if held and chance.random() < 0.3:
                peer, low, high = held.pop(chance.randrange(len(held)))
                claims.drop("moats", peer, ranges(low, high))
                continue
            peer, low = chance.choice(PEERS), chance.randrange(100)
            high = low + chance.randrange(20)
            others = {owner for owner, first, last in held if owner != peer and first <= high and low <= last}
            other = claims.other("moats", peer, ranges(low, high))
            assert (other in others) if others else other is None
            met += bool(others)
            if not others:
                claims.add("moats", peer, ranges(low, high))
                held.append((peer, low, high))
    assert met > 500


def test_claims_on_different_templates_do_not_meet() -> None:
    claims = Claims()
    claims.add("moats", PEERS[0], ranges(1, 9))
    assert claims.other("others", PEERS[1], ranges(1, 9)) is None
    assert claims.other("moats", PEERS[1], ranges(9, 10)) == PEERS[0]
