"""Certificates that break a rule of RFC 5280 which pyca/cryptography only warns of, or passes over: each is refused by name."""

import pytest

from openmoat.crypto.der import SEQUENCE, der, elements, explicit
from openmoat.crypto.identities import Identity
from openmoat.crypto.numbers import IdType
from openmoat.crypto.rfc5280 import MAX_COMMON_NAME, MAX_DEPTH, MAX_SERIAL, broken_rule_of_name
from openmoat.crypto.x509 import check_chain, load_certificates
from openmoat.errors import BadCertificate, CryptoError
from unit.crypto.authority import NOW, authority, end_entity

ROOT = authority()
LEAF = end_entity(ROOT).der
MOAT = Identity.parse("moat.example")
VERSION, SERIAL, ALGORITHM, ISSUER, VALIDITY, SUBJECT, EXTENSIONS = 0, 1, 2, 3, 4, 5, 7
UTF8, PRINTABLE, TELETEX, UTC, BMP, VISIBLE = 0x0C, 0x13, 0x14, 0x17, 0x1E, 0x1A
ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
NULL = b"\x05\x00"


def crafted(*changes: tuple[int, bytes | None], frame: bytes | None = None) -> bytes:
    """The end entity with fields of its signed part exchanged, or left out; the signature fits no more."""
    signed, algorithm, signature = (element.octets for element in elements(elements(LEAF)[0].content))
    fields = [element.octets for element in elements(elements(signed)[0].content)]
    for place, octets in changes:
        fields[place] = octets or b""
    return der(SEQUENCE, der(SEQUENCE, *fields), frame or algorithm, signature)


def name(value: bytes, *, tag: int = UTF8, oid: str = "550403") -> bytes:
    return der(SEQUENCE, der(0x31, der(SEQUENCE, der(0x06, bytes.fromhex(oid)), der(tag, value))))


def extensions(oid: str, value: bytes) -> bytes:
    one = der(SEQUENCE, der(0x06, bytes.fromhex(oid)), der(0x04, value))
    return explicit(3, der(SEQUENCE, one))


def policies(text: bytes) -> bytes:
    """certificatePolicies with one user notice whose explicit text is this element."""
    notice = der(SEQUENCE, der(0x06, bytes.fromhex("2b06010505070202")), der(SEQUENCE, text))
    return der(SEQUENCE, der(SEQUENCE, der(0x06, b"\x2a\x03"), der(SEQUENCE, notice)))


def refusal(certificate: bytes) -> str:
    with pytest.raises(BadCertificate) as caught:
        check_chain([certificate], [ROOT.der], MOAT, NOW)
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "octets", "rule"),
    [
        (VERSION, explicit(0, der(0x02, b"\0")), "version field is 00, not 02 for version 3 (RFC 5280 4.1.2.1)"),
        (VERSION, explicit(0, der(0x02, b"\3")), "version field is 03, not 02 for version 3 (RFC 5280 4.1.2.1)"),
        (SERIAL, der(0x02, b"\xff"), "serial number is not positive (RFC 5280 4.1.2.2)"),
        (SERIAL, der(0x02, b"\x80" + bytes(7)), "serial number is not positive (RFC 5280 4.1.2.2)"),
        (SERIAL, der(0x02, b"\0"), "serial number is not positive (RFC 5280 4.1.2.2)"),
        (SERIAL, der(0x02), "serial number is not positive (RFC 5280 4.1.2.2)"),
        (SERIAL, der(0x02, b"\1" * (MAX_SERIAL + 1)), "serial number has more than 20 octets (RFC 5280 4.1.2.2)"),
        (ALGORITHM, der(SEQUENCE, ECDSA_SHA256, NULL), "two fields for the signature algorithm differ (RFC 5280 4.1.1.2)"),
        (ISSUER, der(SEQUENCE), "issuer has no name (RFC 5280 4.1.2.4)"),
        (ISSUER, name(b""), "issuer, the common name has 0 octets, not 1 to 64 (RFC 5280 A.1)"),
        (ISSUER, name(b"x" * 65), "issuer, the common name has 65 octets, not 1 to 64 (RFC 5280 A.1)"),
        (ISSUER, name("é".encode("utf-16-be") * 33, tag=BMP), "issuer, the common name has 66 octets"),
        (ISSUER, name(b"DEU", oid="550406"), "issuer, the country has 3 octets, not 2 (RFC 5280 A.1)"),
        (ISSUER, name(b"", oid="2b0601040182373c020103"), "issuer, the jurisdiction country has 0 octets, not 2"),
        (EXTENSIONS, extensions("551d20", policies(der(VISIBLE, "é".encode()))), "VisibleString"),
        (EXTENSIONS, extensions("551d20", policies(der(VISIBLE, b"bell\x07"))), "VisibleString"),
        (EXTENSIONS, extensions("551d20", policies(der(SEQUENCE, der(VISIBLE, b"\xff")))), "VisibleString"),
    ],
)  # fmt: skip
def test_a_rule_that_is_broken_is_named_with_the_certificate(place: int, octets: bytes, rule: str) -> None:
    text = refusal(crafted((place, octets)))
    assert text.startswith("certificate CN=end with serial number ")
    assert rule in text


def test_a_subject_that_breaks_a_rule_is_told_by_the_serial_number() -> None:
    expected = (
        "certificate of an unreadable subject with serial number 0205: in its subject, the common name has 65 octets"
    )
    assert refusal(crafted((SUBJECT, name(b"x" * (MAX_COMMON_NAME + 1))))).startswith(expected)


def test_extensions_need_version_3() -> None:
    assert "it has extensions and is not of version 3" in refusal(crafted((VERSION, None)))


@pytest.mark.parametrize("oid", ["06082a8648ce3d040302", "06032b6570", "06032b6571"], ids=["ECDSA", "Ed25519", "Ed448"])
def test_signature_algorithms_without_parameters_have_none(oid: str) -> None:
    algorithm = der(SEQUENCE, bytes.fromhex(oid), NULL)
    assert "must be absent (RFC 5758 3.2, RFC 8410 3)" in refusal(crafted((ALGORITHM, algorithm), frame=algorithm))


@pytest.mark.parametrize(
    ("place", "octets"),
    [
        (SERIAL, der(0x02, b"\0\1")),
        (ISSUER, name(b"caf\xe9", tag=TELETEX)),
        (ISSUER, name(b"caf\xe9")),
        (ISSUER, name(b"\0a\0", tag=BMP)),
        (ISSUER, name(b"caf\xe9", tag=PRINTABLE)),
        (ISSUER, name(b"\0\1", tag=0x03)),
        (VALIDITY, der(SEQUENCE, der(0x18, b"00000101000000Z"), der(UTC, b"270601000000Z"))),
        (VALIDITY, der(SEQUENCE, der(UTC, b"2506010000Z"), der(UTC, b"270601000000Z"))),
        (EXTENSIONS, extensions("551d20", der(SEQUENCE, policies(der(VISIBLE, b"fine"))))),
    ],
)
def test_what_pyca_refuses_is_told_with_the_certificate(place: int, octets: bytes) -> None:
    text = refusal(crafted((place, octets)))
    assert text.startswith("certificate CN=end with serial number ")
    assert ": not readable: " in text


def test_sequences_in_one_another_are_followed_to_a_bound() -> None:
    nested = der(VISIBLE, b"fine")
    for _ in range(MAX_DEPTH):
        nested = der(SEQUENCE, nested)
    assert f"more than {MAX_DEPTH} sequences" in refusal(crafted((EXTENSIONS, extensions("551d20", nested))))
    for _ in range(4000):
        nested = der(SEQUENCE, nested)
    assert f"more than {MAX_DEPTH} sequences" in refusal(crafted((EXTENSIONS, extensions("551d20", nested))))


def test_the_bounds_themselves_are_accepted() -> None:
    assert broken_rule_of_name(name(b"x" * MAX_COMMON_NAME)) is None
    assert broken_rule_of_name(name("é".encode("utf-16-be") * 32, tag=BMP)) is None
    largest = crafted((SERIAL, der(0x02, b"\0" + b"\xff" * MAX_SERIAL)), (SUBJECT, name(b"x" * MAX_COMMON_NAME)))
    text = refusal(largest)  # only the signature does not fit
    assert "the signature of CN=root does not fit" in text


def test_a_file_with_such_a_certificate_is_refused() -> None:
    negative = crafted((SERIAL, der(0x02, b"\xff")))
    with pytest.raises(BadCertificate, match=r"CN=end with serial number ff: .*not positive"):
        load_certificates(negative)


def test_an_identity_is_held_against_the_same_rules() -> None:
    with pytest.raises(CryptoError, match="a distinguished name in DER"):
        Identity.from_wire(IdType.DER_ASN1_DN, name(b"x" * (MAX_COMMON_NAME + 1)))
    assert str(Identity(IdType.DER_ASN1_DN, name(b""))).startswith("der_asn1_dn:")


@pytest.mark.parametrize(
    "octets", [b"\x30", b"\x30\x05\x00", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", b"\x1f\x00", b"\x30\x85" + bytes(5)]
)
def test_what_is_no_whole_element_is_told_with_its_place(octets: bytes) -> None:
    with pytest.raises(CryptoError, match="DER: no whole element at octet 2"):
        elements(b"\x05\x00" + octets)
