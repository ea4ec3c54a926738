"""A real strongSwan on a host of the lab: Debian's `charon-systemd` with its userspace ESP, driven by `swanctl`.

Each daemon gets a private /run, so that many of them run on one machine. Its ESP is always in UDP, has no ESN, and its
TUN device `ipsec0` has an MTU of 1400.
"""

import json
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openmoat_lab.namespaces import Lab
from openmoat_lab.processes import LabError, Process, run, wait_until

__all__ = [
    "SOCKET",
    "Section",
    "StrongSwan",
    "SwanChild",
    "SwanConnection",
    "SwanEnd",
    "SwanKeys",
    "daemon_settings",
    "render",
    "write_files",
]

Section = Mapping[str, "str | Section"]
"""A section of strongSwan's configuration files: settings and sections below it."""

PLUGINS = (
    "random nonce openssl aes sha1 sha2 hmac kdf ctr gcm chapoly curve25519 x509 pubkey pem pkcs1 pkcs8 constraints "
    "kernel-libipsec kernel-netlink socket-default vici updown"
)
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SOCKET = "run/charon.vici"
START_SECONDS = 10.0
FOLDERS = ("x509", "x509ca", "pubkey", "private", "rsa", "ecdsa", "pkcs8", "conf.d")


@dataclass(frozen=True, slots=True, kw_only=True)
class SwanKeys:
    """Secrets and key files of one daemon. Files are PEM, under the name the connections use."""

    shared: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Pre-shared keys: the secret, and the identities it is for."""
    private: Mapping[str, bytes] = field(default_factory=dict)
    public: Mapping[str, bytes] = field(default_factory=dict)
    """Raw public keys (SubjectPublicKeyInfo), our own and the peer's."""
    certificates: Mapping[str, bytes] = field(default_factory=dict)
    authorities: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwanEnd:
    """How one end authenticates."""

    identity: str
    auth: str = "psk"
    """`psk` or `pubkey`, or with scheme: `rsa/pss-sha256`, `ecdsa-sha256`, `ed25519`."""
    certificates: tuple[str, ...] = ()
    """Names of files in `SwanKeys.certificates`."""
    public_keys: tuple[str, ...] = ()
    """Names of files in `SwanKeys.public`, for raw public keys."""
    authorities: tuple[str, ...] = ()

    def section(self) -> Section:
        """As it stands in swanctl.conf."""
        lists = {"certs": self.certificates, "pubkeys": self.public_keys, "cacerts": self.authorities}
        return {
            "id": f'"{self.identity}"',
            "auth": self.auth,
            **{word: ", ".join(names) for word, names in lists.items() if names},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SwanChild:
    """A Child SA; times in seconds, 0 is never."""

    local: str
    """Traffic selectors as strongSwan writes them, with commas between."""
    remote: str
    name: str = "net"
    proposals: str = "aes128gcm16-x25519"
    start: str = "none"
    """`none`, `start` or `trap`."""
    rekey_time: int = 0
    life_time: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)

    def section(self) -> Section:
        """As it stands in swanctl.conf."""
        times = {"life_time": str(self.life_time)} if self.life_time else {}
        return {
            "local_ts": self.local,
            "remote_ts": self.remote,
            "esp_proposals": self.proposals,
            "start_action": self.start,
            "mode": "tunnel",
            "rekey_time": str(self.rekey_time),
            # Without a random part a test knows when it happens.
            "rand_time": "0",
            **times,
            **self.extra,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SwanConnection:
    """One connection of swanctl.conf."""

    local: SwanEnd
    remote: SwanEnd
    children: tuple[SwanChild, ...]
    name: str = "moat"
    local_addresses: str = "%any"
    remote_addresses: str = "%any"
    proposals: str = "aes128gcm16-prfsha256-x25519"
    encap: bool = False
    """Force UDP encapsulation by pretending to be behind a NAT."""
    fragmentation: str = "yes"
    rekey_time: int = 0
    dpd_delay: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)

    def section(self) -> Section:
        """As it stands in swanctl.conf."""
        return {
            "version": "2",
            "local_addrs": self.local_addresses,
            "remote_addrs": self.remote_addresses,
            "proposals": self.proposals,
            "encap": "yes" if self.encap else "no",
            "fragmentation": self.fragmentation,
            "rekey_time": str(self.rekey_time),
            "rand_time": "0",
            "dpd_delay": str(self.dpd_delay),
            "mobike": "no",
            **self.extra,
            "local": self.local.section(),
            "remote": self.remote.section(),
            "children": {child.name: child.section() for child in self.children},
        }


def render(section: Section, indent: str = "") -> str:
    """The text of a section, one setting a line."""
    lines = []
    for word, value in section.items():
        if isinstance(value, str):
            lines.append(f"{indent}{word} = {value}\n")
        else:
            lines.append(f"{indent}{word} {{\n{render(value, indent + '  ')}{indent}}}\n")
    return "".join(lines)


class StrongSwan:
    """One charon on one host of a lab."""

    def __init__(
        self,
        lab: Lab,
        host: str,
        connections: Iterable[SwanConnection],
        keys: SwanKeys,
        settings: Section | None = None,
    ) -> None:
        self._lab = lab
        self.host = host
        self._directory = lab.directory / f"{host}-strongswan"
        self._log = self._directory / "charon.log"
        self._starts = 0
        self._process: Process | None = None
        self._write(tuple(connections), keys, settings or {})

    def start(self) -> None:
        """Start charon and load connections and keys."""
        self._starts += 1
        script = f"mount -t tmpfs tmpfs /run && exec env -i PATH={PATH} {self._environment()} charon-systemd"
        self._process = self._lab.spawn(
            self.host, "unshare", "--mount", "--propagation", "private", "sh", "-c", script,
            name=f"charon-{self._starts}",
        )  # fmt: skip
        socket = Path(f"/proc/{self._process.pid}/root/{SOCKET}")
        # The path leads through the process's own /run, and fails if the process has ended.
        wait_until(f"charon on {self.host} listens: {self._process.log}", socket.exists, START_SECONDS)
        self.control("--load-all", "--noprompt")

    def reload(self, connections: Iterable[SwanConnection], keys: SwanKeys, settings: Section | None = None) -> None:
        """Replace connections and keys of the running daemon."""
        self._write(tuple(connections), keys, settings or {})
        self.control("--load-all", "--noprompt", "--clear")

    def control(self, *words: str, check: bool = True, seconds: float = 30.0) -> str:
        """Run `swanctl` and give what it says."""
        pid = str(self._running().pid)
        done = run(
            ["nsenter", "-t", pid, "-m", "-n", "env", f"PATH={PATH}", *self._environment().split(), "swanctl", *words],
            check=check,
            seconds=seconds,
        )
        return done.stdout + done.stderr

    def initiate(self, child: str = "net", *, check: bool = True, seconds: float = 15.0) -> str:
        """Bring a child up; gives the log of the negotiation, raises `CommandFailed` if it is refused."""
        words = ("--initiate", "--child", child, "--timeout", str(int(seconds)))
        return self.control(*words, check=check, seconds=seconds + 5)

    def terminate(self, *, child: str | None = None, ike: str | None = None) -> str:
        """Delete a child by name, or an IKE SA and all its children."""
        return self.control("--terminate", *(("--child", child) if child else ("--ike", ike or "moat")))

    def rekey(self, *, child: str | None = None, ike: str | None = None) -> str:
        """Start a rekey of a child, or of the IKE SA."""
        return self.control("--rekey", *(("--child", child) if child else ("--ike", ike or "moat")))

    def sas(self) -> str:
        """What `swanctl --list-sas` says."""
        return self.control("--list-sas")

    def spis(self) -> tuple[frozenset[str], frozenset[str]]:
        """Initiator's SPIs of its established IKE SAs, and inbound SPIs of its installed Child SAs."""
        ike: set[str] = set()
        children: set[str] = set()
        is_installed = False
        for line in self.sas().splitlines():
            if found := re.search(r"ESTABLISHED, IKEv2, ([0-9a-f]{16})_i", line):
                ike.add(found[1])
            if "reqid" in line:
                is_installed = "INSTALLED" in line
            elif is_installed and (found := re.match(r"\s+in  ([0-9a-f]{8})", line)):
                children.add(found[1])
        return frozenset(ike), frozenset(children)

    def log(self) -> str:
        """The log of the daemon, earlier starts included."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        return self._running().pid

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would: no SA is deleted, no peer is notified."""
        self._running().kill()

    def stop(self) -> None:
        """End it in order: SAs are deleted."""
        self._running().stop(signal.SIGTERM)

    def _running(self) -> Process:
        if self._process is None or self._process.exit_code is not None:
            raise LabError(f"strongSwan on {self.host} does not run")
        return self._process

    def _environment(self) -> str:
        return f"STRONGSWAN_CONF={self._directory}/strongswan.conf SWANCTL_DIR={self._directory}/swanctl"

    def _write(self, connections: tuple[SwanConnection, ...], keys: SwanKeys, settings: Section) -> None:
        write_files(self._directory, connections, keys, daemon_settings(self._log, settings))


def write_files(directory: Path, connections: Iterable[SwanConnection], keys: SwanKeys, settings: Section) -> None:
    """Make strongswan.conf of `settings`, and the directory swanctl of the rest."""
    swanctl = directory / "swanctl"
    for folder in FOLDERS:
        (swanctl / folder).mkdir(parents=True, exist_ok=True)
    (directory / "strongswan.conf").write_text(render(settings))
    sections: dict[str, Section] = {
        "connections": {connection.name: connection.section() for connection in connections},
        "secrets": {
            f"ike-{number}": {
                "secret": json.dumps(secret),
                **{f"id-{n}": f'"{identity}"' for n, identity in enumerate(identities)},
            }
            for number, (secret, identities) in enumerate(keys.shared)
        },
    }
    (swanctl / "swanctl.conf").write_text(render(sections))
    folders = {
        "private": keys.private,
        "pubkey": keys.public,
        "x509": keys.certificates,
        "x509ca": keys.authorities,
    }
    for folder, files in folders.items():
        for name, octets in files.items():
            (swanctl / folder / name).write_bytes(octets)


def daemon_settings(log: Path, settings: Section) -> Section:
    """What strongswan.conf says: ours, and `settings` of charon over it; `log` as the daemon sees it."""
    charon: Section = {
        "load_modular": "no",
        "load": PLUGINS,
        "install_routes": "yes",
        # Gives up after 2 + 3.6 + 6.5 + 11.7 seconds instead of three minutes.
        "retransmit_timeout": "2",
        "retransmit_tries": "3",
        "syslog": {"daemon": {"default": "-1"}, "auth": {"default": "-1"}},
        "filelog": {"all": {"path": str(log), "default": "1", "flush_line": "yes"}},
        "plugins": {"kernel-libipsec": {"allow_peer_ts": "no"}, "vici": {"socket": f"unix:///{SOCKET}"}},
        **settings,
    }
    return {
        "charon": charon,
        "charon-systemd": {**charon, "journal": {"default": "-1"}},
        "swanctl": {"load": "pem pkcs1 x509 pkcs8 pubkey openssl curve25519 random"},
    }
