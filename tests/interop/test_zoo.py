"""The zoo with everything real in it: what is promised of the tunnel, and that the zoo can tell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from openmoat.lab.zoo.exhibits import PEER_OURS, SERVERS
from openmoat.lab.zoo.run import Options, run

pytestmark = pytest.mark.namespaces

MOAT = Path(sys.executable).parent / "moat"


def test_everything_arrives_whole_between_ours() -> None:
    done = subprocess.run([MOAT, "lab", "zoo", "--quick", "--json"], capture_output=True, text=True, check=False)
    rows = json.loads(done.stdout)["rows"]
    assert [row for row in rows if not row["complete"] or row["fragments_at_sink"]] == []
    assert done.returncode == 0, done.stderr
    assert {(row["path"], row["class"]) for row in rows} == {
        (path, server) for path in ("clean1500", "blackhole1400") for server in SERVERS
    }


def test_a_tunnel_that_refuses_as_rfc_4301_has_it_reaches_the_naughty_and_not_the_incorrigible() -> None:
    said: list[str] = []
    rows = run(
        Options(
            paths=("clean1500",),
            policies=("rfc4301", "silent"),
            servers=("naughty", "incorrigible", "no-df-large"),
            outers=("IPv4",),
            peers=(PEER_OURS,),
        ),
        said.append,
    )
    reached = {(row.policy, row.server, row.inner): row.first_octet_s is not None for row in rows}
    for inner in ("IPv4", "IPv6"):
        assert reached["rfc4301", "naughty", inner]
        assert not reached["rfc4301", "incorrigible", inner]
        assert not reached["silent", "naughty", inner]
    fragments = {(row.policy, row.server): row.fragments_at_sink for row in rows if row.inner == "IPv4"}
    assert fragments["rfc4301", "no-df-large"] > 300
    assert fragments["rfc4301", "naughty"] == 0
