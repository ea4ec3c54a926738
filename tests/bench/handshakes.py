"""IKEv2 handshakes per second and core beside their floor, in one run: PSK, AES-128-GCM, X25519, one Child SA.

Run it as `PYTHONPATH=tests python tests/bench/handshakes.py`. Two endpoints in one thread make a thousand IKE SAs in
virtual time, every question answered at once with real cryptography; the CPU time of both is halved. Sockets, the event
loop and the data plane are not in it.
"""

import json
import statistics
import sys
import time

from bench.handshake_floor import Side, cost
from openmoat.crypto.suites import AES_128_GCM_16, PRF_HMAC_SHA2_256, X25519, EspSuite, IkeSuite
from openmoat.ike.config import IkeConfig
from openmoat.ike.events import IkeSaUp
from openmoat.model.connection import Start
from scenario.link import Host, Link, child, connection

SUITE = IkeSuite(AES_128_GCM_16, None, PRF_HMAC_SHA2_256, X25519)
HANDSHAKES = 1000
ROUNDS = 5
NO_LIMITS = IkeConfig(cookie_threshold=1 << 20, max_half_open=1 << 20, max_half_open_per_source=1 << 20)


def seconds_of_one_end() -> float:
    """CPU seconds of one end of one handshake, among many of different peers."""
    link = Link()
    portal = link.host("portal", "198.51.100.1", config=NO_LIMITS)
    home = Host(link, "home", "192.0.2.1", NO_LIMITS)
    link.hosts.append(home)
    everybody = child(local="10.200.0.0/16", remote="10.0.0.0/9", start=Start.NONE)
    portal.load(connection("portal.example", "*.homes.example", None, everybody, name="homes"))
    rows = [
        connection(
            f"home-{n}.homes.example",
            "portal.example",
            "198.51.100.1",
            child(local=f"10.{n >> 8}.{n & 255}.0/24", remote="10.200.0.0/16"),
            name=f"c{n}",
        )
        for n in range(HANDSHAKES)
    ]
    start = time.thread_time()
    home.load(*rows)
    link.settle()
    spent = time.thread_time() - start
    up = min(len(home.told(IkeSaUp)), len(portal.told(IkeSaUp)))
    if up != HANDSHAKES:
        raise RuntimeError(f"{up} of {HANDSHAKES} IKE SAs are up")
    return spent / HANDSHAKES / 2


def main() -> None:
    """Print one line for people and one JSON object."""
    floor_side = Side(SUITE, EspSuite(AES_128_GCM_16, None), None)
    floors, wholes = [], []
    for _ in range(ROUNDS):
        floors.append(cost(floor_side.handshake) / 1e6)
        wholes.append(seconds_of_one_end())
    floor, whole = 1 / statistics.median(floors), 1 / statistics.median(wholes)
    sys.stdout.write(f"IKE handshakes per second and core: {whole:.0f}; floor {floor:.0f}; ratio {whole / floor:.2f}\n")
    result = {"schema": "moat.bench-handshakes/1", "suite": SUITE.name, "auth": "psk"}
    figures = {"per_second": round(whole), "floor_per_second": round(floor), "ratio": round(whole / floor, 3)}
    sys.stdout.write(json.dumps({**result, **figures}) + "\n")


if __name__ == "__main__":
    main()
