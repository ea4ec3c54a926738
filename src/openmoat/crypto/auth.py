"""Makes and checks the content of AUTH payloads (RFC 7296 2.15, RFC 4754, RFC 7427, RFC 8420).

What is signed comes ready made from `keymat.signed_octets`. SHA-1 is neither made nor taken, under any method.
"""

import hmac
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, AsymmetricPadding, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from openmoat.crypto.der import INTEGER, NULL, OBJECT_IDENTIFIER, SEQUENCE, der, explicit
from openmoat.crypto.keymat import prf
from openmoat.crypto.keys import PrivateKeyObject, PublicKeyObject, kind_of
from openmoat.crypto.numbers import AuthMethod, HashAlgorithm
from openmoat.crypto.suites import PrfRow
from openmoat.errors import BadSignature, CryptoError, Secret

__all__ = [
    "OWN_HASHES",
    "check_padded_psk",
    "check_psk",
    "check_signature",
    "padded_psk",
    "padded_psk_octets",
    "psk_octets",
    "sign",
]

OWN_HASHES = (HashAlgorithm.SHA2_256, HashAlgorithm.SHA2_384, HashAlgorithm.SHA2_512, HashAlgorithm.IDENTITY)
"""What we announce in SIGNATURE_HASH_ALGORITHMS: the hashes that `check_signature` takes (RFC 7427 4)."""

_KEY_PAD = b"Key Pad for IKEv2"


def psk_octets(row: PrfRow, psk: Secret, signed: bytes) -> bytes:
    """AUTH of method PSK: prf(prf(shared secret, "Key Pad for IKEv2"), signed octets) (RFC 7296 2.15)."""
    return padded_psk_octets(row, padded_psk(row, psk), signed)


def check_psk(row: PrfRow, psk: Secret, signed: bytes, octets: bytes) -> None:
    """`BadSignature` unless the peer knows the same shared secret; takes the same time wherever they differ."""
    check_padded_psk(row, padded_psk(row, psk), signed, octets)


def padded_psk(row: PrfRow, psk: Secret) -> Secret:
    """prf(shared secret, "Key Pad for IKEv2"): all that is needed of a secret, to prove or to check."""
    return prf(row, psk, _KEY_PAD)


def padded_psk_octets(row: PrfRow, padded: Secret, signed: bytes) -> bytes:
    """`psk_octets` of a secret that was padded before."""
    return bytes(prf(row, padded, signed))


def check_padded_psk(row: PrfRow, padded: Secret, signed: bytes, octets: bytes) -> None:
    """`check_psk` of a secret that was padded before."""
    if not hmac.compare_digest(padded_psk_octets(row, padded, signed), octets):
        raise BadSignature("AUTH: the MAC does not fit: the pre-shared key differs")


def sign(
    key: PrivateKeyObject, signed: bytes, peer_hashes: AbstractSet[HashAlgorithm], *, wants_pss: bool = False
) -> tuple[AuthMethod, bytes]:
    """Sign by the best method that the peer announced hashes for, and give the content of the AUTH payload.

    A peer that announced no SHA-2 gets the methods from before RFC 7427: 1 with SHA-256 for RSA, 9 to 11 for ECDSA.
    `CryptoError` where our kind of key has no method that this peer knows. With `wants_pss` an RSA signature is
    RSASSA-PSS; by default it is PKCS #1 v1.5, which RFC 8247 4.1.2 demands as well and more peers understand.
    """
    match key:
        case ed25519.Ed25519PrivateKey() | ed448.Ed448PrivateKey():
            # RFC 8420 2: MUST NOT be used unless the peer announced the Identity hash.
            if HashAlgorithm.IDENTITY not in peer_hashes:
                raise CryptoError(f"AUTH: the peer did not announce that it takes signatures of {kind_of(key)}")
            form = _Form.ED25519 if isinstance(key, ed25519.Ed25519PrivateKey) else _Form.ED448
            return AuthMethod.SIGNATURE, _signature_octets(_scheme(form), key.sign(signed))
        case rsa.RSAPrivateKey():
            hash_id = _strongest_common(peer_hashes, HashAlgorithm.SHA2_256)
            if hash_id is None:
                return AuthMethod.RSA, key.sign(signed, PKCS1v15(), hashes.SHA256())
            scheme = _scheme(_Form.RSA_PSS if wants_pss else _Form.RSA_PKCS1, hash_id)
            return AuthMethod.SIGNATURE, _signature_octets(scheme, key.sign(signed, scheme.padding(), scheme.hash()))
        case ec.EllipticCurvePrivateKey():
            curve = _CURVES[key.curve.name]
            hash_id = _strongest_common(peer_hashes, curve.hash_id)
            if hash_id is None:
                return curve.method, _raw_ecdsa(key.sign(signed, ec.ECDSA(_HASHES[curve.hash_id]())), curve.octets)
            scheme = _scheme(_Form.ECDSA, hash_id)
            return AuthMethod.SIGNATURE, _signature_octets(scheme, key.sign(signed, ec.ECDSA(scheme.hash())))


def check_signature(key: PublicKeyObject, signed: bytes, method: AuthMethod, octets: bytes) -> None:
    """`BadSignature` unless `octets` is the content of an AUTH payload that this key made over `signed`."""
    try:
        match method:
            case AuthMethod.SIGNATURE:
                _check_rfc_7427(key, signed, octets)
            case AuthMethod.RSA:
                _check_rsa(key, signed, octets)
            case AuthMethod.ECDSA_SHA2_256_P256 | AuthMethod.ECDSA_SHA2_384_P384 | AuthMethod.ECDSA_SHA2_512_P521:
                _check_ecdsa(key, signed, method, octets)
            case _:
                raise BadSignature(f"AUTH: a signature by method 1, 9, 10, 11 or 14, not {method.name}")
    except InvalidSignature:
        raise BadSignature(f"AUTH: the signature does not fit this {kind_of(key)} key") from None


class _Form(Enum):
    """Kinds of signature that RFC 7427 tells apart by AlgorithmIdentifier."""

    RSA_PKCS1 = "RSA with PKCS #1 v1.5"
    RSA_PSS = "RSASSA-PSS"
    ECDSA = "ECDSA"
    ED25519 = "Ed25519"
    ED448 = "Ed448"


@dataclass(frozen=True, slots=True)
class _Scheme:
    """One way to sign. The first of its AlgorithmIdentifiers is what we send; peers may send any of them."""

    form: _Form
    hash_id: HashAlgorithm
    identifiers: tuple[bytes, ...]

    def hash(self) -> hashes.HashAlgorithm:
        return _HASHES[self.hash_id]()

    def padding(self) -> AsymmetricPadding:
        """Padding of an RSA signature; the salt of PSS is as long as its hash."""
        return PKCS1v15() if self.form is _Form.RSA_PKCS1 else PSS(MGF1(self.hash()), self.hash().digest_size)


@dataclass(frozen=True, slots=True)
class _Curve:
    """What RFC 4754 binds to a curve."""

    method: AuthMethod
    hash_id: HashAlgorithm
    octets: int
    """Of r and of s, each."""


_HASHES: Mapping[HashAlgorithm, Callable[[], hashes.HashAlgorithm]] = MappingProxyType(
    {
        HashAlgorithm.SHA2_256: hashes.SHA256,
        HashAlgorithm.SHA2_384: hashes.SHA384,
        HashAlgorithm.SHA2_512: hashes.SHA512,
    }
)
_CURVES: Mapping[str, _Curve] = MappingProxyType(
    {
        "secp256r1": _Curve(AuthMethod.ECDSA_SHA2_256_P256, HashAlgorithm.SHA2_256, 32),
        "secp384r1": _Curve(AuthMethod.ECDSA_SHA2_384_P384, HashAlgorithm.SHA2_384, 48),
        "secp521r1": _Curve(AuthMethod.ECDSA_SHA2_512_P521, HashAlgorithm.SHA2_512, 66),
    }
)


def _oid(octets: str) -> bytes:
    return der(OBJECT_IDENTIFIER, bytes.fromhex(octets))


_HASH_OIDS = {
    HashAlgorithm.SHA2_256: _oid("608648016503040201"),
    HashAlgorithm.SHA2_384: _oid("608648016503040202"),
    HashAlgorithm.SHA2_512: _oid("608648016503040203"),
}


def _pss_identifier(hash_id: HashAlgorithm, parameters: bytes, trailer: bytes = b"") -> bytes:
    """AlgorithmIdentifier of id-RSASSA-PSS with MGF1 of the same hash and a salt of its length (RFC 4055 3.1)."""
    hash_algorithm = der(SEQUENCE, _HASH_OIDS[hash_id], parameters)
    mask = der(SEQUENCE, _oid("2a864886f70d010108"), hash_algorithm)
    salt = der(INTEGER, bytes((_HASHES[hash_id]().digest_size,)))
    content = explicit(0, hash_algorithm) + explicit(1, mask) + explicit(2, salt) + trailer
    return der(SEQUENCE, _oid("2a864886f70d01010a"), der(SEQUENCE, content))


def _schemes() -> list[_Scheme]:
    null = der(NULL)
    trailer = explicit(
        3, der(INTEGER, b"\x01")
    )  # the default, written out: not DER, but it stands so in RFC 7427 A.4.3
    rows = []
    for hash_id, pkcs1, ecdsa in (
        (HashAlgorithm.SHA2_256, "2a864886f70d01010b", "2a8648ce3d040302"),
        (HashAlgorithm.SHA2_384, "2a864886f70d01010c", "2a8648ce3d040303"),
        (HashAlgorithm.SHA2_512, "2a864886f70d01010d", "2a8648ce3d040304"),
    ):
        # RFC 4055 2.1 and 5: parameters of the hashes are NULL or absent, and both must be understood.
        pss = [_pss_identifier(hash_id, null), _pss_identifier(hash_id, b"")]
        pss += [_pss_identifier(hash_id, null, trailer), _pss_identifier(hash_id, b"", trailer)]
        rows += [
            _Scheme(_Form.RSA_PKCS1, hash_id, (der(SEQUENCE, _oid(pkcs1), null), der(SEQUENCE, _oid(pkcs1)))),
            _Scheme(_Form.RSA_PSS, hash_id, tuple(pss)),
            _Scheme(_Form.ECDSA, hash_id, (der(SEQUENCE, _oid(ecdsa)),)),
        ]
    rows.append(_Scheme(_Form.ED25519, HashAlgorithm.IDENTITY, (der(SEQUENCE, _oid("2b6570")),)))
    rows.append(_Scheme(_Form.ED448, HashAlgorithm.IDENTITY, (der(SEQUENCE, _oid("2b6571")),)))
    return rows


_SCHEMES = {(scheme.form, scheme.hash_id): scheme for scheme in _schemes()}
_BY_IDENTIFIER = {identifier: scheme for scheme in _SCHEMES.values() for identifier in scheme.identifiers}


def _scheme(form: _Form, hash_id: HashAlgorithm = HashAlgorithm.IDENTITY) -> _Scheme:
    return _SCHEMES[form, hash_id]


def _strongest_common(peer_hashes: AbstractSet[HashAlgorithm], preferred: HashAlgorithm) -> HashAlgorithm | None:
    """`preferred` if the peer takes it, else its strongest SHA-2; None where it announced none."""
    common = [hash_id for hash_id in _HASHES if hash_id in peer_hashes]
    return preferred if preferred in common else max(common, default=None)


def _signature_octets(scheme: _Scheme, signature: bytes) -> bytes:
    """Length of the AlgorithmIdentifier in one octet, the AlgorithmIdentifier, the signature (RFC 7427 3)."""
    identifier = scheme.identifiers[0]
    return bytes((len(identifier),)) + identifier + signature


def _check_rfc_7427(key: PublicKeyObject, signed: bytes, octets: bytes) -> None:
    size = octets[0] if octets else 0
    identifier, signature = octets[1 : 1 + size], octets[1 + size :]
    scheme = _BY_IDENTIFIER.get(identifier)
    if scheme is None:
        raise BadSignature(f"AUTH: algorithm {identifier.hex()}: RSA or ECDSA with SHA-2, Ed25519 or Ed448")
    match key, scheme.form:
        case (rsa.RSAPublicKey(), _Form.RSA_PKCS1 | _Form.RSA_PSS):
            key.verify(signature, signed, scheme.padding(), scheme.hash())
        case (ec.EllipticCurvePublicKey(), _Form.ECDSA):
            key.verify(signature, signed, ec.ECDSA(scheme.hash()))
        case (ed25519.Ed25519PublicKey(), _Form.ED25519):
            key.verify(signature, signed)
        case (ed448.Ed448PublicKey(), _Form.ED448):
            key.verify(signature, signed)
        case _:
            raise BadSignature(f"AUTH: a signature by a {kind_of(key)} key, not {scheme.form.value}")


def _check_rsa(key: PublicKeyObject, signed: bytes, octets: bytes) -> None:
    """Method 1: the hash stands in the padding alone, so each that we take is tried (RFC 7296 3.8)."""
    if not isinstance(key, rsa.RSAPublicKey):
        raise BadSignature(f"AUTH: a signature by a {kind_of(key)} key, not RSA")
    for make_hash in _HASHES.values():
        try:
            return key.verify(octets, signed, PKCS1v15(), make_hash())
        except InvalidSignature:
            continue
    raise BadSignature(f"AUTH: the signature does not fit this {kind_of(key)} key, or was made with SHA-1")


def _check_ecdsa(key: PublicKeyObject, signed: bytes, method: AuthMethod, octets: bytes) -> None:
    """Methods 9 to 11: curve and hash are bound to the method, r | s of fixed size (RFC 4754 3 and 7)."""
    curve = _CURVES.get(key.curve.name) if isinstance(key, ec.EllipticCurvePublicKey) else None
    if not isinstance(key, ec.EllipticCurvePublicKey) or curve is None or curve.method is not method:
        raise BadSignature(f"AUTH: a signature by a {kind_of(key)} key, not {method.name}")
    if len(octets) != 2 * curve.octets:
        raise BadSignature(f"AUTH: {method.name} has {2 * curve.octets} octets, not {len(octets)}")
    r, s = (int.from_bytes(octets[at : at + curve.octets], "big") for at in (0, curve.octets))
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(_HASHES[curve.hash_id]()))


def _raw_ecdsa(signature: bytes, octets: int) -> bytes:
    r, s = decode_dss_signature(signature)
    return r.to_bytes(octets, "big") + s.to_bytes(octets, "big")
