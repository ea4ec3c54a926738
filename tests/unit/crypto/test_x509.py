"""Certificates: which chains lead to a root, what a certificate says of an identity, and what is refused."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from openmoat.crypto.identities import Identity
from openmoat.crypto.keys import PrivateKeyObject, kind_of, spki_of
from openmoat.crypto.limits import MAX_CERTIFICATE, MAX_CERTIFICATES
from openmoat.crypto.x509 import (
    MAX_CHAIN,
    MAX_SIGNATURE_CHECKS,
    authority_hash,
    check_chain,
    check_identity,
    load_certificates,
    subject_key,
)
from openmoat.errors import BadCertificate
from unit.crypto.authority import AUTHORITY, NOW, YEAR, Issued, authority, end_entity, issue, names, usage

ROOT = authority()
MIDDLE = authority("CN=middle", ROOT)
MOAT = Identity.parse("moat.example")
AUTHORITY_KEYS: list[PrivateKeyObject] = [
    ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    ed448.Ed448PrivateKey.from_private_bytes(bytes(range(57))),
    ec.derive_private_key(9, ec.SECP384R1()),
    rsa.generate_private_key(65537, 2048),
]


def check(*certificates: Issued, root: Issued = ROOT, identity: Identity = MOAT, at: float = NOW) -> None:
    check_chain([one.der for one in certificates], [root.der], identity, at)


def refused(*certificates: Issued, root: Issued = ROOT, identity: Identity = MOAT, at: float = NOW) -> str:
    with pytest.raises(BadCertificate) as caught:
        check(*certificates, root=root, identity=identity, at=at)
    return str(caught.value)


@pytest.mark.parametrize("key", AUTHORITY_KEYS, ids=kind_of)
def test_a_certificate_of_a_root_of_any_kind_of_key_is_accepted(key: PrivateKeyObject) -> None:
    root = authority(key=key)
    leaf = end_entity(root)
    assert spki_of(check_chain([leaf.der], [root.der], MOAT, NOW)) == spki_of(leaf.key)


def test_intermediates_may_come_in_any_order_with_strangers_and_the_root_among_them() -> None:
    lower = authority("CN=lower", MIDDLE)
    check(end_entity(lower), authority("CN=stranger"), ROOT, lower, MIDDLE)


def test_a_missing_intermediate_is_named() -> None:
    assert refused(end_entity(MIDDLE)) == "certificate CN=end: no CA certificate of CN=middle is known"


def test_a_root_that_only_has_the_same_name_is_refused() -> None:
    other = authority(key=AUTHORITY_KEYS[2])
    assert "the signature of CN=root does not fit" in refused(end_entity(other))


def test_of_two_roots_with_one_name_the_one_that_signed_counts() -> None:
    other = authority(key=AUTHORITY_KEYS[2])
    check_chain([end_entity(other).der], [ROOT.der, other.der], MOAT, NOW)


def test_a_self_made_chain_does_not_lead_to_our_root() -> None:
    own_root = authority("CN=mallory")
    assert "no CA certificate of CN=mallory is known" in refused(end_entity(own_root), own_root)


def test_each_certificate_of_the_chain_must_count_at_the_time() -> None:
    after, before = NOW + 2 * YEAR.total_seconds(), NOW - 2 * YEAR.total_seconds()
    start, end = datetime.fromtimestamp(NOW, UTC) - 3 * YEAR, datetime.fromtimestamp(NOW, UTC) + 3 * YEAR
    long_root = issue("CN=root", AUTHORITY, start=start, end=end)
    assert "counts from 2025-06-01 to 2027-06-01, now is 2028-05-31" in refused(end_entity(long_root), at=after)
    assert "counts from" in refused(end_entity(long_root), root=long_root, at=before)
    lasting = issue("CN=end", ((names("moat.example"), False),), MIDDLE, start=start, end=end)
    assert "certificate CN=middle: counts from" in refused(lasting, MIDDLE, root=long_root, at=after)
    check(issue("CN=end", ((names("moat.example"), False),), long_root, start=start, end=end), root=long_root, at=after)


@pytest.mark.parametrize(
    ("extensions", "text"),
    [
        ((), "is not a CA"),
        (((x509.BasicConstraints(ca=False, path_length=None), True),), "is not a CA"),
        ((AUTHORITY[0], (usage(sign=True), True)), "has no keyCertSign"),
    ],
)
def test_an_issuer_that_is_no_authority_is_refused(
    extensions: tuple[tuple[x509.ExtensionType, bool], ...], text: str
) -> None:
    middle = issue("CN=middle", extensions, ROOT)
    assert text in refused(end_entity(middle), middle)


def test_the_path_length_of_an_authority_is_kept() -> None:
    short_root = issue("CN=root", ((x509.BasicConstraints(ca=True, path_length=0), True),))
    check(end_entity(short_root), root=short_root)
    middle = authority("CN=middle", short_root)
    assert "permits 0 CA certificates below it, not 1" in refused(end_entity(middle), middle, root=short_root)


@pytest.mark.parametrize(
    "extension",
    [
        x509.NameConstraints(permitted_subtrees=[x509.DNSName("example")], excluded_subtrees=None),
        x509.PolicyConstraints(require_explicit_policy=0, inhibit_policy_mapping=None),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
    ],
)
def test_what_is_critical_and_not_understood_refuses_the_chain(extension: x509.ExtensionType) -> None:
    middle = issue("CN=middle", (*AUTHORITY, (extension, True)), ROOT)
    assert "not supported" in refused(end_entity(middle), middle)
    assert "not supported" in refused(end_entity(ROOT, extensions=((extension, True),)))


def test_an_unknown_extension_that_is_not_critical_does_not_matter() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    check(end_entity(ROOT, extensions=((unknown, False),)))


@pytest.mark.parametrize(
    "purposes",
    [
        ["1.3.6.1.5.5.7.3.17"],
        ["1.3.6.1.5.5.8.2.2"],
        [ExtendedKeyUsageOID.SERVER_AUTH.dotted_string],
        [ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE.dotted_string, ExtendedKeyUsageOID.CODE_SIGNING.dotted_string],
    ],
)
def test_purposes_of_ike_servers_and_clients_are_accepted(purposes: list[str]) -> None:
    extension = x509.ExtendedKeyUsage([x509.ObjectIdentifier(oid) for oid in purposes])
    check(end_entity(ROOT, extensions=((extension, True), (usage(sign=True), True))))


def test_a_key_for_another_purpose_is_refused() -> None:
    signing = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    assert "extended key usage" in refused(end_entity(ROOT, extensions=((signing, False),)))
    assert "neither digitalSignature" in refused(end_entity(ROOT, extensions=((usage(encipher=True), True),)))


@pytest.mark.parametrize(
    ("in_certificate", "asked"),
    [
        ("moat.example", "moat.example"),
        ("Moat.Example", "moat.EXAMPLE"),
        ("user@example.org", "user@example.org"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("moat.example", "CN=end"),
    ],
)
def test_an_identity_that_the_certificate_names_is_accepted(in_certificate: str, asked: str) -> None:
    check(end_entity(ROOT, "other.example", in_certificate), identity=Identity.parse(asked))


@pytest.mark.parametrize(
    ("in_certificate", "asked"),
    [
        ("moat.example", "portal.example"),
        ("moat.example", "a.moat.example"),
        ("*.example", "moat.example"),
        ("moat.example", "fqdn:end"),
        ("moat.example", "end"),
        ("192.0.2.1", "192.0.2.2"),
        ("192.0.2.1", "fqdn:192.0.2.1"),
        ("user@example.org", "example.org"),
        ("moat.example", "CN=End"),
        ("moat.example", "CN=end,O=Example"),
        ("moat.example", "keyid:00"),
    ],
)
def test_an_identity_that_the_certificate_does_not_name_is_refused(in_certificate: str, asked: str) -> None:
    text = refused(end_entity(ROOT, in_certificate), identity=Identity.parse(asked))
    assert f"identity {Identity.parse(asked)} is not in it; it names" in text


def test_a_certificate_without_alternative_names_has_its_subject_only() -> None:
    plain = issue("CN=moat.example", (), ROOT)
    assert "it names none of this kind" in refused(plain)
    check(plain, identity=Identity.parse("CN=moat.example"))
    check_identity(plain.der, Identity.parse("CN=moat.example"))


def sha1_signed(subject: str, issuer: Issued) -> Issued:
    """SHA-1 where the certificate says SHA-256: no library makes such a thing any more, so the OIDs are exchanged."""
    good = issue(subject, ((names("moat.example"), False),), issuer)
    sha256, sha1 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040308")
    changed = good.der.replace(sha256, sha1)
    return replace(good, certificate=x509.load_der_x509_certificate(changed))


def test_a_signature_of_an_unknown_kind_is_refused() -> None:
    assert "certificate CN=end: its signature cannot be checked" in refused(sha1_signed("CN=end", ROOT))


def test_a_signature_with_sha1_is_refused() -> None:
    sha256, sha1 = bytes.fromhex("300d06092a864886f70d01010b0500"), bytes.fromhex("300d06092a864886f70d0101050500")
    root = authority(key=AUTHORITY_KEYS[3])
    leaf = end_entity(root)
    changed = replace(leaf, certificate=x509.load_der_x509_certificate(leaf.der.replace(sha256, sha1)))
    assert "is signed with sha1, SHA-2 is needed" in refused(changed, root=root)


def test_no_certificate_and_too_many_are_refused() -> None:
    assert refused() == "certificate: the peer sent none"
    assert "at most 16, not 17" in refused(*[end_entity(ROOT)] * (MAX_CERTIFICATES + 1))


def chain(count: int) -> list[Issued]:
    """An end entity and `count` authorities above it, the root last."""
    authorities = [ROOT]
    for number in range(count - 1):
        authorities.append(authority(f"CN=level {number}", authorities[-1]))
    return [end_entity(authorities[-1]), *reversed(authorities)]


def test_the_longest_chain_is_accepted_and_a_longer_one_is_not() -> None:
    check(*chain(MAX_CHAIN - 1))
    assert f"more than {MAX_CHAIN} certificates" in refused(*chain(MAX_CHAIN))


def test_crafted_authorities_with_one_name_cost_a_bounded_number_of_checks() -> None:
    crowd = [authority("CN=same") for _ in range(MAX_CERTIFICATES - 1)]  # each has signed each, none is a root
    assert len({one.der for one in crowd}) == len(crowd)
    assert f"no chain to a root in {MAX_SIGNATURE_CHECKS} signature checks" in refused(end_entity(crowd[0]), *crowd)


@pytest.mark.parametrize(
    "octets", [b"", b"\x30\x00", bytes(100), bytes(MAX_CERTIFICATE + 1), end_entity(ROOT).der[:-1]]
)
def test_octets_that_are_no_certificate_lead_nowhere(octets: bytes) -> None:
    with pytest.raises(BadCertificate, match=r"^certificate: "):
        check_chain([octets], [ROOT.der], MOAT, NOW)
    with pytest.raises(BadCertificate, match="CN=end: certificate: "):
        check_chain([end_entity(MIDDLE).der, octets], [ROOT.der], MOAT, NOW)
    check_chain([end_entity(MIDDLE).der, octets, MIDDLE.der], [ROOT.der], MOAT, NOW)
    with pytest.raises(BadCertificate):
        subject_key(octets)


def test_every_certificate_of_a_file_is_read() -> None:
    pem = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in (end_entity(MIDDLE), MIDDLE))
    assert load_certificates(b"some words before\n" + pem) == (end_entity_der(pem), MIDDLE.der)
    assert load_certificates(ROOT.der) == (ROOT.der,)


def end_entity_der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


@pytest.mark.parametrize("octets", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_refused(octets: bytes) -> None:
    with pytest.raises(BadCertificate, match="not readable"):
        load_certificates(octets)


def test_the_hash_of_an_authority_is_that_of_its_public_key() -> None:
    digest = hashes.Hash(hashes.SHA1())  # noqa: S303
    digest.update(spki_of(ROOT.key))
    assert authority_hash(ROOT.der) == digest.finalize()


def test_any_changed_octet_of_what_is_signed_is_noticed() -> None:
    leaf = end_entity(ROOT)
    start = leaf.der.index(leaf.certificate.tbs_certificate_bytes)
    for at in range(start, start + len(leaf.certificate.tbs_certificate_bytes)):
        changed = leaf.der[:at] + bytes([leaf.der[at] ^ 0x01]) + leaf.der[at + 1 :]
        with pytest.raises(BadCertificate):
            check_chain([changed], [ROOT.der], MOAT, NOW)
