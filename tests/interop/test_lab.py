"""The lab itself: what it raises works as described, and nothing of it is left, however it ends."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from openmoat_lab.namespaces import STATE, Lab, labs, remove_stale
from openmoat_lab.networks import DSL_MTU, HOMES, two_gateways
from openmoat_lab.topology import Topology

pytestmark = pytest.mark.namespaces

RAISER = """
import sys, time
from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
with Lab(two_gateways(), sys.argv[1]) as lab:
    lab.spawn("left", "sleep", "1000", name="sleep")
    print("up", flush=True)
    time.sleep(1000)
"""


class Raise(Protocol):
    def __call__(self, topology: Topology) -> Lab: ...


def traces(name: str) -> tuple[list[str], list[str], bool]:
    """What is there of a lab: namespaces, processes started from its directory, its directory."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    namespaces = re.findall(rf"moatlab-{name}-\S+", listed)
    return namespaces, processes(name), (STATE / name).exists()


def processes(name: str) -> list[str]:
    """Command lines of the `sleep` processes of the lab, found by the log they write to."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(directory / "fd" / "1").startswith(str(STATE / name)):
                found.append((directory / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.fixture
def raiser() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that has raised a lab and holds it."""
    name = f"t{os.getpid()}"
    process = subprocess.Popen([sys.executable, "-c", RAISER, name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert all(traces(name))
    yield process, name
    process.kill()
    process.wait()
    process.stdout.close()
    remove_stale()


def test_every_pc_of_the_homes_reaches_its_moat_and_every_moat_the_portal(raise_lab: Raise) -> None:
    lab = raise_lab(HOMES)
    for letter, portal in (("a", "203.0.113.10"), ("b", "203.0.113.10"), ("c", "2001:db8:99::10")):
        lab.run(f"moat-{letter}", "ping", "-c", "1", "-W", "2", portal)
    for number, letter in enumerate("abc", start=1):
        lab.run(f"pc-{letter}", "ping", "-c", "1", "-W", "2", f"10.{number}.0.1")
    lab.run("office", "ping", "-c", "1", "-W", "2", "fd00:99::1")


def test_the_isp_hides_both_homes_behind_its_own_address(raise_lab: Raise) -> None:
    lab = raise_lab(HOMES)
    capture = lab.capture("portal", "wan")
    for letter in "ab":
        lab.run(f"moat-{letter}", "ping", "-c", "1", "-W", "2", "203.0.113.10")
    seen = subprocess.run(
        ["tcpdump", "-n", "-r", str(capture.stop())], check=True, capture_output=True, text=True
    ).stdout
    assert "198.51.100.2 > 203.0.113.10: ICMP echo request" in seen
    assert "100.64." not in seen


def test_the_line_carries_1492_octets_and_says_so(raise_lab: Raise) -> None:
    lab = raise_lab(HOMES)
    ping = ("ping", "-M", "do", "-c", "1", "-W", "2", "203.0.113.10", "-s")
    lab.run("moat-a", *ping, str(DSL_MTU - 28))
    refused = lab.run("moat-a", *ping, str(DSL_MTU - 27), check=False)
    assert refused.returncode
    assert "mtu = 1492" in refused.stdout


def test_without_offloads_no_super_packet_passes(raise_lab: Raise) -> None:
    lab = raise_lab(two_gateways(offloads=False))
    features = lab.run("router", "ethtool", "-k", "left").stdout
    for feature in ("tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload"):
        assert f"{feature}: off" in features


def test_a_firewall_drops_what_its_host_names(raise_lab: Raise) -> None:
    plain = two_gateways()
    hosts = tuple(
        dataclasses.replace(host, drops=("icmp type echo-request",)) if host.name == "router" else host
        for host in plain.hosts
    )
    lab = raise_lab(Topology(name="silent", hosts=hosts, links=plain.links))
    assert lab.run("left", "ping", "-c", "1", "-W", "1", "198.51.100.2", check=False).returncode


def test_counters_count_what_passed(raise_lab: Raise) -> None:
    lab = raise_lab(two_gateways())
    before = lab.counters("router")["left"].received_packets
    lab.run("left", "ping", "-c", "5", "-i", "0.01", "198.51.100.2")
    assert lab.counters("router")["left"].received_packets >= before + 5


def test_leaving_a_lab_leaves_nothing(raise_lab: Raise) -> None:
    lab = raise_lab(two_gateways())
    lab.spawn("left", "sh", "-c", "sleep 1000 & sleep 1000", name="sleep")
    lab.capture("left", "wan")
    assert all(traces(lab.name))
    lab.down()
    assert not any(traces(lab.name))


def test_ctrl_c_leaves_nothing(raiser: tuple[subprocess.Popen[str], str]) -> None:
    process, name = raiser
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
    assert not any(traces(name))


def test_the_next_lab_removes_one_whose_raiser_was_killed(
    raiser: tuple[subprocess.Popen[str], str], raise_lab: Raise
) -> None:
    process, name = raiser
    process.kill()
    process.wait()
    assert all(traces(name))
    assert next(entry for entry in labs() if entry.name == name).is_stale
    raise_lab(two_gateways())
    assert not any(traces(name))


def test_a_lab_of_a_living_raiser_is_left_alone(raiser: tuple[subprocess.Popen[str], str], raise_lab: Raise) -> None:
    _, name = raiser
    raise_lab(two_gateways())
    assert all(traces(name))


def test_raising_homes_takes_under_five_seconds(raise_lab: Raise) -> None:
    start = time.monotonic()
    raise_lab(HOMES)
    assert time.monotonic() - start < 5
