"""Invariant: hostile datagrams are dropped or answered shortly, cost bounded memory, and harm nobody who is established."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DATAGRAMS = int(os.environ.get("FLOOD", "1000000"))
WARM_UP = DATAGRAMS // 10
MORE_MEMORY = 8 << 20
"""Octets of resident memory that everything after the warm-up may add."""


@pytest.mark.slow
def test_a_million_hostile_datagrams_cost_bounded_memory_and_no_established_sa() -> None:
    run = subprocess.run(
        [sys.executable, str(HERE / "flood.py"), str(DATAGRAMS), str(WARM_UP)],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        check=True,
        capture_output=True,
        text=True,
    )
    result = json.loads(run.stdout)
    assert result["after_all"] - result["after_warm_up"] <= MORE_MEMORY
    assert result["peer_was_answered"]
    assert result["child_stands"]
    reached = {name for name, count in result["counts"].items() if count}
    assert {"malformed", "bad_icv", "unknown_spi", "cookie_demanded", "answer_rate_limit", "stray_response"} <= reached
