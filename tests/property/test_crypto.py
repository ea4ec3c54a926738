"""Whatever octets a peer or a file brings: a value or an error of ours, never another exception."""

from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from openmoat.crypto.auth import OWN_HASHES, check_signature, sign
from openmoat.crypto.identities import MAX_IDENTITY, Identity, IdentityPattern
from openmoat.crypto.kex import make_key_pair, seed_size, shared_secret
from openmoat.crypto.keys import (
    PrivateKeyObject,
    load_private_key,
    load_public_key,
    parse_public_line,
    private_pem,
    public_key,
    spki_of,
)
from openmoat.crypto.numbers import AuthMethod, IdType
from openmoat.crypto.protection import SkProtection
from openmoat.crypto.suites import (
    AES_128_CBC,
    AES_128_GCM_16,
    CHACHA20_POLY1305,
    HMAC_SHA2_256_128,
    KE_METHODS,
    KeyExchange,
)
from openmoat.crypto.x509 import check_chain, load_certificates
from openmoat.errors import BadCertificate, BadIcv, BadPublicValue, BadSignature, CryptoError, Secret
from unit.crypto.authority import NOW, authority, end_entity

ROOT = authority()
LEAF = end_entity(ROOT, "moat.example")
MOAT = Identity.parse("moat.example")
KEYS: list[PrivateKeyObject] = [
    ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    ec.derive_private_key(7, ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
]
SIGNATURES = [sign(key, b"signed", frozenset(OWN_HASHES)) for key in KEYS]
PROTECTIONS = [
    SkProtection(AES_128_GCM_16, None, Secret(bytes(20)), Secret()),
    SkProtection(CHACHA20_POLY1305, None, Secret(bytes(36)), Secret()),
    SkProtection(AES_128_CBC, HMAC_SHA2_256_128, Secret(bytes(16)), Secret(bytes(32))),
]
PAIRS = {row.id: make_key_pair(row.id, bytes([9]) * seed_size(row.id)) for row in KE_METHODS}


@st.composite
def spoiled(draw: st.DrawFn, good: bytes) -> bytes:
    """Good octets with a few of them changed, a piece cut out, or something put in."""
    octets = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(octets) - 1, 0)))
        match draw(st.sampled_from(("change", "cut", "insert", "end"))):
            case "change" if octets:
                octets[at] = draw(st.integers(0, 255))
            case "cut":
                del octets[at : at + draw(st.integers(1, 20))]
            case "insert":
                octets[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                del octets[at:]
    return bytes(octets)


@given(st.integers(0, 255), st.binary(max_size=MAX_IDENTITY + 1))
def test_any_octets_are_an_identity_or_refused(kind: int, octets: bytes) -> None:
    with suppress(CryptoError):
        identity = Identity.from_wire(IdType(kind), octets)
        assert (identity.type, identity.value) == (kind, octets)
    assert str(Identity(IdType(kind), octets)).isprintable()


@given(st.text(max_size=80))
def test_any_text_is_an_identity_that_reads_back_or_refused(text: str) -> None:
    with suppress(ValueError):
        identity = Identity.parse(text)
        assert Identity.parse(str(identity)) == identity
        assert IdentityPattern.parse(str(identity)).matches(identity)
    with suppress(ValueError):
        pattern = IdentityPattern.parse(text)
        assert IdentityPattern.parse(str(pattern)) == pattern


@given(st.sampled_from(["FQDN", "RFC822_ADDR"]), st.text(min_size=1, max_size=40))
def test_a_name_of_a_peer_reads_back_from_what_is_printed(kind: str, text: str) -> None:
    with suppress(CryptoError, UnicodeEncodeError):
        identity = Identity.from_wire(IdType[kind], text.encode())
        assert Identity.parse(str(identity)) == identity


@given(st.sampled_from(KE_METHODS), st.data())
def test_any_public_value_gives_a_secret_or_is_refused(row: KeyExchange, data: st.DataObject) -> None:
    public, private = PAIRS[row.id]
    value = data.draw(
        st.one_of(st.binary(max_size=600), st.binary(min_size=row.public, max_size=row.public), spoiled(public))
    )
    with suppress(BadPublicValue):
        assert len(shared_secret(row.id, private, value)) == row.shared


@given(st.sampled_from(PROTECTIONS), st.data())
def test_nothing_but_what_was_sealed_opens(side: SkProtection, data: st.DataObject) -> None:
    good = side.seal(b"header", b"content of a payload", bytes(side.iv_size))
    body = data.draw(st.one_of(st.binary(max_size=200), spoiled(good)))
    with suppress(BadIcv):
        side.open(b"header", body)
        assert body == good


@given(st.sampled_from(KEYS), st.data())
def test_nothing_but_a_signature_is_one(key: PrivateKeyObject, data: st.DataObject) -> None:
    method, good = SIGNATURES[KEYS.index(key)]
    octets = data.draw(st.one_of(st.binary(max_size=600), spoiled(good)))
    claimed = data.draw(st.sampled_from([method, *AuthMethod]))
    with suppress(BadSignature):
        check_signature(key.public_key(), b"signed", claimed, octets)
        assert octets == good


@settings(deadline=None)
@given(st.data())
def test_any_certificates_are_a_chain_of_the_peer_or_refused(data: st.DataObject) -> None:
    certificates = data.draw(
        st.lists(st.one_of(st.binary(max_size=600), spoiled(LEAF.der), spoiled(ROOT.der)), max_size=3)
    )
    with suppress(BadCertificate):
        # What is not signed may change: the octets of the signature's frame.
        assert spki_of(check_chain(certificates, [ROOT.der], MOAT, NOW)) == spki_of(LEAF.key)


@given(st.data())
def test_any_file_holds_a_key_or_certificates_or_is_refused(data: st.DataObject) -> None:
    pem = private_pem(data.draw(st.sampled_from(KEYS)))
    octets = data.draw(st.one_of(st.binary(max_size=600), spoiled(pem), spoiled(LEAF.der)))
    for read in (load_private_key, load_public_key, public_key, load_certificates):
        with suppress(CryptoError):
            read(octets)
    with suppress(ValueError):
        parse_public_line(octets.decode("latin-1"))
