"""Identities and patterns as text and as octets."""

import ipaddress

import pytest

from openmoat.crypto.identities import (
    MAX_FQDN,
    MAX_IDENTITY,
    Identity,
    IdentityPattern,
    PatternKind,
    distinguished_name,
)
from openmoat.crypto.numbers import IdType
from openmoat.errors import CryptoError

CN_A = bytes.fromhex("300c310a300806035504030c0161")


@pytest.mark.parametrize(
    ("text", "kind", "octets"),
    [
        ("moat.example", IdType.FQDN, b"moat.example"),
        ("user@moat.example", IdType.RFC822_ADDR, b"user@moat.example"),
        ("192.0.2.1", IdType.IPV4_ADDR, bytes([192, 0, 2, 1])),
        ("2001:db8::1", IdType.IPV6_ADDR, ipaddress.ip_address("2001:db8::1").packed),
        ("CN=a", IdType.DER_ASN1_DN, CN_A),
        ("keyid:0aff", IdType.KEY_ID, b"\x0a\xff"),
        ("fqdn:192.0.2.1", IdType.FQDN, b"192.0.2.1"),
        ("email:moat", IdType.RFC822_ADDR, b"moat"),
    ],
)
def test_the_text_form_reads_back_as_it_was_written(text: str, kind: IdType, octets: bytes) -> None:
    identity = Identity.parse(text)
    assert (identity.type, identity.value) == (kind, octets)
    assert str(identity) == text
    assert Identity.from_wire(kind, octets) == identity


def test_a_distinguished_name_is_written_most_specific_part_first() -> None:
    identity = Identity.parse("CN=moat, O=Example\\, Ltd, C=CH")
    name = distinguished_name(identity.value)
    assert name is not None
    assert [part.rfc4514_string() for part in name.rdns] == ["C=CH", "O=Example\\, Ltd", "CN=moat"]
    assert str(identity) == "CN=moat,O=Example\\, Ltd,C=CH"


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a b", "a..b", "-a", "a\0b", "a." * 130, "x" * 64, "*", "*.a"),
        *("@moat", "a@b@c", "a@", "keyid:", "keyid:abc", "keyid:zz", "keyid:" + "00" * 1025, "fqdn:", "fqdn:a\nb"),
        *("CN=", "nope=x", "CN=a,,O=b"),
    ],
)
def test_text_that_is_no_identity_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^identity "):
        Identity.parse(text)


@pytest.mark.parametrize(
    ("kind", "octets"),
    [
        (IdType.IPV4_ADDR, bytes(3)),
        (IdType.IPV6_ADDR, bytes(4)),
        (IdType.FQDN, b""),
        (IdType.FQDN, b"a\0b"),
        (IdType.FQDN, b"a\x1b[2Jb"),
        (IdType.RFC822_ADDR, b"a\xff"),
        (IdType.DER_ASN1_DN, CN_A[:-1]),
        (IdType.DER_ASN1_DN, CN_A + b"\0"),
        (IdType.NULL, b"x"),
        (IdType.KEY_ID, bytes(MAX_IDENTITY + 1)),
    ],
)
def test_octets_that_are_no_identity_are_refused(kind: IdType, octets: bytes) -> None:
    with pytest.raises(CryptoError, match=r"^identity: "):
        Identity.from_wire(kind, octets)


def test_a_kind_nobody_knows_is_kept_and_printed_in_hexadecimal() -> None:
    assert str(Identity.from_wire(IdType(250), b"\x1b[2J")) == "unknown_250:1b5b324a"


@pytest.mark.parametrize("octets", [b"a\r\nb", b"\x1b[31m", b"\xff\xfe", "a\u202eb".encode(), b"a\0"])
@pytest.mark.parametrize("kind", list(IdType))
def test_nothing_that_moves_the_cursor_is_ever_printed(kind: IdType, octets: bytes) -> None:
    assert str(Identity(kind, octets)).isprintable()


def test_a_host_name_in_the_place_of_an_address_does_not_look_like_one() -> None:
    assert str(Identity(IdType.FQDN, b"192.0.2.1")) == "fqdn:192.0.2.1"
    assert str(Identity(IdType.FQDN, b"user@moat.example")) == "fqdn:user@moat.example"


def accepts(pattern: str, text: str) -> bool:
    return IdentityPattern.parse(pattern).matches(Identity.parse(text))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*", "moat.example"),
        ("*", "CN=a"),
        ("*.moats.example", "a.moats.example"),
        ("*.moats.example", "a.b.moats.example"),
        ("*.moats.example", "A.Moats.EXAMPLE"),
        ("*@example", "user@example"),
        ("*@example", "user@EXAMPLE"),
        ("moat.example", "Moat.Example"),
        ("192.0.2.1", "192.0.2.1"),
        ("CN=a", "CN=a"),
    ],
)
def test_a_pattern_takes_those_it_means(pattern: str, text: str) -> None:
    assert accepts(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*.moats.example", "moats.example"),
        ("*.moats.example", "xmoats.example"),
        ("*.moats.example", "fqdn:.moats.example"),
        ("*.moats.example", "fqdn:a..moats.example"),
        ("*.moats.example", "email:a.moats.example"),
        ("*.moats.example", "fqdn:user@a.moats.example"),
        ("*@example", "user@a.example"),
        ("*@example", "email:@example"),
        ("*@example", "email:a@b@example"),
        ("*@example", "fqdn:user@example"),
        ("user@example", "USER@example"),
        ("192.0.2.1", "fqdn:192.0.2.1"),
        ("CN=a", "CN=A"),
    ],
)
def test_a_pattern_takes_nobody_else(pattern: str, text: str) -> None:
    assert not accepts(pattern, text)


def test_no_pattern_takes_the_anonymous() -> None:
    anonymous = Identity(IdType.NULL, b"")
    for pattern in (IdentityPattern(PatternKind.ANY), IdentityPattern(PatternKind.EXACT, anonymous)):
        assert not pattern.matches(anonymous)


@pytest.mark.parametrize("text", ["*", "*.moats.example", "*@example", "moat.example", "CN=a"])
def test_a_pattern_reads_back_as_it_was_written(text: str) -> None:
    assert str(IdentityPattern.parse(text)) == text


@pytest.mark.parametrize("text", ["**", "a.*", "*a", "*.", "*@", "*.*.example"])
def test_a_star_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^identity "):
        IdentityPattern.parse(text)


def test_a_host_name_is_as_long_as_the_bound_and_not_one_longer() -> None:
    longest = "a." * (MAX_FQDN // 2) + "b"
    assert len(Identity.parse(longest).value) == MAX_FQDN == 253
    with pytest.raises(ValueError, match="a host name of letters"):
        Identity.parse(longest + "c")
