"""Raises a topology in network namespaces and takes it down again, whatever happens in between.

A lab is found by two things: a directory below `STATE`, which names the process that raised it, and namespaces whose names
begin with its prefix. A lab whose process has ended (also by kill -9) is removed when the next one is raised.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from openmoat_lab.processes import LabError, Process, run, wait_until
from openmoat_lab.topology import Host, Link, Topology

__all__ = [
    "STATE",
    "Capture",
    "InterfaceCounters",
    "Lab",
    "LabEntry",
    "enter",
    "labs",
    "remove",
    "remove_stale",
    "stop_captures",
]

STATE = Path("/var/lib/openmoat-lab")
"""One directory per lab: owner, logs, captures. Not below /run, over which peers mount a file system of their own."""
PREFIX = "moatlab"
NEEDS_ROOT = "the lab makes network namespaces and needs root: run it with sudo"
NAME = re.compile(r"[a-z0-9]{1,12}")
HAND_OVER_SECONDS = 1.2
END_SECONDS = 5.0
"""Until killed processes must have ended."""


@dataclass(frozen=True, slots=True)
class LabEntry:
    """A lab as it is found on this machine."""

    name: str
    topology: str
    hosts: tuple[str, ...]
    pid: int
    """The process that raised it; 0 if it is kept until `moat lab down`."""
    is_stale: bool


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Packets and octets of one interface since it was made."""

    received_packets: int
    received_octets: int
    received_dropped: int
    sent_packets: int
    sent_octets: int
    sent_dropped: int


class Capture:
    """An unfiltered capture of one interface, running until `stop`, in a pcap file."""

    def __init__(self, process: Process, file: Path) -> None:
        self._process = process
        self.file = file
        self._is_stopped = False

    def stop(self) -> Path:
        """End it and return the file. Raises `LabError` if the kernel dropped frames: such a capture proves nothing."""
        return stop_captures([self])[0]

    def end(self) -> None:
        """End it now; `stop_captures` has waited for frames that were on their way."""
        if self._is_stopped:
            return
        self._process.stop(signal.SIGINT)
        self._is_stopped = True
        found = re.search(r"(\d+) packets? dropped by kernel", self._process.output())
        if found is None:
            raise LabError(f"{self.file.name}: tcpdump did not end properly: {self._process.output()[-500:]}")
        if int(found[1]):
            raise LabError(f"{self.file.name}: the kernel dropped {found[1]} frames: the capture is not complete")


def stop_captures(captures: Sequence[Capture]) -> list[Path]:
    """End several captures at once and return their files; see `Capture.stop`."""
    # The kernel hands over full blocks of frames, and after a second one that is not full. tcpdump does not wait for the
    # last block when it is asked to end.
    time.sleep(HAND_OVER_SECONDS)
    for capture in captures:
        capture.end()
    return [capture.file for capture in captures]


class Lab:
    """A raised topology. Use it as a context manager: leaving takes down everything it made.

    Run as root. All methods block until what they do is done; commands in the background are `Process`es.
    """

    def __init__(self, topology: Topology, name: str | None = None) -> None:
        self.topology = topology
        self.name = name or secrets.token_hex(4)
        if not NAME.fullmatch(self.name):
            raise ValueError(f"lab name: up to 12 lower case letters and digits, not {self.name!r}")
        self.prefix = f"{PREFIX}-{self.name}-"
        self.directory = STATE / self.name
        self._processes: list[Process] = []
        self._files = 0
        self.is_kept = False

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_kept:
            self.down()

    # Raising and ending.

    def up(self) -> None:
        """Make namespaces, links, addresses, routes and firewalls; removes stale labs first."""
        if os.geteuid() != 0:
            raise LabError(NEEDS_ROOT)
        with _locked():
            remove_stale()
            if self.directory.exists():
                raise LabError(f"lab {self.name!r} is up already; to end it: moat lab down {self.name}")
            self.directory.mkdir(mode=0o700, parents=True)
            self._write_owner(os.getpid())
        try:
            self._make()
        except BaseException:
            self.down()
            raise

    def keep(self) -> None:
        """Leave it up after this process ends, until `moat lab down`."""
        self.is_kept = True
        self._write_owner(0)

    def down(self) -> None:
        """End all processes in the namespaces, remove the namespaces and the directory. May be called twice."""
        with _undisturbed():
            for process in self._processes:
                process.send(signal.SIGTERM)
            for process in self._processes:
                process.stop()
            self._processes.clear()
            remove(self.name)

    # Working in it.

    def namespace(self, host: str) -> str:
        """Name of the host's network namespace, for `ip netns`."""
        return self.prefix + self.topology.host(host).name

    def inside(self, host: str, *argv: str) -> list[str]:
        """The command line that runs `argv` on a host."""
        return ["ip", "netns", "exec", self.namespace(host), *argv]

    def run(
        self, host: str, *argv: str, check: bool = True, seconds: float = 60.0, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end; see `processes.run`."""
        return run(self.inside(host, *argv), check=check, seconds=seconds, text=text)

    def spawn(self, host: str, *argv: str, name: str, environment: Mapping[str, str] | None = None) -> Process:
        """Start a command on a host in the background; its output goes to the file `HOST-NAME.log` of the lab."""
        process = Process(self.inside(host, *argv), self.directory / f"{host}-{name}.log", environment)
        self._processes.append(process)
        return process

    def capture(self, host: str, interface: str) -> Capture:
        """Capture every frame of an interface, in both directions, from now on."""
        self._files += 1
        file = self.directory / f"{host}-{interface}-{self._files}.pcap"
        process = self.spawn(
            host, "tcpdump", "-i", interface, "-n", "-s", "0", "-U", "-B", "32768", "-Z", "root", "-w", str(file),
            name=f"tcpdump-{interface}-{self._files}",
        )  # fmt: skip
        process.wait_for_output("listening on")
        return Capture(process, file)

    def counters(self, host: str) -> dict[str, InterfaceCounters]:
        """Counters of every interface of a host."""
        links = json.loads(self.run(host, "ip", "-s", "-j", "link").stdout)
        return {
            link["ifname"]: InterfaceCounters(
                *(link["stats64"]["rx"][word] for word in ("packets", "bytes", "dropped")),
                *(link["stats64"]["tx"][word] for word in ("packets", "bytes", "dropped")),
            )
            for link in links
        }

    # How it is made.

    def _write_owner(self, pid: int) -> None:
        owner = {
            "topology": self.topology.name,
            "hosts": [host.name for host in self.topology.hosts],
            "pid": pid,
            "started": _start_time(pid),
        }
        new = self.directory / "owner.new"
        new.write_text(json.dumps(owner))
        new.rename(self.directory / "owner")

    def _make(self) -> None:
        for host in self.topology.hosts:
            run(["ip", "netns", "add", self.namespace(host.name)])
            run(self.inside(host.name, "sh", "-eu"), text=_host_script(host))
        run(["ip", "-batch", "-"], text="".join(_link_commands(link, self.namespace) for link in self.topology.links))
        for host in self.topology.hosts:
            run(["ip", "-n", self.namespace(host.name), "-batch", "-"], text=_address_commands(self.topology, host))
            rules = _rules(host)
            if rules:
                run(self.inside(host.name, "nft", "-f", "-"), text=rules)
        for link in self.topology.links:
            if not link.offloads:
                for end in (link.a, link.b):
                    words = ("tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off")
                    self.run(end.host, "ethtool", "-K", end.interface, *words)


def _host_script(host: Host) -> str:
    forwards = int(host.forwards)
    settings = {
        "net/ipv4/ip_forward": forwards,
        "net/ipv6/conf/all/forwarding": forwards,
        "net/ipv6/conf/default/forwarding": forwards,
        # Addresses are usable at once, and come from the topology only.
        "net/ipv6/conf/all/accept_dad": 0,
        "net/ipv6/conf/default/accept_dad": 0,
        "net/ipv6/conf/all/accept_ra": 0,
        "net/ipv6/conf/default/accept_ra": 0,
        # A lab sends every ICMP error that is due, since tests count them.
        "net/ipv4/icmp_ratelimit": 0,
        "net/ipv6/icmp/ratelimit": 0,
    }
    return "".join(f"echo {value} > /proc/sys/{name}\n" for name, value in settings.items()) + "ip link set lo up\n"


def _link_commands(link: Link, namespace: Callable[[str], str]) -> str:
    a, b = (f"name {end.interface} netns {namespace(end.host)}" for end in (link.a, link.b))
    return f"link add {a} mtu {link.mtu} type veth peer {b} mtu {link.mtu}\n"


def _address_commands(topology: Topology, host: Host) -> str:
    lines = []
    for end in topology.ends_of(host.name):
        lines += [
            f"address add {address} dev {end.interface}{' nodad' if address.version == 6 else ''}"
            for address in end.addresses
        ]
        lines.append(f"link set {end.interface} up")
    lines += [f"route add {route.to} via {route.via}" for route in host.routes]
    return "\n".join(lines) + "\n"


def _rules(host: Host) -> str:
    lines = []
    if host.masquerades:
        lines += ["chain leaving {", "type nat hook postrouting priority srcnat", "policy accept"]
        lines += [f'oifname "{name}" meta nfproto ipv4 masquerade' for name in host.masquerades]
        lines += ["}"]
    if host.drops:
        lines += ["chain transit {", "type filter hook forward priority filter", "policy accept"]
        lines += [f"{match} counter drop" for match in host.drops]
        lines += ["}"]
    return "\n".join(["table inet lab {", *lines, "}", ""]) if lines else ""


# Labs on this machine, ours and others'.


def labs() -> tuple[LabEntry, ...]:
    """Every lab of this machine, stale ones included."""
    return tuple(_entry(path) for path in sorted(STATE.iterdir()) if path.is_dir()) if STATE.is_dir() else ()


def remove_stale() -> tuple[str, ...]:
    """Remove the labs whose process has ended; returns their names."""
    stale = tuple(entry.name for entry in labs() if entry.is_stale)
    for name in stale:
        remove(name)
    return stale


def remove(name: str) -> None:
    """Kill what runs in the namespaces of a lab, and remove them and its directory. Nothing else is touched."""
    if not NAME.fullmatch(name):
        raise LabError(f"no lab can be named {name!r}")
    prefix = f"{PREFIX}-{name}-"
    listed = run(["ip", "netns", "list"]).stdout.splitlines()
    namespaces = [words[0] for line in listed if (words := line.split()) and words[0].startswith(prefix)]
    for namespace in namespaces:
        _end_processes(namespace)
        run(["ip", "netns", "delete", namespace])
    shutil.rmtree(STATE / name, ignore_errors=True)
    with contextlib.suppress(OSError):  # other labs are up, or it is gone already
        STATE.rmdir()


def enter(name: str, host: str, argv: Sequence[str]) -> None:
    """Become a command on a host of a lab that is up; an interactive shell where `argv` is empty."""
    entries = {entry.name: entry for entry in labs()}
    if name not in entries:
        raise LabError(f"no lab {name!r} is up; there are: {', '.join(entries) or 'none'}")
    if host not in entries[name].hosts:
        raise LabError(f"lab {name!r}: no host {host!r}; there are: {', '.join(entries[name].hosts)}")
    if os.geteuid() != 0:
        raise LabError(NEEDS_ROOT)
    command = list(argv) or shlex.split(os.environ.get("SHELL", "/bin/sh"))
    os.execvp("ip", ["ip", "netns", "exec", f"{PREFIX}-{name}-{host}", *command])  # noqa: S606


def _end_processes(namespace: str) -> None:
    def pids() -> list[int]:
        return [int(word) for word in run(["ip", "netns", "pids", namespace]).stdout.split()]

    def are_gone() -> bool:
        left = pids()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(f"processes in {namespace} have ended", are_gone, END_SECONDS)


def _entry(directory: Path) -> LabEntry:
    try:
        owner = json.loads((directory / "owner").read_text())
    except FileNotFoundError:
        return LabEntry(directory.name, "?", (), 0, is_stale=True)
    pid = int(owner["pid"])
    is_stale = pid != 0 and _start_time(pid) != owner["started"]
    return LabEntry(directory.name, owner["topology"], tuple(owner["hosts"]), pid, is_stale)


def _start_time(pid: int) -> int:
    """When a process started, in ticks since boot, which identifies it together with its pid. 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[19])


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One process at a time looks for stale labs."""
    lock = os.open(STATE.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that end the program wait until the clean-up is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
