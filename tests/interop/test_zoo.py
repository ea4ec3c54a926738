"""The zoo with everything real in it: what is promised of the tunnel, and that the zoo can tell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from openmoat_lab.zoo.exhibits import PEER_OURS, PEER_SWAN, SERVERS
from openmoat_lab.zoo.results import broken
from openmoat_lab.zoo.run import Options, run

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


@pytest.mark.strongswan
def test_towards_strongswan_all_tcp_arrives_and_all_else_where_fragments_pass() -> None:
    said: list[str] = []
    tcp = tuple(name for name, server in SERVERS.items() if server.is_tcp)
    where = (("min1400", tuple(SERVERS)), ("blackhole1400", tcp))
    rows = [
        row
        for path, servers in where
        for row in run(Options(paths=(path,), policies=("virtual",), servers=servers, peers=(PEER_SWAN,)), said.append)
    ]
    assert len(rows) == 14 + 12
    assert broken(rows) == [], said


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
