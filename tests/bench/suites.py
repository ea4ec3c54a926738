"""Every suite in both encapsulations and over both families, then one suite with each offload off: what a packet costs.

Run it as root, as `PYTHONPATH=tests python tests/bench/suites.py [ROUNDS]`. Two engines with fixed keys in two namespaces,
joined by veth as it is; rows are measured in turn, the median counts. The time of a packet is that of the thread that
seals it, or opens it, with the system calls that it makes, so that it can be compared where the machine does other things.
"""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from interop.engines import GCM, Gateway, Tunnel, connect, disconnect, gateways
from openmoat.crypto.suites import ENCRYPTIONS, INTEGRITIES, Aead, EspSuite
from openmoat.dataplane.backend import Encapsulation
from openmoat.dataplane.userspace import Offloads
from openmoat.mtu.overhead import Overhead
from openmoat.mtu.plan import MtuPlan, PathMtu, Rung, compile_plan

ROUNDS = 3
SECONDS = 1
PORT = "5201"
PATH_MTU = 1500
INTEGRITY = {"sha256", "sha384", "sha512"}


def suites() -> Iterator[tuple[str, EspSuite]]:
    """What a configuration may ask for."""
    for encryption in ENCRYPTIONS:
        if isinstance(encryption, Aead):
            yield encryption.name, EspSuite(encryption, None)
        else:
            for integrity in INTEGRITIES:
                if integrity.name in INTEGRITY:
                    yield f"{encryption.name}-{integrity.name}", EspSuite(encryption, integrity)


def plan(suite: EspSuite, carriage: Encapsulation, version: int) -> MtuPlan:
    """As the daemon would compile it for links of Ethernet."""
    overhead = Overhead(suite, version, carriage is Encapsulation.UDP)
    return compile_plan(overhead=overhead, path=PathMtu(PATH_MTU), rungs=frozenset(Rung))


def thread_nanoseconds() -> Mapping[int, tuple[str, int]]:
    """CPU time of our packet threads, by their number."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        name = (task / "comm").read_text().strip()
        if name.startswith("moat-"):
            found[int(task.name)] = name, int((task / "schedstat").read_text().split()[0])
    return found


@contextmanager
def serving(right: Gateway) -> Iterator[None]:
    server = subprocess.Popen(
        ["ip", "netns", "exec", right.host.name, "iperf3", "-s", "-1", "--forceflush", "-p", PORT],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    for line in server.stdout:
        if "Server listening" in line:
            break
    try:
        yield
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def measure(left: Gateway, right: Gateway, tunnel: Tunnel) -> tuple[float, float, float]:
    """Mbit/s, and nanoseconds of a packet on its way out and in."""
    handles = connect(left, right, tunnel)
    with serving(right):
        before = thread_nanoseconds()
        said = left.host.run(f"iperf3 -c 10.2.0.1 -B 10.1.0.1 -p {PORT} -J -t {SECONDS}")
        after = thread_nanoseconds()
    packets = left.counters().outbound_packets
    disconnect((left, handles[0]), (right, handles[1]))
    # The threads of the first engine were started first.
    spent = {way: [after[n][1] - before[n][1] for n in sorted(after) if after[n][0].startswith(way)]
             for way in ("moat-out", "moat-in")}  # fmt: skip
    half = len(spent["moat-out"]) // 2
    out, back = sum(spent["moat-out"][:half]), sum(spent["moat-in"][-half:])
    rate = json.loads(said)["end"]["sum_received"]["bits_per_second"] / 1e6
    return rate, out / packets, back / packets


Rows = dict[tuple[str, str], list[tuple[float, float, float]]]


def all_suites(rows: Rows) -> None:
    """One round of all suites in every carriage."""
    for name, suite in suites():
        for carriage in Encapsulation:
            for version in (4, 6):
                sizes = plan(suite, carriage, version)
                tunnel = Tunnel(suite=suite, encapsulation=carriage, outside=version, plan=sizes)
                with gateways() as (left, right):
                    rows[name, f"{carriage.value} v{version}"].append(measure(left, right, tunnel))


def each_offload(rows: Rows) -> None:
    """One round without each offload."""
    names = [field.name for field in fields(Offloads)]
    off = {"nothing": (), **{name.replace("_", "-"): (name,) for name in names}, "all": names}
    for row, missing in off.items():
        tunnel = Tunnel(plan=plan(GCM, Encapsulation.UDP, 4))
        with gateways(Offloads(**dict.fromkeys(missing, False))) as (left, right):
            rows["without", row].append(measure(left, right, tunnel))


def main() -> None:
    """Print both tables as one."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    results: Rows = defaultdict(list)
    for _ in range(rounds):
        all_suites(results)
        each_offload(results)
    sys.stdout.write("| suite | outside | Mbit/s | ns out | ns in |\n|---|---|---:|---:|---:|\n")
    for (name, outside), rows in results.items():
        rate, out, back = (statistics.median(column) for column in zip(*rows, strict=True))
        sys.stdout.write(f"| `{name}` | {outside} | {rate:.0f} | {out:.0f} | {back:.0f} |\n")


if __name__ == "__main__":
    main()
