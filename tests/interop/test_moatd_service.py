"""`moatd` as the service manager runs it: nobody's user, three capabilities, optimised, watched."""

import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from openmoat_lab.pairs import Pair, Terms
from openmoat_lab.processes import Process, wait_until

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan]
NOBODY = "65534"
CAPABILITIES = "-all,+net_admin,+net_raw,+net_bind_service"
MASK = 1 << 10 | 1 << 12 | 1 << 13
WORDS = [sys.executable, "-O", "-m", "openmoat.daemon.main"]
AS_THE_UNIT_DOES = [
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    f"--bounding-set={CAPABILITIES}",
    f"--inh-caps={CAPABILITIES}",
    f"--ambient-caps={CAPABILITIES}",
    "--no-new-privs",
]


def start(pair: Pair, *prefix: str, environment: dict[str, str] | None = None) -> Process:
    pair.prepare()
    pair.swan.start()
    for place in (pair.moat.directory, *pair.moat.directory.iterdir()):
        if prefix:
            shutil.chown(place, int(NOBODY), int(NOBODY))
    for place in (pair.lab.directory, pair.lab.directory.parent):
        place.chmod(0o711)
    words = [*prefix, *WORDS, "--config", str(pair.moat.config)]
    process = pair.lab.spawn("left", *words, name="service", environment={**os.environ, **(environment or {})})
    wait_until(f"moatd listens: {process.log}", pair.moat.socket.is_socket, 15.0)
    return process


def status(process: Process) -> dict[str, str]:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE))


def test_three_capabilities_are_enough_and_the_service_manager_hears_of_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, Pair(Terms()) as pair:
        place = pair.lab.directory / "notify"
        manager.bind(str(place))
        place.chmod(0o777)
        manager.settimeout(15)
        environment = {"NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "200000"}
        process = start(pair, *AS_THE_UNIT_DOES, environment=environment)
        assert manager.recv(100) == b"READY=1"
        pair.wait_up()
        assert manager.recv(100) == b"WATCHDOG=1"
        have = status(process)
        assert have["Uid"].split() == [NOBODY] * 4
        assert {int(have[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {MASK}
        assert process.stop(signal.SIGTERM, 10) == 0
        heard = b""
        while heard != b"STOPPING=1":
            heard = manager.recv(100)


def test_started_by_root_it_gives_up_all_other_rights() -> None:
    with Pair(Terms()) as pair:
        process = start(pair)
        pair.wait_up()
        have = status(process)
        assert {int(have[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {MASK}
        assert have["NoNewPrivs"] == "1"
