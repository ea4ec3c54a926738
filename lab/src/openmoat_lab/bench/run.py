"""A whole benchmark: raises all subjects side by side, lets them take turns, and compares. `moat bench` runs it."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from openmoat_lab.bench import control, machine
from openmoat_lab.bench.budgets import RATES, budgets
from openmoat_lab.bench.chart import chart
from openmoat_lab.bench.idle import idle_rows
from openmoat_lab.bench.measures import FORWARDED, IDLE, P50, WORKS, Raised, Work, largest_packet, target_answers
from openmoat_lab.bench.reloads import reload_rows
from openmoat_lab.bench.results import Missing, Report, Result, Row
from openmoat_lab.bench.subjects import OURS, SUBJECTS, SUITES, Subject
from openmoat_lab.bench.turns import schedule, take_turns
from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
from openmoat_lab.processes import LabError, wait_until
from openmoat_lab.topology import DEFAULT_MTU

__all__ = [
    "CONNECTIONS",
    "HANDSHAKES",
    "IDLE_DAEMON",
    "LINKS",
    "Links",
    "Options",
    "bench",
    "draw",
    "handshakes_of",
    "left_out",
    "selected_works",
    "wants_control",
]

HANDSHAKES = "handshakes"
CONNECTIONS = "connections"
IDLE_DAEMON = "idle"
CONTROL = (HANDSHAKES, CONNECTIONS, IDLE_DAEMON)
"""Works of the control plane, as `--work` names them, beside those of the data plane. The first selects all of them."""
UP_SECONDS = 20.0
QUICK_SECONDS = 105.0
"""For the rounds of a quick run, which must take less than three minutes as a whole."""
QUICK_HANDSHAKES = (500,)
LEFT_OUT = "left out of a quick run; measured by: moat bench"
TOOLS = {
    "ethtool": "ethtool", "ip": "iproute2", "iperf3": "iperf3", "nft": "nftables", "ping": "iputils-ping",
    "tcpdump": "tcpdump",
}  # fmt: skip
"""Programs that every measurement needs, and their packages."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Links:
    """A kind of links between the hosts of a lab."""

    title: str
    has_real_packets: bool


LINKS = (Links(f"{DEFAULT_MTU}-octet packets", has_real_packets=True), Links("veth as it is", has_real_packets=False))
"""Without offloads each packet on a link is a real one; by default veth carries a super-packet as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is to be measured. Empty selections mean everything."""

    works: tuple[str, ...] = ()
    """Names of works, or the beginning of several names: `udp-64`, `tcp`."""
    subjects: tuple[str, ...] = ()
    rounds: int = 3
    seconds: int = 2
    """Of one measurement; TCP warms up for one more."""
    is_quick: bool = False
    """The main rows over real packets, and a short round of handshakes."""


def bench(options: Options, say: Say) -> Report:
    """Measure. Raises `ValueError` for unknown names, `LabError` if no lab can be raised on this machine."""
    works, subjects = selected_works(options), _subjects(options)
    if os.geteuid() != 0:
        raise LabError("the benchmark makes network namespaces and needs root: run it with sudo")
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        raise LabError(f"not installed: {', '.join(lacking)}; on Debian: apt-get install {' '.join(TOOLS.values())}")
    rounds = f"up to {options.rounds}" if options.is_quick else options.rounds
    settings = {"suite": SUITES, "path_mtu": DEFAULT_MTU, "rounds": rounds, "seconds": options.seconds}
    handshakes = handshakes_of(options)
    report = Report({**machine.facts(), **settings, "handshakes": handshakes.handshakes})
    present = dict(_present(subjects, report, say))
    for links in LINKS[:1] if options.is_quick else LINKS:
        if not works:
            break
        rows = list(_measure(links, present, works, options, say))
        report.add(rows)
        report.add(budgets([row for row in rows if isinstance(row, Result)], links.title))
    if wants_control(options, HANDSHAKES):
        report.add(_or_missing(HANDSHAKES, control.control_rows(handshakes, say)))
    if wants_control(options, CONNECTIONS):
        report.add(_or_missing(CONNECTIONS, reload_rows(options.rounds, say)))
    if wants_control(options, IDLE_DAEMON):
        report.add(_or_missing(IDLE_DAEMON, idle_rows(say)))
    report.add(left_out(options))
    return report


def draw(report: Report) -> str:
    """The main rows over real packets, as SVG."""
    whats = (*(rate.what for rate in RATES), FORWARDED.title, f"{IDLE}, {P50}")
    facts = report.machine
    title = f"openmoat beside its peers on {facts['processors']} cores of {facts['processor']}, Linux {facts['kernel']}"
    works = [f"{what}; {LINKS[0].title}" for what in whats]
    return chart(title, report.results, works, SUBJECTS[OURS].title)


def selected_works(options: Options) -> Sequence[Work]:
    """In the order they are done."""
    if not options.works:
        return [work for work in WORKS.values() if work.is_main or not options.is_quick]
    names: set[str] = set()
    for word in options.works:
        if word in CONTROL:
            continue
        found = {word} & set(WORKS) or {name for name in WORKS if name.startswith(f"{word}-")}
        if not found:
            raise ValueError(f"no work {word}; there are: {', '.join((*WORKS, *CONTROL))}")
        names |= found
    return [work for name, work in WORKS.items() if name in names]


def wants_control(options: Options, work: str) -> bool:
    """Whether a work of the control plane is measured: if it is selected, or if everything is."""
    if options.works or options.subjects:
        return work in options.works or HANDSHAKES in options.works
    return work == HANDSHAKES or not options.is_quick


def handshakes_of(options: Options) -> control.Options:
    """How much of the control plane is measured. A quick run makes fewer handshakes, and is otherwise the same."""
    if options.is_quick:
        return control.Options(rounds=options.rounds if options.works else 1, handshakes=QUICK_HANDSHAKES)
    return control.Options(rounds=options.rounds)


def left_out(options: Options) -> Iterator[Missing]:
    """What a quick run without a selection leaves out of a whole one, each by its name."""
    if not options.is_quick or options.works or options.subjects:
        return
    chosen = selected_works(options)
    yield from (Missing(links.title, LEFT_OUT) for links in LINKS[1:])
    yield from (Missing(one.title, f"{LEFT_OUT} --subject {name}") for name, one in SUBJECTS.items() if not one.is_main)
    yield from (Missing(name, f"{LEFT_OUT} --work {name}") for name, work in WORKS.items() if work not in chosen)
    yield from (Missing(work, f"{LEFT_OUT} --work {work}") for work in CONTROL if not wants_control(options, work))


def _or_missing(work: str, rows: Iterator[Row]) -> Iterator[Row]:
    try:
        yield from rows
    except LabError as error:
        yield Missing(work, str(error)[:500])


def _subjects(options: Options) -> Sequence[Subject]:
    unknown = [name for name in options.subjects if name not in SUBJECTS]
    if unknown:
        raise ValueError(f"no subject {', '.join(unknown)}; there are: {', '.join(SUBJECTS)}")
    chosen = [subject for name, subject in SUBJECTS.items() if not options.subjects or name in options.subjects]
    return [subject for subject in chosen if subject.is_main] if options.is_quick and not options.subjects else chosen


def _present(subjects: Sequence[Subject], report: Report, say: Say) -> Iterator[tuple[Subject, str]]:
    for subject in subjects:
        try:
            yield subject, subject.version()
        except LabError as error:
            say(f"missing: {subject.title}: {error}")
            report.add([Missing(subject.title, str(error))])


def _measure(
    links: Links, subjects: Mapping[Subject, str], works: Sequence[Work], options: Options, say: Say
) -> Iterator[Row]:
    say(f"{links.title}: raising {len(subjects)} tunnels")
    with ExitStack() as stack:
        raised = []
        for subject, version in subjects.items():
            if not any(work.is_of(subject) for work in works):
                continue
            try:
                one = _raise(subject, version, links, stack)
                largest = largest_packet(one)
            except LabError as error:
                say(f"missing: {subject.title}: {error}")
                yield Missing(f"{subject.title}; {links.title}", str(error)[:500])
                continue
            yield Result.of(
                f"largest packet between the gateways; {links.title}", subject.title, version, "octets", [largest]
            )
            if links.has_real_packets and largest > DEFAULT_MTU:
                yield Missing(f"{subject.title}; {links.title}", f"a packet of {largest} octets was seen: not measured")
                continue
            raised.append(one)
        time_left = QUICK_SECONDS if options.is_quick else math.inf
        turns = schedule(raised, works, options.rounds, seconds=time_left)
        yield from take_turns(turns, links.title, options.seconds, say)


def _raise(subject: Subject, version: str, links: Links, stack: ExitStack) -> Raised:
    lab = stack.enter_context(Lab(two_gateways(offloads=not links.has_real_packets)))
    pids = tuple(subject.start(lab))
    wait_until(f"{subject.title} is up", lambda: target_answers(lab), UP_SECONDS)
    return Raised(subject, version, lab, pids, links.has_real_packets)
