"""Invariant: any octets parse and pass the rules, or raise ProtocolError; nothing else, and within a bounded time.

Seeded and bounded; `make fuzz` goes on for longer, with another seed.
"""

import os
import random
import time

import pytest

from openmoat.crypto.numbers import KeMethod
from openmoat.crypto.suites import AES_256_GCM_16, PRF_HMAC_SHA2_256, X25519
from openmoat.ike.errors import ProtocolError
from openmoat.ike.negotiate.choice import offer_ike
from openmoat.ike.wire.message import Header, Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType, ProtocolId
from openmoat.ike.wire.payloads import Delete, KeyExchange, Nonce, Notify, SecurityAssociation, VendorId
from openmoat.model.connection import IkeProposal
from unit.ike.wire.checked import check_first_phase

ROUNDS = int(os.environ.get("ROUNDS", "20000"))
SEED = int(os.environ.get("SEED", "0"))
SLOWEST = 0.25
"""Seconds a single message may take, on a loaded machine."""
PROPOSAL = IkeProposal(encryptions=(AES_256_GCM_16,), prfs=(PRF_HMAC_SHA2_256,), key_exchanges=(X25519,))
SEEDS = [
    Message(
        Header(1, 0, ExchangeType.IKE_SA_INIT, True, False, 0),
        (
            SecurityAssociation(offer_ike((PROPOSAL, PROPOSAL))),
            KeyExchange(KeMethod.X25519, bytes(32)),
            Nonce(bytes(32)),
            Notify(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20)),
            VendorId(b"vendor"),
        ),
    ).emit(),
    Message(
        Header(1, 2, ExchangeType.INFORMATIONAL, True, False, 3),
        (Delete(ProtocolId.ESP, (1, 2, 3)), Notify(NotifyType.COOKIE2, bytes(16))),
    ).emit(),
]
INTERESTING = (0, 1, 3, 4, 7, 8, 0x20, 0x7F, 0x80, 0xFE, 0xFF)


def mutate(chance: random.Random, seed: bytes) -> bytes:
    octets = bytearray(seed)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(octets))
        match chance.randrange(4):
            case 0:
                octets[place] = chance.choice(INTERESTING)
            case 1:
                octets[place] ^= 1 << chance.randrange(8)
            case 2:
                del octets[place : place + chance.randint(1, 8)]
                octets = octets or bytearray(1)
            case 3:
                start = chance.randrange(len(octets))
                octets[place:place] = octets[start : start + chance.randint(1, 40)]
    if len(octets) >= 28 and chance.random() < 0.9:
        octets[24:28] = len(octets).to_bytes(4, "big")
    return bytes(octets)


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_mutated_messages_parse_or_raise_a_protocol_error(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  (a seed makes a failure happen again)
    parsed = 0
    for _ in range(ROUNDS // 4):
        datagram = mutate(chance, chance.choice(SEEDS))
        begun = time.perf_counter()
        try:
            check_first_phase(Message.parse(datagram))
            parsed += 1
        except ProtocolError:
            pass
        assert time.perf_counter() - begun < SLOWEST, datagram.hex()
    assert parsed, "the mutator never makes a message that parses: it tests nothing"
