"""The keyholder proves who we are and checks who a peer is."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from msgspec.structs import replace

from openmoat.crypto.auth import OWN_HASHES
from openmoat.crypto.identities import Identity, IdentityPattern
from openmoat.crypto.keys import PrivateKeyObject, fingerprint, kind_of, private_pem, spki_of
from openmoat.crypto.numbers import AuthMethod, HashAlgorithm
from openmoat.crypto.suites import PRF_HMAC_SHA2_256
from openmoat.daemon.core.keyholder import Keyholder
from openmoat.errors import CryptoError, Secret
from openmoat.ike.events import (
    Answer,
    AskOwnAuth,
    AskPeerAuth,
    Certificate,
    OwnAuth,
    PeerAccepted,
    PeerRefused,
    Unanswerable,
)
from openmoat.ike.wire.numbers import CertEncoding
from openmoat.model.connection import (
    Authority,
    Child,
    Connection,
    Own,
    Peer,
    PeerCredential,
    PrivateKey,
    Psk,
    RawKey,
    Start,
)
from openmoat.model.proposals import DEFAULT_ESP_PROPOSALS, DEFAULT_IKE_PROPOSALS
from openmoat.policy.selectors import parse_selectors
from unit.crypto.authority import NOW, YEAR, authority, end_entity

HOME, PORTAL = Identity.parse("home.example"), Identity.parse("portal.example")
SIGNED = Secret(b"signed octets" * 20)
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS: list[PrivateKeyObject] = [
    ED25519,
    ec.derive_private_key(7, ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
]
ROOT = authority()
LEAF = end_entity(ROOT, "home.example")
NET = Child(
    name="net",
    local=parse_selectors(["10.2.0.0/16"]),
    remote=parse_selectors(["10.1.0.0/16"]),
    proposals=DEFAULT_ESP_PROPOSALS,
    start=Start.NONE,
)


def connection(own: Own, credential: PeerCredential, peer: str = "home.example") -> Connection:
    return Connection(
        name="office",
        local_identity=PORTAL,
        own=own,
        peer=Peer(identity=IdentityPattern.parse(peer), credential=credential),
        children=(NET,),
        proposals=DEFAULT_IKE_PROPOSALS,
    )


def keyholder(loaded: Connection | None, key: PrivateKeyObject = ED25519, now: float = NOW) -> Keyholder:
    holder = Keyholder(lambda _: loaded, lambda: now)
    holder.load({"shared": Secret(b"0123456789abcdef")}, {"key": Secret(private_pem(key))})
    return holder


def prove(
    own: Own, key: PrivateKeyObject = ED25519, hashes: frozenset[HashAlgorithm] = frozenset(OWN_HASHES)
) -> Answer:
    question = AskOwnAuth(
        ticket=7, connection="office", identity=PORTAL, prf=PRF_HMAC_SHA2_256, signed_octets=SIGNED, peer_hashes=hashes
    )
    return keyholder(connection(own, Psk("shared")), key).prove(question)


def shown(answer: Answer) -> AskPeerAuth:
    """What the other end asks when it receives this proof."""
    assert isinstance(answer, OwnAuth)
    return AskPeerAuth(
        ticket=8,
        connection="office",
        identity=HOME,
        prf=PRF_HMAC_SHA2_256,
        signed_octets=SIGNED,
        method=answer.method,
        octets=answer.octets,
        certificates=answer.certificates,
    )


def judge(question: AskPeerAuth, credential: PeerCredential, *, peer: str = "home.example", now: float = NOW) -> str:
    """Empty where the peer is accepted, else why it is not."""
    answer = keyholder(connection(Psk("shared"), credential, peer), now=now).check_peer(question)
    assert answer.ticket == 8
    if isinstance(answer, PeerAccepted):
        return ""
    assert isinstance(answer, PeerRefused)
    return answer.text


def test_a_shared_secret_proves_both_ends() -> None:
    proof = prove(Psk("shared"))
    assert isinstance(proof, OwnAuth)
    assert (proof.ticket, proof.method, proof.certificates) == (7, AuthMethod.PSK, ())
    assert judge(shown(proof), Psk("shared")) == ""


@pytest.mark.parametrize("key", KEYS, ids=kind_of)
def test_a_raw_key_proves_its_end_and_is_shown(key: PrivateKeyObject) -> None:
    proof = prove(PrivateKey("key"), key)
    assert isinstance(proof, OwnAuth)
    assert proof.certificates == (Certificate(CertEncoding.RAW_PUBLIC_KEY, spki_of(key)),)
    assert judge(shown(proof), RawKey(spki_of(key))) == ""


def test_a_certificate_proves_its_end_to_who_trusts_its_authority() -> None:
    proof = prove(PrivateKey("key", (LEAF.der, ROOT.der)), LEAF.key)
    assert judge(shown(proof), Authority((ROOT.der,))) == ""


def test_a_certificate_for_another_identity_is_refused() -> None:
    proof = prove(PrivateKey("key", (end_entity(ROOT, "mallory.example").der,)), LEAF.key)
    assert "identity home.example is not in it" in judge(shown(proof), Authority((ROOT.der,)))


def test_a_certificate_that_has_ended_is_refused() -> None:
    proof = prove(PrivateKey("key", (LEAF.der,)), LEAF.key)
    assert "counts from" in judge(shown(proof), Authority((ROOT.der,)), now=NOW + 2 * YEAR.total_seconds())


def test_a_signature_by_another_key_than_that_of_the_certificate_is_refused() -> None:
    proof = prove(PrivateKey("key", (LEAF.der,)), KEYS[1])
    assert "does not fit" in judge(shown(proof), Authority((ROOT.der,)))


def test_a_peer_that_shows_no_certificate_is_told_so() -> None:
    assert judge(shown(prove(PrivateKey("key"), LEAF.key)), Authority((ROOT.der,))) == "certificate: the peer sent none"


def test_another_raw_key_is_refused_and_both_are_named() -> None:
    wanted = spki_of(KEYS[1])
    text = judge(shown(prove(PrivateKey("key"))), RawKey(wanted))
    assert text == f"AUTH: key {fingerprint(wanted)} is configured, the peer shows {fingerprint(spki_of(ED25519))}"


def test_a_key_that_the_peer_only_shows_is_worth_nothing() -> None:
    question = replace(shown(prove(PrivateKey("key"))), certificates=(Certificate(15, spki_of(KEYS[1])),))
    assert judge(question, RawKey(spki_of(KEYS[1]))) != ""


@pytest.mark.parametrize("method", [AuthMethod.NULL, AuthMethod.PSK, AuthMethod(99)])
def test_a_peer_cannot_choose_a_weaker_method_than_the_connection_wants(method: AuthMethod) -> None:
    question = replace(shown(prove(Psk("shared"))), method=method)
    assert "a signature" in judge(question, RawKey(spki_of(ED25519)))


def test_a_signature_where_a_shared_secret_is_wanted_is_refused() -> None:
    text = judge(shown(prove(PrivateKey("key"))), Psk("shared"))
    assert text == "AUTH: expected a pre-shared key, received method SIGNATURE"


def test_an_identity_that_the_connection_does_not_mean_is_refused() -> None:
    text = judge(shown(prove(Psk("shared"))), Psk("shared"), peer="*.moats.example")
    assert text == "identity: expected *.moats.example, received home.example"


def test_another_shared_secret_is_refused() -> None:
    question = replace(shown(prove(Psk("shared"))), octets=bytes(32))
    assert judge(question, Psk("shared")) == "AUTH: the MAC does not fit: the pre-shared key differs"


def test_what_is_not_loaded_cannot_be_used() -> None:
    answer = prove(Psk("other"))
    assert isinstance(answer, Unanswerable)
    assert answer.text == "shared secret other: is not loaded"
    answer = prove(PrivateKey("other"))
    assert isinstance(answer, Unanswerable)
    assert answer.text == "private key other: is not loaded"
    assert judge(shown(prove(Psk("shared"))), Psk("other")) == "shared secret other: is not loaded"


def test_a_peer_that_does_not_take_our_kind_of_key_is_not_sent_one() -> None:
    answer = prove(PrivateKey("key"), hashes=frozenset({HashAlgorithm.SHA2_256}))
    assert isinstance(answer, Unanswerable)
    assert "did not announce that it takes signatures of Ed25519" in answer.text


def test_a_connection_that_was_unloaded_meanwhile_proves_and_checks_nothing() -> None:
    question = shown(prove(Psk("shared")))
    holder = keyholder(None)
    assert isinstance(holder.check_peer(question), PeerRefused)
    own = AskOwnAuth(
        ticket=7,
        connection="office",
        identity=PORTAL,
        prf=PRF_HMAC_SHA2_256,
        signed_octets=SIGNED,
        peer_hashes=frozenset(),
    )
    assert isinstance(holder.prove(own), Unanswerable)


def test_a_key_that_cannot_be_read_leaves_the_others_in_place() -> None:
    holder = keyholder(None)
    with pytest.raises(CryptoError, match="not readable"):
        holder.load({}, {"key": Secret(b"no key")})
    assert repr(holder) == "<1 shared secrets, 1 private keys>"


@pytest.mark.parametrize(
    ("own", "key", "is_quick"),
    [
        (Psk("shared"), ED25519, True),
        (PrivateKey("key"), ED25519, True),
        (PrivateKey("key"), ec.generate_private_key(ec.SECP256R1()), True),
        (PrivateKey("key"), ec.generate_private_key(ec.SECP384R1()), False),
        (PrivateKey("key"), rsa.generate_private_key(65537, 2048), False),
        (PrivateKey("other"), ED25519, True),
    ],
)
def test_what_takes_longer_than_asking_a_thread_is_known_by_the_kind_of_key(
    own: Own, key: PrivateKeyObject, is_quick: bool
) -> None:
    question = AskOwnAuth(
        ticket=7,
        connection="office",
        identity=PORTAL,
        prf=PRF_HMAC_SHA2_256,
        signed_octets=SIGNED,
        peer_hashes=frozenset(),
    )
    assert keyholder(connection(own, Psk("shared")), key).proves_quickly(question) is is_quick


def test_a_secret_that_was_loaded_anew_is_not_remembered_as_it_was() -> None:
    holder = keyholder(connection(Psk("shared"), Psk("shared")))
    question = shown(prove(Psk("shared")))
    assert isinstance(holder.check_peer(question), PeerAccepted)
    holder.load({"shared": Secret(b"another secret 0")}, {})
    assert isinstance(holder.check_peer(question), PeerRefused)
