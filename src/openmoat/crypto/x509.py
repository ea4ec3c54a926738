"""Certificates of peers: chain building and validation at a given time, and what they say about an identity (RFC 5280, RFC 4945).

pyca/cryptography parses and checks signatures; the path is ours, because its verifier refuses Ed25519 and Ed448 authorities
and knows only the web's rules. What is not understood is refused: name constraints, policy constraints and every unknown
critical extension. There is no revocation here: a certificate counts until it ends or its authority is taken away.
"""

import hashlib
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from openmoat.crypto.identities import Identity, distinguished_name
from openmoat.crypto.keys import PublicKeyObject, public_key
from openmoat.crypto.limits import MAX_CERTIFICATE, MAX_CERTIFICATES
from openmoat.crypto.numbers import IdType
from openmoat.crypto.rfc5280 import Fields
from openmoat.errors import BadCertificate, CryptoError

__all__ = [
    "MAX_CHAIN",
    "MAX_SIGNATURE_CHECKS",
    "authority_hash",
    "check_chain",
    "check_identity",
    "load_certificates",
    "subject_key",
]

MAX_CHAIN = 8
"""Certificates of a path, end entity and root included."""
MAX_SIGNATURE_CHECKS = 32
"""Of one search for a path: what crafted certificates with equal names can make us work."""
_SHOWN_NAMES = 4
"""Names of a certificate that are told where it has not the one that was wanted."""
_PARSED_ROOTS = 64
"""Configured CA certificates that are kept in parsed form; further ones are parsed each time."""

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        # We ask for no policy, so any set of policies is good; constraints on policies are not understood.
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)
_IKE_INTERMEDIATE = x509.ObjectIdentifier("1.3.6.1.5.5.8.2.2")
_IPSEC_IKE = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.17")
_PURPOSES = frozenset(
    {
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        _IKE_INTERMEDIATE,
        _IPSEC_IKE,
    }
)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    CryptoError,
)
"""What pyca raises, at once or when a field is first looked at, for octets that are no sound certificate."""


Extension = TypeVar("Extension", bound=x509.ExtensionType)


def check_chain(
    certificates: Sequence[bytes], roots: Iterable[bytes], identity: Identity, at: float
) -> PublicKeyObject:
    """The public key that a peer with this identity must have signed with, or `BadCertificate`.

    `certificates` are DER as the peer sent them, end entity first, the others in any order; `roots` the authorities
    that are trusted, DER; `at` is the time of the check in seconds since 1970 (UTC).
    """
    if not certificates:
        raise BadCertificate("certificate: the peer sent none")
    if len(certificates) > MAX_CERTIFICATES:
        raise BadCertificate(f"certificates: at most {MAX_CERTIFICATES}, not {len(certificates)}")
    leaf = _Parsed.read(certificates[0])
    search = _Search([_parsed_root(octets) for octets in roots], datetime.fromtimestamp(at, UTC))
    search.add(certificates[1:])
    _check_end_entity(leaf)
    _check_identity(leaf, identity)
    search.find(leaf)
    return leaf.key


def check_identity(certificate: bytes, identity: Identity) -> None:
    """`BadCertificate` unless the certificate, in DER, names this identity (RFC 4945 3.1, 5.1.3.6).

    Host names, mailboxes and addresses stand in the subjectAltName, a distinguished name is the whole subject, octet by
    octet. A common name is never taken for a host name, and a wildcard names nobody.
    """
    _check_identity(_Parsed.read(certificate), identity)


def subject_key(certificate: bytes) -> PublicKeyObject:
    """Public key of the subject of one DER certificate, or `BadCertificate`."""
    return _Parsed.read(certificate).key


def load_certificates(octets: bytes) -> tuple[bytes, ...]:
    """DER of each certificate in a file, PEM with any number of them or a single DER; `BadCertificate` otherwise."""
    try:
        loaded = tuple(_pem(octets)) if _BEGIN in octets else (octets,)
        for certificate in loaded:
            Fields.read(certificate)
    except (ValueError, CryptoError):
        raise BadCertificate("certificate: not readable as PEM with CERTIFICATE, or as DER") from None
    for certificate in loaded:
        _Parsed.read(certificate)
    return loaded


def _pem(octets: bytes) -> Iterator[bytes]:
    """What stands between BEGIN and END CERTIFICATE, or `ValueError`; text around it does not matter (RFC 7468)."""
    for part in octets.split(_BEGIN)[1:]:
        text, end, _ = part.partition(_END)
        if not end:
            raise ValueError("no end")
        yield b64decode(b"".join(text.split()), validate=True)


@lru_cache(maxsize=_PARSED_ROOTS)
def authority_hash(certificate: bytes) -> bytes:
    """What a CERTREQ payload says of an authority: SHA-1 of its SubjectPublicKeyInfo (RFC 7296 3.7)."""
    key = _Parsed.read(certificate).certificate.public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha1(spki, usedforsecurity=False).digest()


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A certificate with the fields that a path looks at, all of them read, so that nothing fails later."""

    certificate: x509.Certificate
    subject: bytes
    issuer: bytes
    start: datetime
    end: datetime
    key: PublicKeyObject
    constraints: x509.BasicConstraints | None
    usage: x509.KeyUsage | None
    purposes: x509.ExtendedKeyUsage | None
    names: x509.SubjectAlternativeName | None

    @classmethod
    def read(cls, octets: bytes) -> "_Parsed":
        if len(octets) > MAX_CERTIFICATE:
            raise BadCertificate(f"certificate: at most {MAX_CERTIFICATE} octets, not {len(octets)}")
        fields: Fields | None = None
        try:
            fields = Fields.read(octets)
            if rule := fields.broken_rule():
                raise BadCertificate(f"{_place(fields)}: {rule}")
            certificate = x509.load_der_x509_certificate(octets)
            extensions = certificate.extensions
            public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            parsed = cls(
                certificate=certificate,
                subject=certificate.subject.public_bytes(),
                issuer=certificate.issuer.public_bytes(),
                start=certificate.not_valid_before_utc,
                end=certificate.not_valid_after_utc,
                key=public_key(public),
                constraints=_value(extensions, x509.BasicConstraints),
                usage=_value(extensions, x509.KeyUsage),
                purposes=_value(extensions, x509.ExtendedKeyUsage),
                names=_value(extensions, x509.SubjectAlternativeName),
            )
        except BadCertificate:
            raise
        except _UNREADABLE as error:
            raise BadCertificate(f"{_place(fields)}: not readable: {error or type(error).__name__}") from None
        _check_extensions(parsed)
        return parsed


@dataclass(slots=True)
class _Search:
    """A path from an end entity to one of the roots, by names and signatures, depth first."""

    roots: list[_Parsed]
    now: datetime
    others: list[_Parsed] = field(default_factory=list)
    checks_left: int = MAX_SIGNATURE_CHECKS
    reasons: list[str] = field(default_factory=list)
    """Why a path that came nearest to a root did not reach it; the first is told."""

    def add(self, certificates: Iterable[bytes]) -> None:
        """Authorities that the peer sent beside its own certificate. One that is of no use may stand beside a better path."""
        for octets in certificates:
            try:
                self.others.append(_Parsed.read(octets))
            except BadCertificate as error:
                self.reasons.append(str(error))

    def find(self, leaf: _Parsed) -> None:
        """`BadCertificate` unless there is a path that is good as a whole."""
        self._check_time(leaf)
        if not self._reaches_root([leaf]):
            reason = self.reasons[0] if self.reasons else f"no CA certificate of {_dn(leaf.issuer)} is known"
            raise BadCertificate(f"{_label(leaf)}: {reason}")

    def _reaches_root(self, path: list[_Parsed]) -> bool:
        """Whether an authority above `path`, end entity first, completes it."""
        below = path[-1]
        if len(path) == MAX_CHAIN:
            self.reasons.append(f"its chain has more than {MAX_CHAIN} certificates")
            return False
        for is_root, issuers in ((True, self.roots), (False, self.others)):
            for issuer in issuers:
                if issuer.subject != below.issuer or (not is_root and issuer in path):
                    continue
                if self._issued(issuer, path) and (is_root or self._reaches_root([*path, issuer])):
                    return True
        return False

    def _issued(self, issuer: _Parsed, path: list[_Parsed]) -> bool:
        """Whether `issuer` may have, and has, signed the last of `path`."""
        if self.checks_left == 0:
            label = _label(path[0])
            raise BadCertificate(f"{label}: no chain to a root in {MAX_SIGNATURE_CHECKS} signature checks")
        self.checks_left -= 1
        try:
            _check_authority(issuer, path)
            self._check_time(issuer)
            _check_signature(path[-1], issuer)
        except BadCertificate as error:
            self.reasons.append(str(error))
            return False
        return True

    def _check_time(self, parsed: _Parsed) -> None:
        start, end = parsed.start, parsed.end
        if not start <= self.now <= end:
            now = f"{self.now:%Y-%m-%d %H:%M}"
            raise BadCertificate(f"{_label(parsed)}: counts from {start:%Y-%m-%d} to {end:%Y-%m-%d}, now is {now}")


def _check_extensions(parsed: _Parsed) -> None:
    """RFC 5280 4.2: an unknown critical extension refuses the certificate; so does what we do not carry out."""
    for extension in parsed.certificate.extensions:
        if extension.oid == ExtensionOID.NAME_CONSTRAINTS:
            raise BadCertificate(f"{_label(parsed)}: has name constraints, which are not supported")
        if extension.critical and extension.oid not in _UNDERSTOOD:
            oid = extension.oid.dotted_string
            raise BadCertificate(f"{_label(parsed)}: critical extension {oid} is not supported")


def _check_identity(leaf: _Parsed, identity: Identity) -> None:
    names: list[Identity] = []
    if identity.type is IdType.DER_ASN1_DN:
        names = [Identity(IdType.DER_ASN1_DN, leaf.subject)]
    elif identity.type in (IdType.FQDN, IdType.RFC822_ADDR, IdType.IPV4_ADDR, IdType.IPV6_ADDR) and leaf.names:
        names = list(_alternative_names(leaf.names))
    if not any(name.folded() == identity.folded() for name in names):
        known = ", ".join(str(name) for name in names[:_SHOWN_NAMES]) or "none of this kind"
        raise BadCertificate(f"{_label(leaf)}: identity {identity} is not in it; it names {known}")


def _check_end_entity(leaf: _Parsed) -> None:
    """RFC 4945 5.1.3.2 and 5.1.3.12: what the key of an IKE peer may be used for."""
    usage, purposes = leaf.usage, leaf.purposes
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise BadCertificate(f"{_label(leaf)}: its key usage has neither digitalSignature nor nonRepudiation")
    if purposes is not None and _PURPOSES.isdisjoint(purposes):
        raise BadCertificate(f"{_label(leaf)}: its extended key usage is for none of IKE, server or client")


def _check_authority(issuer: _Parsed, path: list[_Parsed]) -> None:
    """RFC 5280 6.1.4 (k) to (n): it is an authority, for certificates, with so many below it."""
    if issuer.constraints is None or not issuer.constraints.ca:
        raise BadCertificate(f"{_label(issuer)}: is not a CA: its basic constraints do not say so")
    if issuer.usage is not None and not issuer.usage.key_cert_sign:
        raise BadCertificate(f"{_label(issuer)}: its key usage has no keyCertSign")
    limit = issuer.constraints.path_length
    between = sum(below.subject != below.issuer for below in path[1:])
    if limit is not None and between > limit:
        raise BadCertificate(f"{_label(issuer)}: permits {limit} CA certificates below it, not {between}")


def _check_signature(below: _Parsed, issuer: _Parsed) -> None:
    """The signature of `issuer` over `below`; SHA-2 or EdDSA."""
    try:
        used = below.certificate.signature_hash_algorithm
        if used is not None and not isinstance(used, _HASHES):
            raise BadCertificate(f"{_label(below)}: is signed with {used.name}, SHA-2 is needed")
        below.certificate.verify_directly_issued_by(issuer.certificate)
    except InvalidSignature:
        raise BadCertificate(f"{_label(below)}: the signature of {_dn(below.issuer)} does not fit") from None
    except _UNREADABLE as error:
        if isinstance(error, BadCertificate):
            raise
        raise BadCertificate(f"{_label(below)}: its signature cannot be checked: {error}") from None


@lru_cache(maxsize=_PARSED_ROOTS)
def _parsed_root(octets: bytes) -> _Parsed:
    return _Parsed.read(octets)


def _value(extensions: x509.Extensions, kind: type[Extension]) -> Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _alternative_names(names: x509.SubjectAlternativeName) -> Iterator[Identity]:
    """The names of a subjectAltName that an ID payload can hold; those with a wildcard are left out."""
    for name in names:
        match name:
            case x509.DNSName(value=text) if "*" not in text:
                yield Identity(IdType.FQDN, text.encode())
            case x509.RFC822Name(value=text):
                yield Identity(IdType.RFC822_ADDR, text.encode())
            case x509.IPAddress(value=address) if hasattr(address, "packed"):
                yield Identity(IdType.IPV4_ADDR if address.version == 4 else IdType.IPV6_ADDR, address.packed)


def _dn(octets: bytes) -> str:
    return str(Identity(IdType.DER_ASN1_DN, octets))


def _place(fields: Fields | None) -> str:
    """What to call a certificate before it is known to be sound; texts are made for errors alone."""
    if fields is None:
        return "certificate"
    name = "of an unreadable subject" if distinguished_name(fields.subject) is None else _dn(fields.subject)
    return f"certificate {name} with serial number {fields.serial.hex() or '(empty)'}"


def _label(parsed: _Parsed) -> str:
    """What to call a certificate in a sentence."""
    return f"certificate {_dn(parsed.subject)}"
