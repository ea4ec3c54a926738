"""Two portals in namespaces as alternatives: the first one is killed under ping, and traffic goes on by the second."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from interop.hosts import Host, hosts, link

pytestmark = pytest.mark.namespaces

BIN = Path(sys.executable).parent
LIVENESS = 2.0
OUTAGE = LIVENESS * 1.5 + 4.0 + 5.0
"""Seconds: silence, a request that is sent five times, and a margin for a busy machine."""
CONNECTION = """
[connections.{peer}]
psk = "secret.psk"
lifetimes.liveness-after = "{liveness:g}s"
{group}
[connections.{peer}.local]
identity = "{own}.example"
[connections.{peer}.peer]
{addresses}
identity = "{peer}.example"
[connections.{peer}.children.lan]
local = "{local}"
remote = "{remote}"
"""


@dataclass
class Gateway:
    """A host with `moatd`."""

    host: Host
    directory: Path
    name: str
    daemon: "subprocess.Popen[bytes] | None" = field(default=None)

    def configure(self, *peers: tuple[str, str, str]) -> None:
        """Peers by name, address and group."""
        self.directory.mkdir()
        text = f'[daemon]\ncontrol-socket = "{self.directory}/control.sock"\n'
        near, far = ("10.1.0.0/16", "10.2.0.0/16") if self.name == "home" else ("10.2.0.0/16", "10.1.0.0/16")
        for peer, address, group in peers:
            text += CONNECTION.format(
                peer=peer,
                own=self.name,
                group=group,
                liveness=LIVENESS,
                addresses=f'addresses = ["{address}"]' if address else "",
                local=near,
                remote=far,
            )
        (self.directory / "moat.toml").write_text(text)
        secret = self.directory / "secret.psk"
        secret.touch(mode=0o600)
        secret.write_text("a secret that is long enough for anybody\n")

    def start(self) -> None:
        command = ["ip", "netns", "exec", self.host.name, str(BIN / "moatd"), "--config"]
        with (self.directory / "log").open("ab") as log:
            self.daemon = subprocess.Popen([*command, str(self.directory / "moat.toml")], stderr=log)

    def kill(self) -> None:
        """As a crash, or a power cut of the process."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait(10)
            self.daemon = None

    def moat(self, *arguments: str) -> str:
        command = [str(BIN / "moat"), "--socket", str(self.directory / "control.sock"), *arguments]
        argv = ["ip", "netns", "exec", self.host.name, *command]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def connections(self) -> dict[str, Any]:
        rows = json.loads(self.moat("connections", "--json")).get("connections", [])
        return {row["name"]: row for row in rows}

    def is_up(self, *names: str) -> bool:
        rows = self.connections()
        return all(name in rows and rows[name]["state"] == "up" for name in names)

    def carrier(self) -> str:
        """The connection of the group that carries."""
        return next((name for name, row in self.connections().items() if row["group"]["carries"]), "")


@dataclass
class World:
    """A house with an uplink to each of two portals, behind which the same network lies."""

    home: Gateway
    gate_a: Gateway
    gate_b: Gateway

    def until(self, what: str, is_so: Any, seconds: float) -> float:
        begun = time.monotonic()
        while not is_so():
            log = (self.home.directory / "log").read_text()
            assert time.monotonic() - begun < seconds, f"{what}: not within {seconds:g} s\n{log}"
            time.sleep(0.2)
        return time.monotonic() - begun


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        home, one, two = stack.enter_context(hosts("home", "gatea", "gateb"))
        for number, gate in ((1, one), (2, two)):
            link(home, f"wan{number}", gate, "wan")
            home.run(f"ip addr add 192.0.{number}.1/24 dev wan{number}")
            gate.run(f"ip addr add 192.0.{number}.2/24 dev wan; ip link add lan type veth peer name pc")
            gate.run("ip addr add 10.2.0.1/16 dev lan; ip link set lan up; ip link set pc up")
        home.run("ip link add lan type veth peer name pc; ip addr add 10.1.0.1/16 dev lan")
        home.run("ip link set lan up; ip link set pc up")
        made = World(
            Gateway(home, tmp_path / "home", "home"),
            Gateway(one, tmp_path / "gate-a", "gate-a"),
            Gateway(two, tmp_path / "gate-b", "gate-b"),
        )
        made.home.configure(
            ("gate-a", "192.0.1.2", 'group = "corp"'), ("gate-b", "192.0.2.2", 'group = "corp"\norder = 1')
        )
        for portal in (made.gate_a, made.gate_b):
            portal.configure(("home", "", ""))
        for gateway in (made.gate_a, made.gate_b, made.home):
            stack.callback(gateway.kill)
            gateway.start()
        yield made


def test_the_first_portal_is_killed_under_ping_and_traffic_goes_on_by_the_second(world: World) -> None:
    home = world.home
    world.until("both portals are up", lambda: home.is_up("gate-a", "gate-b"), 30.0)
    assert home.carrier() == "gate-a"
    argv = ["ip", "netns", "exec", home.host.name, "ping", "-D", "-i", "0.2", "-W", "1", "-I", "10.1.0.1", "10.2.0.1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as ping:
        try:
            time.sleep(2.0)
            world.gate_a.kill()
            outage = world.until("the second portal carries", lambda: home.carrier() == "gate-b", OUTAGE)
            assert "before it, and not available: gate-a" in " ".join(home.moat("status", "gate-b").split())
            time.sleep(2.0)
            world.gate_a.start()
            world.until("the first portal carries again", lambda: home.carrier() == "gate-a", 60.0)
            time.sleep(2.0)
        finally:
            ping.terminate()
        answered = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", ping.communicate()[0])]
    gaps = [after - before - 1 for before, after in pairwise(answered)]
    # One gap for the death; that the first one is back costs no more than the first packets by it.
    gaps.sort()
    assert gaps[-1] * 0.2 <= outage + 3.0
    assert gaps[-2] <= 5
    assert home.connections()["gate-b"]["peers"][0]["counters"]["inbound_packets"] >= 10
