"""The subjects: how each raises a tunnel between the two gateways of a lab, and which version of it this machine has.

Each runs as its users run it, with AES-128-GCM where it can be chosen and ESP in UDP where there is a choice, since all peers
use UDP. A subject that is not installed raises `LabError`.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from openmoat import __version__
from openmoat_lab.bench import fixed_keys
from openmoat_lab.bench.fixed_keys import PLAIN, VIRTUAL, VIRTUAL_64K
from openmoat_lab.bench.unsealed import require_unsealed
from openmoat_lab.namespaces import Lab
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.peers.openvpn import OpenVpn, credentials
from openmoat_lab.peers.strongswan import StrongSwan, SwanChild, SwanConnection, SwanEnd, SwanKeys
from openmoat_lab.peers.wireguard import BORINGTUN, WIREGUARD_GO, Flavour, WireGuard, WireGuardPeer, go_version
from openmoat_lab.processes import LabError, run, wait_until

__all__ = [
    "OURS",
    "PEERS",
    "SA_COUNTS",
    "SUBJECTS",
    "SUITE",
    "UNSEALED",
    "VETH",
    "Subject",
    "peer_directory",
    "sas_name",
]

SUITE = "aes128gcm16"
SUITES = f"{SUITE}, of WireGuard ChaCha20-Poly1305"
"""The suites in use; WireGuard has only one."""
OURS = "openmoat"
VETH = "veth"
UNSEALED = "unsealed"
SIZES = ("tcp-1-forwarded", "udp-65507", "ping", "ping-behind")
"""Works that show gain and loss where inner packets may have any size (RFC 9347)."""
PEERS = ("wireguard-go", "boringtun", "openvpn", "strongswan")
SA_COUNTS = (1, 1_000, 10_000)
PSK = "a secret between two gateways"
WIREGUARD_MODULE = "golang.zx2c4.com/wireguard"
FOUND_MTU = 1400
"""MTU of a route into the tunnel, above which the path is known to carry 1500 octets."""
SETTLE_SECONDS = 5.0
FILL_SECONDS = 120.0
"""For an engine to install ten thousand pairs on a busy machine."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """One end of the tunnel, as `networks.two_gateways` has it."""

    host: str
    identity: str
    outside: str
    inside: str
    network: str


LEFT = Gateway("left", "left.example", "192.0.2.2", "10.1.0.1", "10.1.0.0/24")
RIGHT = Gateway("right", "right.example", "198.51.100.2", "10.2.0.1", "10.2.0.0/24")
WAYS = ((RIGHT, LEFT), (LEFT, RIGHT))
"""Own end and the other end; the responder comes first."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One of the implementations that are compared."""

    name: str
    """As `--subject` has it."""
    title: str
    version: Callable[[], str]
    """Raises `LabError` if it is not on this machine."""
    start: Callable[[Lab], Sequence[int]]
    """Raises the tunnel in a lab of `two_gateways`; gives the processes whose threads do its work."""
    only: tuple[str, ...] = ()
    """The works it does; empty means all that are for all subjects."""
    is_main: bool = True
    """Whether a quick run measures it."""
    sas: int = 1
    """How many pairs it has."""


def sas_title(count: int) -> str:
    """In words."""
    return f"openmoat, {count:_} SA{'s' if count > 1 else ''}".replace("_", " ")


def sas_name(count: int) -> str:
    """Name of the subject with this number of SAs."""
    return f"sas-{count}"


def peer_directory() -> Path:
    """Directory for programs that the Linux distribution does not package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openmoat" / "peers" / "bin"


def _program(names: Sequence[str]) -> Path:
    places = f"{peer_directory()}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for name in names:
        found = shutil.which(name, path=places)
        if found:
            return Path(found)
    raise LabError(f"{' or '.join(names)} is neither in {peer_directory()} nor in PATH; `make peers` tries to get it")


def _debian_version(package: str, program: str) -> str:
    _program((program,))
    said = run(["dpkg-query", "-W", "-f=${Version}", package], check=False).stdout
    return said or "of no package"


# Ours.


def _moats(lab: Lab, *, encapsulates: bool) -> Sequence[int]:
    pids = []
    for own, peer in WAYS:
        end: dict[str, Any] = {"identity": peer.identity}
        if own is LEFT:
            end["addresses"] = [peer.outside]
        tables = {
            "bench": {
                "psk": "psk",
                "force-encapsulation": encapsulates,
                "local": {"identity": own.identity},
                "peer": end,
                "children": {"net": {"local": [own.network], "remote": [peer.network], "proposals": [SUITE]}},
            }
        }
        moat = Moatd(lab, own.host, tables, {"psk": PSK.encode()}, {"log-level": "warning"})
        moat.start()
        pids.append(moat.pid)
    # A subject that has not found it is measured at its current size, which the capture shows.
    with contextlib.suppress(LabError):
        wait_until("both have found the size of outer packets", lambda: _have_found_size(lab), SETTLE_SECONDS)
    return pids


def _have_found_size(lab: Lab) -> bool:
    routes = [json.loads(lab.run(own.host, "ip", "-j", "route", "get", peer.inside).stdout) for own, peer in WAYS]
    return all(route[0].get("metrics", [{}])[0].get("mtu", 0) > FOUND_MTU for route in routes)


def _fixed(lab: Lab, count: int, *, is_sealed: bool = True, sizes: str = fixed_keys.PLAIN) -> Sequence[int]:
    files = {gateway.host: str(lab.directory / f"{gateway.host}-spis.json") for gateway in (LEFT, RIGHT)}
    processes = [
        lab.spawn(
            own.host, sys.executable, "-m", fixed_keys.__name__, str(number), str(count),
            "sealed" if is_sealed else "unsealed", sizes, files[own.host], files[peer.host],
            name="engine",
        )
        for number, own, peer in ((1, LEFT, RIGHT), (2, RIGHT, LEFT))
    ]  # fmt: skip
    for process in processes:
        process.wait_for_output("up\n", FILL_SECONDS)
    return [process.pid for process in processes]


# The others.


def _wireguards(flavour: Flavour) -> Callable[[Lab], Sequence[int]]:
    def start(lab: Lab) -> Sequence[int]:
        program = _program(flavour.programs)
        ends = {gateway: WireGuard(lab, gateway.host, program, flavour) for gateway in (LEFT, RIGHT)}
        for own, peer in WAYS:
            other = WireGuardPeer(ends[peer].public_key, peer.outside, (peer.network,))
            ends[own].start(other, own.inside)
        return [end.pid for end in ends.values()]

    return start


def _wireguard_go_version() -> str:
    program = _program(WIREGUARD_GO.programs)
    return go_version(program, WIREGUARD_MODULE) or run([str(program), "--version"]).stdout.split()[1]


def _boringtun_version() -> str:
    return run([str(_program(BORINGTUN.programs)), "--version"]).stdout.split()[1]


def _openvpns(lab: Lab) -> Sequence[int]:
    proofs = credentials(LEFT.identity, RIGHT.identity)
    ends = []
    for own, peer in WAYS:
        end = OpenVpn(lab, own.host, proofs[own.identity], is_server=own is RIGHT)
        end.start(peer.outside, (peer.network,), own.inside)
        ends.append(end)
    for end in ends:
        end.wait_up()
    return [end.pid for end in ends]


def _strongswans(lab: Lab) -> Sequence[int]:
    pids = []
    for own, peer in WAYS:
        record = SwanConnection(
            local=SwanEnd(identity=own.identity),
            remote=SwanEnd(identity=peer.identity),
            remote_addresses=peer.outside,
            children=(SwanChild(local=own.network, remote=peer.network, proposals=SUITE),),
        )
        swan = StrongSwan(lab, own.host, [record], SwanKeys(shared=((PSK, (own.identity, peer.identity)),)))
        swan.start()
        pids.append(swan.pid)
        if own is LEFT:
            swan.initiate()
    return pids


def _kernel() -> str:
    return os.uname().release


def _unsealed_version() -> str:
    require_unsealed()
    return __version__


def _rows() -> Mapping[str, Subject]:
    def own() -> str:
        return __version__

    rows = [
        Subject(OURS, "openmoat", own, lambda lab: _moats(lab, encapsulates=True)),
        Subject("openmoat-raw", "openmoat, protocol 50", own, lambda lab: _moats(lab, encapsulates=False), is_main=False),
        Subject("wireguard-go", "wireguard-go", _wireguard_go_version, _wireguards(WIREGUARD_GO)),
        Subject("boringtun", "boringtun", _boringtun_version, _wireguards(BORINGTUN)),
        Subject("openvpn", "OpenVPN", lambda: _debian_version("openvpn", "openvpn"), _openvpns),
        Subject(
            "strongswan", "strongSwan libipsec", lambda: _debian_version("charon-systemd", "charon-systemd"),
            _strongswans,
        ),
        Subject(UNSEALED, "openmoat, unencrypted", _unsealed_version, lambda lab: _fixed(lab, 1, is_sealed=False), ("tcp-1",)),
        *(
            Subject(sizes, f"openmoat, {title}", own,
                    partial(_fixed, count=1, sizes=sizes), works, is_main=False)
            for sizes, title, works in (
                (VIRTUAL, "virtual MTU", SIZES), (VIRTUAL_64K, "virtual MTU, TCP of 64 KiB packets", ("tcp-1",)),
                (PLAIN, "plain tunnel mode", (*SIZES, "tcp-1")),
            )
        ),
        Subject(VETH, "veth alone", _kernel, lambda lab: ()),
        *(
            Subject(sas_name(count), sas_title(count), own,
                    partial(_fixed, count=count), ("tcp-1", "udp-spread"),
                    is_main=count in (SA_COUNTS[0], SA_COUNTS[-1]), sas=count)
            for count in SA_COUNTS
        ),
    ]  # fmt: skip
    return {row.name: row for row in rows}


SUBJECTS: Mapping[str, Subject] = _rows()
"""All subjects, in the order of their turns."""
