"""OpenVPN between two hosts of the lab: UDP, TLS with certificates of one CA, its data plane in user space."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openmoat_lab.namespaces import Lab
from openmoat_lab.pki import Authority
from openmoat_lab.processes import LabError, Process

__all__ = ["OpenVpn", "OpenVpnEnd", "credentials"]

DEVICE = "tun0"
PORT = 1194
INSIDE = ("10.255.255.1", "10.255.255.2")
"""Ends of the point-to-point device: server, client."""
START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class OpenVpnEnd:
    """One end: certificate and key in PEM, and what it may use."""

    authority: bytes
    certificate: bytes
    private_key: bytes = field(repr=False)


def credentials(*names: str) -> Mapping[str, OpenVpnEnd]:
    """New ones of one CA."""
    root = Authority.root("lab root", "ecdsa256")
    holders = {name: root.certify(name, "ecdsa256") for name in names}
    return {
        name: OpenVpnEnd(root.certificate_pem, holder.chain_pem, holder.key.private_pem)
        for name, holder in holders.items()
    }


@dataclass(slots=True)
class OpenVpn:
    """One daemon on one host; the server waits, the client begins."""

    lab: Lab
    host: str
    end: OpenVpnEnd
    is_server: bool
    cipher: str = "AES-128-GCM"
    _process: Process | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        return self._running().pid

    def start(self, address: str, networks: tuple[str, ...], source: str) -> None:
        """Start it towards the other end's address, with its networks routed into it from `source`."""
        directory = self._write()
        own, other = INSIDE if self.is_server else INSIDE[::-1]
        role = ("--tls-server", "--dh", "none") if self.is_server else ("--tls-client",)
        self._process = self.lab.spawn(
            self.host, "openvpn", "--dev", DEVICE, "--proto", "udp", "--port", str(PORT), "--remote", address,
            "--ifconfig", own, other, *role, "--ca", str(directory / "ca.pem"), "--cert", str(directory / "cert.pem"),
            "--key", str(directory / "key.pem"), "--data-ciphers", self.cipher, "--disable-dco", "--verb", "3",
            name="openvpn",
        )  # fmt: skip
        self._process.wait_for_output("UDPv4 link remote", START_SECONDS)
        for network in networks:
            self.lab.run(self.host, "ip", "route", "add", network, "dev", DEVICE, "src", source)

    def wait_up(self) -> None:
        """Wait until the tunnel is up."""
        self._running().wait_for_output("Initialization Sequence Completed", START_SECONDS)

    def _running(self) -> Process:
        if self._process is None:
            raise LabError(f"OpenVPN on {self.host} has not been started")
        return self._process

    def _write(self) -> Path:
        directory = self.lab.directory / f"{self.host}-openvpn"
        directory.mkdir(mode=0o700, exist_ok=True)
        files = {"ca.pem": self.end.authority, "cert.pem": self.end.certificate, "key.pem": self.end.private_key}
        for name, octets in files.items():
            (directory / name).touch(mode=0o600)
            (directory / name).write_bytes(octets)
        return directory
