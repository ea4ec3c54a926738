"""The content of SK payloads: sizes, padding, and what happens to changed octets."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from openmoat.crypto.protection import SkProtection
from openmoat.crypto.suites import (
    AES_128_CBC,
    AES_128_GCM_16,
    AES_256_CBC,
    AES_256_GCM_16,
    CHACHA20_POLY1305,
    HMAC_SHA2_256_128,
    HMAC_SHA2_384_192,
    HMAC_SHA2_512_256,
    NULL_AES_128_GMAC,
    Encryption,
    Integrity,
)
from openmoat.errors import BadIcv, Secret

SUITES: list[tuple[Encryption, Integrity | None]] = [
    (AES_128_GCM_16, None),
    (AES_256_GCM_16, None),
    (CHACHA20_POLY1305, None),
    (AES_128_CBC, HMAC_SHA2_256_128),
    (AES_256_CBC, HMAC_SHA2_384_192),
    (AES_256_CBC, HMAC_SHA2_512_256),
]
EVERY_SUITE = pytest.mark.parametrize(
    ("encryption", "integrity"), SUITES, ids=[f"{e.name}{i.name if i else ''}" for e, i in SUITES]
)
HEADER = b"h" * 32


def protection(encryption: Encryption, integrity: Integrity | None) -> SkProtection:
    key = Secret(range(encryption.key_material))
    return SkProtection(encryption, integrity, key, Secret(range(integrity.key if integrity else 0)))


@EVERY_SUITE
@pytest.mark.parametrize("size", [0, 1, 14, 15, 16, 17, 1400])
def test_what_is_sealed_opens_and_has_the_size_foretold(
    encryption: Encryption, integrity: Integrity | None, size: int
) -> None:
    side = protection(encryption, integrity)
    sealed = side.seal(HEADER, b"x" * size, bytes(side.iv_size))
    assert len(sealed) == side.sealed_size(size)
    assert side.open(HEADER, sealed) == b"x" * size


@EVERY_SUITE
def test_a_changed_octet_anywhere_is_noticed(encryption: Encryption, integrity: Integrity | None) -> None:
    side = protection(encryption, integrity)
    sealed = side.seal(HEADER, b"content", bytes(side.iv_size))
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(BadIcv):
            side.open(HEADER, bytes(changed))
    with pytest.raises(BadIcv):
        side.open(b"g" + HEADER[1:], sealed)


@EVERY_SUITE
def test_a_body_of_any_wrong_length_is_refused(encryption: Encryption, integrity: Integrity | None) -> None:
    side = protection(encryption, integrity)
    sealed = side.seal(HEADER, b"content", bytes(side.iv_size))
    for size in range(len(sealed)):
        with pytest.raises(BadIcv):
            side.open(HEADER, sealed[:size])


def test_gcm_takes_the_salt_before_the_iv_and_the_header_as_associated_data() -> None:
    key, iv = bytes(range(20)), b"ivivivi8"
    sealed = protection(AES_128_GCM_16, None).seal(HEADER, b"content", iv)
    assert sealed == iv + AESGCM(key[:16]).encrypt(key[16:] + iv, b"content\0", HEADER)


def test_the_hmac_covers_header_iv_and_ciphertext() -> None:
    sealed = protection(AES_128_CBC, HMAC_SHA2_256_128).seal(HEADER, b"content", b"i" * 16)
    assert sealed[-16:] == hmac.new(bytes(range(32)), HEADER + sealed[:-16], hashlib.sha256).digest()[:16]


def test_the_padding_of_a_peer_may_be_long_and_of_any_content() -> None:
    key, iv = bytes(range(20)), b"ivivivi8"
    body = iv + AESGCM(key[:16]).encrypt(key[16:] + iv, b"content" + b"\xa5" * 200 + b"\xc8", HEADER)
    assert protection(AES_128_GCM_16, None).open(HEADER, body) == b"content"


def test_a_pad_length_beyond_the_payload_is_refused() -> None:
    key, iv = bytes(range(20)), b"ivivivi8"
    body = iv + AESGCM(key[:16]).encrypt(key[16:] + iv, b"abc\x04", HEADER)
    with pytest.raises(BadIcv, match="pad length 4 in 4 octets"):
        protection(AES_128_GCM_16, None).open(HEADER, body)


@pytest.mark.parametrize(
    ("encryption", "integrity", "text"),
    [
        (AES_128_CBC, None, "an integrity algorithm goes with a cipher"),
        (AES_128_GCM_16, HMAC_SHA2_256_128, "an integrity algorithm goes with a cipher"),
        (NULL_AES_128_GMAC, None, "does not encrypt"),
    ],
)
def test_combinations_that_do_not_protect_are_not_built(
    encryption: Encryption, integrity: Integrity | None, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        protection(encryption, integrity)


def test_a_key_of_the_wrong_size_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match=r"need \(20, 0\) octets"):
        SkProtection(AES_128_GCM_16, None, Secret(bytes(16)), Secret())
    with pytest.raises(ValueError, match="the IV has 8 octets, not 12"):
        protection(AES_128_GCM_16, None).seal(HEADER, b"", bytes(12))
