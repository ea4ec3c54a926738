"""Two hosts set up as the README says, by its commands alone; and what those commands say when things go wrong."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from interop.hosts import Host, hosts, link

pytestmark = pytest.mark.namespaces

BIN = Path(sys.executable).parent
LIBRARY = (Path(__file__).parents[2] / "docs" / "guide" / "library.md").read_text()
RECORD = """
[daemon]
control-socket = "{directory}/control.sock"

[connections.{name}.local]
identity = "{own}"
key = "moat.key"

[connections.{name}.peer]
{addresses}
identity = "{peer}"
key = "{key}"

[connections.{name}.children.lan]
local = "{local}"
remote = "{remote}"
"""


@dataclass
class Gateway:
    """One host with a configuration, and the commands of the guide in it."""

    host: Host
    directory: Path
    identity: str
    network: str
    daemon: "subprocess.Popen[bytes] | None" = field(default=None)

    def moat(self, *arguments: str, code: int = 0) -> str:
        """Run `moat`; answers with what it printed, and insists on its exit code."""
        command = [str(BIN / "moat"), "--socket", str(self.directory / "control.sock"), *arguments]
        done = subprocess.run(
            ["ip", "netns", "exec", self.host.name, *command], capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def init(self) -> str:
        arguments = ["--directory", str(self.directory), "--unit", "", "--no-users", "--identity", self.identity]
        return str(json.loads(self.moat("init", *arguments, "--json"))["key"])

    def write(self, peer: "Gateway", key: str, addresses: str = "") -> None:
        text = RECORD.format(
            directory=self.directory,
            name=peer.identity.partition(".")[0],
            own=self.identity,
            addresses=addresses,
            peer=peer.identity,
            key=key,
            local=self.network,
            remote=peer.network,
        )
        (self.directory / "moat.toml").write_text(text)

    def start(self) -> None:
        command = [
            "ip",
            "netns",
            "exec",
            self.host.name,
            str(BIN / "moatd"),
            "--config",
            str(self.directory / "moat.toml"),
        ]
        with (self.directory / "log").open("wb") as log:
            self.daemon = subprocess.Popen(command, stderr=log)

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait(30)
            self.daemon = None

    def status(self, name: str) -> dict[str, Any]:
        shown = self.moat("connections", "--json")
        return next(row for row in json.loads(shown)["connections"] if row["name"] == name)


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    with ExitStack() as stack:
        one, two = stack.enter_context(hosts("home", "portal"))
        link(one, "eth0", two, "eth0")
        for number, host in enumerate((one, two), 1):
            host.run(f"ip addr add 192.0.2.{number}/24 dev eth0; ip link add lan type veth peer name pc")
            host.run(f"ip addr add 10.{number}.0.1/16 dev lan; ip link set lan up; ip link set pc up")
        home = Gateway(one, tmp_path / "home", "home.example", "10.1.0.0/16")
        portal = Gateway(two, tmp_path / "portal", "portal.example", "10.2.0.0/16")
        keys = [gateway.init() for gateway in (home, portal)]
        home.write(portal, keys[1], 'addresses = ["192.0.2.2"]')
        portal.write(home, keys[0])
        for gateway in (portal, home):
            stack.callback(gateway.stop)
            assert "no errors; 1 connection" in gateway.moat("check", str(gateway.directory / "moat.toml"))
            gateway.start()
        yield home, portal


def until_it_answers(gateway: Gateway) -> None:
    """`moat version` names a daemon only when it answers."""
    for _ in range(100):
        if json.loads(gateway.moat("version", "--json"))["daemon"]:
            return
    raise AssertionError((gateway.directory / "log").read_text())


def pings(home: Gateway) -> bool:
    return " 0% packet loss" in home.host.run("ping -c 2 -i 0.2 -W 2 -I 10.1.0.1 10.2.0.1", check=False)


@pytest.mark.slow
def test_the_commands_of_the_readme_make_a_tunnel_and_look_after_it(ends: tuple[Gateway, Gateway]) -> None:
    home, portal = ends
    until_it_answers(portal)
    until_it_answers(home)
    assert home.moat("up", "portal").startswith("portal: up for ")
    assert pings(home)
    assert "10.1.0.0/16 = 10.2.0.0/16" in home.moat("status", "portal")
    assert portal.status("home")["peers"][0]["counters"]["inbound_packets"] >= 2

    an_override_by_hand_outlives_a_reload_and_is_shown(home)
    a_change_that_no_sa_need_show_touches_none(home)
    faults_are_told(home, portal)

    # After the stop the guard stays until `moat cleanup`.
    home.stop()
    assert "blackhole 10.2.0.0/16" in home.host.run("ip route show table all")
    home.moat("cleanup")
    assert "blackhole" not in home.host.run("ip route show table all")


def an_override_by_hand_outlives_a_reload_and_is_shown(home: Gateway) -> None:
    home.moat("down", "portal")
    assert "unchanged: 1" in home.moat("reload")
    assert "taken down on request" in home.moat("status", "portal", code=5)
    assert not pings(home)
    home.moat("up", "portal")
    assert pings(home)


def a_change_that_no_sa_need_show_touches_none(home: Gateway) -> None:
    file = home.directory / "moat.toml"
    spi = home.status("portal")["peers"][0]["children"][0]["local_spi"]
    file.write_text(file.read_text() + "path-mtu = 1400\n")
    assert "changed: portal (live)" in home.moat("reload")
    assert home.status("portal")["peers"][0]["children"][0]["local_spi"] == spi
    assert pings(home)


def faults_are_told(home: Gateway, portal: Gateway) -> None:
    # A file with faults changes nothing.
    file = home.directory / "moat.toml"
    good = file.read_text()
    file.write_text(good + "oops = [\n")
    assert f"{file}:" in home.moat("reload", code=4)
    assert pings(home)

    # A wrong key is explained on this side.
    wrong = re.sub(r'key = "MCow[^"]*"', f'key = "{home.init()}"', good)
    file.write_text(wrong)
    home.moat("reload")
    told = home.moat("up", "portal", code=5)
    assert "one end does not accept the key or identity of the other" in told
    assert "the authentication of the peer failed" in " ".join(told.split())

    # A peer that is gone is told as silent.
    file.write_text(good)
    portal.stop()
    home.moat("reload")
    assert "the peer does not answer" in home.moat("up", "portal", "--wait", "60", code=5)


def test_the_first_packet_brings_a_trapped_connection_up_and_is_not_lost(ends: tuple[Gateway, Gateway]) -> None:
    home, portal = ends
    until_it_answers(portal)
    home.stop()
    file = home.directory / "moat.toml"
    file.write_text(file.read_text() + 'start = "trap"\n')
    home.start()
    until_it_answers(home)
    assert home.status("portal")["state"] == "waiting"
    assert " 0% packet loss" in home.host.run("ping -c 1 -W 2 -I 10.1.0.1 10.2.0.1", check=False)
    assert home.status("portal")["state"] == "up"
    # A peer that is gone is no reason to let senders wait for long: what is held is answered.
    portal.stop()
    assert "Packet filtered" in home.host.run("ping -c 4 -W 2 -I 10.1.0.1 10.2.0.1", check=False)


def test_the_engine_of_the_guide_takes_its_commands() -> None:
    code = re.findall(r"```python\n(.*?)```", LIBRARY, re.DOTALL)[1]
    with hosts("engine") as (host,):
        done = subprocess.run(
            ["ip", "netns", "exec", host.name, sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert done.stderr == ""
    assert "inbound_packets=0" in done.stdout
