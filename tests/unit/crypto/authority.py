"""A certificate authority for tests: each certificate is good unless the test says in what it is not."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from openmoat.crypto.keys import PrivateKeyObject

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
YEAR = timedelta(days=365)
START, END = datetime.fromtimestamp(NOW, UTC) - YEAR, datetime.fromtimestamp(NOW, UTC) + YEAR


def names(*texts: str) -> x509.SubjectAlternativeName:
    """The subjectAltName that holds these host names, mailboxes and addresses."""
    found: list[x509.GeneralName] = []
    for text in texts:
        if "@" in text:
            found.append(x509.RFC822Name(text))
        elif text[0].isdigit() or ":" in text:
            found.append(x509.IPAddress(ipaddress.ip_address(text)))
        else:
            found.append(x509.DNSName(text))
    return x509.SubjectAlternativeName(found)


def usage(*, sign: bool = False, authority: bool = False, encipher: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=encipher,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Issued:
    """A certificate and the key in it."""

    certificate: x509.Certificate
    key: PrivateKeyObject

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


Extensions = tuple[tuple[x509.ExtensionType, bool], ...]
AUTHORITY: Extensions = ((x509.BasicConstraints(ca=True, path_length=None), True), (usage(authority=True), True))


def issue(
    subject: str,
    extensions: Extensions,
    issuer: Issued | None = None,
    *,
    key: PrivateKeyObject | None = None,
    signed_by: PrivateKeyObject | None = None,
    start: datetime = START,
    end: datetime = END,
) -> Issued:
    """A certificate of `issuer`, or of itself; signed by another key than the issuer's where `signed_by` says so."""
    own = key or ec.derive_private_key(sum(subject.encode()) + 2, ec.SECP256R1())
    name = x509.Name.from_rfc4514_string(subject)
    signer = signed_by or (issuer.key if issuer else own)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(own.public_key())
        .serial_number(sum(subject.encode()))
        .not_valid_before(start)
        .not_valid_after(end)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    plain = isinstance(signer, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))
    return Issued(builder.sign(signer, None if plain else hashes.SHA256()), own)


def authority(subject: str = "CN=root", issuer: Issued | None = None, key: PrivateKeyObject | None = None) -> Issued:
    return issue(subject, AUTHORITY, issuer, key=key)


def end_entity(issuer: Issued, *texts: str, extensions: Extensions = ()) -> Issued:
    """A certificate for these names, and with these extensions besides."""
    return issue("CN=end", ((names(*texts or ("moat.example",)), False), *extensions), issuer)
