"""Hosts for tests of `openmoat.system`: network namespaces joined by veth pairs, and the way into them."""

import ctypes
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Host:
    """One network namespace."""

    name: str

    def run(self, command: str, *, check: bool = True, stdin: str | None = None) -> str:
        """Run a command line in it; answers with what it printed."""
        argv = ["ip", "netns", "exec", self.name, "sh", "-c", command]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, input=stdin, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {command}: {done.stderr}")
        return done.stdout

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread, and the processes it starts, be in the namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._enter(there)
            yield
        finally:
            self._enter(home)
            os.close(there)
            os.close(home)

    @staticmethod
    def _enter(descriptor: int) -> None:
        if LIBC.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Namespaces with loopback up, removed at the end."""
    with ExitStack() as stack:
        made = []
        for name in names:
            host = Host(f"msys-{uuid.uuid4().hex[:6]}-{name}")
            subprocess.run(["ip", "netns", "add", host.name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", host.name], check=False)
            # IPv6 without duplicate address detection: addresses are usable at once.
            host.run("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0; ip link set lo up")
            made.append(host)
        yield made


def link(left: Host, left_device: str, right: Host, right_device: str) -> None:
    """A veth pair, both ends up."""
    left.run(f"ip link add {left_device} type veth peer name {right_device} netns {right.name}")
    left.run(f"ip link set {left_device} up")
    right.run(f"ip link set {right_device} up")
