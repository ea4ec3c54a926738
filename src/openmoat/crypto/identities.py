"""Identities of peers, and patterns over them (RFC 7296 3.5, RFC 4301 4.4.3.1). An identity is never an address on a path.

As text: `moat.example`, `user@moat.example`, `192.0.2.1`, `2001:db8::1`, `CN=moat,O=Example` (RFC 4514: the most specific
part first), `keyid:0a1b2c`. Where the text would read as something else it carries its kind: `fqdn:192.0.2.1`,
`email:...`. Patterns: `*`, `*.moats.example`, `*@moat.example`.
"""

import ipaddress
import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

import msgspec

from openmoat.crypto.der import SEQUENCE, der
from openmoat.crypto.numbers import IdType
from openmoat.crypto.rfc5280 import broken_rule_of_name
from openmoat.errors import CryptoError

if TYPE_CHECKING:
    from cryptography import x509  # 2 MB, which a daemon without certificates and distinguished names saves

__all__ = ["MAX_IDENTITY", "Identity", "IdentityPattern", "PatternKind", "distinguished_name"]

MAX_IDENTITY = 1024
"""Octets of an identity; longer ones are refused as they come."""
MAX_FQDN = 253
_TOLD = 1_024
"""Identities whose text is remembered: that of a peer is wanted several times while it comes up."""

_ADDRESS_SIZES: Mapping[IdType, int] = MappingProxyType({IdType.IPV4_ADDR: 4, IdType.IPV6_ADDR: 16, IdType.NULL: 0})
_TEXTS = frozenset({IdType.FQDN, IdType.RFC822_ADDR})
_PREFIXES: Mapping[str, IdType] = MappingProxyType(
    {"fqdn": IdType.FQDN, "email": IdType.RFC822_ADDR, "keyid": IdType.KEY_ID}
)
_DIGITS_AND_DOTS = "0123456789."
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NAME = re.compile(rf"(?=.*[A-Za-z_-]){_LABEL.pattern}(\.{_LABEL.pattern})*")
"""A host name that can be taken for no address."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What one end says it is: type and octets as in the ID payload. Equality is exact; see `folded`."""

    type: IdType
    value: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form. `ValueError` says what is wrong with it."""
        prefix, colon, rest = text.partition(":")
        if colon and prefix in _PREFIXES:
            return cls(_PREFIXES[prefix], _octets_after_prefix(_PREFIXES[prefix], rest))
        if ":" in text or not text.strip(_DIGITS_AND_DOTS):
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                pass
            else:
                return cls(IdType.IPV4_ADDR if address.version == 4 else IdType.IPV6_ADDR, address.packed)
        if "=" in text:
            return cls(IdType.DER_ASN1_DN, _parse_dn(text))
        if "@" in text:
            return cls(IdType.RFC822_ADDR, _parse_mailbox(text))
        if text.rpartition(".")[2].isdecimal():  # a top-level domain is never a number (RFC 3696 2)
            raise ValueError(f"identity {text!r}: neither an address nor a host name; if it is meant so, fqdn:{text}")
        return cls(IdType.FQDN, _parse_fqdn(text))

    @classmethod
    def from_wire(cls, kind: IdType, octets: bytes) -> Self:
        """An identity as a peer sent it, or `CryptoError`: sizes of addresses, text without control characters.

        A kind we do not know is kept as it is; nothing matches it but itself.
        """
        wanted = _ADDRESS_SIZES.get(kind)
        if wanted is not None and len(octets) != wanted:
            raise CryptoError(f"identity: {kind.name} has {wanted} octets, not {len(octets)}")
        if wanted is None and not 1 <= len(octets) <= MAX_IDENTITY:
            raise CryptoError(f"identity: {kind.name}: 1 to {MAX_IDENTITY} octets, not {len(octets)}")
        identity = cls(kind, octets)
        if kind in _TEXTS and not _decoded(octets).isprintable():
            raise CryptoError(f"identity: {kind.name}: printable text, not {identity}")
        if kind is IdType.DER_ASN1_DN and distinguished_name(octets) is None:
            raise CryptoError(f"identity: {kind.name}: a distinguished name in DER, not {octets[:16].hex()}...")
        return identity

    def folded(self) -> "Identity":
        """The same with all letters small where case does not count: host names, and the host of a mailbox.

        Keys of tables of peers are made of this, so that one key pair is one peer however it spells its name.
        """
        if self.type is IdType.FQDN:
            small = self.value.lower()
            return self if small == self.value else Identity(self.type, small)
        if self.type is IdType.RFC822_ADDR:
            user, at, host = self.value.rpartition(b"@")
            return Identity(self.type, user + at + host.lower())
        return self

    def __str__(self) -> str:
        """The text form, safe to print whatever the octets are; `parse` reads it back for all kinds it knows."""
        return _told(self)


class PatternKind(Enum):
    """How an `IdentityPattern` compares."""

    EXACT = "exact"
    SUFFIX = "suffix"
    """`*.moats.example`, `*@example`: one or more labels before the suffix, same type."""
    ANY = "any"


class IdentityPattern(msgspec.Struct, frozen=True, gc=False):
    """Which identities a connection accepts from its peer."""

    kind: PatternKind
    identity: Identity | None = None
    """The identity for EXACT, the suffix with its leading `.` or `@` for SUFFIX, None for ANY."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form: `*`, `*.suffix`, `*@host`, or an identity. `ValueError` says what is wrong with it."""
        if text == "*":
            return cls(PatternKind.ANY)
        if text.startswith("*."):
            return cls(PatternKind.SUFFIX, Identity(IdType.FQDN, b"." + _parse_fqdn(text[2:])))
        if text.startswith("*@"):
            return cls(PatternKind.SUFFIX, Identity(IdType.RFC822_ADDR, b"@" + _parse_fqdn(text[2:])))
        if "*" in text:
            raise ValueError(f"identity {text!r}: a star stands alone or before a suffix, as in *.moats.example")
        return cls(PatternKind.EXACT, Identity.parse(text))

    def matches(self, identity: Identity) -> bool:
        """Whether a peer with this identity is meant. Case counts only where `Identity.folded` keeps it."""
        if identity.type is IdType.NULL:  # it names nobody (RFC 7619 2.1), so no pattern may take it for somebody
            return False
        if self.identity is None:
            return self.kind is PatternKind.ANY
        ours, theirs = self.identity.folded(), identity.folded()
        if self.kind is PatternKind.EXACT:
            return ours == theirs
        before = theirs.value.removesuffix(ours.value)
        if ours.type is not theirs.type or before == theirs.value:
            return False
        labels = before.split(b".") if ours.type is IdType.FQDN else [before]
        return all(labels) and b"@" not in before

    def __str__(self) -> str:
        if self.identity is None:
            return "*"
        # The suffix itself is no identity: it begins with the dot or the @.
        return (
            f"*{_printable(_decoded(self.identity.value))}" if self.kind is PatternKind.SUFFIX else str(self.identity)
        )


@lru_cache(maxsize=_TOLD)
def _told(identity: Identity) -> str:
    text = _text(identity)
    if identity.type is IdType.FQDN and len(text) <= MAX_FQDN and _NAME.fullmatch(text):
        return text
    try:
        reads_back = Identity.parse(text) == identity
    except ValueError:
        reads_back = False
    if reads_back or identity.type not in _TEXTS:
        return text
    return f"{'fqdn' if identity.type is IdType.FQDN else 'email'}:{text}"


def _text(identity: Identity) -> str:
    match identity.type:
        case IdType.IPV4_ADDR | IdType.IPV6_ADDR if len(identity.value) == _ADDRESS_SIZES[identity.type]:
            return str(ipaddress.ip_address(identity.value))
        case IdType.FQDN | IdType.RFC822_ADDR:
            return _printable(_decoded(identity.value))
        case IdType.DER_ASN1_DN if name := distinguished_name(identity.value):
            from cryptography.x509.oid import NameOID

            return _printable(name.rfc4514_string({NameOID.EMAIL_ADDRESS: "E"}))
        case IdType.KEY_ID:
            return f"keyid:{identity.value.hex()}"
        case IdType.NULL:
            return "(anonymous)"
        case kind:
            return f"{kind.name.lower()}:{identity.value.hex()}"


def distinguished_name(octets: bytes) -> "x509.Name | None":
    """The Name that these DER octets hold, which is false where it is empty; None where they hold none.

    pyca reads a Name only as part of something, so it is put into the frame of a certification request.
    """
    from cryptography import x509

    request = der(SEQUENCE, _VERSION, octets, _SPKI, _NO_ATTRIBUTES)
    try:
        if broken_rule_of_name(octets):
            return None
        name = x509.load_der_x509_csr(der(SEQUENCE, request, _ED25519, _NO_SIGNATURE)).subject
        return name if name.public_bytes() == octets else None
    except (ValueError, TypeError, KeyError, CryptoError):
        return None


_VERSION = bytes.fromhex("020100")
_ED25519 = bytes.fromhex("300506032b6570")
_SPKI = der(SEQUENCE, _ED25519, bytes.fromhex("032100"), bytes(32))
_NO_ATTRIBUTES = bytes.fromhex("a000")
_NO_SIGNATURE = bytes.fromhex("034100") + bytes(64)


def _octets_after_prefix(kind: IdType, rest: str) -> bytes:
    if kind is not IdType.KEY_ID:
        if not 1 <= len(rest.encode()) <= MAX_IDENTITY or not rest.isprintable():
            raise ValueError(f"identity {rest!r}: 1 to {MAX_IDENTITY} octets of printable text")
        return rest.encode()
    try:
        octets = bytes.fromhex(rest)
    except ValueError:
        raise ValueError(f"identity 'keyid:{rest}': hexadecimal digits, two for each octet") from None
    if not 1 <= len(octets) <= MAX_IDENTITY:
        raise ValueError(f"identity 'keyid:...': 1 to {MAX_IDENTITY} octets, not {len(octets)}")
    return octets


def _parse_fqdn(text: str) -> bytes:
    labels = text.split(".")
    if len(text) > MAX_FQDN or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(
            f"identity {text!r}: must be a host name of letters, digits, - and _, an address, user@host, CN=...,O=... or keyid:hex"
        )
    return text.encode("ascii")


def _parse_mailbox(text: str) -> bytes:
    user, _, host = text.rpartition("@")
    if not user or "@" in user or not user.isprintable() or " " in user:
        raise ValueError(f"identity {text!r}: one @ with a user before it; a host name is written without @")
    return user.encode() + b"@" + _parse_fqdn(host)


def _parse_dn(text: str) -> bytes:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    attributes = {
        "emailAddress": NameOID.EMAIL_ADDRESS,
        "E": NameOID.EMAIL_ADDRESS,
        "serialNumber": NameOID.SERIAL_NUMBER,
    }
    # RFC 4514 knows no space after the comma; people do. An escaped comma is part of its value.
    tight = re.sub(r"(?<!\\)\s*([,+])\s*", r"\1", text.strip())
    try:
        name = x509.Name.from_rfc4514_string(tight, attributes)
    except ValueError as error:
        reason = str(error) or "parts like CN=moat,O=Example,C=CH"
        raise ValueError(f"identity {text!r}: distinguished name: {reason}") from None
    octets = name.public_bytes()
    if len(octets) > MAX_IDENTITY:
        raise ValueError(f"identity: distinguished name: at most {MAX_IDENTITY} octets, not {len(octets)}")
    return octets


def _decoded(octets: bytes) -> str:
    """UTF-8, with what is not UTF-8 as surrogates, which are not printable."""
    return octets.decode("utf-8", "surrogateescape")


def _printable(text: str) -> str:
    """The text with everything that could move a cursor, or end a line, written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
