"""`make demo`: three moats and a portal on this machine, shown and checked; the last line is one JSON object.

KEEP=1 in the environment leaves the lab up and prints how to look around. Exit code 0 only if every check holds.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from openmoat_lab.captures import judge
from openmoat_lab.homes import INSIDE, LETTERS, OFFICE, OFFICE6, OUTSIDE, PORTAL, Homes, pc, pc6
from openmoat_lab.namespaces import Capture, Lab, stop_captures
from openmoat_lab.networks import DSL_MTU, HOMES
from openmoat_lab.processes import LabError, end_in_order, wait_until
from openmoat_lab.traffic import Place, numbered, ping, probe, reaches, transfer

__all__ = ["Demo", "main"]

KEPT_NAME = "demo"
OCTETS = 10_000_000
RATE = 500
UP_SECONDS = 20.0
REKEY_SECONDS = 25.0
ROUND_TRIPS = 20
MUST_BE_ZERO = ("unknownspi", "nopolicy", "replayed", "badicv")
"""Reasons for which a working tunnel drops no packet, even while it is rekeyed; compared without case and punctuation."""


def say(text: str = "") -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Demo:
    """The demo, step by step. Each step prints what it does, keeps its figures and records what is wrong."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.homes = Homes.install(lab, hasty="a")
        self.figures: dict[str, Any] = {}
        self.failures: list[str] = []
        self.captures: dict[str, Capture] = {}

    def check(self, holds: bool, text: str) -> None:
        """Record `text` as a failure unless `holds`."""
        if not holds:
            self.failures.append(text)
            say(f"   FAILED: {text}")

    def play(self) -> None:
        """All steps in order; the first that cannot go on ends the demo."""
        acts: tuple[tuple[str, Callable[[], None]], ...] = (
            ("The round trip without a tunnel", self.without_tunnel),
            ("Captures of every frame on both sides of the ISP, then moatd on the portal and the moats", self.start),
            ("Ping between the homes and the office, IPv4 and IPv6", self.pings),
            ("A PC whose packets have 1500 octets and DF, behind a line of 1492", self.large_packets),
            (f"{OCTETS // 1_000_000} MB each way, compared by checksum", self.transfers),
            (f"{RATE} numbered packets a second each way while all keys are changed", self.rekeys),
            ("moatd stops; what was seen outside", self.outside),
        )
        for number, (title, act) in enumerate(acts, start=1):
            say(f"\n{number}. {title}")
            try:
                act()
            except LabError as error:
                self.check(False, f"{title}: {error}")
                break

    def without_tunnel(self) -> None:
        """Before anything is protected, the PC reaches the office through the ISP unencrypted."""
        trip = ping(self.lab, "pc-a", OFFICE.address, count=ROUND_TRIPS)
        self.figures["round_trip_ms"] = {"without": trip.median}
        say(f"   pc-a to office unencrypted: {trip.median:.3f} ms (median of {trip.received})")

    def start(self) -> None:
        """Captures start first, so that they see the first packet of moatd."""
        self.captures = {f"{host}:{end}": self.lab.capture(host, end) for host, end in OUTSIDE}
        self.homes.portal.start()
        seconds = {}
        for letter, moat in self.homes.moats.items():
            begun = time.monotonic()
            moat.start()
            for target in (OFFICE, OFFICE6):
                wait_until(f"pc-{letter} reaches {target.address}", self._reach(letter, target), UP_SECONDS)
            seconds[f"moat-{letter}"] = round(time.monotonic() - begun, 2)
            say(f"   pc-{letter} reaches the office {seconds[f'moat-{letter}']:.1f} s after moatd was started")
        self.figures["up_seconds"] = seconds

    def _reach(self, letter: str, target: Place) -> Callable[[], bool]:
        return lambda: reaches(self.lab, f"pc-{letter}", target.address)

    def pings(self) -> None:
        """Both families, both directions."""
        rows = {}
        for letter in LETTERS:
            for source, target in ((pc(letter), OFFICE), (pc6(letter), OFFICE6), (OFFICE, pc(letter))):
                trip = ping(self.lab, source.host, target.address)
                rows[f"{source.host} to {target.address}"] = trip.median
                self.check(trip.received == trip.sent, f"ping {source.host} to {target.address}: {trip}")
                say(f"   {source.host:7} to {target.address:13} {trip.received} of {trip.sent}, {trip.median:.3f} ms")
        trip = ping(self.lab, "pc-a", OFFICE.address, count=ROUND_TRIPS)
        self.figures["round_trip_ms"]["with"] = trip.median
        self.figures["ping_ms"] = rows

    def large_packets(self) -> None:
        """A packet that does not fit arrives, or its sender gets an ICMP error; silence would be a black hole."""
        answer = probe(self.lab, pc("a"), OFFICE, 1500)
        last = answer["answers"][-1]
        self.figures["packet_of_1500"] = dict(answer)
        has_answer = last == "echoed whole" or (last == "Message too long" and answer["path_mtu"] < DSL_MTU)
        self.check(has_answer, f"a packet of 1500 octets with DF: {answer['answers']}")
        say(f"   UDP, 1500 octets, DF: {last}; the PC now uses {answer['path_mtu']} octets for the office")

    def transfers(self) -> None:
        """TCP with path MTU discovery, each way, every home."""
        rows = {}
        for letter in LETTERS:
            for source, target in ((pc(letter), OFFICE), (OFFICE, pc(letter))):
                done = transfer(self.lab, source, target, OCTETS)
                rows[f"{source.host} to {target.host}"] = asdict(done)
                say(
                    f"   {source.host:7} to {target.host:7} arrived whole in {done.seconds:.2f} s "
                    f"({done.bits_per_second / 1e6:.0f} Mbit/s, segments of {done.segment} octets)"
                )
        self.figures["transfers"] = rows

    def rekeys(self) -> None:
        """Home a has lifetimes of seconds: wait until its IKE SA and its Child SA have been replaced."""
        moat = self.homes.moats["a"]
        ike, children = moat.spis("office")
        before = {daemon.host: daemon.drops() for daemon in self.homes.all()}
        with numbered(self.lab, pc("a"), OFFICE, RATE) as stream:
            begun = time.monotonic()
            wait_until("the Child SA is rekeyed", lambda: moat.spis("office")[1].isdisjoint(children), REKEY_SECONDS)
            say(f"   child rekey seen after {time.monotonic() - begun:.1f} s")
            wait_until("the IKE SA is rekeyed", lambda: moat.spis("office")[0].isdisjoint(ike), REKEY_SECONDS)
            say(f"   IKE rekey seen after {time.monotonic() - begun:.1f} s")
            time.sleep(1)
            results = dict(zip(("pc-a", "office"), stream.stop(), strict=True))
        for host, got in results.items():
            self.check(got.missing == 0, f"{host}: {got.missing} of {got.expected} numbered packets are missing")
            say(f"   {host:7} received {got.received} of {got.expected}, longest gap {got.longest_gap * 1000:.0f} ms")
        self.figures["numbered"] = {host: asdict(got) for host, got in results.items()}
        self._drops(before)

    def _drops(self, before: Mapping[str, Mapping[str, int]]) -> None:
        drops = {}
        for daemon in self.homes.all():
            counts = {name: count - before[daemon.host].get(name, 0) for name, count in daemon.drops().items()}
            drops[daemon.host] = {name: count for name, count in counts.items() if count}
        self.figures["drops"] = drops
        for host, counts in drops.items():
            for name, count in counts.items():
                word = "".join(letter for letter in name.lower() if letter.isalnum())
                self.check(word not in MUST_BE_ZERO, f"{host}: {count} packets were dropped: {name}")
        say(f"   drops on the way: {', '.join(f'{h}: {c}' for h, c in drops.items() if c) or 'none'}")

    def outside(self) -> None:
        """End the daemons while PCs still try, then judge every frame of the captures."""
        if os.environ.get("KEEP") != "1":
            for daemon in reversed(self.homes.all()):
                code = daemon.stop()
                self.check(code == 0, f"moatd on {daemon.host} ended with exit code {code}")
            for letter in LETTERS:
                trip = ping(self.lab, f"pc-{letter}", OFFICE.address, count=2)
                self.check(trip.received == 0, f"pc-{letter} reaches the office without a tunnel")
        self.figures["captures"] = {}
        for place, file in zip(self.captures, stop_captures(list(self.captures.values())), strict=True):
            verdict = judge(file, INSIDE)
            self.figures["captures"][place] = {
                "frames": verdict.frames, "kinds": dict(verdict.kinds), "in_clear": verdict.leaks,
            }  # fmt: skip
            say(f"   {place:16} {verdict}")
            for finding in verdict.findings[:3]:
                say(f"      frame {finding.frame}: {finding.text}")
            self.check(verdict.leaks == 0, f"{place}: {verdict.leaks} frames in cleartext")
            self.check(verdict.frames > 0, f"{place}: the capture is empty")

    def summary(self, seconds: float) -> None:
        """The results in short."""
        trips = self.figures.get("round_trip_ms", {})
        say("\nSummary")
        for letter, up in self.figures.get("up_seconds", {}).items():
            say(f"   {letter}: up {up:.1f} s after its start")
        for name, row in self.figures.get("transfers", {}).items():
            say(f"   {name}: {row['bits_per_second'] / 1e6:.0f} Mbit/s, checksums equal")
        for host, row in self.figures.get("numbered", {}).items():
            say(f"   {host}: {row['missing']} of {row['expected']} numbered packets missing across both rekeys")
        if "with" in trips:
            say(f"   round trip: {trips['with']:.3f} ms through the tunnel, {trips['without']:.3f} ms without")
        leaks = sum(row["in_clear"] for row in self.figures.get("captures", {}).values())
        if "captures" in self.figures:
            say(f"   frames in cleartext outside: {leaks}")
        for failure in self.failures:
            say(f"   FAILED: {failure}")
        say(f"   {'all checks passed' if not self.failures else 'FAILED'}, {seconds:.0f} s")


def main() -> int:
    """Raise the lab, run the demo, take the lab down. Returns the exit code."""
    end_in_order()
    keep = os.environ.get("KEEP") == "1"
    begun = time.monotonic()
    result: dict[str, Any] = {"schema": "moat.demo/1", "ok": False}
    try:
        result |= _show(Lab(HOMES, KEPT_NAME if keep else None), begun, keep=keep)
    except LabError as error:
        say(f"\n{error}")
        result["failures"] = [str(error)]
    except (KeyboardInterrupt, SystemExit):
        result["failures"] = ["interrupted"]
    result["seconds"] = round(time.monotonic() - begun, 1)
    say(json.dumps(result))
    return 0 if result["ok"] else 1


def _show(lab: Lab, begun: float, *, keep: bool) -> Mapping[str, Any]:
    say("Two homes behind one NATing ISP (1492), a cabin on IPv6, a portal with an office: in network namespaces here.")
    with lab:
        demo = Demo(lab)
        demo.play()
        demo.summary(time.monotonic() - begun)
        if demo.failures:
            for daemon in demo.homes.all():
                say(f"\n--- the end of the log of moatd on {daemon.host}\n{daemon.last_words()}")
        if keep:
            lab.keep()
            _say_how_to_look(lab, demo)
    return {"ok": not demo.failures, "failures": demo.failures, **demo.figures}


def _say_how_to_look(lab: Lab, demo: Demo) -> None:
    status = demo.homes.moats["a"].command("status")
    say("\nThe lab is still up. Look around:")
    say(f"   {status[0]} lab exec {lab.name} pc-a -- ping {OFFICE.address}")
    say(f"   {' '.join(status)}")
    say(f"   {status[0]} lab exec {lab.name} isp -- tcpdump -n -i wan host {PORTAL}")
    say(f"   logs, captures, keys for Wireshark: {lab.directory}")
    say(f"End it: {status[0]} lab down {lab.name}")


if __name__ == "__main__":
    sys.exit(main())
