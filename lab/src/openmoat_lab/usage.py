"""What processes use: CPU time and memory, as the kernel accounts for it."""

import os
from collections.abc import Sequence
from pathlib import Path

from openmoat_lab.processes import CommandFailed, LabError

__all__ = [
    "TICK",
    "busy_seconds",
    "cpu_nanoseconds",
    "cpu_of",
    "cpu_seconds",
    "pin",
    "proportional_octets",
    "resident_octets",
]

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds of the unit in which the kernel accounts for CPU time."""


def busy_seconds() -> float:
    """CPU seconds that this machine has worked, all cores, since boot."""
    user, nice, system, _idle, _iowait, irq, softirq = (
        int(word) * TICK for word in Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return user + nice + system + irq + softirq


def cpu_seconds(*pids: int) -> float:
    """User and system time of all threads of these processes, ended threads included."""
    ticks = 0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(words[11]) + int(words[12])
    return ticks * TICK


def cpu_nanoseconds(pid: int) -> int:
    """CPU time of all threads that live, as exactly as the scheduler knows it."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def cpu_of(argv: Sequence[str]) -> float:
    """User and system time in seconds of a command, from its start to its end. Its output is discarded."""
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(argv[0], list(argv), os.environ, file_actions=silent)
    _, status, used = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise CommandFailed(f"{' '.join(argv)}: exit code {code}")
    return used.ru_utime + used.ru_stime


def proportional_octets(pid: int) -> int:
    """Memory of a process, pages that it shares counted by their share (PSS)."""
    return _octets(pid, "smaps_rollup", "Pss")


def resident_octets(pid: int) -> int:
    """Memory of a process that is in RAM, shared pages counted in full (RSS)."""
    return _octets(pid, "status", "VmRSS")


def _octets(pid: int, file: str, field: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        word, _, value = line.partition(":")
        if word == field:
            return int(value.split()[0]) * 1024
    raise LabError(
        f"process {pid}: no {field} in /proc/{pid}/{file}; it has ended, or the kernel does not account for it"
    )


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process on one core; threads that it starts later inherit this."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
