"""A userspace WireGuard on a host of the lab: wireguard-go or boringtun, configured over its own socket.

Both make a TUN device and take `set=1` on a unix socket below /run/wireguard; no other tool is needed. Each gets a /run
of its own, so that devices of one name live on many hosts.
"""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from openmoat_lab.namespaces import Lab
from openmoat_lab.processes import LabError, Process, wait_until

__all__ = ["BORINGTUN", "WIREGUARD_GO", "Flavour", "WireGuard", "WireGuardPeer", "go_version"]

DEVICE = "wg0"
MTU = 1420
"""What `wg-quick` gives a device on a path of 1500 octets: room for IPv6 outside."""
PORT = 51820
START_SECONDS = 10.0
ANSWER_OCTETS = 4096


@dataclass(frozen=True, slots=True)
class Flavour:
    """One of the implementations."""

    name: str
    programs: tuple[str, ...]
    """Names under which it is installed."""
    words: tuple[str, ...]
    """Of the command line, before the name of the device."""


WIREGUARD_GO = Flavour("wireguard-go", ("wireguard-go", "wireguard"), ("-f",))
BORINGTUN = Flavour("boringtun", ("boringtun-cli",), ("-f", "--disable-drop-privileges"))


@dataclass(frozen=True, slots=True)
class WireGuardPeer:
    """The other end."""

    public_key: bytes
    address: str
    networks: tuple[str, ...]


@dataclass(slots=True)
class WireGuard:
    """One daemon on one host."""

    lab: Lab
    host: str
    program: Path
    flavour: Flavour
    private_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate, repr=False)
    _process: Process | None = field(default=None, init=False)

    @property
    def public_key(self) -> bytes:
        """Its public key, for the other end."""
        return self.private_key.public_key().public_bytes_raw()

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        if self._process is None:
            raise LabError(f"{self.flavour.name} on {self.host} has not been started")
        return self._process.pid

    def start(self, peer: WireGuardPeer, source: str) -> None:
        """Start it, join it to its peer, and route the peer's networks into it from `source`."""
        script = f"mount -t tmpfs tmpfs /run && exec {self.program} {' '.join(self.flavour.words)} {DEVICE}"
        self._process = self.lab.spawn(
            self.host, "unshare", "--mount", "--propagation", "private", "sh", "-c", script,
            name=self.flavour.name,
        )  # fmt: skip
        # The path leads through the process's own /run, and fails if the process has ended.
        path = Path(f"/proc/{self.pid}/root/run/wireguard/{DEVICE}.sock")
        wait_until(f"{self.flavour.name} on {self.host} listens: {self._process.log}", path.exists, START_SECONDS)
        self._configure(path, peer)
        self.lab.run(self.host, "ip", "link", "set", DEVICE, "mtu", str(MTU), "up")
        for network in peer.networks:
            self.lab.run(self.host, "ip", "route", "add", network, "dev", DEVICE, "src", source)

    def _configure(self, path: Path, peer: WireGuardPeer) -> None:
        lines = [
            "set=1",
            f"private_key={self.private_key.private_bytes_raw().hex()}",
            f"listen_port={PORT}",
            f"public_key={peer.public_key.hex()}",
            f"endpoint={peer.address}:{PORT}",
            *(f"allowed_ip={network}" for network in peer.networks),
        ]
        answer = _ask(path, lines)
        if "errno=0" not in answer:
            raise LabError(f"{self.flavour.name} on {self.host} refused its configuration: {answer!r}")


def go_version(program: Path, module: str) -> str:
    """Version of a Go module as the linker wrote it into a program; empty if there is none."""
    found = re.search(rb"mod\t" + re.escape(module.encode()) + rb"\t(v[0-9A-Za-z.+-]+)", program.read_bytes())
    return found[1].decode() if found else ""


def _ask(path: Path, lines: Sequence[str]) -> str:
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(START_SECONDS)
        control.connect(str(path))
        control.sendall(("\n".join(lines) + "\n\n").encode())
        return control.recv(ANSWER_OCTETS).decode()
