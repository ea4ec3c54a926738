"""Processes: run to the end, or kept in the background with their output in a file."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["CommandFailed", "LabError", "Process", "end_in_order", "run", "wait_until"]

STOP_SECONDS = 5.0
"""Seconds that a process has to end by itself before it is killed."""
POLL_SECONDS = 0.02


class LabError(Exception):
    """The lab could not do something; the text has the command and its output."""


class CommandFailed(LabError):
    """A command ended with another code than 0, or not in time."""


def end_in_order() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end this program by `SystemExit`: blocks are left, and what they raised is taken down.

    For the main thread of a program. SIGHUP stays ignored if it is (`nohup`); SIGINT does not, since a shell ignores it for
    programs in the background, which then could not be ended by it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))


def run(
    argv: Sequence[str], *, check: bool = True, seconds: float = 60.0, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and keep its output; `text` goes to its standard input.

    Raises `CommandFailed` with its output if it takes longer than `seconds`, or fails and `check` is set.
    """
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as late:
        raise CommandFailed(
            f"{' '.join(argv)}: no end after {seconds:g} s: {_said(late.stdout, late.stderr)}"
        ) from late
    if check and done.returncode:
        raise CommandFailed(f"{' '.join(argv)}: exit code {done.returncode}: {_said(done.stdout, done.stderr)}")
    return done


def _said(*outputs: str | bytes | None) -> str:
    texts = (out.decode(errors="replace") if isinstance(out, bytes) else out or "" for out in outputs)
    return " ".join(text.strip() for text in texts if text.strip()) or "(nothing was said)"


class Process:
    """A background process. Its output is in `log`; `stop` ends it, by its own pid."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        """`descriptors` are open in it under their numbers."""
        self.argv = tuple(argv)
        self.log = log
        with log.open("ab") as out:
            # A session of its own: Ctrl-C at the terminal reaches only this program, which ends the others in order.
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
                pass_fds=descriptors,
            )

    @property
    def pid(self) -> int:
        """Of the command itself: `ip netns exec` replaces itself by it."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negative number of the signal that ended it."""
        return self._popen.poll()

    def output(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait for the end and give the exit code."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired as late:
            raise CommandFailed(f"{' '.join(self.argv)}: no end after {seconds:g} s") from late

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = STOP_SECONDS) -> int:
        """Ask it to end, kill it if it does not, and return the exit code."""
        self.send(number)
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it at once, as a crash would."""
        self.send(signal.SIGKILL)
        return self._popen.wait()

    def wait_for_output(self, words: str, seconds: float = 10.0) -> None:
        """Wait until its output contains `words`; raises `LabError` with the output if it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while words not in self.output():
            if self.exit_code is not None or time.monotonic() > deadline:
                ended = "" if self.exit_code is None else f" (exit code {self.exit_code})"
                raise LabError(f"{' '.join(self.argv)}{ended}: has not said {words!r}: {self.output()[-2000:]}")
            time.sleep(POLL_SECONDS)


def wait_until(what: str, holds: Callable[[], object], seconds: float = 10.0, poll: float = 0.05) -> float:
    """Wait until `holds()` is true; returns the seconds it took, or raises `LabError`."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > seconds:
            raise LabError(f"{what}: not so after {seconds:g} s")
        time.sleep(poll)
    return time.monotonic() - start
