"""`moat bench` as it is installed: one object with its schema, real packets where it says so, and nothing guessed."""

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from interop.conftest import Raiser
from openmoat_lab.bench.flood import BATCH, sockaddr, transmitter
from openmoat_lab.bench.measures import Raised, sink_on, trial
from openmoat_lab.bench.subjects import SUBJECTS
from openmoat_lab.networks import two_gateways

pytestmark = pytest.mark.namespaces

MOAT = Path(sys.executable).parent / "moat"
HALF_DROPPED = """
table inet bench {
  chain transit { type filter hook forward priority filter; udp dport 5300 numgen inc mod 2 0 counter drop; }
}
"""
REAL, BARE = "1500-octet packets", "veth as it is"


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MOAT, "bench", "--rounds", "1", "--seconds", "1", *words], capture_output=True, text=True, check=False
    )


def test_the_smallest_run_is_one_object_with_everything_in_it() -> None:
    done = bench("--subject", "openmoat", "--subject", "veth", "--work", "ping", "--work", "udp-1300", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["schema", "machine", "results", "ratios", "missing"]
    assert found["schema"] == "moat.bench/1"
    assert {"processor", "kernel", "suite", "rounds", "openmoat"} <= set(found["machine"])
    medians = {(row["work"], row["subject"]): row["median"] for row in found["results"]}
    for subject in ("openmoat", "veth alone"):
        assert 0 < medians["largest packet between the gateways; " + REAL, subject] <= 1500
        assert medians["largest packet between the gateways; " + BARE, subject] > 1500
        for links in (REAL, BARE):
            assert medians["round trip, idle, p50; " + links, subject] > 0
            assert medians["UDP, 1300 octets, gateway to gateway; " + links, subject] > 0
    assert found["ratios"] == []  # a tunnel is not compared where no peer is
    assert {row["why"] for row in found["missing"]} == {"no peer was measured"}
    assert "round 1: ping" in done.stderr


def test_nobody_is_measured_under_a_name_that_does_not_exist() -> None:
    done = bench("--subject", "wireguard")
    assert done.returncode == 2
    assert "there are: openmoat" in done.stderr


def test_one_call_sends_a_whole_batch_to_one_target_after_the_other() -> None:
    sinks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    for sink in sinks:
        sink.bind(("127.0.0.1", 0))
        sink.setblocking(False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        transmit = transmitter(sock, 9, [sockaddr(0x7F000001, sink.getsockname()[1]) for sink in sinks])
        assert [transmit(BATCH), transmit(2)] == [BATCH, 2]
    counts = []
    for sink in sinks:
        counts.append(0)
        with contextlib.suppress(BlockingIOError), sink:
            while len(sink.recv(100)) == 9:
                counts[-1] += 1
    assert counts == [(BATCH + 2) // 3] * 3


@pytest.mark.parametrize("has_real_packets", [True, False])
def test_every_datagram_of_a_steady_sender_is_counted(has_real_packets: bool, raise_lab: Raiser) -> None:
    lab = raise_lab(two_gateways(offloads=not has_real_packets))
    nobody = Raised(SUBJECTS["veth"], "", lab, (), has_real_packets)
    with sink_on(lab) as sink:
        sent, arrived = trial(nobody, sink, 1300, 2_000.0)
        assert arrived == sent
        lab.run("router", "nft", "-f", "-", text=HALF_DROPPED)
        sent, arrived = trial(nobody, sink, 64, 2_000.0)
        assert arrived == pytest.approx(sent / 2, rel=0.01)
