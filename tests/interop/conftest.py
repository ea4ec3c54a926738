"""A test that cannot run here says so by name, and fails unless the person at the keyboard has said ALLOW_SKIPS=1."""

import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import openmoat_lab
from openmoat_lab.guest.build import why_no_kernel
from openmoat_lab.namespaces import Lab
from openmoat_lab.topology import Topology

NOT_RUN: list[str] = []
TOOLS = ("ip", "nft", "tcpdump", "ethtool", "nsenter", "unshare", "ping")
PEERS = {"strongswan": ("charon-systemd", "swanctl"), "tshark": ("tshark",)}


@functools.cache
def why_no_namespaces() -> str:
    """Empty where this machine lets us make network namespaces, else the reason."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "needs root"
    name = f"moat-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not permitted: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


@functools.cache
def why_no_peer(marker: str) -> str:
    if marker == "guest":
        return why_no_kernel()
    missing = [tool for tool in PEERS[marker] if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def pytest_configure() -> None:
    # Programs of the laboratory that are started by name are found where the tests find it, installed or not.
    os.environ["PYTHONPATH"] = str(Path(openmoat_lab.__file__).parents[1])
    # A shell starts what runs in its background with Ctrl-C ignored, and whom we start would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # `nohup` has SIGHUP ignored, in the same way.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = why_no_namespaces()
    for marker in (*PEERS, "guest"):
        if not reason and item.get_closest_marker(marker):
            reason = why_no_peer(marker)
    if reason:
        NOT_RUN.append(f"{item.nodeid}: {reason}")
        if os.environ.get("ALLOW_SKIPS") == "1":
            pytest.skip(reason)
        pytest.fail(f"could not run: {reason}; ALLOW_SKIPS=1 accepts that", pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NOT_RUN:
        terminalreporter.section("COULD NOT RUN HERE", red=True, bold=True)
        for line in NOT_RUN:
            terminalreporter.line(line)


class Raiser:
    """Raises labs for one test and takes all of them down at its end."""

    def __init__(self) -> None:
        self.labs: list[Lab] = []

    def __call__(self, topology: Topology) -> Lab:
        lab = Lab(topology)
        self.labs.append(lab)
        lab.up()
        return lab


@pytest.fixture
def raise_lab() -> Iterator[Raiser]:
    raiser = Raiser()
    yield raiser
    for lab in raiser.labs:
        lab.down()
