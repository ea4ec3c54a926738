"""Proof of identity by raw keys and certificates, end to end: who asks for what, what is shown, what is refused."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from openmoat.crypto.keys import PrivateKeyObject, kind_of, private_pem, spki_of
from openmoat.crypto.numbers import AuthMethod
from openmoat.crypto.x509 import authority_hash
from openmoat.daemon.core.keyholder import Keyholder
from openmoat.errors import Secret
from openmoat.ike.connections import MAX_AUTHORITIES, Connections
from openmoat.ike.events import Answer, AskOwnAuth, AskPeerAuth, IkeSaUp, NegotiationFailed, Question
from openmoat.ike.wire.message import Message
from openmoat.ike.wire.numbers import CertEncoding, NotifyType
from openmoat.ike.wire.payloads import CertRequest, Notify, VendorId
from openmoat.model.connection import Authority, Connection, Own, PeerCredential, PrivateKey, Psk, RawKey, Start
from scenario.link import Host, Link, child, connection
from unit.crypto.authority import NOW, Issued, authority, end_entity, issue, names

HOME, PORTAL = "198.51.100.2", "192.0.2.1"
RSA = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
KEYS: list[PrivateKeyObject] = [
    ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    ed448.Ed448PrivateKey.from_private_bytes(bytes(range(57))),
    ec.derive_private_key(7, ec.SECP256R1()),
    ec.derive_private_key(7, ec.SECP384R1()),
    RSA[0],
]
ROOT = authority()


class KeyedHost(Host):
    """A host whose questions about identities a real keyholder answers."""

    def __init__(self, link: Link, name: str, address: str, keys: Mapping[str, PrivateKeyObject]) -> None:
        self.keyholder = Keyholder(self.find, lambda: NOW)
        pems = {name: Secret(private_pem(key)) for name, key in keys.items()}
        self.keyholder.load({"psk": Secret(b"0123456789abcdef")}, pems)
        super().__init__(link, name, address)
        link.hosts.append(self)

    def find(self, name: str) -> Connection | None:
        return self.connections.get(name)

    def reply(self, question: Question) -> Answer:
        match question:
            case AskOwnAuth():
                return self.keyholder.prove(question)
            case AskPeerAuth():
                return self.keyholder.check_peer(question)
        return super().reply(question)


def proving(row: Connection, own: Own, peer: PeerCredential) -> Connection:
    return replace(row, own=own, peer=replace(row.peer, credential=peer))


def bring_up(
    home: tuple[Own, PeerCredential],
    portal: tuple[Own, PeerCredential],
    home_key: PrivateKeyObject = KEYS[0],
    portal_key: PrivateKeyObject = KEYS[2],
) -> tuple[Link, KeyedHost, KeyedHost]:
    """Home begins; each end has its key under the name `key`."""
    link = Link()
    at_home = KeyedHost(link, "home", HOME, {"key": home_key})
    at_portal = KeyedHost(link, "portal", PORTAL, {"key": portal_key})
    net = child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.NONE)
    at_portal.load(proving(connection("portal.example", "home.example", HOME, net), *portal))
    at_home.load(proving(connection("home.example", "portal.example", PORTAL, retry=False), *home))
    link.settle()
    return link, at_home, at_portal


def certified(name: str, key: PrivateKeyObject, issuer: Issued = ROOT) -> Issued:
    return issue(f"CN={name}", ((names(name), False),), issuer, key=key)


@pytest.mark.parametrize("key", KEYS, ids=kind_of)
def test_raw_keys_of_every_kind_prove_both_ends(key: PrivateKeyObject) -> None:
    own = PrivateKey("key")
    _, home, portal = bring_up((own, RawKey(spki_of(key))), (own, RawKey(spki_of(key))), key, key)
    for host in (home, portal):
        assert [up.peer_method for up in host.told(IkeSaUp)] == [AuthMethod.SIGNATURE]
        assert len(host.sas) == 1


@pytest.mark.parametrize("key", KEYS, ids=kind_of)
def test_certificates_of_every_kind_prove_both_ends(key: PrivateKeyObject) -> None:
    trust = Authority((ROOT.der,))
    at_home = PrivateKey("key", (certified("home.example", key).der,))
    at_portal = PrivateKey("key", (certified("portal.example", KEYS[2]).der,))
    _, home, portal = bring_up((at_home, trust), (at_portal, trust), key)
    assert len(home.sas) == len(portal.sas) == 1


def test_each_end_may_prove_itself_in_its_own_way() -> None:
    at_portal = PrivateKey("key", (certified("portal.example", KEYS[2]).der,))
    _, home, portal = bring_up((Psk("psk"), Authority((ROOT.der,))), (at_portal, Psk("psk")))
    assert [up.peer_method for up in home.told(IkeSaUp)] == [AuthMethod.SIGNATURE]
    assert [up.peer_method for up in portal.told(IkeSaUp)] == [AuthMethod.PSK]


def test_a_long_chain_travels_in_fragments() -> None:
    root = authority("CN=root", key=RSA[1])
    middle = authority("CN=middle", root, key=RSA[2])
    at_home = PrivateKey("key", (certified("home.example", RSA[0], middle).der, middle.der))
    own, trust = PrivateKey("key"), Authority((root.der,))
    _, home, portal = bring_up((at_home, RawKey(spki_of(KEYS[2]))), (own, trust), RSA[0])
    assert len(home.sas) == len(portal.sas) == 1
    assert len(home.transmits) > 2
    assert max(len(transmit.octets) for transmit in home.transmits) <= 1280


def test_a_responder_names_the_authorities_it_trusts_in_ike_sa_init() -> None:
    trust = Authority((ROOT.der,))
    at_home = PrivateKey("key", (certified("home.example", KEYS[0]).der,))
    _, _, portal = bring_up((at_home, RawKey(spki_of(KEYS[2]))), (PrivateKey("key"), trust))
    requests = Message.parse(portal.transmits[0].octets).every(CertRequest)
    assert requests == (CertRequest(CertEncoding.X509_SIGNATURE, authority_hash(ROOT.der)),)


def test_authorities_are_named_once_and_no_longer_than_a_connection_trusts_them() -> None:
    connections = Connections(None, Counter())
    row = proving(connection("portal.example", "home.example", HOME), Psk("psk"), Authority((ROOT.der,)))
    connections.put(row)
    connections.put(replace(row, name="second"))
    assert connections.authorities() == authority_hash(ROOT.der)
    connections.drop("second")
    connections.put(row)
    assert connections.authorities() == authority_hash(ROOT.der)
    connections.drop(row.name)
    assert connections.authorities() == b""


def test_the_authorities_that_are_named_have_a_bound() -> None:
    connections = Connections(None, Counter())
    roots = tuple(
        authority(f"CN={n}", key=ec.derive_private_key(n + 1, ec.SECP256R1())).der for n in range(MAX_AUTHORITIES + 1)
    )
    row = connection("portal.example", "home.example", HOME)
    connections.put(proving(row, Psk("psk"), Authority(roots)))
    assert len(connections.authorities()) == 20 * MAX_AUTHORITIES


def test_the_authorities_that_are_named_do_not_make_a_long_response_to_a_short_request() -> None:
    link = Link()
    portal, home = link.host("portal", PORTAL), link.host("home", HOME)
    roots = tuple(
        authority(f"CN={n}", key=ec.derive_private_key(n + 1, ec.SECP256R1())).der for n in range(MAX_AUTHORITIES)
    )
    portal.load(proving(connection("portal.example", "home.example", None), Psk("psk"), Authority(roots)))
    home.load(connection("home.example", "portal.example", PORTAL))
    sent = Message.parse(link.flights[0].octets)
    short = tuple(row for row in sent.payloads if not isinstance(row, (Notify, VendorId)))
    octets = Message(sent.header, short).emit()
    portal.call("handle_datagram", octets, link.flights[0].path, now=link.now)
    response = portal.transmits[-1].octets
    named = [row for row in Message.parse(response).payloads if isinstance(row, CertRequest)]
    assert len(response) <= 3 * len(octets)
    assert named
    assert len(named[0].authorities) % 20 == 0


@pytest.mark.parametrize(
    ("chain", "text"),
    [
        ((certified("mallory.example", KEYS[0]).der,), "identity home.example is not in it"),
        ((certified("home.example", KEYS[2]).der,), "a signature by a ECDSA secp256r1 key, not Ed25519"),
        ((end_entity(authority("CN=other"), "home.example").der,), "no CA certificate of CN=other is known"),
        ((b"\x30\x00",), "not readable"),
    ],
)
def test_a_peer_that_does_not_prove_itself_gets_authentication_failed(chain: tuple[bytes, ...], text: str) -> None:
    own, trust = PrivateKey("key"), Authority((ROOT.der,))
    _, home, portal = bring_up((PrivateKey("key", chain), RawKey(spki_of(KEYS[2]))), (own, trust))
    assert home.sas == portal.sas == {}
    assert not home.ike_sas()
    assert not portal.ike_sas()
    (ours,), (theirs,) = home.told(NegotiationFailed), portal.told(NegotiationFailed)
    assert ours.notify == theirs.notify == NotifyType.AUTHENTICATION_FAILED
    assert text in theirs.text


def test_a_peer_that_did_not_prove_itself_is_given_nothing_while_the_sa_ends() -> None:
    """The responder, which has proved nothing, asks for a child at once: it has a child of its own to begin."""
    own, trust = PrivateKey("key"), RawKey(spki_of(KEYS[4]))
    link = Link()
    home = KeyedHost(link, "home", HOME, {"key": KEYS[0]})
    portal = KeyedHost(link, "portal", PORTAL, {"key": KEYS[2]})
    portal.load(proving(connection("portal.example", "home.example", HOME), own, RawKey(spki_of(KEYS[0]))))
    link.flights.clear()  # home begins
    home.load(proving(connection("home.example", "portal.example", PORTAL, retry=False), own, trust))
    link.settle()
    assert home.sas == {}


def test_a_responder_that_does_not_prove_itself_is_given_up() -> None:
    own = PrivateKey("key")
    _, home, _ = bring_up((own, RawKey(spki_of(KEYS[4]))), (own, RawKey(spki_of(KEYS[0]))))
    assert home.sas == {}
    (failed,) = home.told(NegotiationFailed)
    assert "is configured, the peer shows SHA256:" in failed.text
    assert not home.ike_sas()
