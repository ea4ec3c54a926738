"""`make bench`: a first table. Our tunnel beside strongSwan's userspace ESP, interleaved in one run; JSON at the end.

Machine, versions, suite and sizes are part of the output. A benchmark never fails a build: the exit code says only
whether everything could be measured.
"""

import json
import platform
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from openmoat import __version__
from openmoat.lab.bench.throughput import Subject, largest_packet, measure
from openmoat.lab.bench.tunnels import SUITE, TUNNELS
from openmoat.lab.namespaces import Lab
from openmoat.lab.networks import two_gateways
from openmoat.lab.processes import LabError, run, wait_until
from openmoat.lab.traffic import reaches

__all__ = ["main"]

BASELINE = "strongswan"
LINKS = {"veth as it is": True, "no super-packets outside": False}
UP_SECONDS = 20.0


def main() -> int:
    """Print the table and one JSON object."""
    rounds, seconds = (int(word) for word in (*sys.argv[1:3], "3", "3")[:2]) if len(sys.argv) > 2 else (3, 3)
    result: dict[str, Any] = {"schema": "moat.bench/1", **_machine(), "suite": SUITE, "links": {}}
    try:
        for name, offloads in LINKS.items():
            result["links"][name] = _compare(name, rounds, seconds, offloads=offloads)
    except LabError as error:
        _say(str(error))
        return 1
    _say(json.dumps(result))
    return 0


def _compare(links: str, rounds: int, seconds: int, *, offloads: bool) -> Mapping[str, Any]:
    with ExitStack() as stack:
        subjects = []
        for name, raise_tunnel in TUNNELS.items():
            lab = stack.enter_context(Lab(two_gateways(offloads=offloads)))
            raise_tunnel(lab)
            subject = Subject(name, lab, "pc-left", "pc-right", "10.2.0.10")
            wait_until(f"{name} is up", lambda s=subject: reaches(s.lab, s.source, s.target), UP_SECONDS)  # type: ignore[misc]
            subjects.append(subject)
        sizes = {subject.name: largest_packet(subject, "router", "left") for subject in subjects}
        rows = {name: dict(row.medians()) for name, row in measure(subjects, rounds=rounds, seconds=seconds).items()}
    _say(f"\n{links}: TCP, one flow, {rounds} rounds of {seconds} s; median")
    _say(f"   {'':14}{'Mbit/s':>9}{'ratio':>7}{'CPU s/Gbit':>12}{'ping ms':>9}{'largest packet outside':>24}")
    for name, row in rows.items():
        row["ratio"] = round(row["mbit_per_second"] / rows[BASELINE]["mbit_per_second"], 2)
        row["largest_packet"] = sizes[name]
        _say(
            f"   {name:14}{row['mbit_per_second']:>9.1f}{row['ratio']:>7.2f}{row['cpu_seconds_per_gigabit']:>12.2f}"
            f"{row['round_trip_ms']:>9.3f}{sizes[name]:>24}"
        )
    return rows


def _machine() -> Mapping[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    swan = run(["dpkg-query", "-W", "-f=${Version}", "charon-systemd"], check=False).stdout
    facts = {
        "processor": models[0] if models else platform.machine(),
        "processors": len(models),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openmoat": __version__,
        "strongswan": swan or "?",
    }
    _say(", ".join(f"{word} {fact}" for word, fact in facts.items()))
    return facts


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
