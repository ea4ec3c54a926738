"""Key derivation, AUTH and SK payloads against what strongSwan computed for itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from openmoat.crypto.auth import check_psk
from openmoat.crypto.keymat import ChildKeymat, IkeKeymat, rekeyed_skeyseed, signed_octets, skeyseed
from openmoat.crypto.protection import SkProtection
from openmoat.crypto.suites import (
    AES_128_CBC,
    AES_128_GCM_16,
    AES_256_CBC,
    HMAC_SHA2_256_128,
    HMAC_SHA2_384_192,
    MODP_2048,
    PRF_HMAC_SHA2_256,
    PRF_HMAC_SHA2_512,
    X25519,
    EspSuite,
    IkeSuite,
)
from openmoat.errors import BadSignature, Secret

FOLDER = Path(__file__).parents[2] / "vectors" / "strongswan"
NONCE = 64  # hexadecimal digits; the nonces of strongSwan have 32 octets
CASES = [
    ("gcm", IkeSuite(AES_128_GCM_16, None, PRF_HMAC_SHA2_256, X25519), EspSuite(AES_128_GCM_16, None)),
    (
        "cbc",
        IkeSuite(AES_256_CBC, HMAC_SHA2_384_192, PRF_HMAC_SHA2_512, MODP_2048),
        EspSuite(AES_128_CBC, HMAC_SHA2_256_128),
    ),
]
EVERY_CASE = pytest.mark.parametrize(("name", "suite", "esp"), CASES, ids=[name for name, _, _ in CASES])


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def octets(text: str) -> Secret:
    return Secret(bytes.fromhex(text))


def derived(suite: IkeSuite, row: dict[str, str]) -> dict[str, str]:
    keys = IkeKeymat.derive(
        suite,
        octets(row["skeyseed"]),
        octets(row["nonce_i"]),
        octets(row["nonce_r"]),
        int(row["spi_i"], 16),
        int(row["spi_r"], 16),
    )
    return {field: getattr(keys, field).hex() for field in row if field.startswith("sk_")}


@EVERY_CASE
def test_keys_of_a_new_ike_sa_and_of_its_successor(name: str, suite: IkeSuite, esp: EspSuite) -> None:
    vector = load(name)
    first, second = vector["ike_sa"], vector["rekeyed"]
    shared, nonces = octets(first["shared"]), (octets(first["nonce_i"]), octets(first["nonce_r"]))
    assert skeyseed(suite.prf, *nonces, shared).hex() == first["skeyseed"]
    assert derived(suite, first) == {field: first[field] for field in first if field.startswith("sk_")}
    shared, nonces = octets(second["shared"]), (octets(second["nonce_i"]), octets(second["nonce_r"]))
    assert rekeyed_skeyseed(suite.prf, octets(first["sk_d"]), *nonces, shared).hex() == second["skeyseed"]
    assert derived(suite, second) == {field: second[field] for field in second if field.startswith("sk_")}


@EVERY_CASE
def test_keys_of_the_first_child_and_of_one_with_a_new_key_exchange(name: str, suite: IkeSuite, esp: EspSuite) -> None:
    vector = load(name)
    for row in vector["children"]:
        shared, nonce_i, nonce_r = row["seed"][: -2 * NONCE], row["seed"][-2 * NONCE : -NONCE], row["seed"][-NONCE:]
        keys = ChildKeymat.derive(
            suite.prf, esp, octets(vector["ike_sa"]["sk_d"]), octets(nonce_i), octets(nonce_r), octets(shared)
        )
        assert keys.initiator_to_responder.hex() == row["encryption_initiator"]
        assert keys.responder_to_initiator.hex() == row["encryption_responder"]
        assert keys.initiator_to_responder_integrity.hex() == row.get("integrity_initiator", "")
        assert keys.responder_to_initiator_integrity.hex() == row.get("integrity_responder", "")


@EVERY_CASE
def test_signed_octets_and_psk_of_both_ends(name: str, suite: IkeSuite, esp: EspSuite) -> None:
    vector = load(name)
    other_nonces = (vector["ike_sa"]["nonce_r"], vector["ike_sa"]["nonce_i"])
    for row, nonce in zip(vector["auth"], other_nonces, strict=True):
        message = row["signed"][: -NONCE - 2 * suite.prf.size]
        signed = signed_octets(suite.prf, octets(row["sk_p"]), octets(message), octets(nonce), octets(row["id"]))
        assert signed.hex() == row["signed"]
        check_psk(suite.prf, octets(vector["psk"]), signed, octets(row["auth"]))
        with pytest.raises(BadSignature):
            check_psk(suite.prf, Secret(b"another"), signed, octets(row["auth"]))


@EVERY_CASE
def test_sk_payloads_that_strongswan_sealed_are_opened(name: str, suite: IkeSuite, esp: EspSuite) -> None:
    vector = load(name)
    keys = vector["ike_sa"]
    side = SkProtection(suite.encryption, suite.integrity, octets(keys["sk_er"]), octets(keys["sk_ar"]))
    assert len(vector["received"]) == 2
    for row in vector["received"]:
        assert side.open(octets(row["associated"]), octets(row["body"])).hex() == row["plaintext"]
