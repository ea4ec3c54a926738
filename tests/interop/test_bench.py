"""`moat bench` as it is installed: one object with its schema, real packets where it says so, and nothing guessed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.namespaces

MOAT = Path(sys.executable).parent / "moat"
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
