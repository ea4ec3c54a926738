"""Wycheproof vectors through the functions of this part, so that the way we compose primitives is judged too."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from openmoat.crypto.auth import check_signature
from openmoat.crypto.kex import shared_secret
from openmoat.crypto.keymat import prf, prf_plus
from openmoat.crypto.keys import public_key
from openmoat.crypto.numbers import AuthMethod, KeMethod
from openmoat.crypto.protection import SkProtection
from openmoat.crypto.suites import AEADS, CIPHERS, HMAC_SHA2_256_128, PRFS, Aead
from openmoat.errors import BadIcv, BadPublicValue, BadSignature, CryptoError, Secret

FOLDER = Path(__file__).parents[2] / "vectors" / "wycheproof"
Vector = dict[str, Any]


def vectors(name: str) -> pytest.MarkDecorator:
    """The tests of one file, each a parameter named by number and comment."""
    tests = json.loads((FOLDER / f"{name}.json").read_text())["tests"]
    assert tests
    return pytest.mark.parametrize("vector", tests, ids=lambda v: f"{name}-{v['tcId']}-{v['comment'][:30]}")


def octets(vector: Vector, field: str) -> bytes:
    return bytes.fromhex(vector[field])


def check_exchange(method: KeMethod, private: bytes, vector: Vector, peer_value: bytes) -> None:
    try:
        secret = shared_secret(method, Secret(private), peer_value)
    except BadPublicValue:
        assert vector["result"] != "valid"
    else:
        assert vector["result"] != "invalid"
        assert secret == octets(vector, "shared")
        # RFC 7748 6: all zeros mean a point of small order. On a prime curve such an x belongs to a sound point.
        assert any(secret) or method not in (KeMethod.X25519, KeMethod.X448)


@vectors("x25519")
def test_x25519(vector: Vector) -> None:
    check_exchange(KeMethod.X25519, octets(vector, "private"), vector, octets(vector, "public"))


@vectors("x448")
def test_x448(vector: Vector) -> None:
    check_exchange(KeMethod.X448, octets(vector, "private"), vector, octets(vector, "public"))


def check_ecp(method: KeMethod, curve: ec.EllipticCurve, vector: Vector) -> None:
    size = (curve.key_size + 7) // 8
    scalar = int.from_bytes(octets(vector, "private"), "big")
    numbers = ec.derive_private_key(scalar, curve).public_key().public_numbers()
    private = b"".join(n.to_bytes(size, "big") for n in (scalar, numbers.x, numbers.y))
    value = octets(vector, "public")
    if value[:1] != b"\x04":  # compressed, which IKE cannot say: without its first octet it has the wrong length
        vector = {**vector, "result": "invalid"}
    check_exchange(method, private, vector, value[1:])


@vectors("ecdh_secp256r1_ecpoint")
def test_ecp_256(vector: Vector) -> None:
    check_ecp(KeMethod.ECP_256, ec.SECP256R1(), vector)


@vectors("ecdh_secp384r1_ecpoint")
def test_ecp_384(vector: Vector) -> None:
    check_ecp(KeMethod.ECP_384, ec.SECP384R1(), vector)


@vectors("ecdh_secp521r1_ecpoint")
def test_ecp_521(vector: Vector) -> None:
    check_ecp(KeMethod.ECP_521, ec.SECP521R1(), vector)


def check_opened(side: SkProtection, vector: Vector, body: bytes, plaintext: bytes) -> None:
    """`plaintext` with its padding, whose last octet we take for a pad length as IKE does."""
    pad = plaintext[-1] if plaintext else 0
    if vector["result"] == "invalid" or pad >= len(plaintext):
        with pytest.raises(BadIcv):
            side.open(octets(vector, "aad") if "aad" in vector else b"", body)
    else:
        aad = octets(vector, "aad") if "aad" in vector else b""
        assert side.open(aad, body) == plaintext[: -1 - pad]


def check_aead(name: str, vector: Vector) -> None:
    """The first four octets of the nonce are the salt."""
    key, nonce = octets(vector, "key"), octets(vector, "iv")
    row: Aead = next(row for row in AEADS if row.name.startswith(name) and row.key == len(key))
    side = SkProtection(row, None, Secret(key + nonce[:4]), Secret())
    check_opened(side, vector, nonce[4:] + octets(vector, "ct") + octets(vector, "tag"), octets(vector, "msg"))
    if vector["result"] == "valid":
        sealed = side.seal(octets(vector, "aad"), octets(vector, "msg"), nonce[4:])
        # A stream cipher: the message with one octet more begins with the ciphertext of the message.
        assert sealed[8:].startswith(octets(vector, "ct"))


@vectors("aes_gcm")
def test_aes_gcm(vector: Vector) -> None:
    check_aead("aes", vector)


@vectors("chacha20_poly1305")
def test_chacha20_poly1305(vector: Vector) -> None:
    check_aead("chacha20", vector)


@vectors("aes_cbc_pkcs5")
def test_aes_cbc(vector: Vector) -> None:
    """Padding of PKCS #5 is the pad length of IKE less one, so that one octet of the message falls to the padding."""
    if vector["result"] == "invalid":
        return  # wrong padding, which IKE has not
    key, iv, ciphertext, message = (octets(vector, field) for field in ("key", "iv", "ct", "msg"))
    row = next(row for row in CIPHERS if row.key == len(key))
    side = SkProtection(row, HMAC_SHA2_256_128, Secret(key), Secret(b"k" * 32))
    body = iv + ciphertext + hmac.digest(b"k" * 32, iv + ciphertext, "sha256")[:16]
    padding = 16 - len(message) % 16
    check_opened(side, vector, body, message + bytes([padding]) * padding)


@pytest.mark.parametrize("row", PRFS, ids=lambda row: row.name)
def test_prf_and_prf_plus_make_hkdf(row: Any) -> None:
    """HKDF is prf(salt, ikm) and prf+ of it (RFC 5869), with a salt of zeros where there is none."""
    for vector in json.loads((FOLDER / f"hkdf_{row.hash}.json").read_text())["tests"]:
        salt = octets(vector, "salt") or bytes(hashlib.new(row.hash).digest_size)
        key = prf(row, salt, octets(vector, "ikm"))
        if vector["result"] == "invalid":
            with pytest.raises(ValueError, match="at most"):
                prf_plus(row, key, octets(vector, "info"), vector["size"])
        else:
            assert prf_plus(row, key, octets(vector, "info"), vector["size"]) == octets(vector, "okm")


def check_signed(method: AuthMethod, identifier: str, vector: Vector) -> None:
    prefix = bytes([len(identifier) // 2]) + bytes.fromhex(identifier) if identifier else b""
    try:
        key = public_key(octets(vector, "spki"))
        check_signature(key, octets(vector, "msg"), method, prefix + octets(vector, "sig"))
    except BadSignature:
        assert vector["result"] != "valid"
    except CryptoError as error:
        pytest.fail(f"the key of a vector: {error}")
    else:
        assert vector["result"] != "invalid"


@vectors("ed25519")
def test_ed25519(vector: Vector) -> None:
    check_signed(AuthMethod.SIGNATURE, "300506032b6570", vector)


@vectors("ed448")
def test_ed448(vector: Vector) -> None:
    check_signed(AuthMethod.SIGNATURE, "300506032b6571", vector)


@vectors("ecdsa_secp256r1_sha256")
def test_ecdsa_of_rfc_7427(vector: Vector) -> None:
    check_signed(AuthMethod.SIGNATURE, "300a06082a8648ce3d040302", vector)


@vectors("ecdsa_secp256r1_sha256_p1363")
def test_ecdsa_of_method_9(vector: Vector) -> None:
    check_signed(AuthMethod.ECDSA_SHA2_256_P256, "", vector)


@vectors("ecdsa_secp384r1_sha384_p1363")
def test_ecdsa_of_method_10(vector: Vector) -> None:
    check_signed(AuthMethod.ECDSA_SHA2_384_P384, "", vector)


@vectors("rsa_signature_2048_sha256")
def test_rsa_pkcs1_of_rfc_7427(vector: Vector) -> None:
    check_signed(AuthMethod.SIGNATURE, "300d06092a864886f70d01010b0500", vector)


@vectors("rsa_signature_2048_sha256")
def test_rsa_pkcs1_of_method_1(vector: Vector) -> None:
    check_signed(AuthMethod.RSA, "", vector)


@vectors("rsa_pss_2048_sha256_mgf1_32")
def test_rsa_pss(vector: Vector) -> None:
    identifier = (
        "304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
        "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
    )
    check_signed(AuthMethod.SIGNATURE, identifier, vector)
