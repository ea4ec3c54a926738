"""A `moatd` that carries packets, under datagrams of any octets to its ports and to ESP: it keeps what it has."""

import re
import sys
from pathlib import Path

import pytest

from openmoat_lab.pairs import Pair, Terms

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan]
SECONDS = 4
GROWTH = 8 * 1024
"""KiB of resident memory that a flood may add to what an earlier one left."""
FLOOD = """
import random, socket, sys, time
chance, until = random.Random(int(sys.argv[2])), time.monotonic() + float(sys.argv[3])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
esp = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)

def ike(responder, first, exchange, flags, body):
    head = chance.randbytes(8) + responder + bytes((first, 0x20, exchange, flags)) + chance.randbytes(4)
    return head + (28 + len(body)).to_bytes(4, "big") + body

kinds = (
    lambda: chance.randbytes(chance.randrange(1400)),
    lambda: ike(bytes(8), chance.choice((33, 34, 41, 200)), 34, 8, chance.randbytes(chance.randrange(600))),
    lambda: ike(chance.randbytes(8), 46, chance.choice((35, 36, 37, 43)), chance.choice((0, 8, 32, 40)), chance.randbytes(99)),
    lambda: bytes(4) + chance.randbytes(chance.randrange(99)),
    lambda: b"\\xff" * chance.randrange(4),
)
sent = 0
while time.monotonic() < until:
    for kind in kinds:
        udp.sendto(kind(), (sys.argv[1], chance.choice((500, 4500))))
        sent += 1
    esp.sendto(chance.randbytes(chance.randrange(200)), (sys.argv[1], 0))
print(sent)
"""


def resident(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def test_any_octets_to_its_ports_cost_no_packet_no_memory_and_no_fault() -> None:
    with Pair(Terms()) as pair:
        pair.start()
        pair.wait_up()
        target = str(pair.terms.topology().address("left", "wan", 4))
        before = pair.moat.spis("swan")
        sizes = []
        for seed in ("1", "2", "3"):
            done = pair.lab.run("right", sys.executable, "-c", FLOOD, target, seed, str(SECONDS))
            assert int(done.stdout) > 1000
            pair.ping(3)
            sizes.append(resident(pair.moat.pid))
        assert pair.moat.spis("swan") == before
        assert sizes[-1] - sizes[0] < GROWTH
        drops = pair.moat.drops()
        assert "moatd_faults" not in drops
        assert drops["ike_malformed"] > 1000
