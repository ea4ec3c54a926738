"""`make soak`: a flood of numbered packets through two moats that rekey every few seconds; each packet is accounted for.

Packets sent less packets received is the sum of the named counters of both kernels' stacks and both engines, exactly; and
the daemons' memory does not grow. The links carry each packet by itself (no super-packets), since a kernel counts a lost
super-packet as one.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from openmoat_lab import flood
from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
from openmoat_lab.peers.moatd import Moatd, Table
from openmoat_lab.processes import LabError, Process, end_in_order, wait_until
from openmoat_lab.traffic import reaches
from openmoat_lab.usage import resident_octets

__all__ = ["Account", "main", "soak"]

SECONDS = 600.0
SIZE = 1100
"""Octets of UDP payload: fits the smallest outer packets, with which a tunnel starts, so that no packet is divided."""
CHILD_REKEY_SECONDS = 4.0
IKE_REKEY_SECONDS = 25.0
LOOK_SECONDS = 2.0
MAX_GROWTH = 4 << 20
"""Octets by which a daemon's resident memory may be larger in the last quarter than in the second."""
WARM_UP_PART = 4
UP_SECONDS = 20.0
PSK = b"a secret between two gateways"
SUITE = "aes128gcm16-x25519"
PROGRAM = (sys.executable, "-I", str(Path(flood.__file__)))
FLOWS = (("pc-left", "pc-right", "10.2.0.10", 5011), ("pc-right", "pc-left", "10.1.0.10", 5012))
ENDS = (
    ("right", "right.example", "198.51.100.2", "10.2.0.0/24"),
    ("left", "left.example", "192.0.2.2", "10.1.0.0/24"),
)
STACK_COUNTERS: Mapping[str, Sequence[str]] = {
    "Ip": ("InHdrErrors", "InAddrErrors", "InDiscards", "OutDiscards", "OutNoRoutes", "ReasmFails",
           "FragFails"),
    "Udp": ("NoPorts", "InCsumErrors", "RcvbufErrors", "MemErrors"),
}  # fmt: skip
"""Of /proc/net/snmp: packets that a stack has dropped. (InUnknownProtos counts those of full raw sockets once more.)"""
NOT_PACKETS = frozenset({"noise-full", "not-unicast", "journal_untold", "moatd_faults"})
"""Counters of `moat status` that count no packet of a flow; nor do those of IKE."""


@dataclass(slots=True)
class Account:
    """What became of all packets, and of the memory."""

    sent: int = 0
    received: int = 0
    changed: int = 0
    disordered: int = 0
    rekeys: int = 0
    seconds: float = 0.0
    drops: Counter[str] = field(default_factory=Counter)
    """By the name of the counter."""
    resident: dict[str, list[int]] = field(default_factory=dict)
    """Octets of each daemon, at each look."""

    @property
    def unexplained(self) -> int:
        """Packets that are missing and not counted as dropped; if negative, packets that are counted and not missing."""
        return self.sent - self.received - self.drops.total()

    def growth(self, host: str) -> int:
        """Octets between the medians of the second and the last quarter."""
        looks = self.resident[host]
        part = max(1, len(looks) // WARM_UP_PART)
        return round(statistics.median(looks[-part:]) - statistics.median(looks[part : 2 * part]))

    def faults(self) -> list[str]:
        """What is wrong, in words."""
        least = int(self.seconds / (2 * CHILD_REKEY_SECONDS))
        found = {
            f"{self.unexplained} packets are missing and counted nowhere": self.unexplained != 0,
            f"{self.changed} packets arrived changed": self.changed,
            f"{self.disordered} packets were repeated or out of order": self.disordered,
            f"{self.rekeys} rekeys, {least} at least were wanted": self.rekeys < least,
            "not one packet arrived": self.received == 0,
        }
        grown = {host: self.growth(host) for host in self.resident}
        found |= {
            f"moatd on {host} has grown by {octets} octets": octets > MAX_GROWTH for host, octets in grown.items()
        }
        return [text for text, is_so in found.items() if is_so]


def soak(seconds: float, rate: float = 0.0, *, encapsulates: bool = True) -> Account:
    """Raise two moats, flood them both ways for `seconds` with `rate` packets per second each way, and account for all."""
    with Lab(two_gateways(offloads=False)) as lab:
        moats = [_moat(lab, row, peer, encapsulates) for row, peer in (ENDS, ENDS[::-1])]
        for moat in moats:
            moat.start()
        for source, _, target, _ in FLOWS:
            wait_until(f"{source} reaches {target}", partial(reaches, lab, source, target), UP_SECONDS)
        before = _drops(lab, moats)
        account = Account(resident={moat.host: [] for moat in moats})
        takers = [lab.spawn(sink, *PROGRAM, "take", target, str(port), str(SIZE), name=f"take-{port}")
                  for _, sink, target, port in FLOWS]  # fmt: skip
        for taker in takers:
            taker.wait_for_output("listening")
        senders = [lab.spawn(source, *PROGRAM, "send", target, str(port), str(SIZE), str(rate), name=f"send-{port}")
                   for source, _, target, port in FLOWS]  # fmt: skip
        _watch(account, moats, seconds)
        for answer in _end(senders, 10.0):
            account.sent += answer["sent"]
            account.seconds = max(account.seconds, answer["seconds"])
        time.sleep(flood.LINGER_SECONDS)
        for answer in _end(takers, 60.0):
            account.received += answer["received"]
            account.changed += answer["changed"]
            account.disordered += answer["disordered"]
        account.drops = _drops(lab, moats) - before
        return account


def _moat(lab: Lab, row: tuple[str, str, str, str], peer: tuple[str, str, str, str], encapsulates: bool) -> Moatd:
    host, own, _, net = row
    _, other, address, remote = peer
    begins = host == "left"
    lifetimes: Table = {"rekey-after": f"{CHILD_REKEY_SECONDS:g}s", "hard": "60s"}
    tables: Table = {
        "soak": {
            "psk": "psk",
            "force-encapsulation": encapsulates,
            "lifetimes": {"rekey-after": f"{IKE_REKEY_SECONDS:g}s"},
            "local": {"identity": own},
            "peer": {"identity": other, **({"addresses": [address]} if begins else {})},
            "children": {
                "net": {
                    "local": [net], "remote": [remote], "proposals": [SUITE], "lifetimes": lifetimes,
                    "start": "auto" if begins else "none",
                }
            },
        }
    }  # fmt: skip
    return Moatd(lab, host, tables, {"psk": PSK}, {"log-level": "warning", "key-log": ""})


def _watch(account: Account, moats: Sequence[Moatd], seconds: float) -> None:
    """Watch memory and SAs until the time is over."""
    seen = moats[0].spis("soak")[1]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(LOOK_SECONDS, max(0.0, end - time.monotonic())))
        for moat in moats:
            account.resident[moat.host].append(resident_octets(moat.pid))
        now = moats[0].spis("soak")[1]
        account.rekeys += len(now - seen)
        seen |= now


def _end(processes: Sequence[Process], seconds: float) -> list[dict[str, int]]:
    answers = []
    for process in processes:
        process.stop(seconds=seconds)
        answers.append(json.loads(process.output().rstrip().rpartition("\n")[2]))
    return answers


def _drops(lab: Lab, moats: Sequence[Moatd]) -> Counter[str]:
    """Everything that drops a packet, by name. A veth counts at its sender what the receiver's queue does not take."""
    found: Counter[str] = Counter()
    for host in (host.name for host in lab.topology.hosts):
        for interface, counters in lab.counters(host).items():
            found[f"{host}: {interface}: transmit queue"] += counters.sent_dropped
        for discipline in json.loads(lab.run(host, "tc", "-s", "-j", "qdisc", "show").stdout):
            if discipline.get("root"):
                found[f"{host}: {discipline['dev']}: queueing discipline"] += discipline["drops"]
        found.update({f"{host}: {name}": count for name, count in _stack(lab, host).items()})
    for moat in moats:
        counted = {
            name: n for name, n in moat.drops().items() if name not in NOT_PACKETS and not name.startswith("ike_")
        }
        found.update({f"{moat.host}: engine: {name}": count for name, count in counted.items()})
    return found


def _stack(lab: Lab, host: str) -> Counter[str]:
    lines = lab.run(host, "cat", "/proc/net/snmp").stdout.splitlines()
    found: Counter[str] = Counter()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        part, _, words = names.partition(": ")
        numbers = dict(zip(words.split(), values.partition(": ")[2].split(), strict=True))
        for name in STACK_COUNTERS.get(part, ()):
            found[f"{part}{name}"] += int(numbers.get(name, 0))
    # Drops of sockets of protocol 50 are only here.
    for line in lab.run(host, "cat", "/proc/net/raw").stdout.splitlines()[1:]:
        found["raw sockets"] += int(line.split()[-1])
    return found


def main() -> int:
    """Run the soak test and print the account; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rate", type=float, default=0.0, help="packets a second each way; 0: as fast as they go")
    parser.add_argument("--raw", action="store_true", help="ESP as protocol 50 instead of in UDP")
    words = parser.parse_args()
    end_in_order()
    try:
        account = soak(words.seconds, words.rate, encapsulates=not words.raw)
    except LabError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    lines = [
        f"{account.seconds:.0f} s, {account.sent} packets of {SIZE} octets sent, {account.received} received"
        f" ({account.received / account.seconds:.0f} a second), {account.rekeys} rekeys",
        *(f"  {count:>12}  {name}" for name, count in sorted(account.drops.items())),
        f"  {account.unexplained:>12}  missing and counted nowhere",
        *(f"moatd on {host}: {max(looks) >> 10} KiB at most, {account.growth(host) >> 10:+} KiB from the second to the"
          " last quarter" for host, looks in account.resident.items()),
    ]  # fmt: skip
    faults = account.faults()
    sys.stdout.write("\n".join([*lines, *(f"FAULT: {fault}" for fault in faults)]) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
