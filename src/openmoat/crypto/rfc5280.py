"""What RFC 5280 demands of a certificate and pyca/cryptography lets pass, often with no more than a warning.

A warning is printed once and forgotten, and becomes an error in some later version. Such certificates are refused here,
before pyca sees them, each with the rule that it breaks.
"""

from dataclasses import dataclass
from typing import Self

from openmoat.crypto.der import SEQUENCE, Element, elements
from openmoat.errors import CryptoError

__all__ = ["MAX_COMMON_NAME", "MAX_DEPTH", "MAX_SERIAL", "Fields", "broken_rule_of_name"]

MAX_SERIAL = 20
"""Octets of a serial number (RFC 5280 4.1.2.2)."""
MAX_COMMON_NAME = 64
"""Octets of a common name in UTF-8 (`ub-common-name` of RFC 5280 A.1 counts characters, pyca octets)."""
MAX_DEPTH = 8
"""Sequences in one another in certificate policies: six where a notice refers to another (RFC 5280 4.2.1.4)."""
_COUNTRY_CODE = 2

_VERSION, _EXTENSIONS = 0xA0, 0xA3
_V1, _V3 = None, b"\x02\x01\x02"
_VISIBLE_STRING = 0x1A
_ENCODINGS = {0x0C: "utf-8", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}
"""Kinds of string that are not ASCII: UTF8String, UniversalString, BMPString."""
_COMMON_NAME = bytes.fromhex("550403")
_COUNTRIES = {
    bytes.fromhex("550406"): "country",
    bytes.fromhex("2b0601040182373c020103"): "jurisdiction country",
}
_WITHOUT_PARAMETERS = tuple(map(bytes.fromhex, ("06082a8648ce3d0403", "06032b6570", "06032b6571")))
"""How the identifiers of ECDSA with SHA-2, Ed25519 and Ed448 begin."""
_CERTIFICATE_POLICIES = bytes.fromhex("551d20")


@dataclass(frozen=True, slots=True)
class Fields:
    """What is looked at of a certificate, as it stands in it."""

    version: bytes | None
    """None where the field is absent, which means version 1."""
    serial: bytes
    algorithms: tuple[bytes, bytes]
    """Of the signature, as the signed part and the frame name it, each with its parameters."""
    issuer: bytes
    subject: bytes
    extensions: tuple[tuple[bytes, bytes], ...]
    """Object identifier and value of each."""

    @classmethod
    def read(cls, certificate: bytes) -> Self:
        """The fields of a certificate in DER, or `CryptoError`."""
        [outer] = _at_least(1, elements(certificate))
        signed, frame, *_ = _at_least(3, elements(outer.content))
        body = elements(signed.content)
        version = body.pop(0).content if body and body[0].tag == _VERSION else None
        serial, algorithm, issuer, _, subject, *_ = _at_least(6, body)
        extensions = [element.content for element in body if element.tag == _EXTENSIONS]
        return cls(
            version=version,
            serial=serial.content,
            algorithms=(algorithm.content, frame.content),
            issuer=issuer.octets,
            subject=subject.octets,
            extensions=tuple(_extensions(extensions)),
        )

    def broken_rule(self) -> str | None:
        """The first rule that the certificate breaks, or None; a subject's rules come last."""
        if self.version not in (_V1, _V3):
            return f"its version field is {self.version[2:].hex()}, not 02 for version 3 (RFC 5280 4.1.2.1)"
        if self.version is _V1 and self.extensions:
            return "it has extensions and is not of version 3 (RFC 5280 4.1.2.1)"
        if not self.serial or self.serial[0] >= 0x80 or not any(self.serial):
            return "its serial number is not positive (RFC 5280 4.1.2.2)"
        if len(self.serial.removeprefix(b"\0")) > MAX_SERIAL:
            return f"its serial number has more than {MAX_SERIAL} octets (RFC 5280 4.1.2.2)"
        if self.algorithms[0] != self.algorithms[1]:
            return "its two fields for the signature algorithm differ (RFC 5280 4.1.1.2)"
        if self.algorithms[0].startswith(_WITHOUT_PARAMETERS) and len(elements(self.algorithms[0])) > 1:
            return "its signature algorithm has parameters, which must be absent (RFC 5758 3.2, RFC 8410 3)"
        if not elements(self.issuer)[0].content:
            return "its issuer has no name (RFC 5280 4.1.2.4)"
        if any(_has_bad_text(value) for oid, value in self.extensions if oid == _CERTIFICATE_POLICIES):
            return "its certificate policies have a VisibleString with other characters than ASCII's (RFC 5280 4.2.1.4)"
        for owner, name in (("issuer", self.issuer), ("subject", self.subject)):
            if rule := broken_rule_of_name(name):
                return f"in its {owner}, {rule}"
        return None


def broken_rule_of_name(name: bytes) -> str | None:
    """The rule that a distinguished name in DER breaks, or None; `CryptoError` where it is none."""
    for relative in elements(_at_least(1, elements(name))[0].content):
        for attribute in elements(relative.content):
            oid, value = _at_least(2, elements(attribute.content))
            size = _size(value)
            if oid.content == _COMMON_NAME and not 1 <= size <= MAX_COMMON_NAME:
                return f"the common name has {size} octets, not 1 to {MAX_COMMON_NAME} (RFC 5280 A.1)"
            if oid.content in _COUNTRIES and size != _COUNTRY_CODE:
                return f"the {_COUNTRIES[oid.content]} has {size} octets, not {_COUNTRY_CODE} (RFC 5280 A.1)"
    return None


def _at_least(count: int, found: list[Element]) -> list[Element]:
    if len(found) < count:
        raise CryptoError(f"DER: {count} elements are needed, not {len(found)}")
    return found


def _extensions(explicit: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Identifier and value of each extension; whether it is critical stands between them, or does not."""
    found = []
    for content in explicit:
        for extension in elements(_at_least(1, elements(content))[0].content):
            parts = _at_least(2, elements(extension.content))
            found.append((parts[0].content, parts[-1].content))
    return found


def _size(value: Element) -> int:
    """Octets of a string in UTF-8, which is how pyca counts."""
    try:
        return len(value.content.decode(_ENCODINGS.get(value.tag, "latin-1")).encode())
    except UnicodeError:
        raise CryptoError(f"DER: a string that is not {_ENCODINGS[value.tag]}") from None


def _has_bad_text(value: bytes, depth: int = MAX_DEPTH) -> bool:
    """Whether a VisibleString in the value has an octet that is not visible in ASCII."""
    if depth == 0:
        raise CryptoError(f"DER: more than {MAX_DEPTH} sequences, each in another")
    for element in elements(value):
        if element.tag == _VISIBLE_STRING and not all(0x20 <= octet <= 0x7E for octet in element.content):
            return True
        if element.tag == SEQUENCE and _has_bad_text(element.content, depth - 1):
            return True
    return False
