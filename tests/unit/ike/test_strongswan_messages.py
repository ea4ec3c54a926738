"""Messages as strongSwan sent them: what it says is understood, and said again in the same octets."""

import json
from pathlib import Path
from typing import Any

import pytest

from openmoat.crypto.protection import SkProtection
from openmoat.crypto.suites import AEADS, CIPHERS, INTEGRITIES, Encryption, by_name
from openmoat.errors import Secret
from openmoat.ike.negotiate.choice import accept_ike
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import ExchangeType, NotifyType
from openmoat.ike.wire.payloads import KeyExchange, Nonce, SecurityAssociation
from unit.ike.wire.checked import check_first_phase as check

FOLDER = Path(__file__).parents[2] / "vectors" / "strongswan"
NAMES = ("gcm", "cbc")


def vector(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def first_messages(row: dict[str, Any]) -> tuple[bytes, bytes]:
    """IKE_SA_INIT request and response: what AUTH signs, without nonce and prf (RFC 7296 2.15)."""
    tail = 32 + len(bytes.fromhex(row["ike_sa"]["sk_pi"]))
    request, response = (bytes.fromhex(side["signed"])[:-tail] for side in row["auth"])
    return request, response


@pytest.mark.parametrize("name", NAMES)
def test_ike_sa_init_of_strongswan_is_read_checked_and_emitted_as_it_came(name: str) -> None:
    row = vector(name)
    for octets, nonce in zip(first_messages(row), ("nonce_i", "nonce_r"), strict=True):
        message = Message.parse(octets)
        assert message.emit() == octets
        checked = check(message)
        assert checked.first(Nonce) == Nonce(bytes.fromhex(row["ike_sa"][nonce]))
        assert checked.notify(NotifyType.NAT_DETECTION_SOURCE_IP) is not None
        assert checked.first(KeyExchange) is not None


@pytest.mark.parametrize("name", NAMES)
def test_the_suite_that_strongswan_chose_is_the_one_it_names(name: str) -> None:
    row = vector(name)
    request, response = (Message.parse(octets).first(SecurityAssociation) for octets in first_messages(row))
    assert request is not None
    assert response is not None
    assert accept_ike(response.proposals, request.proposals).suite.name == row["suite"]


@pytest.mark.parametrize("name", NAMES)
def test_what_strongswan_sealed_is_opened_and_sealed_again_in_the_same_form(name: str) -> None:
    row = vector(name)
    words = row["suite"].split("-")
    rows: dict[str, Encryption] = {**by_name(AEADS), **by_name(CIPHERS)}
    encryption, integrity = rows[words[0]], by_name(INTEGRITIES).get(words[1])
    keys = row["ike_sa"]
    protection = SkProtection(
        encryption, integrity, Secret(bytes.fromhex(keys["sk_er"])), Secret(bytes.fromhex(keys["sk_ar"]))
    )
    for received in row["received"]:
        datagram = bytes.fromhex(received["associated"]) + bytes.fromhex(received["body"])
        message = Message.parse(datagram)
        opened = check(message.open(datagram, protection))
        assert opened.header.exchange in {ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA}
        iv = bytes.fromhex(received["body"])[: encryption.iv]
        again = opened.seal(protection, iv)
        # strongSwan fills the padding that a block cipher needs with any octets (RFC 7296 3.14).
        assert again == datagram if integrity is None else len(again) == len(datagram)
        assert check(Message.parse(again).open(again, protection)) == opened
