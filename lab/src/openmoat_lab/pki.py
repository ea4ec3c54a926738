"""Keys and certificates for peers of the lab: CAs, chains, raw keys. All of it is PEM; nothing is stored."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

__all__ = ["KINDS", "Authority", "Holder", "Key", "PrivateKey"]

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
KINDS: Mapping[str, Callable[[], PrivateKey]] = {
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
    "ecdsa256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ecdsa384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
}
VALIDITY = dt.timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Key:
    """A key pair."""

    private: PrivateKey

    @classmethod
    def make(cls, kind: str = "ecdsa256") -> Self:
        """A new one; `kind` is one of `KINDS`."""
        return cls(KINDS[kind]())

    @property
    def private_pem(self) -> bytes:
        """PKCS#8, not encrypted."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public_pem(self) -> bytes:
        """SubjectPublicKeyInfo."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class Holder:
    """An end entity with its key and the certificates from it up to, not including, the root."""

    key: Key
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def certificate_pem(self) -> bytes:
        """The end entity's certificate alone."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def intermediate_pems(self) -> tuple[bytes, ...]:
        """The intermediate CAs between it and the root."""
        return tuple(one.public_bytes(Encoding.PEM) for one in self.intermediates)

    @property
    def chain_pem(self) -> bytes:
        """End entity first, then its intermediates."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.intermediates))


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: a root, or one below another."""

    key: Key
    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...] = ()
    """CAs between this one and the root; this one comes first unless it is the root."""

    @classmethod
    def root(cls, name: str, kind: str = "ecdsa256") -> Self:
        """A root that signs itself."""
        key = Key.make(kind)
        return cls(key, _issue(name, key, name, key, is_authority=True))

    @property
    def certificate_pem(self) -> bytes:
        """Its own certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def below(self, name: str, kind: str = "ecdsa256") -> "Authority":
        """A CA whose certificate this one has signed."""
        key = Key.make(kind)
        certificate = _issue(name, key, _common_name(self.certificate), self.key, is_authority=True)
        return Authority(key, certificate, (certificate, *self.above))

    def certify(self, name: str, kind: str = "ecdsa256") -> Holder:
        """An end entity whose subject alternative name is the DNS name `name`, valid from an hour ago."""
        key = Key.make(kind)
        certificate = _issue(name, key, _common_name(self.certificate), self.key, is_authority=False)
        return Holder(key, certificate, self.above)


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def _issue(name: str, key: Key, issuer: str, signer: Key, *, is_authority: bool) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    public = key.private.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.private.public_key()), critical=False)
        .add_extension(_usage(is_authority), critical=True)
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    is_edwards = isinstance(signer.private, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(signer.private, None if is_edwards else hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "OpenMoat lab"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common),
        ]
    )


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
