"""What is measured of one tunnel that is up, once: figures with their names and units. Decides nothing, compares nothing."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openmoat_lab.bench import flood
from openmoat_lab.bench.fixed_keys import OTHERS, OTHERS_STEP
from openmoat_lab.bench.subjects import Subject
from openmoat_lab.captures import dissect, read
from openmoat_lab.namespaces import Lab
from openmoat_lab.processes import LabError, Process
from openmoat_lab.traffic import Place, ping, reaches
from openmoat_lab.usage import busy_seconds, cpu_seconds

__all__ = [
    "FORWARDED",
    "GATEWAY_STREAM",
    "IDLE",
    "LARGEST",
    "MAX_LOSS",
    "P50",
    "P99",
    "SPREAD",
    "WORKS",
    "Figure",
    "Raised",
    "Targets",
    "Work",
    "highest_rate",
    "largest_packet",
    "sink_on",
    "target_answers",
    "trial",
    "udp_title",
]

IPERF_PORT, FLOOD_PORT = 5201, 5300
LEFT, RIGHT = Place("left", "10.1.0.1"), Place("right", "10.2.0.1")
PC_LEFT, PC_RIGHT = Place("pc-left", "10.1.0.10"), Place("pc-right", "10.2.0.10")
WARM_UP_SECONDS = 1
IPERF_PATIENCE = 20.0
P50 = "p50"
P99 = "p99"
IDLE = "round trip, idle"
LOADED = "round trip, beside one TCP flow"
LARGEST = 65_507
"""Octets of payload in the largest UDP datagram over IPv4."""
BEHIND = f"round trip, among UDP of {LARGEST} octets"
BEHIND_RATE = 500
"""Rate of those datagrams per second: some 260 Mbit/s, so that no queue grows."""
PING_INTERVAL = 0.002
IDLE_PINGS, LOADED_PINGS = 300, 500
MAX_LOSS = 0.001
"""Loss of UDP datagrams up to which a rate counts as carried."""
TRIAL_SECONDS = 0.4
OVERLOAD_RATE = 5e6
"""Datagrams per second; more than any sender here can send."""
TRIALS, CLOSE_ENOUGH, STEP_DOWN = 9, 1.05, 0.7
"""Of the search: how many rates it tries at most, how close its bounds get, and the step down while no rate is carried."""
DRAIN_SECONDS = 0.03
SPREAD_OCTETS = 64
SPREAD = f"UDP, {SPREAD_OCTETS} octets, spread over all SAs"


@dataclass(frozen=True, slots=True)
class Raised:
    """A subject whose tunnel is up."""

    subject: Subject
    version: str
    lab: Lab
    pids: tuple[int, ...]
    """Processes that do its work."""
    has_real_packets: bool
    """Whether its links carry no super-packets."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One sample."""

    what: str
    unit: str
    value: float
    aspect: str = ""
    """What else was found at the same work: CPU time."""


@dataclass(frozen=True, slots=True)
class Work:
    """Something a tunnel is made to do."""

    name: str
    """As `--work` has it."""
    measure: Callable[[Raised, int], Sequence[Figure]]
    """Takes about the seconds it is given."""
    is_main: bool = False
    """Whether `--quick` does it."""
    is_for_all: bool = True
    """Whether subjects that do not name it do it, too."""

    def is_of(self, subject: Subject) -> bool:
        """Whether this subject does it."""
        return self.name in subject.only if subject.only else self.is_for_all


# TCP.


@dataclass(frozen=True, slots=True)
class Stream:
    """TCP from one place to another, over a number of flows."""

    source: Place
    target: Place
    flows: int
    is_back: bool = False
    """Whether the target sends the octets, though the source opened the connection."""

    @property
    def title(self) -> str:
        """In words."""
        ends = "gateway to gateway" if self.source.host == LEFT.host else "forwarded"
        return f"TCP, {self.flows} flow{'s' if self.flows > 1 else ''}, {ends}{', back' if self.is_back else ''}"

    def measure(self, raised: Raised, seconds: int) -> Sequence[Figure]:
        """Throughput, and what it cost."""
        machine, threads = busy_seconds(), cpu_seconds(*raised.pids)
        octets, rate = self.run(raised.lab, seconds)
        figures = [
            Figure(self.title, "Mbit/s", rate / 1e6),
            Figure(self.title, "s/GB", (busy_seconds() - machine) / octets * 1e9, "CPU, machine"),
        ]
        if raised.pids:
            spent = cpu_seconds(*raised.pids) - threads
            figures.append(Figure(self.title, "s/GB", spent / octets * 1e9, "CPU, threads"))
        return figures

    def run(self, lab: Lab, seconds: int, extra: Sequence[str] = ()) -> tuple[int, float]:
        """Octets in all, warm-up included, and bits per second after it, as the receiver counted them."""
        with self.serving(lab):
            said = lab.run(
                self.source.host, "iperf3", "-c", self.target.address, "-B", self.source.address, "-J",
                "-p", str(IPERF_PORT), "-P", str(self.flows), *(("-R",) if self.is_back else ()),
                *(extra or ("-t", str(seconds), "-O", str(WARM_UP_SECONDS))),
                seconds=seconds + IPERF_PATIENCE,
            ).stdout  # fmt: skip
        answer = json.loads(said)
        received = answer["end"]["sum_received"]
        octets = sum(int(part["sum"]["bytes"]) for part in answer["intervals"])
        return max(octets, int(received["bytes"])), float(received["bits_per_second"])

    @contextmanager
    def serving(self, lab: Lab) -> Iterator[None]:
        """The other end, for one run."""
        server = lab.spawn(
            self.target.host, "iperf3", "-s", "-1", "--forceflush", "-B", self.target.address, "-p", str(IPERF_PORT),
            name="iperf3",
        )  # fmt: skip
        try:
            server.wait_for_output("Server listening")
            yield
        finally:
            server.kill()
            server.log.unlink()


GATEWAY_STREAM = Stream(LEFT, RIGHT, 1)
FORWARDED = Stream(PC_LEFT, PC_RIGHT, 1)


def target_answers(lab: Lab) -> bool:
    """Whether one echo request from PC to PC is answered; callers ask again until it is."""
    return reaches(lab, PC_LEFT.host, PC_RIGHT.address)


def largest_packet(raised: Raised) -> int:
    """Octets of the largest IP packet between the gateways in a short transfer; it shows which packets are measured."""
    capture = raised.lab.capture("router", "left")
    GATEWAY_STREAM.run(raised.lab, 1, extra=("-n", "4M"))
    frames = (frame.octets[14:] for frame in read(capture.stop()))
    return max(len(octets) for octets in frames if dissect(octets) is not None)


# UDP.


@dataclass(frozen=True, slots=True)
class Targets:
    """Where datagrams go, in turn."""

    first: str
    count: int = 1
    step: int = 0
    """From one address to the next."""


TO_GATEWAY = Targets(RIGHT.address)


def udp_title(octets: int) -> str:
    """In words."""
    return f"UDP, {octets} octets, gateway to gateway"


def _spread(raised: Raised, seconds: int) -> Sequence[Figure]:
    """One datagram for each SA but the last, in turn, so that no SA and no flow is used twice in a row."""
    others = raised.subject.sas - 1
    targets = Targets(OTHERS.partition("/")[0], others, OTHERS_STEP) if others else TO_GATEWAY
    with sink_on(raised.lab, "0.0.0.0") as sink:
        rate = highest_rate(lambda wanted: trial(raised, sink, SPREAD_OCTETS, wanted, targets))
    return [Figure(SPREAD, "packets/s", rate)]


def _udp(octets: int) -> Callable[[Raised, int], Sequence[Figure]]:
    def measure(raised: Raised, seconds: int) -> Sequence[Figure]:
        with sink_on(raised.lab) as sink:
            rate = highest_rate(lambda wanted: trial(raised, sink, octets, wanted))
        return [Figure(udp_title(octets), "packets/s", rate)]

    return measure


def highest_rate(trial: Callable[[float], tuple[float, float]]) -> float:
    """The highest rate per second at which less than `MAX_LOSS` is lost; 0 if there is none.

    `trial` takes a rate and returns the rate that was sent and the rate that arrived. A rate that fails once is tried a
    second time, since other work on the machine may have been the reason.
    """
    sent, arrived = trial(OVERLOAD_RATE)
    if arrived >= sent * (1 - MAX_LOSS):
        return arrived
    high, wanted, carried = sent, arrived, 0.0
    for _ in range(TRIALS if arrived else 0):
        is_carried, arrived = _carries(trial, wanted)
        if is_carried:
            carried = arrived
        else:
            high = wanted
        if high < carried * CLOSE_ENOUGH:
            break
        # Down in steps until a rate is carried, then by bisection.
        wanted = (carried * high) ** 0.5 if carried else high * STEP_DOWN
    return carried


def _carries(trial: Callable[[float], tuple[float, float]], wanted: float) -> tuple[bool, float]:
    for _ in range(2):
        sent, arrived = trial(wanted)
        if arrived >= sent * (1 - MAX_LOSS):
            return True, arrived
    return False, 0.0


@contextmanager
def sink_on(lab: Lab, address: str = RIGHT.address) -> Iterator[Process]:
    """The sink at the other gateway, which counts."""
    process = lab.spawn(
        RIGHT.host, sys.executable, "-I", str(flood.__file__), "sink", address, str(FLOOD_PORT), name="sink"
    )
    try:
        process.wait_for_output("sink: ready")
        yield process
    finally:
        process.stop()
        process.log.unlink()


def trial(
    raised: Raised, sink: Process, octets: int, rate: float, targets: Targets = TO_GATEWAY
) -> tuple[float, float]:
    """Send for a moment; returns the rate that was sent and the rate that arrived."""
    before = _arrived(sink)
    # A sender may hand over super-packets where the links carry them.
    together = (
        1 if raised.has_real_packets or targets.count > 1 else max(1, min(flood.BATCH, flood.MAX_TOGETHER // octets))
    )
    said = raised.lab.run(
        LEFT.host, sys.executable, "-I", str(flood.__file__), "send", LEFT.address, targets.first, str(FLOOD_PORT),
        str(octets), str(rate), str(TRIAL_SECONDS), str(together), str(targets.count), str(targets.step),
    ).stdout  # fmt: skip
    account = json.loads(said)
    return account["sent"] / account["seconds"], (_settled(sink) - before) / account["seconds"]


def _settled(sink: Process) -> int:
    """The count once no more datagrams arrive."""
    seen = -1
    while (now := _arrived(sink)) != seen:
        seen = now
        time.sleep(DRAIN_SECONDS)
    return seen


def _arrived(sink: Process) -> int:
    """Datagrams that the kernel has counted at the sink's socket. The counter has 32 bits, more than a run can use."""
    for line in Path(f"/proc/{sink.pid}/net/udp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1].endswith(f":{FLOOD_PORT:04X}"):
            return int(words[-1])
    raise LabError(f"{sink.log.name}: the sink has no socket: {sink.output()}")


# Round trips.


def _ping(raised: Raised, seconds: int) -> Sequence[Figure]:
    return _round_trips(raised, IDLE, IDLE_PINGS)


def _loaded_ping(raised: Raised, seconds: int) -> Sequence[Figure]:
    stream = GATEWAY_STREAM
    with stream.serving(raised.lab):
        client = raised.lab.spawn(
            stream.source.host, "iperf3", "-c", stream.target.address, "-B", stream.source.address, "-p",
            str(IPERF_PORT), "-t", "30", "--forceflush", "-i", "0.5", name="iperf3-load",
        )  # fmt: skip
        try:
            client.wait_for_output("bits/sec")
            return _round_trips(raised, LOADED, LOADED_PINGS)
        finally:
            client.kill()
            client.log.unlink()


def _ping_behind(raised: Raised, seconds: int) -> Sequence[Figure]:
    """How long a small packet waits behind large ones that are sent at once."""
    with sink_on(raised.lab):
        client = raised.lab.spawn(
            LEFT.host, sys.executable, "-I", str(flood.__file__), "send", LEFT.address, RIGHT.address, str(FLOOD_PORT),
            str(LARGEST), str(BEHIND_RATE), "30", "1", "1", "0", name="large",
        )  # fmt: skip
        try:
            return _round_trips(raised, BEHIND, LOADED_PINGS)
        finally:
            client.kill()
            client.log.unlink()


def _round_trips(raised: Raised, what: str, count: int) -> Sequence[Figure]:
    trip = ping(raised.lab, LEFT.host, RIGHT.address, source=LEFT.address, count=count, interval=PING_INTERVAL)
    if trip.received < count * 0.9:
        raise LabError(f"{raised.subject.title}: {count - trip.received} of {count} echo requests were lost")
    figures = {P50: trip.median, P99: trip.percentile(99)}
    return [Figure(f"{what}, {word}", "ms", value) for word, value in figures.items()]


def _rows() -> Mapping[str, Work]:
    rows = [Work("tcp-1", GATEWAY_STREAM.measure, is_main=True)]
    for flows in (1, 8):
        for ends, source, target in (("", LEFT, RIGHT), ("-forwarded", PC_LEFT, PC_RIGHT)):
            for way, is_back in (("", False), ("-back", True)):
                stream = Stream(source, target, flows, is_back)
                if stream != GATEWAY_STREAM:
                    rows.append(Work(f"tcp-{flows}{ends}{way}", stream.measure))
    rows += [Work(f"udp-{octets}", _udp(octets), is_main=octets != 512) for octets in (64, 512, 1300)]
    rows += [Work("udp-spread", _spread, is_for_all=False), Work(f"udp-{LARGEST}", _udp(LARGEST), is_for_all=False)]
    rows += [Work("ping", _ping, is_main=True), Work("ping-loaded", _loaded_ping)]
    rows.append(Work("ping-behind", _ping_behind, is_for_all=False))
    return {row.name: row for row in rows}


WORKS: Mapping[str, Work] = _rows()
"""All that is measured of a tunnel, in the order it is done."""
