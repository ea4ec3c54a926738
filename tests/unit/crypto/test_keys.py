"""Key files and the one-line form of a public key."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from openmoat.crypto.keys import (
    MAX_KEY_FILE,
    MAX_RSA_BITS,
    MAX_RSA_EXPONENT_BITS,
    KeyKind,
    PrivateKeyObject,
    fingerprint,
    generate,
    kind_of,
    load_private_key,
    load_public_key,
    parse_public_line,
    private_pem,
    public_key,
    public_line,
    public_pem,
    spki_of,
)
from openmoat.errors import CryptoError

RSA = rsa.generate_private_key(65537, 2048)
KEYS: list[PrivateKeyObject] = [
    ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    ed448.Ed448PrivateKey.from_private_bytes(bytes(range(57))),
    ec.derive_private_key(7, ec.SECP256R1()),
    ec.derive_private_key(7, ec.SECP384R1()),
    ec.derive_private_key(7, ec.SECP521R1()),
    RSA,
]
EVERY_KEY = pytest.mark.parametrize("key", KEYS, ids=kind_of)


@EVERY_KEY
def test_a_private_key_survives_its_file(key: PrivateKeyObject) -> None:
    assert spki_of(load_private_key(private_pem(key))) == spki_of(key)


@pytest.mark.parametrize("key", KEYS[2:], ids=kind_of)
def test_traditional_openssl_files_are_read(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert b"BEGIN EC PRIVATE KEY" in pem or b"BEGIN RSA PRIVATE KEY" in pem
    assert spki_of(load_private_key(pem)) == spki_of(key)


@EVERY_KEY
def test_the_public_line_reads_back(key: PrivateKeyObject) -> None:
    line = public_line(spki_of(key))
    assert "\n" not in line
    assert parse_public_line(f" {line}\n") == spki_of(key)
    assert load_public_key(f"{line}\n".encode()) == spki_of(key)
    assert load_public_key(public_pem(spki_of(key))) == spki_of(key)
    assert spki_of(public_key(spki_of(key))) == spki_of(key)


def test_the_public_line_of_ed25519_is_what_the_guide_says() -> None:
    line = public_line(spki_of(KEYS[0]))
    assert len(line) == 60
    assert line.startswith("MCowBQYDK2VwAyEA")


@EVERY_KEY
def test_openssl_writes_the_same_public_key(key: PrivateKeyObject, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(private_pem(key))
    theirs = subprocess.run(["openssl", "pkey", "-in", file, "-pubout"], check=True, capture_output=True).stdout
    assert load_public_key(theirs) == spki_of(key)
    assert "".join(theirs.decode().splitlines()[1:-1]) == public_line(spki_of(key))


@pytest.mark.parametrize(
    ("kind", "word"),
    [(KeyKind.ED25519, "Ed25519"), (KeyKind.ECDSA_P256, "ECDSA secp256r1"), (KeyKind.RSA_3072, "RSA 3072")],
)
def test_generate_makes_the_kind_it_was_asked_for(kind: KeyKind, word: str) -> None:
    assert kind_of(generate(kind)) == word


def test_fingerprints_differ_and_are_short() -> None:
    prints = {fingerprint(spki_of(key)) for key in KEYS}
    assert len(prints) == len(KEYS)
    assert all(text.startswith("SHA256:") and len(text) == 50 for text in prints)


def refused(octets: bytes) -> str:
    with pytest.raises(CryptoError) as caught:
        load_private_key(octets)
    return str(caught.value)


def test_files_that_are_no_private_key_are_refused_with_the_reason() -> None:
    assert "not readable" in refused(b"")
    assert "not readable" in refused(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert "at most 65536 octets, not 65537" in refused(bytes(MAX_KEY_FILE + 1))
    locked = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    assert "is encrypted" in refused(locked)
    other = x25519.X25519PrivateKey.generate()
    assert "X25519" in refused(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_a_key_that_makes_each_check_costly_is_refused() -> None:
    numbers = rsa.RSAPublicNumbers((1 << MAX_RSA_EXPONENT_BITS) + 1, RSA.public_key().public_numbers().n)
    spki = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(CryptoError, match="exponent of at most 64 bits, not 65"):
        public_key(spki)


def test_an_rsa_key_is_as_long_as_the_bound_and_not_one_bit_longer() -> None:
    largest, longer = (
        rsa.RSAPublicNumbers(65537, (1 << bits - 1) + 1)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for bits in (MAX_RSA_BITS, MAX_RSA_BITS + 1)
    )
    assert kind_of(public_key(largest)) == f"RSA {MAX_RSA_BITS}"
    with pytest.raises(CryptoError, match=f"2048 to {MAX_RSA_BITS} bits, not {MAX_RSA_BITS + 1}"):
        public_key(longer)


def test_keys_that_are_too_weak_are_refused() -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505
    assert "RSA of 2048 to 8192 bits, not 1024" in refused(private_pem(weak))
    curve = ec.derive_private_key(7, ec.SECP256K1())
    assert "not secp256k1" in refused(private_pem(curve))
    spki = weak.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(CryptoError, match="1024"):
        public_key(spki)


@pytest.mark.parametrize("secret", ["correct horse battery staple", "päss!", "not=base64\n"])
def test_what_was_put_in_the_place_of_a_public_key_is_never_repeated(secret: str) -> None:
    with pytest.raises(CryptoError) as raised:
        load_public_key(secret.encode())
    assert not {word for word in secret.split() if word in str(raised.value)}


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA", "MCowBQYDK2VuAyEA" + "A" * 44])
def test_a_line_that_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^public key"):
        parse_public_line(text)


@pytest.mark.parametrize("octets", [b"", b"\x30\x00", bytes(MAX_KEY_FILE + 1)])
def test_octets_that_are_no_public_key_are_refused(octets: bytes) -> None:
    with pytest.raises(CryptoError, match=r"^public key"):
        public_key(octets)
    with pytest.raises(CryptoError, match=r"^public key"):
        load_public_key(octets)
