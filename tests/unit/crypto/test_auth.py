"""AUTH payloads: every method both ways, octets of the RFCs, and what is refused."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

from openmoat.crypto.auth import OWN_HASHES, check_psk, check_signature, psk_octets, sign
from openmoat.crypto.keys import PrivateKeyObject, kind_of
from openmoat.crypto.numbers import AuthMethod, HashAlgorithm
from openmoat.crypto.suites import PRF_HMAC_SHA2_256
from openmoat.errors import BadSignature, CryptoError, Secret

SIGNED = Secret(b"message" * 50)
SHA1, SHA256, SHA384, SHA512, IDENTITY = (HashAlgorithm(n) for n in range(1, 6))
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ED448 = ed448.Ed448PrivateKey.from_private_bytes(bytes(range(57)))
P256, P384, P521 = (ec.derive_private_key(7, c) for c in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
RSA = rsa.generate_private_key(65537, 2048)
KEYS: list[PrivateKeyObject] = [ED25519, ED448, P256, P384, P521, RSA]

# RFC 7427 appendix A and RFC 8420 appendix A, as printed there.
RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
RSA_SHA512 = bytes.fromhex("300d06092a864886f70d01010d0500")
RSA_SHA1 = bytes.fromhex("300d06092a864886f70d0101050500")
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
ED25519_ID = bytes.fromhex("300506032b6570")
ED448_ID = bytes.fromhex("300506032b6571")
PSS_EMPTY = bytes.fromhex("300d06092a864886f70d01010a3000")
PSS_SHA256_WITH_TRAILER = bytes.fromhex(
    "304606092a864886f70d01010a3039a00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500a2030201 20a303020101"
)
PSS_SHA256 = bytes.fromhex(
    "304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
    "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
)


def payload(identifier: bytes, signature: bytes) -> bytes:
    return bytes([len(identifier)]) + identifier + signature


@pytest.mark.parametrize("hashes_of_peer", [set(OWN_HASHES), {SHA256, IDENTITY}, {SHA512, IDENTITY}], ids=len)
@pytest.mark.parametrize("key", KEYS, ids=kind_of)
def test_what_is_signed_by_rfc_7427_is_accepted(key: PrivateKeyObject, hashes_of_peer: set[HashAlgorithm]) -> None:
    method, octets = sign(key, SIGNED, hashes_of_peer)
    assert method is AuthMethod.SIGNATURE
    check_signature(key.public_key(), SIGNED, method, octets)


@pytest.mark.parametrize(
    ("key", "method", "size"),
    [
        (RSA, AuthMethod.RSA, 256),
        (P256, AuthMethod.ECDSA_SHA2_256_P256, 64),
        (P384, AuthMethod.ECDSA_SHA2_384_P384, 96),
        (P521, AuthMethod.ECDSA_SHA2_512_P521, 132),
    ],
)
@pytest.mark.parametrize("hashes_of_peer", [set[HashAlgorithm](), {SHA1}], ids=["nothing", "sha1"])
def test_a_peer_without_sha2_gets_the_older_methods(
    key: PrivateKeyObject, method: AuthMethod, size: int, hashes_of_peer: set[HashAlgorithm]
) -> None:
    chosen, octets = sign(key, SIGNED, hashes_of_peer)
    assert (chosen, len(octets)) == (method, size)
    check_signature(key.public_key(), SIGNED, chosen, octets)


@pytest.mark.parametrize("key", [ED25519, ED448], ids=kind_of)
def test_eddsa_is_not_sent_to_a_peer_that_did_not_announce_it(key: PrivateKeyObject) -> None:
    with pytest.raises(CryptoError, match="did not announce"):
        sign(key, SIGNED, {SHA256, SHA512})


@pytest.mark.parametrize(
    ("key", "hash_id", "identifier"),
    [
        (RSA, SHA256, RSA_SHA256),
        (RSA, SHA512, RSA_SHA512),
        (P256, SHA256, ECDSA_SHA256),
        (P384, SHA384, ECDSA_SHA384),
        (ED25519, IDENTITY, ED25519_ID),
        (ED448, IDENTITY, ED448_ID),
    ],
)
def test_algorithm_identifiers_are_those_printed_in_the_rfcs(
    key: PrivateKeyObject, hash_id: HashAlgorithm, identifier: bytes
) -> None:
    _, octets = sign(key, SIGNED, {hash_id})
    assert octets[: 1 + len(identifier)] == bytes([len(identifier)]) + identifier


def test_the_hash_of_the_curve_is_taken_if_the_peer_knows_it_else_its_strongest() -> None:
    assert sign(P256, SIGNED, set(OWN_HASHES))[1][1:13] == ECDSA_SHA256
    assert sign(P256, SIGNED, {SHA384})[1][1:13] == ECDSA_SHA384
    assert sign(P384, SIGNED, set(OWN_HASHES))[1][1:13] == ECDSA_SHA384


def test_pss_is_made_on_request_and_accepted_in_each_of_its_spellings() -> None:
    method, octets = sign(RSA, SIGNED, set(OWN_HASHES), wants_pss=True)
    assert octets.startswith(bytes([len(PSS_SHA256)]) + PSS_SHA256)
    check_signature(RSA.public_key(), SIGNED, method, octets)
    signature = octets[1 + len(PSS_SHA256) :]
    check_signature(RSA.public_key(), SIGNED, method, payload(PSS_SHA256_WITH_TRAILER, signature))


def test_openssl_pss_with_a_salt_of_another_length_is_refused() -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 20)
    octets = payload(PSS_SHA256, RSA.sign(SIGNED, pss, hashes.SHA256()))
    with pytest.raises(BadSignature):
        check_signature(RSA.public_key(), SIGNED, AuthMethod.SIGNATURE, octets)


@pytest.mark.parametrize("wants_pss", [False, True])
@pytest.mark.parametrize("key", KEYS, ids=kind_of)
def test_any_changed_octet_breaks_the_signature(key: PrivateKeyObject, wants_pss: bool) -> None:
    method, octets = sign(key, SIGNED, set(OWN_HASHES), wants_pss=wants_pss)
    for at in {0, 1, 5, len(octets) // 2, len(octets) - 1}:
        changed = bytearray(octets)
        changed[at] ^= 1
        with pytest.raises(BadSignature):
            check_signature(key.public_key(), SIGNED, method, bytes(changed))
    with pytest.raises(BadSignature):
        check_signature(key.public_key(), SIGNED + b"x", method, octets)


@pytest.mark.parametrize("signer", KEYS, ids=kind_of)
@pytest.mark.parametrize("known", KEYS, ids=kind_of)
def test_only_the_right_key_fits_whatever_method_is_claimed(signer: PrivateKeyObject, known: PrivateKeyObject) -> None:
    if signer is known:
        return
    method, octets = sign(signer, SIGNED, set(OWN_HASHES))
    for claimed in AuthMethod:
        with pytest.raises(BadSignature, match=r"^AUTH: "):
            check_signature(known.public_key(), SIGNED, claimed, octets)
    assert method is AuthMethod.SIGNATURE


def test_sha1_is_refused_under_every_method() -> None:
    signature = RSA.sign(SIGNED, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    with pytest.raises(BadSignature, match="or was made with SHA-1"):
        check_signature(RSA.public_key(), SIGNED, AuthMethod.RSA, signature)
    for octets in (payload(RSA_SHA1, signature), payload(PSS_EMPTY, signature)):
        with pytest.raises(BadSignature, match="with SHA-2"):
            check_signature(RSA.public_key(), SIGNED, AuthMethod.SIGNATURE, octets)


@pytest.mark.parametrize("octets", [b"", b"\0", b"\xff", b"\x0f", payload(ECDSA_SHA256, b""), payload(RSA_SHA256, b"")])
@pytest.mark.parametrize("method", list(AuthMethod))
@pytest.mark.parametrize("key", KEYS, ids=kind_of)
def test_stumps_are_refused_without_any_other_exception(
    key: PrivateKeyObject, method: AuthMethod, octets: bytes
) -> None:
    with pytest.raises(BadSignature, match=r"^AUTH: "):
        check_signature(key.public_key(), SIGNED, method, octets)


def test_ecdsa_of_methods_9_to_11_is_bound_to_its_curve() -> None:
    _, octets = sign(P256, SIGNED, set())
    for method in (AuthMethod.ECDSA_SHA2_384_P384, AuthMethod.ECDSA_SHA2_512_P521):
        with pytest.raises(BadSignature, match="a signature by a ECDSA secp256r1 key"):
            check_signature(P256.public_key(), SIGNED, method, octets)


def test_psk_octets_are_the_two_steps_of_the_rfc() -> None:
    inner = hmac.new(b"secret", b"Key Pad for IKEv2", hashlib.sha256).digest()
    expected = hmac.new(inner, SIGNED, hashlib.sha256).digest()
    assert psk_octets(PRF_HMAC_SHA2_256, Secret(b"secret"), SIGNED) == expected
    check_psk(PRF_HMAC_SHA2_256, Secret(b"secret"), SIGNED, expected)


@pytest.mark.parametrize("octets", [b"", bytes(32), bytes(33)])
def test_another_psk_is_refused(octets: bytes) -> None:
    with pytest.raises(BadSignature, match="the pre-shared key differs"):
        check_psk(PRF_HMAC_SHA2_256, Secret(b"secret"), SIGNED, octets)
