"""Our own daemon on a host of the lab: as it is installed, with a configuration file, driven by `moat`."""

import json
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmoat_lab.namespaces import Lab
from openmoat_lab.processes import LabError, Process, run, wait_until

__all__ = ["Moatd", "Table", "toml"]

Table = Mapping[str, Any]
"""A table of a configuration file: values, lists of texts, and tables below it."""

START_SECONDS = 15.0
ANSWER_SECONDS = 0.5
STOP_SECONDS = 10.0
BINARIES = Path(sys.executable).parent


def toml(table: Table, path: tuple[str, ...] = ()) -> str:
    """The text of a table: values first, then the tables below it."""
    lines = [f"{word} = {json.dumps(value)}\n" for word, value in table.items() if not isinstance(value, Mapping)]
    if path and lines:
        lines.insert(0, f"\n[{'.'.join(path)}]\n")
    lines += [toml(value, (*path, word)) for word, value in table.items() if isinstance(value, Mapping)]
    return "".join(lines)


class Moatd:
    """One `moatd` on one host of a lab. Configuration, keys, control socket, log and key log are in the lab's files."""

    def __init__(
        self, lab: Lab, host: str, connections: Table, files: Mapping[str, bytes], daemon: Table | None = None
    ) -> None:
        self._lab = lab
        self.host = host
        self.directory = lab.directory / f"{host}-moatd"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.config = self.directory / "moatd.toml"
        self.socket = self.directory / "control.sock"
        self.key_log = self.directory / "keys.log"
        self._settings: dict[str, Any] = {
            "control-socket": str(self.socket),
            # Only root uses the lab.
            "control-group": "",
            "key-log": str(self.key_log),
            "log-level": "debug",
            **(daemon or {}),
        }
        self._starts = 0
        self._process: Process | None = None
        self.configure(connections, files)

    def configure(self, connections: Table, files: Mapping[str, bytes]) -> None:
        """Write the configuration and the files it names; a running daemon reads it after `moat("reload")`."""
        for name, octets in files.items():
            file = self.directory / name
            file.touch(mode=0o600)
            file.write_bytes(octets)
        self.config.write_text(toml({"daemon": self._settings, "connections": connections}).lstrip())

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start it and wait until it listens."""
        self._starts += 1
        self._process = self._lab.spawn(
            self.host, str(BINARIES / "moatd"), "--config", str(self.config), name=f"moatd-{self._starts}"
        )
        wait_until(f"moatd on {self.host} listens: {self._process.log}", self._answers, seconds)

    def moat(self, *words: str, check: bool = True, seconds: float = 30.0) -> str:
        """Run a command of `moat` against this daemon; returns its output."""
        done = run(self.command(*words), check=check, seconds=seconds)
        return done.stdout + done.stderr

    def command(self, *words: str) -> list[str]:
        """A command line of `moat` as it is installed, about this daemon."""
        return [str(BINARIES / "moat"), "--socket", str(self.socket), *words]

    def ask(self, *words: str) -> Mapping[str, Any]:
        """The answer of a reading command as an object."""
        answer: Mapping[str, Any] = json.loads(self.moat(*words, "--json"))
        return answer

    def spis(self, connection: str) -> tuple[frozenset[str], frozenset[str]]:
        """SPIs of the IKE SAs and of the Child SAs of a connection that are up."""
        peers = [
            peer for row in self.ask("status")["connections"] if row["name"] == connection for peer in row["peers"]
        ]
        ike = frozenset(peer["ike"]["spi"] for peer in peers if peer["ike"])
        return ike, frozenset(child["local_spi"] for peer in peers for child in peer["children"])

    def drops(self) -> Mapping[str, int]:
        """What the engine and the core have dropped since the start, by reason; zeros are left out."""
        drops: Mapping[str, int] = self.ask("status")["drops"]
        return {name: count for name, count in drops.items() if count}

    def failures(self) -> list[Mapping[str, Any]]:
        """The explained failures of unknown peers, and the last one of each connection."""
        whole = self.ask("status")
        # A connection that is not up gives another exit code than 0.
        ones = [json.loads(self.moat("status", row["name"], "--json", check=False)) for row in whole["connections"]]
        return [*whole["unknown_peers"], *(one["failure"] for one in ones if one["failure"])]

    def explanations(self) -> str:
        """The text of `moat status`: of all connections, then of each."""
        names = [row["name"] for row in self.ask("status")["connections"]]
        return "\n".join(self.moat("status", *words, check=False) for words in ([], *([name] for name in names)))

    def log(self) -> str:
        """The log of the running daemon, or of the last one."""
        if self._process is None:
            raise LabError(f"moatd on {self.host} has not been started")
        return self._process.output()

    def last_words(self, lines: int = 30) -> str:
        """The end of its log; empty where it has not been started."""
        return "" if self._process is None else "\n".join(self._process.output().splitlines()[-lines:])

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        return self._running().pid

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would: nothing is cleaned up, no peer is notified."""
        self._running().kill()

    def stop(self) -> int:
        """End it with SIGTERM; returns its exit code."""
        return self._running().stop(signal.SIGTERM, STOP_SECONDS)

    def _running(self) -> Process:
        if self._process is None or self._process.exit_code is not None:
            said = "" if self._process is None else f": {self._process.output()[-2000:]}"
            raise LabError(f"moatd on {self.host} does not run{said}")
        return self._process

    def _answers(self) -> bool:
        """The socket is there early, as a lock; it is served once the guard is up and the connections are loaded."""
        self._running()
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(ANSWER_SECONDS)
            try:
                probe.connect(str(self.socket))
                probe.sendall(b"GET / HTTP/1.1\r\nHost: moatd\r\n\r\n")
                return bool(probe.recv(1))
            except OSError:
                return False
