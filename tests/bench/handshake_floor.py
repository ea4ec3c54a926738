"""The floor of one IKEv2 handshake: its cryptography alone, on one core, in CPU time of this thread.

Run it as `python tests/bench/handshake_floor.py`. It counts what IKE_SA_INIT and IKE_AUTH with one Child SA cannot do
without: a key pair and a shared secret, SKEYSEED and SK_*, one message sealed and one opened, own AUTH made and the peer's
checked, keys of the child. Initiator and responder do the same work. Nothing of message codecs, states or sockets is in it.
"""

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import cryptography
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from openmoat.crypto.auth import OWN_HASHES, check_psk, check_signature, psk_octets, sign
from openmoat.crypto.kex import make_key_pair, seed_size, shared_secret
from openmoat.crypto.keymat import ChildKeymat, IkeKeymat, signed_octets, skeyseed
from openmoat.crypto.keys import PrivateKeyObject, kind_of
from openmoat.crypto.numbers import AuthMethod
from openmoat.crypto.protection import SkProtection
from openmoat.crypto.suites import (
    AES_128_CBC,
    AES_128_GCM_16,
    ECP_256,
    HMAC_SHA2_256_128,
    MODP_2048,
    PRF_HMAC_SHA2_256,
    X25519,
    EspSuite,
    IkeSuite,
)
from openmoat.errors import Secret

SIZE_INIT, SIZE_AUTH, SIZE_CERTIFICATE = 300, 220, 700
"""Octets of an IKE_SA_INIT message, of what IKE_AUTH seals, and of a certificate that goes with it."""
ROUNDS, SECONDS_PER_ROUND = 15, 0.04

SUITES = [
    (IkeSuite(AES_128_GCM_16, None, PRF_HMAC_SHA2_256, X25519), EspSuite(AES_128_GCM_16, None)),
    (IkeSuite(AES_128_GCM_16, None, PRF_HMAC_SHA2_256, ECP_256), EspSuite(AES_128_GCM_16, None)),
    (
        IkeSuite(AES_128_CBC, HMAC_SHA2_256_128, PRF_HMAC_SHA2_256, MODP_2048),
        EspSuite(AES_128_CBC, HMAC_SHA2_256_128),
    ),
]
KEYS: list[PrivateKeyObject | None] = [
    None,
    ed25519.Ed25519PrivateKey.generate(),
    ec.generate_private_key(ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
    rsa.generate_private_key(65537, 3072),
]


@dataclass
class Side:
    """What one end holds when a handshake begins, and the steps it takes."""

    suite: IkeSuite
    esp: EspSuite
    key: PrivateKeyObject | None

    def __post_init__(self) -> None:
        method = self.suite.key_exchange.id
        self.seed = os.urandom(seed_size(method))
        self.nonces = (os.urandom(32), os.urandom(32))
        self.peer_value, _ = make_key_pair(method, os.urandom(seed_size(method)))
        self.message, self.body = os.urandom(SIZE_INIT), b"\2\0\0\0moat.example"
        self.plaintext = os.urandom(SIZE_AUTH + (SIZE_CERTIFICATE if self.key else 0))
        self.exchange()
        self.derive()
        self.auth_of_peer = self.make_auth()
        self.sealed = self.seal()

    def exchange(self) -> None:
        method = self.suite.key_exchange.id
        _, private = make_key_pair(method, self.seed)
        self.shared = shared_secret(method, private, self.peer_value)

    def derive(self) -> None:
        seed_key = skeyseed(self.suite.prf, *self.nonces, self.shared)
        self.keys = IkeKeymat.derive(self.suite, seed_key, *self.nonces, 1, 2)
        row = self.suite
        self.protections = (
            SkProtection(row.encryption, row.integrity, self.keys.sk_ei, self.keys.sk_ai),
            SkProtection(row.encryption, row.integrity, self.keys.sk_er, self.keys.sk_ar),
        )

    def make_auth(self) -> tuple[AuthMethod, bytes]:
        signed = signed_octets(self.suite.prf, self.keys.sk_pi, self.message, self.nonces[1], self.body)
        if self.key is None:
            return AuthMethod.PSK, psk_octets(self.suite.prf, Secret(b"secret"), signed)
        return sign(self.key, signed, frozenset(OWN_HASHES))

    def check_auth(self) -> None:
        signed = signed_octets(self.suite.prf, self.keys.sk_pi, self.message, self.nonces[1], self.body)
        if self.key is None:
            check_psk(self.suite.prf, Secret(b"secret"), signed, self.auth_of_peer[1])
        else:
            check_signature(self.key.public_key(), signed, *self.auth_of_peer)

    def seal(self) -> bytes:
        protection = self.protections[0]
        return protection.seal(bytes(32), self.plaintext, bytes(protection.iv_size))

    def open(self) -> None:
        self.protections[0].open(bytes(32), self.sealed)

    def child(self) -> None:
        ChildKeymat.derive(self.suite.prf, self.esp, self.keys.sk_d, *self.nonces)

    def handshake(self) -> None:
        self.exchange()
        self.derive()
        self.open()
        self.check_auth()
        self.make_auth()
        self.child()
        self.seal()


def cost(step: Callable[[], object]) -> float:
    """CPU microseconds of one call in the fastest of the rounds: whatever else ran made the others slower."""
    step()
    rounds = []
    for _ in range(ROUNDS):
        calls, start = 0, time.thread_time()
        while (spent := time.thread_time() - start) < SECONDS_PER_ROUND:
            for _ in range(10):
                step()
            calls += 10
        rounds.append(spent / calls * 1e6)
    return min(rounds)


def cpu() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    write = sys.stdout.write
    versions = f"Python {platform.python_version()}, cryptography {cryptography.__version__}"
    write(f"{cpu()}, {os.cpu_count()} cores; {versions}, {backend.openssl_version_text()}\n")
    write(
        f"IKE_SA_INIT {SIZE_INIT} octets, IKE_AUTH {SIZE_AUTH} octets, {SIZE_CERTIFICATE} more with a certificate\n\n"
    )
    write("CPU microseconds of one side; the whole column is measured by itself, not added up\n\n")
    write(
        "| IKE suite | AUTH | key exchange | SK_* | own AUTH | peer's AUTH | seal + open | child | whole | per second |\n"
    )
    write("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
    for suite, esp in SUITES:
        for key in KEYS if suite is SUITES[0][0] else KEYS[:1]:
            side = Side(suite, esp, key)
            steps = [side.exchange, side.derive, side.make_auth, side.check_auth, side.seal, side.open, side.child]
            parts = [cost(step) for step in steps]
            parts[4:6] = [parts[4] + parts[5]]
            whole = cost(side.handshake)
            cells = " | ".join(f"{part:.0f}" for part in (*parts, whole, 1e6 / whole))
            write(f"| {suite.name} | {kind_of(key) if key else 'PSK'} | {cells} |\n")


if __name__ == "__main__":
    main()
