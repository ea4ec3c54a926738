"""Holds our private keys and shared secrets under their names, proves who we are and checks who a peer is.

Nothing leaves it but signatures and verdicts. Its calls may take milliseconds and are safe in threads.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

from openmoat.crypto.auth import check_padded_psk, check_signature, padded_psk, padded_psk_octets, sign
from openmoat.crypto.keys import (
    PrivateKeyObject,
    PublicKeyObject,
    fingerprint,
    kind_of,
    load_private_key,
    public_key,
    spki_of,
)
from openmoat.crypto.numbers import AuthMethod
from openmoat.crypto.suites import PrfRow
from openmoat.errors import BadSignature, CryptoError, Secret
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
from openmoat.model.connection import Authority, Connection, PrivateKey, Psk, RawKey

__all__ = ["Keyholder"]

QUICK_KEYS = frozenset({"ECDSA secp256r1", "Ed25519"})
"""Kinds of key that sign in well under a tenth of a millisecond."""
_PARSED_KEYS = 1024
"""Public keys of peers that are kept in parsed form."""
_SHOWN_KEYS = 4
"""Raw keys of a peer that are looked at to say which one it has."""


class Keyholder:
    """Answers `AskOwnAuth` and `AskPeerAuth`. What it holds is replaced as a whole, so a thread never sees half of it."""

    def __init__(self, find_connection: Callable[[str], Connection | None], wall_clock: Callable[[], float]) -> None:
        """`wall_clock` gives seconds since 1970 (UTC): certificates are checked at that time."""
        self._find_connection = find_connection
        self._wall_clock = wall_clock
        self._psks: Mapping[str, Secret] = MappingProxyType({})
        self._padded_psks: dict[tuple[str, PrfRow], Secret] = {}
        """As many as there are secrets and PRFs at most."""
        self._private_keys: Mapping[str, PrivateKeyObject] = MappingProxyType({})

    def __repr__(self) -> str:
        return f"<{len(self._psks)} shared secrets, {len(self._private_keys)} private keys>"

    def load(self, psks: Mapping[str, Secret], private_keys: Mapping[str, Secret]) -> None:
        """Hold these from now on and no others: secrets by `Psk.name`, PEM of private keys by `PrivateKey.name`.

        Raises `CryptoError` for a key that cannot be read, and then holds what it held before.
        """
        keys = {name: load_private_key(pem) for name, pem in private_keys.items()}
        self._psks, self._private_keys = MappingProxyType(dict(psks)), MappingProxyType(keys)
        self._padded_psks = {}

    def proves_quickly(self, question: AskOwnAuth) -> bool:
        """Whether `prove` takes less time than a thread would need to be asked: all but RSA and the larger curves."""
        connection = self._find_connection(question.connection)
        if connection is None or isinstance(connection.own, Psk):
            return True
        key = self._private_keys.get(connection.own.name)
        return key is None or kind_of(key) in QUICK_KEYS

    def prove(self, question: AskOwnAuth) -> Answer:
        """`OwnAuth`, or `Unanswerable` where no key is at hand or the peer takes none of its kind."""
        connection = self._find_connection(question.connection)
        if connection is None:
            return Unanswerable(question.ticket, _not_loaded(question.connection))
        try:
            match connection.own:
                case Psk(name=name):
                    octets = padded_psk_octets(question.prf, self._psk(name, question.prf), question.signed_octets)
                    return OwnAuth(question.ticket, AuthMethod.PSK, octets)
                case PrivateKey(name=name, certificates=chain):
                    key = self._private_key(name)
                    method, octets = sign(key, question.signed_octets, question.peer_hashes)
                    return OwnAuth(question.ticket, method, octets, _shown(key, chain))
        except CryptoError as error:
            return Unanswerable(question.ticket, str(error))

    def check_peer(self, question: AskPeerAuth) -> Answer:
        """`PeerAccepted` or `PeerRefused`."""
        connection = self._find_connection(question.connection)
        if connection is None:
            return PeerRefused(question.ticket, _not_loaded(question.connection))
        try:
            if not connection.peer.identity.matches(question.identity):
                wanted = connection.peer.identity
                raise CryptoError(f"identity: expected {wanted}, received {question.identity}")
            self._check(connection, question)
        except CryptoError as error:
            return PeerRefused(question.ticket, str(error))
        return PeerAccepted(question.ticket)

    def _check(self, connection: Connection, question: AskPeerAuth) -> None:
        """`CryptoError` unless the AUTH payload proves what the connection wants to be proved."""
        credential = connection.peer.credential
        if isinstance(credential, Psk) != (question.method is AuthMethod.PSK):
            wanted = "a pre-shared key" if isinstance(credential, Psk) else "a signature"
            raise BadSignature(f"AUTH: expected {wanted}, received method {question.method.name}")
        match credential:
            case Psk(name=name):
                check_padded_psk(question.prf, self._psk(name, question.prf), question.signed_octets, question.octets)
            case RawKey(spki=spki):
                self._check_raw_key(spki, question)
            case Authority(roots=roots):
                from openmoat.crypto.x509 import check_chain  # with certificates only: it takes 2 MB

                chain = [c.octets for c in question.certificates if c.encoding == CertEncoding.X509_SIGNATURE]
                key = check_chain(chain, roots, question.identity, self._wall_clock())
                check_signature(key, question.signed_octets, question.method, question.octets)

    def _check_raw_key(self, spki: bytes, question: AskPeerAuth) -> None:
        """The configured key alone counts; a key that the peer shows only helps to say what is wrong (RFC 7670 3)."""
        try:
            check_signature(_parsed(spki), question.signed_octets, question.method, question.octets)
        except BadSignature as error:
            shown = [c.octets for c in question.certificates if c.encoding == CertEncoding.RAW_PUBLIC_KEY]
            others = [fingerprint(octets) for octets in shown[:_SHOWN_KEYS] if octets != spki]
            if not others:
                raise
            text = f"AUTH: key {fingerprint(spki)} is configured, the peer shows {', '.join(others)}"
            raise BadSignature(text) from error

    def _psk(self, name: str, row: PrfRow) -> Secret:
        """As `padded_psk` gives it: who authenticates thousands of peers by one secret pads it once."""
        padded = self._padded_psks
        if (name, row) not in padded:
            if name not in self._psks:
                raise CryptoError(f"shared secret {name}: is not loaded")
            padded[name, row] = padded_psk(row, self._psks[name])
        return padded[name, row]

    def _private_key(self, name: str) -> PrivateKeyObject:
        if name not in self._private_keys:
            raise CryptoError(f"private key {name}: is not loaded")
        return self._private_keys[name]


@lru_cache(maxsize=_PARSED_KEYS)
def _parsed(spki: bytes) -> PublicKeyObject:
    return public_key(spki)


def _shown(key: PrivateKeyObject, chain: tuple[bytes, ...]) -> tuple[Certificate, ...]:
    """CERT payloads: our chain, or the raw public key where there is none (RFC 7670)."""
    if not chain:
        return (Certificate(CertEncoding.RAW_PUBLIC_KEY, spki_of(key)),)
    return tuple(Certificate(CertEncoding.X509_SIGNATURE, octets) for octets in chain)


def _not_loaded(connection: str) -> str:
    return f'connection "{connection}" is not loaded any more'
