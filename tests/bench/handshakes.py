"""IKEv2 handshakes per second on one core beside their floor: the crypto calls of one end alone, nothing around them.

One handshake is IKE_SA_INIT and IKE_AUTH with one Child SA: PSK, AES-128-GCM, PRF HMAC-SHA2-256, X25519. Messages are
of the sizes they have on the wire. CPU time, not wall clock.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

from openmoat.crypto import suites
from openmoat.crypto.auth import check_psk, psk_octets
from openmoat.crypto.kex import make_key_pair, seed_size, shared_secret
from openmoat.crypto.keymat import ChildKeymat, IkeKeymat, signed_octets, skeyseed
from openmoat.crypto.numbers import KeMethod
from openmoat.crypto.protection import SkProtection
from openmoat.errors import Secret

METHOD = KeMethod.X25519
SUITE = suites.IkeSuite(suites.AES_128_GCM_16, None, suites.PRF_HMAC_SHA2_256, suites.X25519)
ESP = suites.EspSuite(suites.AES_128_GCM_16, None)
PSK = Secret(b"a shared secret of some length")
INIT_OCTETS, AUTH_OCTETS, ID_OCTETS, NONCE_OCTETS, HEADER_OCTETS = 240, 200, 20, 32, 32
ROUNDS, HANDSHAKES = 7, 200


def one_end(peer_value: bytes) -> None:
    """All crypto that one end of one handshake needs, and the octets of chance."""
    _, private = make_key_pair(METHOD, os.urandom(seed_size(METHOD)))
    own_nonce, peer_nonce, spi = os.urandom(NONCE_OCTETS), bytes(NONCE_OCTETS), int.from_bytes(os.urandom(8), "big")
    seed = skeyseed(SUITE.prf, own_nonce, peer_nonce, shared_secret(METHOD, private, peer_value))
    keys = IkeKeymat.derive(SUITE, seed, own_nonce, peer_nonce, spi, spi)
    own, peer = (SkProtection(SUITE.encryption, None, key, Secret()) for key in (keys.sk_ei, keys.sk_er))
    own_signed = signed_octets(SUITE.prf, keys.sk_pi, bytes(INIT_OCTETS), peer_nonce, bytes(ID_OCTETS))
    peer_signed = signed_octets(SUITE.prf, keys.sk_pr, bytes(INIT_OCTETS), own_nonce, bytes(ID_OCTETS))
    psk_octets(SUITE.prf, PSK, own_signed)
    check_psk(SUITE.prf, PSK, peer_signed, psk_octets(SUITE.prf, PSK, peer_signed))
    own.seal(bytes(HEADER_OCTETS), bytes(AUTH_OCTETS), bytes(own.iv_size))
    # Opening costs what sealing costs; a sealed message of the other end is not at hand.
    peer.seal(bytes(HEADER_OCTETS), bytes(AUTH_OCTETS), bytes(peer.iv_size))
    ChildKeymat.derive(SUITE.prf, ESP, keys.sk_d, own_nonce, peer_nonce)


def per_second(work: Callable[[], None]) -> float:
    """How often `work` can be done in a second of CPU time; the median of some rounds."""
    rates = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(HANDSHAKES):
            work()
        rates.append(HANDSHAKES / (time.process_time() - start))
    return statistics.median(rates)


def main() -> None:
    """Print one JSON object."""
    peer_value, _ = make_key_pair(METHOD, bytes(range(seed_size(METHOD))))
    floor = per_second(lambda: one_end(peer_value))
    result = {"schema": "moat.bench-handshakes/1", "suite": SUITE.name, "auth": "psk", "floor_per_second": round(floor)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
