"""`make demo` says the truth in its last line and its exit code, and does not lean on what `python -O` takes away."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.namespaces, pytest.mark.slow]

FIGURES = {
    "round_trip_ms",
    "up_seconds",
    "ping_ms",
    "packet_of_1500",
    "transfers",
    "numbered",
    "drops",
    "captures",
    "seconds",
}


def test_the_demo_shows_everything_without_asserts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openmoat_lab.demo"],
        env={**os.environ, "PYTHONOPTIMIZE": "1", "KEEP": "0"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    result = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    assert (result["schema"], result["ok"], done.returncode) == ("moat.demo/1", True, 0), done.stdout[-6000:]
    assert result.keys() >= FIGURES
    assert all(row["in_clear"] == 0 for row in result["captures"].values())
    assert all(row["missing"] == 0 for row in result["numbered"].values())
