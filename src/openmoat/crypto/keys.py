"""Private and public keys: the kinds we sign and verify with, their files, and the one line that configuration carries.

A public key is DER SubjectPublicKeyInfo everywhere (RFC 7670 sends it as it is). In configuration and on a screen it is
the base64 of that on one line: for Ed25519 sixty characters that begin with MCowBQYDK2VwAyEA. The kind of the key is part
of it, so that nothing has to be said beside it, and `openssl pkey -pubout` writes the same between its two frame lines.
"""

import base64
import binascii
import hashlib
from enum import Enum

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from openmoat.errors import CryptoError

__all__ = [
    "MAX_KEY_FILE",
    "MAX_RSA_BITS",
    "MAX_RSA_EXPONENT_BITS",
    "MIN_RSA_BITS",
    "KeyKind",
    "PrivateKeyObject",
    "PublicKeyObject",
    "fingerprint",
    "generate",
    "kind_of",
    "load_private_key",
    "load_public_key",
    "parse_public_line",
    "private_pem",
    "public_key",
    "public_line",
    "public_pem",
    "spki_of",
]

MIN_RSA_BITS = 2048
"""RFC 8247 4.1.1."""
MAX_RSA_BITS = 8192
"""Longer ones make each signature check cost us more than a peer should be able to ask for."""
MAX_RSA_EXPONENT_BITS = 64
"""Of the public exponent, for the same reason; 17 are usual."""
MAX_KEY_FILE = 65536
"""Octets of a key file or of a SubjectPublicKeyInfo; more is not looked at."""

PrivateKeyObject = ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKeyObject = ed25519.Ed25519PublicKey | ed448.Ed448PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


class KeyKind(Enum):
    """What `generate` makes; the value is the word on the command line."""

    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-p256"
    RSA_3072 = "rsa-3072"


def generate(kind: KeyKind = KeyKind.ED25519) -> PrivateKeyObject:
    """A fresh private key. The one place of this part where chance comes from the operating system, through OpenSSL."""
    match kind:
        case KeyKind.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case KeyKind.ECDSA_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.RSA_3072:
            return rsa.generate_private_key(65537, 3072)


def private_pem(key: PrivateKeyObject) -> bytes:
    """PKCS#8 in PEM, not encrypted: the daemon starts without anybody to ask for a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_private_key(octets: bytes) -> PrivateKeyObject:
    """Read PEM: PKCS#8, or what OpenSSL calls traditional (EC, RSA). `CryptoError` says what is wrong with it."""
    if len(octets) > MAX_KEY_FILE:
        raise CryptoError(f"private key: at most {MAX_KEY_FILE} octets, not {len(octets)}")
    try:
        key = load_pem_private_key(octets, password=None)
    except TypeError:
        raise CryptoError("private key: is encrypted; write it without a passphrase: openssl pkey -in FILE") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CryptoError(
            "private key: not readable as PEM with PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY"
        ) from None
    if not isinstance(key, PrivateKeyObject):
        raise CryptoError(f"private key: Ed25519, Ed448, ECDSA or RSA, not {type(key).__name__}")
    _check(key.public_key())
    return key


def load_public_key(octets: bytes) -> bytes:
    """SubjectPublicKeyInfo out of a file, PEM (PUBLIC KEY) or the one line; `CryptoError` says what is wrong with it."""
    if len(octets) > MAX_KEY_FILE:
        raise CryptoError(f"public key: at most {MAX_KEY_FILE} octets, not {len(octets)}")
    if b"-----BEGIN" not in octets:
        try:
            return parse_public_line(octets.decode("ascii", "replace"))
        except ValueError as error:
            raise CryptoError(str(error)) from None
    try:
        key = load_pem_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise CryptoError("public key: not readable as PEM with PUBLIC KEY, or as one line of base64") from None
    return spki_of(_check(key))


def public_key(spki: bytes) -> PublicKeyObject:
    """The key in these DER octets, or `CryptoError`: Ed25519, Ed448, ECDSA on three NIST curves, RSA of sound length."""
    if len(spki) > MAX_KEY_FILE:
        raise CryptoError(f"public key: at most {MAX_KEY_FILE} octets, not {len(spki)}")
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise CryptoError("public key: not readable as SubjectPublicKeyInfo (RFC 7670) in DER") from None
    return _check(key)


def spki_of(key: PrivateKeyObject | PublicKeyObject) -> bytes:
    """DER SubjectPublicKeyInfo of a key pair or of a public key."""
    public = key.public_key() if isinstance(key, PrivateKeyObject) else key
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_line(spki: bytes) -> str:
    """The public key on one line, as the peer's configuration wants it."""
    return base64.b64encode(spki).decode("ascii")


def parse_public_line(text: str) -> bytes:
    """SubjectPublicKeyInfo out of what `public_line` wrote. `ValueError` says what is wrong with it."""
    try:
        spki = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        # Not a character of it is repeated: people put a pre-shared key here by mistake.
        raise ValueError(
            f"public key: expected one line of base64 as moat keys show prints it, received {len(text)} characters that are not"
        ) from None
    try:
        return spki_of(public_key(spki))
    except CryptoError as error:
        raise ValueError(str(error)) from None


def public_pem(spki: bytes) -> bytes:
    """The public key in PEM, as other programs want it."""
    return public_key(spki).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(spki: bytes) -> str:
    """A short name of a public key for people to compare: SHA-256 of the SubjectPublicKeyInfo in base64."""
    digest = hashlib.sha256(spki).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def kind_of(key: PrivateKeyObject | PublicKeyObject) -> str:
    """What to call the kind of a key in a sentence: `Ed25519`, `ECDSA secp256r1`, `RSA 3072`."""
    match key:
        case ed25519.Ed25519PrivateKey() | ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ed448.Ed448PrivateKey() | ed448.Ed448PublicKey():
            return "Ed448"
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            return f"ECDSA {key.curve.name}"
        case rsa.RSAPrivateKey() | rsa.RSAPublicKey():
            return f"RSA {key.key_size}"


def _check(key: object) -> PublicKeyObject:
    """Refuse what nobody should sign with any more, or what we have no AUTH method for."""
    if not isinstance(key, PublicKeyObject):
        raise CryptoError(f"public key: Ed25519, Ed448, ECDSA or RSA, not {type(key).__name__}")
    if isinstance(key, rsa.RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise CryptoError(f"public key: RSA of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, not {key.key_size}")
    if isinstance(key, rsa.RSAPublicKey) and (bits := key.public_numbers().e.bit_length()) > MAX_RSA_EXPONENT_BITS:
        raise CryptoError(f"public key: RSA with an exponent of at most {MAX_RSA_EXPONENT_BITS} bits, not {bits}")
    if isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, _CURVES):
        raise CryptoError(f"public key: ECDSA on secp256r1, secp384r1 or secp521r1, not {key.curve.name}")
    return key
