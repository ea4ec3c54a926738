"""A running guest: booted next to a host of a lab, controlled from there, and ended with everything in it."""

import contextlib
import json
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from openmoat_lab.guest.build import kernel, why_no_kernel
from openmoat_lab.processes import CommandFailed, LabError, Process, run, wait_until

__all__ = ["Guest", "GuestProcess"]

HERE = Path(__file__).parent
MEMORY = "512M"
BOOT_SECONDS = 30.0
"""It takes half a second, longer on a busy machine."""
GRACE_SECONDS = 10.0
"""For an answer, in addition to the time that the command may take."""
ENVIRONMENT = {"HOME": "/root", "TMPDIR": "/dev/shm"}
"""User-mode Linux keeps its memory in an unnamed file there."""
SHARE = "/run/share"
"""Where the guest sees `Guest.directory`."""


class Guest:
    """One guest kernel, whose files are those of this machine, read-only. A context manager that boots and ends it.

    Each of `cables` becomes a TAP device of that name in the namespace, and `vec0`, `vec1` … in the guest. The guest's
    root may write to `directory` only. Run as root.
    """

    def __init__(self, namespace: str, directory: Path, cables: Sequence[str] = ("out0",)) -> None:
        self.namespace = namespace
        self.directory = directory.resolve()
        self.cables = tuple(cables)
        self._numbers = 0
        self._bell: socket.socket | None = None
        self._process: Process | None = None

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._process is not None:
            error.add_note(f"--- console of the guest\n{self._process.output()[-4000:]}")
        self.end()

    def boot(self) -> float:
        """Start it; returns the seconds until it was ready for a command."""
        if reason := why_no_kernel():
            raise LabError(reason)
        start = time.monotonic()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lay_cables()
        ours, theirs = socket.socketpair()
        self._bell = ours
        try:
            self._process = Process(
                self._command(theirs.fileno()), self.directory / "console.log", ENVIRONMENT, (theirs.fileno(),)
            )
        finally:
            theirs.close()
        self._hear(b"ready\n", BOOT_SECONDS)
        return time.monotonic() - start

    def end(self) -> None:
        """Switch it off, without a shutdown of what runs in it. May be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._bell is not None:
            # The killed process is its parent; the line closes when the last process of the guest has ended.
            self._bell.settimeout(GRACE_SECONDS)
            with contextlib.suppress(ConnectionResetError):  # it had not read all requests
                while self._bell.recv(64):
                    pass
            self._bell.close()
            self._bell = None

    def run(
        self, *argv: str, check: bool = True, seconds: float = 30.0, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end; see `processes.run`."""
        reply = self._ask("run", seconds, argv=argv, text=text, seconds=seconds)
        done = subprocess.CompletedProcess(argv, reply["code"], reply["out"], reply["err"])
        if check and done.returncode:
            raise CommandFailed(f"guest: {' '.join(argv)}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def script(self, text: str, seconds: float = 30.0) -> str:
        """Run lines of a shell, until the first that fails; gives what they print."""
        return self.run("sh", "-eu", text=text, seconds=seconds).stdout

    def spawn(self, *argv: str, name: str) -> "GuestProcess":
        """Start a command in the background; its output goes to NAME.log in `directory`."""
        reply = self._ask("spawn", 0.0, argv=argv, log=f"{SHARE}/{name}.log")
        return GuestProcess(self, reply["pid"], self.directory / f"{name}.log")

    def stop(self, pid: int, number: int, seconds: float) -> int:
        """Signal a process that `spawn` has started (0: none), wait for its end and give its exit code."""
        return int(self._ask("stop", seconds, pid=pid, number=number, seconds=seconds)["code"])

    def netlink(self, messages: Sequence[bytes]) -> None:
        """Send requests of XFRM to its kernel (`guest.xfrm` writes them). Raises `LabError` with the kernel's text."""
        self._ask("netlink", 0.0, messages=[message.hex() for message in messages])

    def encapsulate(self, port: int = 4500) -> None:
        """Let its kernel take ESP in UDP at a port, until its end."""
        self._ask("encapsulate", 0.0, port=port)

    def listen(self, address: str) -> int:
        """Receive UDP datagrams at an address; returns the port, which `collect` closes."""
        return int(self._ask("listen", 0.0, address=address)["port"])

    def send(self, source: str, target: str, port: int, payloads: Sequence[bytes], pause: float = 0.0) -> None:
        """Send UDP datagrams, with `pause` seconds after each."""
        octets = [payload.hex() for payload in payloads]
        patience = pause * len(payloads)
        self._ask("send", patience, source=source, target=target, port=port, payloads=octets, pause=pause)

    def collect(self, port: int, count: int, seconds: float = 5.0) -> list[bytes]:
        """Up to `count` received datagrams, or those received until none has arrived for `seconds`."""
        reply = self._ask("collect", BOOT_SECONDS + seconds, port=port, count=count, seconds=seconds)
        return [bytes.fromhex(payload) for payload in reply["payloads"]]

    def _lay_cables(self) -> None:
        ip = ("ip", "-n", self.namespace)
        for cable in self.cables:
            # Those of an earlier guest are still there.
            if run([*ip, "link", "show", cable], check=False).returncode:
                run([*ip, "tuntap", "add", cable, "mode", "tap"])
            run([*ip, "link", "set", cable, "up"])

    def _command(self, descriptor: int) -> list[str]:
        vectors = [
            f"vec{number}:transport=tap,ifname={cable},depth=64,gro=1" for number, cable in enumerate(self.cables)
        ]
        return [
            "ip", "netns", "exec", self.namespace,
            # In a PID namespace of its own none of its processes outlives it.
            "unshare", "--pid", "--fork", "--kill-child=KILL",
            str(kernel()), f"mem={MEMORY}", "rootfstype=hostfs", "rootflags=/", "ro", f"init={HERE / 'init.sh'}",
            "con0=null,fd:1", f"ssl0=fd:{descriptor}", "quiet", "loglevel=4", "panic=-1",
            "random.trust_cpu=on", f"moat_share={self.directory}", f"moat_agent={HERE / 'agent.py'}",
            f"moat_python={Path(sys.executable).resolve()}", *vectors,
        ]  # fmt: skip

    def _ask(self, operation: str, patience: float, **words: Any) -> dict[str, Any]:
        if self._bell is None:
            raise LabError("the guest does not run")
        self._numbers += 1
        number = str(self._numbers)
        (self.directory / f"{number}.request").write_text(json.dumps({"operation": operation, **words}))
        self._bell.sendall(f"{number}\n".encode())
        self._hear(f"{number}\n".encode(), patience + GRACE_SECONDS)
        reply: dict[str, Any] = json.loads((self.directory / f"{number}.reply").read_text())
        for kind in ("request", "reply"):
            (self.directory / f"{number}.{kind}").unlink()
        if "error" in reply:
            raise CommandFailed(f"guest: {operation} {' '.join(words.get('argv', ()))}: {reply['error']}")
        return reply

    def _hear(self, words: bytes, seconds: float) -> None:
        heard, deadline = b"", time.monotonic() + seconds
        while not heard.endswith(words):
            left = deadline - time.monotonic()
            if self._bell is None or self._process is None:
                raise LabError("the guest does not run")
            if left <= 0 or not select.select([self._bell], [], [], left)[0] or not (octets := self._bell.recv(64)):
                raise LabError(f"the guest is silent, its console says: {self._process.output()[-3000:]}")
            heard += octets


class GuestProcess:
    """A process in the background of a guest."""

    def __init__(self, guest: Guest, pid: int, log: Path) -> None:
        self._guest = guest
        self.pid = pid
        self.log = log

    def output(self) -> str:
        """All it has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, seconds: float) -> int:
        """Wait for its end and give its exit code."""
        return self._guest.stop(self.pid, 0, seconds)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 5.0) -> int:
        """Signal it, wait for its end and give its exit code."""
        return self._guest.stop(self.pid, number, seconds)

    def wait_for_output(self, words: str, seconds: float = 10.0) -> None:
        """Wait until it has said `words`."""
        wait_until(f"{self.log.name} says {words!r}", lambda: words in self.output(), seconds)
