"""One scene: a path, an outer protocol, a far gateway. Raises it, runs all its transfers at once and returns their rows."""

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

from openmoat_lab.namespaces import Lab
from openmoat_lab.pairs import MOAT, PSK, SWAN, Terms, credentials, swan_record
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.peers.strongswan import StrongSwan, SwanChild
from openmoat_lab.processes import LabError, Process, wait_until
from openmoat_lab.zoo import programs
from openmoat_lab.zoo.catalog import (
    MAX_FIRST_OCTET,
    PEER_OURS,
    POLICIES,
    SERVERS,
    UDP_DATAGRAMS,
    Outer,
    Path,
    Row,
)
from openmoat_lab.zoo.network import (
    EAST,
    MID,
    SERVER_NETS,
    SINK,
    SINK_FRAGMENTS,
    WEST,
    mid_rules,
    network,
    server_address,
    server_script,
    sink_address,
    sink_nets,
    sink_rules,
)

__all__ = ["PORT", "PROGRAM", "Scene", "Transfer"]

PORT = 5080
PROGRAM = (sys.executable, "-I", str(File(programs.__file__)))
UP_SECONDS = 30.0
SETTLE_SECONDS = 12.0
"""Time for the gateways to find the MTU of the path; then transfers begin, whether they have found it or not."""
POLICY_DELAY = 0.8
SERVER_DELAY = 0.1
"""Seconds between the beginnings of transfers, so that they do not measure one another."""
BEGUN_SECONDS = 1.0
"""After this, the transfers need little CPU: they mostly wait."""
SLACK_SECONDS = 20.0
PACED = 100_000
"""Octets per second of a transfer during which the path shrinks."""
PACED_SECONDS = 12
SHRINK_AFTER = 4.0
POLL_SECONDS = 0.1
SIZE_FOUND = re.compile(r"PathMtu\(size=(\d+), is_proved=True, fragments_pass=(?:True|False)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One transfer to make."""

    policy: str
    server: str
    inner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One network to raise, and the transfers in it."""

    path: Path
    outer: Outer
    peer: str
    transfers: tuple[Transfer, ...]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.path.name}, {self.outer.name}, {self.peer}"

    def row(
        self,
        transfer: Transfer,
        *,
        first_octet_s: float | None = None,
        octets: int = 0,
        complete: bool = False,
        fragments: int = 0,
        longest_gap: float | None = None,
    ) -> Row:
        """What became of a transfer; without figures, nothing arrived."""
        return Row(
            path=self.path.name,
            policy=transfer.policy,
            server=transfer.server,
            inner=transfer.inner,
            outer=self.outer.name,
            peer=self.peer,
            first_octet_s=first_octet_s,
            octets=octets,
            complete=complete,
            fragments_at_sink=fragments,
            recovery_s=longest_gap if self.path.shrinks_to else None,
        )

    def run(self, report: Callable[[Row], None], turn: threading.Semaphore, stopped: threading.Event) -> list[Row]:
        """Raise it, make all transfers, take it down; `report` is called for each transfer as it ends.

        Holds `turn` while it is busy. Raises `LabError` if the tunnel does not come up, and soon after `stopped` is set.
        """
        servers = list(dict.fromkeys(transfer.server for transfer in self.transfers))
        with contextlib.ExitStack() as stack:
            with turn:
                raised = _RaisedScene(self, stack.enter_context(Lab(network(servers, self.path, self.outer))), stopped)
                try:
                    raised.prepare(servers)
                except LabError as error:
                    error.add_note(raised.log_end())
                    raise
                client = raised.begin()
                stopped.wait(raised.last_begins + BEGUN_SECONDS)
            return raised.rows(client, report)


class _RaisedScene:
    """A scene in a raised lab."""

    def __init__(self, scene: Scene, lab: Lab, stopped: threading.Event) -> None:
        self.scene = scene
        self.lab = lab
        self.stopped = stopped
        self.last_begins = 0.0
        self.shrinker: threading.Timer | None = None
        self.policies = tuple(dict.fromkeys(transfer.policy for transfer in scene.transfers))
        version = scene.outer.version
        self.addresses = {host: str(lab.topology.address(host, "wan", version)) for host in (WEST, EAST)}
        self.west = Moatd(lab, WEST, self._tables(WEST), {"psk": PSK})

    def prepare(self, servers: Iterable[str]) -> None:
        """Start servers, router and gateways, and wait until the Child SAs are up."""
        for name in servers:
            self.lab.run(name, "sh", "-eu", text=server_script(SERVERS[name]))
        self.lab.run(MID, "nft", "-f", "-", text=mid_rules(self.scene.path))
        self.lab.run(SINK, "nft", "-f", "-", text=sink_rules(self.scene.path))
        started = [self.lab.spawn(name, *PROGRAM, "serve", str(PORT), name="serve") for name in servers]
        for server in started:
            server.wait_for_output("serve: listening")
        if self.scene.peer == PEER_OURS:
            Moatd(self.lab, EAST, self._tables(EAST), {"psk": PSK}).start()
        else:
            self._swan().start()
        self.west.start()
        wait_until("all Child SAs of the zoo are up", self._is_up, UP_SECONDS, POLL_SECONDS)
        self._settle()

    def _tables(self, host: str) -> dict[str, Any]:
        identities = {WEST: MOAT, EAST: SWAN}
        other = WEST if host == EAST else EAST
        # Through a NAT only the west can begin; the east accepts any address.
        addresses = {"addresses": [self.addresses[EAST]]} if host == WEST else {}
        children = {}
        for policy in self.policies:
            sides = (list(SERVER_NETS), list(sink_nets(policy)))
            local, remote = sides if host == WEST else sides[::-1]
            children[policy] = {
                "local": local,
                "remote": remote,
                "proposals": [Terms().esp],
                **POLICIES[policy].words,
            }
        return {
            "zoo": {
                "psk": "psk",
                "local": {"identity": identities[host]},
                "peer": {"identity": identities[other], **addresses},
                "children": children,
            }
        }

    def _swan(self) -> StrongSwan:
        terms, proof = Terms(), credentials("psk")
        record = swan_record(terms, proof, self.addresses[WEST])
        children = tuple(
            SwanChild(name=policy, local=",".join(sink_nets(policy)), remote=",".join(SERVER_NETS))
            for policy in self.policies
        )
        return StrongSwan(self.lab, EAST, [replace(record, children=children)], proof.swan_keys)

    def _is_up(self) -> bool:
        if self.stopped.is_set():
            raise LabError("the zoo is ended")
        peers = self.west.ask("status")["connections"][0]["peers"]
        return {child["name"] for peer in peers for child in peer["children"]} >= set(self.policies)

    def _settle(self) -> None:
        """Wait until the MTU of the path is known, and whether fragments pass, for `SETTLE_SECONDS` at most."""
        west, deadline = self.west, time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline and not self.stopped.is_set():
            found = SIZE_FOUND.findall(west.log())
            if found and int(found[-1]) == self.scene.path.mtu:
                return
            time.sleep(POLL_SECONDS)

    def begin(self) -> Process:
        """Begin the transfers, one after the other; the program on the client prints a line for each that ends."""
        file = self.lab.directory / "jobs.json"
        jobs = [self._job(number, transfer) for number, transfer in enumerate(self.scene.transfers)]
        file.write_text(json.dumps(jobs))
        if self.scene.path.is_forging:
            forger = self.lab.spawn(MID, *PROGRAM, "forge", WEST, str(self.scene.outer.version), name="forge")
            forger.wait_for_output("forge: listening")
        client = self.lab.spawn(SINK, *PROGRAM, "fetch", str(file), name="fetch")
        self.last_begins = max(job["delay"] for job in jobs)
        if self.scene.path.shrinks_to:
            self.shrinker = threading.Timer(self.last_begins + SHRINK_AFTER, self._shrink)
            self.shrinker.start()
        return client

    def _shrink(self) -> None:
        self.lab.run(MID, "ip", "link", "set", EAST, "mtu", str(self.scene.path.shrinks_to))

    def rows(self, client: Process, report: Callable[[Row], None]) -> list[Row]:
        """Wait for all transfers to end."""
        found = []
        longest = self.last_begins + _seconds(self.scene.path) + SLACK_SECONDS
        try:
            for line in _lines(client, longest, self.stopped):
                found.append(self._row(line))
                report(found[-1])
        finally:
            if self.shrinker is not None:
                self.shrinker.cancel()
                self.shrinker.join()
        return found

    def _job(self, number: int, transfer: Transfer) -> dict[str, Any]:
        path, server = self.scene.path, SERVERS[transfer.server]
        rate = PACED if path.shrinks_to else 0
        count = path.octets if server.is_tcp else UDP_DATAGRAMS
        if rate:
            count = rate * PACED_SECONDS if server.is_tcp else rate * PACED_SECONDS // programs.PACKET
        policy_delay = self.policies.index(transfer.policy) * POLICY_DELAY
        return {
            "job": number,
            "tcp": server.is_tcp,
            "source": sink_address(transfer.policy, transfer.inner),
            "target": server_address(transfer.server, transfer.inner),
            "port": PORT,
            "count": count,
            "rate": rate,
            "delay": policy_delay + list(SERVERS).index(transfer.server) * SERVER_DELAY,
            "seconds": _seconds(path),
        }

    def _row(self, line: dict[str, Any]) -> Row:
        transfer = self.scene.transfers[line["job"]]
        return self.scene.row(
            transfer,
            first_octet_s=line["first"],
            octets=line["octets"],
            complete=line["complete"],
            fragments=self._fragments(transfer),
            longest_gap=line["longest_gap"],
        )

    def _fragments(self, transfer: Transfer) -> int:
        version = 4 if transfer.inner == "IPv4" else 6
        pair = [server_address(transfer.server, transfer.inner), sink_address(transfer.policy, transfer.inner)]
        said = self.lab.run(SINK, "nft", "-j", "list", "set", "inet", "sink", f"{SINK_FRAGMENTS}{version}").stdout
        for entry in json.loads(said)["nftables"]:
            for element in entry.get("set", {}).get("elem", ()):
                if element["elem"]["val"]["concat"] == pair:
                    return int(element["elem"]["counter"]["packets"])
        return 0

    def log_end(self) -> str:
        """The end of the log of our own gateway, for messages about failures."""
        return f"--- log of {WEST}\n{self.west.last_words()}"


def _seconds(path: Path) -> float:
    """Seconds after which a transfer is cut off."""
    return MAX_FIRST_OCTET + (PACED_SECONDS if path.shrinks_to else 0)


def _lines(client: Process, seconds: float, stopped: threading.Event) -> Iterator[dict[str, Any]]:
    """The lines of the client about each transfer, as they come. Raises `LabError` if it ends early or does not end."""
    deadline, seen = time.monotonic() + seconds, 0
    while True:
        is_over = client.exit_code is not None
        lines: Sequence[str] = client.output().splitlines(keepends=True)
        for line in lines[seen:]:
            if not line.endswith("\n"):
                break
            seen += 1
            if line.startswith("fetch: done"):
                return
            yield json.loads(line)
        if is_over or stopped.is_set() or time.monotonic() > deadline:
            raise LabError(f"the client of the zoo has not ended properly: {client.output()[-2000:]}")
        time.sleep(POLL_SECONDS)
