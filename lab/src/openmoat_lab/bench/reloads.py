"""Loads ten thousand connections and adds one: what the reload takes in time, in CPU and in memory."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from openmoat import __version__
from openmoat.control.client import Client
from openmoat_lab.bench.control import OURS, PSK
from openmoat_lab.bench.results import Missing, Ratio, Result, Row
from openmoat_lab.namespaces import Lab
from openmoat_lab.peers.moatd import Moatd, toml
from openmoat_lab.topology import Host, Topology
from openmoat_lab.usage import cpu_nanoseconds, proportional_octets

__all__ = ["CONNECTIONS", "reload_rows"]

CONNECTIONS = 10_000
LOAD_SECONDS, ADD_SECONDS = 5.0, 0.050
START_SECONDS = 90.0
SETTLE_SECONDS = 3.0
"""A file that was just written may change again within the same timestamp: until this has passed it is read again
(`config.records`)."""
FIRST_RELOADS = 12
"""During a reload two configurations exist at once, and the allocator keeps that memory: after this many it no longer
grows."""
SECRET = "portal.psk"


def reload_rows(rounds: int, say: Callable[[str], None] = lambda text: None, count: int = CONNECTIONS) -> Iterator[Row]:
    """Each round adds one connection, in a file of its own, to the same daemon."""
    loading, adding = f"load {count} connections", f"one connection added to {count}, by reload"
    say(loading)
    with Lab(Topology(name="one-portal", hosts=(Host(name="portal"),), links=())) as lab:
        portal = Moatd(lab, "portal", {}, {SECRET: PSK.encode()}, {"log-level": "warning", "key-log": ""})
        sites = portal.directory / "sites"
        sites.mkdir()
        portal.config.write_text(f'include = "sites"\n{portal.config.read_text()}')
        for number in range(count):
            write_site(sites, number)
        time.sleep(SETTLE_SECONDS)
        began = time.monotonic()
        portal.start(START_SECONDS)
        seconds = time.monotonic() - began
        loaded = proportional_octets(portal.pid)
        walls, cpus = [], []
        with Client(str(portal.socket), timeout=START_SECONDS) as client:
            for _ in range(FIRST_RELOADS):
                client.reload()
            octets = proportional_octets(portal.pid)
            for number in range(count, count + rounds):
                say(f"{adding}: round {number - count + 1} of {rounds}")
                write_site(sites, number)
                time.sleep(SETTLE_SECONDS)
                before, began = cpu_nanoseconds(portal.pid), time.monotonic()
                added = client.reload().added
                walls.append(1000 * (time.monotonic() - began))
                cpus.append((cpu_nanoseconds(portal.pid) - before) / 1e6)
                if len(added) != 1:
                    yield Missing(adding, f"{len(added)} connections were added")
                    return
        grown = proportional_octets(portal.pid) - octets
    yield Result.of(loading, OURS, __version__, "s", [seconds])
    yield Result.of(f"{loading}, memory of the daemon for each", OURS, __version__, "octets", [loaded / count])
    yield Result.of(adding, OURS, __version__, "ms", walls)
    yield Result.of(f"{adding}, CPU time", OURS, __version__, "ms", cpus)
    yield Result.of(f"{adding}, memory", OURS, __version__, "octets", [grown / rounds])
    yield Ratio(loading, "until it listens", seconds, LOAD_SECONDS, at_least=False, unit="s")
    median = sorted(walls)[len(walls) // 2]
    yield Ratio(adding, "as the client sees it", median, 1000 * ADD_SECONDS, at_least=False, unit="ms")


def write_site(directory: Path, number: int) -> None:
    """The file of one connection."""
    child = {"local": ["192.0.2.0/24"], "remote": [f"10.{number >> 8}.{number & 255}.0/25"], "start": "none"}
    table = {
        "psk": f"../{SECRET}",
        "local": {"identity": "portal.example"},
        "peer": {"identity": f"site{number}.example"},
        "children": {"net": child},
    }
    (directory / f"{number:05}.toml").write_text(toml({"connections": {f"site{number}": table}}).lstrip())
