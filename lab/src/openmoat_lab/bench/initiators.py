"""Many IKEv2 initiators in one process: a load generator, run as `python -m openmoat_lab.bench.initiators` with a plan.

It speaks RFC 7296 with one suite and shares no code with the daemon it measures: it assembles messages from octets that
are made once. All that can be is made beforehand (one X25519 key for all, certificates, constant payloads); what depends on
the responder is computed for each handshake: shared secret, keys, AUTH, encryption, decryption, and checks of the responses.
The plan is one JSON object on standard input, the account one on standard output.
"""

import hmac
import json
import os
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from hashlib import sha1
from ipaddress import IPv4Address
from struct import Struct, pack
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

__all__ = ["Account", "Plan", "main", "run"]

PORT = 4500
NON_ESP = bytes(4)
"""Marker before every IKE message at port 4500 (RFC 3948 2.2), which is used from the start."""
SILENCE = 1.0
"""Seconds without any response after which all outstanding requests are sent again."""
CHECK_EVERY = 64
"""One of this many signatures of the responder is verified; of MACs each one."""
MAX_DATAGRAM = 65_535
RECEIVE_BUFFER = 8 << 20
IP_PKTINFO = 8
"""Of Linux; the socket module does not know it before Python 3.12."""

HEADER = Struct(">QQBBBBII")
GENERIC = Struct(">BBH")
SA_INIT, IKE_AUTH, INITIATOR, VERSION = 34, 35, 0x08, 0x20
SA, KE, ID_I, ID_R, CERT, CERTREQ, AUTH, NONCE, NOTIFY, TS_I, TS_R, SK = (
    33,
    34,
    35,
    36,
    37,
    38,
    39,
    40,
    41,
    44,
    45,
    46,
)
COOKIE, NAT_SOURCE, NAT_DESTINATION, SIGNATURE_HASHES, FIRST_STATUS = 16390, 16388, 16389, 16431, 16384
AES_GCM_128, GCM_SALT, GCM_IV, GCM_ICV, KEY_SIZE, PRF_SIZE = (b"\x00\x14\x80\x0e\x00\x80", 4, 8, 16, 16, 32)
ECDSA_SHA256 = bytes.fromhex("0c300a06082a8648ce3d040302")
"""Length and AlgorithmIdentifier before a signature (RFC 7427 3)."""
KEY_PAD = b"Key Pad for IKEv2"
IKE_PROPOSAL = bytes.fromhex("00000024010100030300000c01000014800e00800300000802000005000000080400001f")
"""AES-128-GCM-16, PRF_HMAC_SHA2_256, X25519."""
ESP_PROPOSAL = (bytes.fromhex("0000002001030402"), bytes.fromhex("0300000c01000014800e00800000000805000000"))
"""AES-128-GCM-16 without ESN; the SPI stands between the two."""


class Refused(Exception):
    """The responder refuses this IKE SA, or its authentication fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do: `count` handshakes, of which `window` are in progress at a time."""

    responder: str
    count: int
    window: int
    first: int = 0
    """Number of the first initiator: identity, inner address and source address follow from it."""
    sources: str = "0.0.0.0"
    """First of the source addresses, one per initiator; with the unspecified address the kernel chooses all."""
    identity: str = "n{}.homes.example"
    remote: str = "portal.example"
    inside: str = "10.0.0.0"
    """Inner address of initiator 0; each asks for a Child SA of one address."""
    network: tuple[str, str] = ("10.200.0.0", "10.200.255.255")
    """Inner addresses behind the responder, first and last."""
    psk: str = ""
    authority: str = ""
    """PEM of the private key and certificate of a CA, which issues a certificate to each initiator; or empty."""
    patience: float = 60.0
    """Seconds after which the run ends, whether all are up or not."""


@dataclass(slots=True)
class Account:
    """What came of it."""

    established: int = 0
    refused: int = 0
    repeated: int = 0
    """Requests that were sent again."""
    seconds: float = 0.0
    """From the first request to the last answer."""
    cpu_seconds: float = 0.0
    """CPU time of this process. If it is near `seconds`, this process was the bottleneck."""
    longest: float = 0.0
    """Seconds of the slowest handshake."""
    faults: list[str] = field(default_factory=list)
    """Texts of the first refusals."""


def payload(following: int, body: bytes) -> bytes:
    """A body with its generic header, which names the type of the payload after it (RFC 7296 3.2)."""
    return GENERIC.pack(following, 0, len(body) + 4) + body


def prf_plus(key: bytes, seed: bytes, size: int) -> bytes:
    """prf+ of RFC 7296 2.13 with HMAC-SHA-256."""
    stream, block = b"", b""
    for number in range(1, -(-size // PRF_SIZE) + 1):
        block = hmac.digest(key, block + seed + bytes((number,)), "sha256")
        stream += block
    return stream[:size]


def payloads(octets: bytes, kind: int) -> list[tuple[int, bytes]]:
    """Type and body of each payload in a chain."""
    found, at = [], 0
    while kind:
        following, _, length = GENERIC.unpack_from(octets, at)
        if length < 4 or at + length > len(octets):
            raise Refused("payload chain: a length does not fit")
        found.append((kind, octets[at + 4 : at + length]))
        kind, at = following, at + length
    return found


def refuse_errors(chain: list[tuple[int, bytes]]) -> None:
    """Raise `Refused` for a notify that reports an error."""
    for kind, body in chain:
        if kind == NOTIFY and (number := int.from_bytes(body[2:4], "big")) < FIRST_STATUS:
            raise Refused(f"notify {number}")


class Credentials:
    """What the initiators authenticate with: a pre-shared key, or one private key and a certificate each."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._padded = hmac.digest(plan.psk.encode(), KEY_PAD, "sha256")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._checked = 0
        self._certificates: list[bytes] = []
        self._request = b""
        if plan.authority:
            pem = plan.authority.encode()
            issuer, signer = x509.load_pem_x509_certificate(pem), load_pem_private_key(pem, None)
            # CERTREQ names a CA by a hash of its SubjectPublicKeyInfo (RFC 7296 3.7).
            spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            self._request = b"\x04" + sha1(spki, usedforsecurity=False).digest()
            self._certificates = [self._certify(n, issuer, signer) for n in range(plan.count)]

    def proofs(self, number: int, signed: bytes) -> bytes:
        """Payloads from after IDi to AUTH: CERT, CERTREQ, IDr, AUTH."""
        identity = b"\x02\0\0\0" + self._plan.remote.encode()
        if not self._certificates:
            return payload(AUTH, identity) + payload(SA, b"\x02\0\0\0" + hmac.digest(self._padded, signed, "sha256"))
        signature = self._key.sign(signed, ec.ECDSA(hashes.SHA256()))
        certificate = b"\x04" + self._certificates[number - self._plan.first]
        return (
            payload(CERTREQ, certificate)
            + payload(ID_R, self._request)
            + payload(AUTH, identity)
            + payload(SA, b"\x0e\0\0\0" + ECDSA_SHA256 + signature)
        )

    @property
    def after_identity(self) -> int:
        """Type of the payload that follows IDi."""
        return CERT if self._certificates else ID_R

    def check(self, chain: dict[int, bytes], signed: bytes) -> None:
        """Raise `Refused` unless the responder's AUTH is right; of signatures one in `CHECK_EVERY` is verified."""
        proof = chain.get(AUTH, b"")
        if not self._certificates:
            if not hmac.compare_digest(proof[4:], hmac.digest(self._padded, signed, "sha256")):
                raise Refused("AUTH of the responder does not fit")
            return
        self._checked += 1
        if self._checked % CHECK_EVERY == 1:
            key = x509.load_der_x509_certificate(chain[CERT][1:]).public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise Refused("the responder's key is not ECDSA")
            key.verify(proof[4 + len(ECDSA_SHA256) :], signed, ec.ECDSA(hashes.SHA256()))

    def _certify(self, number: int, issuer: x509.Certificate, signer: Any) -> bytes:
        identity = self._plan.identity.format(self._plan.first + number)
        key = issuer.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("the key of Plan.authority is not ECDSA")
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, identity)]))
            .issuer_name(issuer.subject)
            .public_key(self._key.public_key())
            .serial_number(1 + self._plan.first + number)
            .not_valid_before(issuer.not_valid_before_utc)
            .not_valid_after(issuer.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(identity)]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
            .sign(signer, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )


class Handshake:
    """One initiator, from its IKE_SA_INIT request to the response of IKE_AUTH."""

    __slots__ = ("_auth_key", "_keys", "_nonce", "_opener", "_request", "_response", "_salt", "began", "datagram", "number", "source", "spi")  # fmt: skip

    def __init__(self, load: "Load", number: int, spi: int, began: float) -> None:
        self.number, self.spi, self.began = number, spi, began
        self.source = load.source(number)
        self._nonce = os.urandom(32)
        self._opener: AESGCM | None = None
        self.datagram = b""
        self._begin(load, b"")

    def _begin(self, load: "Load", cookie: bytes) -> None:
        """IKE_SA_INIT request: [COOKIE,] SA, KE, Ni, NAT detection, hashes."""
        half = HEADER.pack(self.spi, 0, 0, 0, 0, 0, 0, 0)[:16]
        hidden = sha1(half + self.source + load.port, usedforsecurity=False).digest()
        shown = sha1(half + load.target, usedforsecurity=False).digest()
        body = (
            load.init_head
            + payload(NOTIFY, self._nonce)
            + payload(NOTIFY, pack(">BBH", 0, 0, NAT_SOURCE) + hidden)
            + payload(NOTIFY, pack(">BBH", 0, 0, NAT_DESTINATION) + shown)
            + payload(0, pack(">BBHH", 0, 0, SIGNATURE_HASHES, 2))
        )
        first = SA
        if cookie:
            first, body = NOTIFY, payload(SA, cookie) + body
        self._request = HEADER.pack(self.spi, 0, first, VERSION, SA_INIT, INITIATOR, 0, 28 + len(body)) + body
        self.datagram = NON_ESP + self._request

    def take(self, load: "Load", message: bytes) -> bool:
        """Handle a response. True when the Child SA is up; otherwise send `datagram`, if it has changed."""
        _, responder, kind, _, exchange, _, number, _ = HEADER.unpack_from(message)
        if exchange == SA_INIT and self._opener is None:
            self._take_init(load, message, payloads(message[28:], kind), responder)
        elif exchange == IKE_AUTH and number == 1 and self._opener is not None and kind == SK:
            self._take_auth(load, message)
            return True
        return False

    def _take_init(self, load: "Load", message: bytes, chain: list[tuple[int, bytes]], responder: int) -> None:
        for kind, body in chain:
            if kind == NOTIFY and int.from_bytes(body[2:4], "big") == COOKIE:
                self._begin(load, body)
                return
        refuse_errors(chain)
        known = dict(chain)
        nonce, public = known[NONCE], known[KE][4:]
        shared = load.key.exchange(X25519PublicKey.from_public_bytes(public))
        nonces = self._nonce + nonce
        seed = nonces + message[:16]
        stream = prf_plus(hmac.digest(nonces, shared, "sha256"), seed, 3 * PRF_SIZE + 2 * (KEY_SIZE + GCM_SALT))
        ours, theirs, proof = stream[32:52], stream[52:72], stream[72:104]
        self._auth_key, self._response = stream[104:136], message
        self._opener, self._salt = AESGCM(theirs[:KEY_SIZE]), theirs[KEY_SIZE:]
        self._seal_auth(load, ours, responder, self._request + nonce, proof)

    def _seal_auth(self, load: "Load", key: bytes, responder: int, signed: bytes, proof: bytes) -> None:
        """IKE_AUTH request: IDi, [CERT, CERTREQ,] IDr, AUTH, SA, TSi, TSr."""
        identity = b"\x02\0\0\0" + load.plan.identity.format(self.number).encode()
        address = load.inside(self.number)
        head, tail = ESP_PROPOSAL
        chain = (
            payload(load.credentials.after_identity, identity)
            + load.credentials.proofs(self.number, signed + hmac.digest(proof, identity, "sha256"))
            + payload(TS_I, head + (self.number + 256).to_bytes(4, "big") + tail)
            + payload(TS_R, b"\x01\0\0\0\x07\0\0\x10\0\0\xff\xff" + address + address)
            + load.remote_selector
        )
        size = 4 + GCM_IV + len(chain) + 1 + GCM_ICV
        associated = HEADER.pack(self.spi, responder, SK, VERSION, IKE_AUTH, INITIATOR, 1, 28 + size)
        associated += GENERIC.pack(ID_I, 0, size)
        iv = self.spi.to_bytes(8, "big")
        sealed = AESGCM(key[:KEY_SIZE]).encrypt(key[KEY_SIZE:] + iv, chain + b"\0", associated)
        self.datagram = NON_ESP + associated + iv + sealed

    def _take_auth(self, load: "Load", message: bytes) -> None:
        if self._opener is None:
            raise Refused("IKE_AUTH before IKE_SA_INIT")
        try:
            plain = self._opener.decrypt(self._salt + message[32:40], message[40:], message[:32])
        except InvalidTag:
            raise Refused("the ICV of the response does not fit") from None
        chain = payloads(plain[: -1 - plain[-1]], message[28])
        refuse_errors(chain)
        known = dict(chain)
        if SA not in known or TS_I not in known:
            raise Refused("no Child SA came with IKE_AUTH")
        signed = self._response + self._nonce + hmac.digest(self._auth_key, known[ID_R], "sha256")
        load.credentials.check(known, signed)


class Load:
    """All handshakes of a plan, over one socket."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.credentials = Credentials(plan)
        self.key = X25519PrivateKey.generate()
        public = self.key.public_key().public_bytes_raw()
        self.init_head = payload(KE, IKE_PROPOSAL) + payload(NONCE, b"\0\x1f\0\0" + public)
        ends = b"".join(IPv4Address(text).packed for text in plan.network)
        self.remote_selector = payload(0, b"\x01\0\0\0\x07\0\0\x10\0\0\xff\xff" + ends)
        self._inside, self._sources = (int(IPv4Address(text)) for text in (plan.inside, plan.sources))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), RECEIVE_BUFFER)
        self._socket.bind(("0.0.0.0", 0))
        if not self._sources:
            self._socket.connect((plan.responder, PORT))
        self._socket.setblocking(False)
        self._own = IPv4Address(self._socket.getsockname()[0]).packed
        self.port = self._socket.getsockname()[1].to_bytes(2, "big")
        self.target = IPv4Address(plan.responder).packed + PORT.to_bytes(2, "big")
        self.account = Account()
        self._under_way: dict[int, Handshake] = {}
        self._waiting = deque(range(plan.first, plan.first + plan.count))

    def source(self, number: int) -> bytes:
        """Source address of an initiator."""
        return (self._sources + number).to_bytes(4, "big") if self._sources else self._own

    def inside(self, number: int) -> bytes:
        """Inner address of an initiator."""
        return (self._inside + number).to_bytes(4, "big")

    def run(self) -> Account:
        """Keep the window full until all are up, or `patience` is over."""
        account, began, cpu = self.account, time.monotonic(), time.process_time()
        end = began + self.plan.patience
        last_progress = began
        self._fill()
        while self._under_way and (now := time.monotonic()) < end:
            if select.select([self._socket], [], [], SILENCE / 4)[0] and self._receive():
                account.seconds = time.monotonic() - began
                last_progress = now
            elif now - last_progress > SILENCE:
                last_progress = now
                account.repeated += len(self._under_way)
                for handshake in self._under_way.values():
                    self._send(handshake)
        account.cpu_seconds = time.process_time() - cpu
        return account

    def _fill(self) -> None:
        while self._waiting and len(self._under_way) < self.plan.window:
            spi = int.from_bytes(os.urandom(8), "big") | 1
            handshake = Handshake(self, self._waiting.popleft(), spi, time.monotonic())
            self._under_way[spi] = handshake
            self._send(handshake)

    def _send(self, handshake: Handshake) -> None:
        try:
            if not self._sources:
                self._socket.send(handshake.datagram)
                return
            # struct in_pktinfo: interface, the wanted source, and a destination that is ignored.
            wanted = pack("=i4s4s", 0, handshake.source, bytes(4))
            ancillary = [(socket.IPPROTO_IP, IP_PKTINFO, wanted)]
            self._socket.sendmsg([handshake.datagram], ancillary, 0, (self.plan.responder, PORT))
        except BlockingIOError:
            pass  # the retransmission makes up for it

    def _receive(self) -> bool:
        """Handle all datagrams that have arrived; True if any of them advanced a handshake."""
        progress = False
        while True:
            try:
                datagram = self._socket.recv(MAX_DATAGRAM)
            except BlockingIOError:
                return progress
            if datagram[:4] != NON_ESP or len(datagram) < 32:
                continue
            message = datagram[4:]
            handshake = self._under_way.get(int.from_bytes(message[:8], "big"))
            if handshake is not None:
                progress = True
                self._forward(handshake, message)

    def _forward(self, handshake: Handshake, message: bytes) -> None:
        before = handshake.datagram
        try:
            is_up = handshake.take(self, message)
        except (Refused, KeyError) as error:
            self.account.refused += 1
            self.account.faults = [*self.account.faults, f"initiator {handshake.number}: {error}"][:5]
        else:
            if not is_up:
                if handshake.datagram is not before:
                    self._send(handshake)
                return
            self.account.established += 1
            self.account.longest = max(self.account.longest, time.monotonic() - handshake.began)
        del self._under_way[handshake.spi]
        self._fill()


def run(plan: Plan) -> Account:
    """Carry a plan out in this process."""
    return Load(plan).run()


def main() -> None:
    """A plan in, its account out."""
    words = json.load(sys.stdin)
    words["network"] = tuple(words.get("network", Plan.__dataclass_fields__["network"].default))
    sys.stdout.write(json.dumps(asdict(run(Plan(**words)))) + "\n")


if __name__ == "__main__":
    main()
