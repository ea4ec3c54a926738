"""Traffic through the lab with a verdict: numbered packets, transfers with checksums, round trips, probes with DF."""

import json
import math
import re
import signal
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmoat_lab import endpoints
from openmoat_lab.captures import MARKER
from openmoat_lab.namespaces import Lab
from openmoat_lab.processes import LabError, Process

__all__ = [
    "NumberedStream",
    "Place",
    "Received",
    "RoundTrip",
    "Transfer",
    "numbered",
    "ping",
    "probe",
    "shouting",
    "transfer",
]

NUMBERED_PORT, TRANSFER_PORT, PROBE_PORT, SHOUT_PORT = 5005, 5006, 5007, 5008
PROGRAM = (sys.executable, "-I", str(Path(endpoints.__file__)))
PART_SECONDS = 10.0
ROUND_TRIP = re.compile(r"time=([\d.]+) ms")
LOSS = re.compile(r"(\d+) packets transmitted, (\d+)")


@dataclass(frozen=True, slots=True)
class Place:
    """A host of the lab and the address at which it is reached."""

    host: str
    address: str


@dataclass(frozen=True, slots=True)
class Received:
    """What one end of a numbered stream received from the other."""

    expected: int
    received: int
    missing: int
    first_missing: tuple[int, ...]
    repeated: int
    late: int
    longest_gap: float
    """Seconds between two packets."""


class NumberedStream:
    """Numbered packets both ways between two places, until `stop`."""

    def __init__(self, lab: Lab, a: Place, b: Place, rate: float, port: int) -> None:
        pairs = ((a, b), (b, a))
        self._ends = [
            lab.spawn(
                own.host, *PROGRAM, "numbered", own.address, peer.address, str(port), str(rate),
                name=f"numbered-{port}-{own.address.replace(':', '.')}",
            )
            for own, peer in pairs
        ]  # fmt: skip
        for end in self._ends:
            end.wait_for_output("numbered: met", endpoints.MEET_SECONDS + 5)

    def end(self) -> None:
        """End it without an account; nothing happens if it has ended."""
        for end in self._ends:
            end.kill()

    def stop(self) -> tuple[Received, Received]:
        """End it; returns what `a` and what `b` received."""
        for end in self._ends:
            end.send(signal.SIGTERM)
        a, b = (_received(_answer(end)) for end in self._ends)
        return a, b


@dataclass(frozen=True, slots=True)
class Transfer:
    """A TCP stream that arrived whole: its checksums were compared."""

    octets: int
    seconds: float
    bits_per_second: int
    segment: int
    """Octets of payload per TCP segment at its end (MSS)."""
    longest_gap: float
    """Seconds in which nothing arrived."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Round trips of a series of echo requests, in milliseconds."""

    sent: int
    received: int
    times: tuple[float, ...]
    """Of those that were answered, in rising order."""

    @property
    def median(self) -> float:
        """0 if none was answered."""
        return statistics.median(self.times) if self.times else 0.0

    def percentile(self, share: float) -> float:
        """The time within which `share` percent of the answers came (nearest rank); 0 if none came."""
        return self.times[max(math.ceil(len(self.times) * share / 100) - 1, 0)] if self.times else 0.0


@contextmanager
def numbered(lab: Lab, a: Place, b: Place, rate: float = 500, port: int = NUMBERED_PORT) -> Iterator[NumberedStream]:
    """A numbered stream that ends when the block is left, if not before."""
    stream = NumberedStream(lab, a, b, rate, port)
    try:
        yield stream
    finally:
        stream.end()


def transfer(
    lab: Lab, source: Place, target: Place, octets: int = 10_000_000, *, port: int = TRANSFER_PORT, seconds: float = 60
) -> Transfer:
    """Send octets with path MTU discovery on (DF set); raises `LabError` if they do not arrive as they were sent."""
    receiver = lab.spawn(
        target.host, *PROGRAM, "receive", target.address, str(port), name=f"receive-{port}-{source.host}"
    )
    try:
        receiver.wait_for_output("receive: listening")
        said = lab.run(source.host, *PROGRAM, "send", target.address, str(port), str(octets), seconds=seconds)
        account = json.loads(said.stdout)
        received = _answer(receiver)
        if not account["matches"] or received["octets"] != octets:
            raise LabError(f"{source.host} to {target.host}: {octets} octets arrived changed: {account}")
        gap = received["longest_gap"]
        return Transfer(octets, account["seconds"], account["bits_per_second"], account["segment"], gap)
    finally:
        receiver.kill()


# Many parameters: each is an option of ping(8).
def ping(
    lab: Lab,
    host: str,
    target: str,
    *,
    source: str = "",
    count: int = 5,
    interval: float = 0.05,
    size: int = 56,
    patience: float = 2,
) -> RoundTrip:
    """Echo requests that carry the marker. Loss is no error: the caller compares `sent` and `received`.

    `patience` is how many seconds the last answer may take.
    """
    said = lab.run(
        host, "ping", "-n", "-c", str(count), "-i", str(interval), "-W", str(patience), "-s", str(size),
        "-p", MARKER.hex(), *(("-I", source) if source else ()), target, check=False,
    ).stdout  # fmt: skip
    loss, times = LOSS.search(said), sorted(float(time) for time in ROUND_TRIP.findall(said))
    if loss is None:
        raise LabError(f"{host}: ping {target} has said: {said.strip() or 'nothing'}")
    return RoundTrip(int(loss[1]), int(loss[2]), tuple(times))


def probe(lab: Lab, source: Place, target: Place, size: int = 1500) -> Mapping[str, Any]:
    """Send packets of `size` octets with DF; returns `answers` (`echoed whole`, or the error) and the `path_mtu` that was learned."""
    server = lab.spawn(target.host, *PROGRAM, "echo", target.address, str(PROBE_PORT), name=f"echo-{source.host}")
    try:
        server.wait_for_output("echo: listening")
        said = lab.run(source.host, *PROGRAM, "probe", target.address, str(PROBE_PORT), str(size))
        answer: Mapping[str, Any] = json.loads(said.stdout)
        return answer
    finally:
        server.stop()


@contextmanager
def shouting(lab: Lab, source: Place, target: Place, rate: float = 25) -> Iterator[Process]:
    """Sends packets with the marker from one place to another while the block runs, whether they arrive or not."""
    process = lab.spawn(
        source.host, *PROGRAM, "shout", source.address, target.address, str(SHOUT_PORT), str(rate),
        name=f"shout-{source.address.replace(':', '.')}-{target.host}",
    )  # fmt: skip
    try:
        yield process
    finally:
        process.stop()
        if _answer(process)["sent"] == 0:
            raise LabError(f"{process.log.name}: not one packet was sent, so nothing can be concluded")


def reaches(lab: Lab, host: str, target: str) -> bool:
    """Whether one echo request is answered soon; callers ask again until it is."""
    return ping(lab, host, target, count=1, patience=0.5).received == 1


def _answer(process: Process) -> Mapping[str, Any]:
    process.wait(PART_SECONDS)
    last = process.output().rstrip().rpartition("\n")[2]
    try:
        answer: Mapping[str, Any] = json.loads(last)
    except json.JSONDecodeError as error:
        raise LabError(f"{process.log.name}: ended without an account: {process.output()[-1000:]}") from error
    if "error" in answer:
        raise LabError(f"{process.log.name}: {answer['error']}")
    return answer


def _received(account: Mapping[str, Any]) -> Received:
    if account["expected"] is None:
        raise LabError(f"the other end of the numbered stream has not said how many it sent: {account}")
    return Received(
        account["expected"],
        account["received"],
        account["missing"],
        tuple(account["first_missing"]),
        account["repeated"],
        account["late"],
        account["longest_gap"],
    )
