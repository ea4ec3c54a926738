"""Invariant: a peer that knows its keys, and says what it likes in every message, costs no fault, little time and nobody else.

Every message of a whole life is spoiled on its way into SK: payloads left out, doubled, exchanged, taken from other messages,
octets of them changed. Seeded and bounded; `make fuzz` goes on for longer, with another seed.
"""

import os
import random
import time
from collections.abc import Sequence

import pytest

from openmoat.ike.wire import fragments, message
from openmoat.ike.wire.numbers import PayloadType
from openmoat.ike.wire.payloads import Payload
from openmoat.model.connection import MAX_CHILDREN
from scenario.link import Host, Link, child, connection

LIVES = int(os.environ.get("LIVES", "40"))
"""Of each kind of hostile peer."""
SEED = int(os.environ.get("SEED", "0"))
WISHES = 8
SLOWEST = 0.5
"""Seconds of CPU time a single datagram may take."""
INTERESTING = (0, 1, 3, 4, 7, 8, 0x20, 0x7F, 0x80, 0xFE, 0xFF)
EMIT = message.emit_chain


class Spoiler:
    """Stands between what the hostile host means and what it sends."""

    def __init__(self, link: Link, chance: random.Random, share: float) -> None:
        self.link = link
        self.chance = chance
        self.share = share
        self.said: list[Payload] = []
        self.spoiled = 0

    def emit(self, payloads: Sequence[Payload]) -> tuple[PayloadType, bytes]:
        """In the place of `message.emit_chain`."""
        acting = self.link.acting
        if acting is None or acting.name != "hostile":
            return EMIT(payloads)
        self.said.extend(payloads)
        if self.chance.random() >= self.share:
            return EMIT(payloads)
        self.spoiled += 1
        if self.chance.random() < 0.5:
            payloads = self.rearranged(list(payloads))
        first, chain = EMIT(payloads[: message.MAX_PAYLOADS])
        return first, self.changed(chain) if self.chance.random() < 0.6 else chain

    def rearranged(self, payloads: list[Payload]) -> list[Payload]:
        for _ in range(self.chance.randint(1, 3)):
            place = self.chance.randrange(len(payloads) + 1)
            match self.chance.randrange(4):
                case 0 if place < len(payloads):
                    del payloads[place]
                case 1:
                    payloads.insert(place, self.chance.choice(self.said or payloads))
                case 2:
                    self.chance.shuffle(payloads)
                case _ if place < len(payloads):
                    payloads[place] = self.chance.choice(self.said)
        return payloads

    def changed(self, chain: bytes) -> bytes:
        octets = bytearray(chain)
        for _ in range(self.chance.randint(1, 4)):
            if not octets:
                break
            place = self.chance.randrange(len(octets))
            match self.chance.randrange(6):
                case 0 | 1:
                    octets[place] = self.chance.choice(INTERESTING)
                case 2 | 3:
                    octets[place] ^= 1 << self.chance.randrange(8)
                case 4:
                    del octets[place : place + self.chance.randint(1, 8)]
                case _:
                    octets[place:place] = self.chance.randbytes(self.chance.randint(1, 8))
        return bytes(octets)


def life(seed: int, monkeypatch: pytest.MonkeyPatch, *, begins: bool) -> tuple[Spoiler, Host, Host]:
    """An honest peer is up; a hostile one comes, and both it and the portal have wishes."""
    chance = random.Random(seed)  # noqa: S311
    link = Link(seed)
    portal = link.host("portal", "198.51.100.1")
    victim, hostile = link.host("victim", "192.0.2.1"), link.host("hostile", "192.0.2.2")
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16")
    moats = connection("portal.example", "*.moats.example", None, there, name="moats")
    portal.load(moats)
    victim.load(connection("m1.moats.example", "portal.example", "198.51.100.1", child(local="10.1.1.0/24")))
    link.settle()
    assert len(portal.sas) == 1
    spoiler = Spoiler(link, chance, chance.choice((0.2, 0.5, 1.0)))
    for module in (message, fragments):
        if hasattr(module, "emit_chain"):
            monkeypatch.setattr(module, "emit_chain", spoiler.emit)
    if begins:
        hostile.load(connection("m2.moats.example", "portal.example", "198.51.100.1", child(local="10.1.2.0/24")))
    else:
        hostile.load(connection("h.example", "portal.example", None, child(local="10.3.0.0/16", remote="10.2.0.0/16")))
        own = child(local="10.2.0.0/16", remote="10.3.0.0/16")
        portal.load(connection("portal.example", "h.example", "192.0.2.2", own, name="h"))
    return spoiler, portal, hostile


def wish(chance: random.Random, host: Host) -> None:
    alive = [sa for sa in host.ike_sas() if "m1" not in str(sa.peer)]
    children = [spi for spi, sa in host.sas.items() if "m1" not in str(sa.child.peer)]
    verb = chance.choice(("rekey_child", "rekey_ike", "probe", "probe_size", "delete_child"))
    if verb.endswith("child") and children:
        host.do(verb, chance.choice(children))
    elif verb == "probe_size" and alive:
        host.do(verb, chance.choice(alive).ike, 1400)
    elif not verb.endswith("child") and alive:
        host.do(verb, chance.choice(alive).ike)


@pytest.mark.parametrize("begins", [True, False], ids=["initiator", "responder"])
@pytest.mark.parametrize("seed", range(SEED, SEED + LIVES))
def test_a_peer_that_says_what_it_likes_harms_nobody(
    seed: int, *, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiler, portal, hostile = life(seed, monkeypatch, begins=begins)
    untouched = next(sa.child for sa in portal.sas.values() if "m1" in str(sa.child.peer))
    link, call, slowest = portal.link, portal.call, 0.0

    def timed(method: str, *arguments: object, now: float) -> None:
        nonlocal slowest
        begun = time.thread_time()
        call(method, *arguments, now=now)
        slowest = max(slowest, time.thread_time() - begun)

    monkeypatch.setattr(portal, "call", timed)
    for _ in range(WISHES):
        wish(spoiler.chance, hostile)
        wish(spoiler.chance, portal)
        link.run(spoiler.chance.uniform(0.1, 40))
    assert spoiler.said
    assert slowest <= SLOWEST
    assert portal.sas[untouched.local_spi].child == untouched
    assert len(portal.sas) <= MAX_CHILDREN
