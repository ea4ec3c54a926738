"""What a plain verb of `moat` imports, and what CPU time it takes: it runs in scripts and monitors, again and again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmoat.control.messages import (
    Connections,
    ConnectionState,
    ConnectionStatus,
    Done,
    Entry,
    Log,
    Message,
    Reloaded,
    Status,
    Version,
)
from unit.control.listener import Server

FORBIDDEN = {
    "asyncio",
    "cryptography",
    "dns",
    "email",
    "hashlib",
    "httpx",
    "importlib.metadata",
    "openmoat._native",
    "openmoat.config",
    "openmoat.daemon",
    "openmoat.ike",
    "openmoat.system",
    "pydantic",
    "rich",
    "ssl",
    "subprocess",
    "tomllib",
    "typer",
}
GOAL_SECONDS = 0.15
"""CPU time, user and system, of `moat status` with one connection."""
OFFICE = ConnectionStatus(
    name="office", state=ConnectionState.UP, since=0.0, start="auto", local="home.example", remote="portal.example"
)
ENTRY = Entry(number=1, at=0.0, level="info", kind="x", text="IKE SA is up")
VERBS: dict[str, Message] = {
    "status": Status(version="1", now=time.time(), since=0.0, configuration="moat.toml", connections=(OFFICE,)),
    "status office": OFFICE,
    "connections": Connections(connections=(OFFICE,)),
    "up office --wait 0": Done(text="office: is being negotiated"),
    "down office": Done(text="office: is down"),
    "reload": Reloaded(unchanged=1),
    "log": Log(entries=(ENTRY,)),
    "version": Version(version="1"),
    "mtu office": OFFICE,
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "control.sock")
    yield server
    server.close()


def run(server: Server, verb: str, cache: Path) -> tuple[set[str], float]:
    """Modules that it imported, and the CPU seconds of the whole process. Compiled code is kept, as an installed one is."""
    code = (
        "import atexit, json, sys, time\n"
        "atexit.register(lambda: print(json.dumps([sorted(sys.modules), time.process_time()]), file=sys.stderr))\n"
        "from openmoat.cli.main import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache), "MOAT_SOCKET": server.path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", code, *verb.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout, done.stderr
    modules, seconds = json.loads(done.stderr.splitlines()[-1])
    return set(modules), seconds


@pytest.mark.parametrize("verb", VERBS)
def test_a_plain_verb_imports_nothing_heavy(server: Server, tmp_path: Path, verb: str) -> None:
    server.says(200, VERBS[verb].to_json())
    modules, _ = run(server, verb, tmp_path)
    metadata = {"email", "importlib.metadata"} if verb == "version" else set()  # where the version of a package stands
    heavy = FORBIDDEN - metadata
    assert sorted(name for name in heavy if any(f"{one}.".startswith(f"{name}.") for one in modules)) == []


def test_status_of_one_connection_takes_little_cpu_time(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.says(200, VERBS["status"].to_json())
    seconds = min(run(server, "status", tmp_path)[1] for _ in range(3))
    with capsys.disabled():
        sys.stdout.write(f"\nmoat status: {seconds:.3f} s of CPU time; goal {GOAL_SECONDS} s\n")
    assert seconds < 10 * GOAL_SECONDS
