"""What `moatd` takes while nothing happens, and what `moat status` takes: with one connection that is up."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from openmoat import __version__
from openmoat_lab.bench.control import OURS, PSK
from openmoat_lab.bench.results import Ratio, Result, Row
from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.processes import wait_until
from openmoat_lab.usage import cpu_nanoseconds, cpu_of, resident_octets

__all__ = ["IDLE_SECONDS", "STATUS_CALLS", "idle_rows"]

IDLE_SECONDS = 20.0
SETTLE_SECONDS = 10.0
"""Until both have found the size of the path and nothing is left to do."""
STATUS_CALLS = 5
UP_SECONDS = 30.0
GOAL_MB, GOAL_PERCENT, GOAL_STATUS = 40.0, 0.2, 0.15
NAME = "office"
MEGA = 1_000_000
ENDS = (
    ("right", "right.example", "198.51.100.2", "10.2.0.0/24"),
    ("left", "left.example", "192.0.2.2", "10.1.0.0/24"),
)
"""Host, identity, address and network; the one that waits is first."""


def idle_rows(say: Callable[[str], None] = lambda text: None, seconds: float = IDLE_SECONDS) -> Iterator[Row]:
    """Two gateways, one connection, no traffic; the one that began it is measured."""
    memory, load = "idle moatd with one connection, resident memory", "idle moatd with one connection, CPU"
    asking = "moat status CONNECTION, CPU time of the process"
    with Lab(two_gateways()) as lab:
        say("idle moatd: raising one connection")
        moats = [_moat(lab, own, peer) for own, peer in (ENDS, ENDS[::-1])]
        for moat in moats:
            moat.start()
        idle = moats[-1]
        wait_until("the connection is up", lambda: idle.spis(NAME)[1], UP_SECONDS)
        time.sleep(SETTLE_SECONDS)
        say(f"idle moatd: looking for {seconds:g} s")
        before, began = cpu_nanoseconds(idle.pid), time.monotonic()
        time.sleep(seconds)
        percent = (cpu_nanoseconds(idle.pid) - before) / 1e7 / (time.monotonic() - began)
        resident = resident_octets(idle.pid) / MEGA
        say(f"moat status: {STATUS_CALLS} times")
        command = idle.command("status", NAME)
        cpu_of(command)  # the first one may compile modules
        calls = [cpu_of(command) for _ in range(STATUS_CALLS)]
    yield Result.of(memory, OURS, __version__, "MB", [resident])
    yield Result.of(load, OURS, __version__, "% of a core", [percent])
    called = Result.of(asking, OURS, __version__, "s", calls)
    yield called
    yield Ratio(memory, "resident", resident, GOAL_MB, at_least=False, unit="MB")
    yield Ratio(load, "of one core", percent, GOAL_PERCENT, at_least=False, unit="%")
    yield Ratio(asking, "user and system", called.median, GOAL_STATUS, at_least=False, unit="s")


def _moat(lab: Lab, own: tuple[str, str, str, str], peer: tuple[str, str, str, str]) -> Moatd:
    host, identity, _, local = own
    _, other, address, remote = peer
    end: dict[str, Any] = {"identity": other}
    if host == ENDS[-1][0]:
        end["addresses"] = [address]
    child = {"local": [local], "remote": [remote]}
    table = {"psk": "psk", "local": {"identity": identity}, "peer": end, "children": {"net": child}}
    return Moatd(lab, host, {NAME: table}, {"psk": PSK.encode()}, {"log-level": "warning", "key-log": ""})
