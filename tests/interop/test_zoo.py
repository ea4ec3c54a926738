"""The zoo with everything real in it: what is promised of the tunnel, and that the zoo can tell."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openmoat_lab.namespaces import STATE, labs
from openmoat_lab.processes import wait_until
from openmoat_lab.zoo.catalog import PEER_OURS, PEER_SWAN, SERVERS
from openmoat_lab.zoo.results import broken
from openmoat_lab.zoo.run import Options, run

pytestmark = pytest.mark.namespaces

MOAT = Path(sys.executable).parent / "moat"
FETCHES = "sink-fetch.log"
ZOO = "from openmoat_lab.cli.lab import app; app()"


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


def namespaces(names: set[str]) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    return [found for found in re.findall(r"moatlab-\S+", listed) if found.split("-")[1] in names]


@pytest.mark.parametrize("moment", ["while it is raised", "while transfers run"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_zoo_that_is_ended_early_leaves_nothing(number: signal.Signals, moment: str) -> None:
    zoo = subprocess.Popen(
        [sys.executable, "-c", ZOO, "zoo", "--quick", "--class", "incorrigible"], stderr=subprocess.PIPE, text=True
    )
    own: set[str] = set()

    def is_raised() -> bool:
        own.update(entry.name for entry in labs() if entry.pid == zoo.pid)
        return len(own) >= 2 and bool(namespaces(own))

    try:
        wait_until("two scenes are being raised", is_raised, 30)
        if moment == "while transfers run":
            wait_until("a client fetches", lambda: any((STATE / name / FETCHES).exists() for name in own), 60)
        zoo.send_signal(number)
        _, said = zoo.communicate(timeout=60)
    finally:
        zoo.kill()
        zoo.wait()
    assert zoo.returncode == 128 + number, said
    assert namespaces(own) == []
    assert own.isdisjoint(entry.name for entry in labs())
