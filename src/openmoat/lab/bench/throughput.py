"""TCP throughput and round trips through a tunnel between two gateways, several subjects in turn.

The subjects' tunnels are all up at once, each in a lab of its own, and are measured in turn (ABAB), so that what else
the machine does meets all of them. CPU time is that of the whole machine while a subject is measured.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openmoat.lab.captures import dissect, read
from openmoat.lab.namespaces import Lab
from openmoat.lab.processes import LabError
from openmoat.lab.traffic import ping

__all__ = ["Measured", "Subject", "largest_packet", "measure"]

IPERF_PORT = 5201
PINGS = 100


@dataclass(frozen=True, slots=True)
class Subject:
    """A tunnel that is up in a lab, between `source` and the address `target` of the host `sink`."""

    name: str
    lab: Lab
    source: str
    sink: str
    target: str


@dataclass(slots=True)
class Measured:
    """Samples of one subject."""

    bits_per_second: list[float] = field(default_factory=list)
    cpu_seconds_per_gigabit: list[float] = field(default_factory=list)
    """Of the whole machine, traffic generator included: the same for all subjects."""
    round_trip: list[float] = field(default_factory=list)
    """Median of each series, milliseconds."""

    def medians(self) -> Mapping[str, float]:
        """One number a row."""
        return {
            "mbit_per_second": round(statistics.median(self.bits_per_second) / 1e6, 1),
            "cpu_seconds_per_gigabit": round(statistics.median(self.cpu_seconds_per_gigabit), 3),
            "round_trip_ms": round(statistics.median(self.round_trip), 3),
        }


def measure(subjects: Sequence[Subject], *, rounds: int = 3, seconds: int = 3) -> Mapping[str, Measured]:
    """Measure each subject `rounds` times in turn."""
    results = {subject.name: Measured() for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            row = results[subject.name]
            before = _busy_seconds()
            rate = _iperf(subject, seconds)
            row.bits_per_second.append(rate)
            row.cpu_seconds_per_gigabit.append((_busy_seconds() - before) / (rate * seconds / 1e9))
            trip = ping(subject.lab, subject.source, subject.target, count=PINGS, interval=0.005)
            if trip.received < trip.sent:
                raise LabError(f"{subject.name}: {trip.sent - trip.received} of {trip.sent} echo requests were lost")
            row.round_trip.append(trip.median)
    return results


def largest_packet(subject: Subject, host: str, interface: str) -> int:
    """Octets of the largest IP packet on an interface during a short transfer: says whether super-packets passed."""
    capture = subject.lab.capture(host, interface)
    _iperf(subject, 1, extra=("-n", "2M"))
    frames = read(capture.stop())
    return max(len(frame.octets) - 14 for frame in frames if dissect(frame.octets[14:]) is not None)


def _iperf(subject: Subject, seconds: int, extra: Sequence[str] = ()) -> float:
    server = subject.lab.spawn(
        subject.sink, "iperf3", "-s", "-1", "--forceflush", "-B", subject.target, "-p", str(IPERF_PORT), name="iperf3",
    )  # fmt: skip
    try:
        server.wait_for_output("Server listening")
        said = subject.lab.run(
            subject.source, "iperf3", "-c", subject.target, "-p", str(IPERF_PORT), "-J",
            *(extra or ("-t", str(seconds), "-O", "1")), seconds=seconds + 20,
        ).stdout  # fmt: skip
        return float(json.loads(said)["end"]["sum_received"]["bits_per_second"])
    finally:
        server.kill()
        server.log.unlink()


def _busy_seconds() -> float:
    """CPU seconds that this machine has worked, all cores, since boot."""
    user, nice, system, _idle, _iowait, irq, softirq = (
        int(word) / 100 for word in Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return user + nice + system + irq + softirq
