"""nftables as a program: carries out transactions, reads our table back, and looks at foreign tables without touching them."""

import ipaddress
import json
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from openmoat.errors import SystemFault
from openmoat.system.elements import MAX_RANGES, change_elements
from openmoat.system.guard import NO_GUARD, SETS, Guard, elements_text
from openmoat.system.names import GUARD_TABLE
from openmoat.system.ranges import Range, RangesChange

__all__ = [
    "change_sets",
    "foreign_notes",
    "is_own_process",
    "parse_foreign",
    "parse_guard",
    "read_counters",
    "read_guard",
    "transact",
]

DEADLINE: Final = 30.0
"""Seconds for one nft process; a transaction with 10 000 elements takes a tenth of one."""
STAMP_WORDS: Final = "moatd guard, frame "
BEFORE_WORDS: Final = "before: "

Json = Mapping[str, Any]

_own_processes: deque[int] = deque(maxlen=64)
"""Ids of the last processes and threads that changed the guard, so that a watch tells our own transactions from those of others."""


def is_own_process(pid: int) -> bool:
    """Whether this was one of our own last runs of nft, or one of our threads that changed elements."""
    return pid in _own_processes


def change_sets(changes: Mapping[str, RangesChange]) -> int:
    """Change elements of the guard's sets in one transaction; answers the number of transactions, one or none.

    Raises `SystemFault`; then nothing has changed.
    """
    count = sum(len(change.gone) + len(change.new) for change in changes.values())
    if count > MAX_RANGES:
        transact(elements_text(changes))
    elif count:
        # The kernel tells watchers the thread that did it.
        _own_processes.append(threading.get_native_id())
        change_elements(changes)
    return 1 if count else 0


def transact(text: str) -> None:
    """Carry out one transaction: all of it or nothing. Raises `SystemFault` with nft's own words."""
    _nft(["-f", "-"], text)


def read_guard() -> Guard:
    """The guard that is in the kernel; `NO_GUARD` where there is none. Its kept networks and pairs are in its stamp only."""
    if _nft(["-j", "list", "tables", "inet"]).find(f'"{GUARD_TABLE}"') < 0:
        return NO_GUARD
    return parse_guard(json.loads(_nft(["-j", "list", "table", "inet", GUARD_TABLE])))


def read_counters() -> dict[str, int]:
    """Packets that the guard has stopped since its frame was made, by name: `clear_in`, `clear_out`."""
    if _nft(["-j", "list", "tables", "inet"]).find(f'"{GUARD_TABLE}"') < 0:
        return {}
    listed = json.loads(_nft(["-j", "list", "counters", "table", "inet", GUARD_TABLE]))
    return {row["name"]: row["packets"] for row in _rows(listed, "counter")}


def parse_guard(listed: Json) -> Guard:
    """The guard that `nft -j list table` tells of. What cannot be read has no stamp and will be replaced."""
    comments = [row.get("comment", "") for row in _rows(listed, "rule") if row.get("chain") == "about"]
    stamps = [comment.removeprefix(STAMP_WORDS) for comment in comments if comment.startswith(STAMP_WORDS)]
    restore = [comment.removeprefix(BEFORE_WORDS) for comment in comments if comment.startswith(BEFORE_WORDS)]
    sets = {name: frozenset[Range]() for name in SETS}
    for row in _rows(listed, "set"):
        if row["name"] in sets:
            sets[row["name"]] = frozenset(_range(element) for element in row.get("elem", ()))
    return Guard(device="", sets=sets, restore=tuple(restore), stamp=stamps[0] if stamps else "unknown")


def foreign_notes(device: str) -> list[str]:
    """What in the host's own firewall would catch tunnel traffic, each with the rule to add. Nothing is changed."""
    return parse_foreign(json.loads(_nft(["-j", "-t", "list", "ruleset"])), device)


def parse_foreign(listed: Json, device: str) -> list[str]:
    """See `foreign_notes`; works on what `nft -j -t list ruleset` tells."""
    rules: dict[tuple[str, str, str], list[Json]] = {}
    for row in _rows(listed, "rule"):
        rules.setdefault((row["family"], row["table"], row["chain"]), []).append(row)
    notes = []
    for chain in _rows(listed, "chain"):
        place = (chain["family"], chain["table"], chain["name"])
        if chain["table"] == GUARD_TABLE or chain["family"] not in ("ip", "ip6", "inet"):
            continue
        where = " ".join(place)
        hook, own_rules = chain.get("hook"), rules.get(place, [])
        if hook == "forward" and chain.get("policy") == "drop" and not _names_device(own_rules, device):
            notes.append(
                f"firewall: chain {where} drops what it does not know, and does not know {device}: packets of the tunnel are lost "
                f'there; add: nft insert rule {where} iifname "{device}" accept; nft insert rule {where} oifname "{device}" accept'
            )
        if hook == "postrouting" and _translates(own_rules, device):
            notes.append(
                f"firewall: chain {where} would give packets into the tunnel another source, which its selectors do not hold; "
                f'add: nft insert rule {where} oifname "{device}" accept'
            )
    return notes


def _nft(arguments: list[str], text: str | None = None) -> str:
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(["nft", *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except FileNotFoundError as error:
        raise SystemFault("firewall: nft is not installed; apt-get install nftables") from error
    with process:
        _own_processes.append(process.pid)
        try:
            output, complaint = process.communicate(text, timeout=DEADLINE)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise SystemFault(f"firewall: nft gave no answer in {DEADLINE:.0f} s") from error
    if process.returncode:
        words = (complaint.strip().splitlines() or ["no reason given"])[0]
        remedy = "; it needs CAP_NET_ADMIN" if "not permitted" in words else ""
        raise SystemFault(f"firewall: nft: {words}{remedy}")
    return output


def _rows(listed: Json, kind: str) -> Iterator[Json]:
    for row in listed.get("nftables", ()):
        if kind in row:
            yield row[kind]


def _range(element: Any) -> Range:
    match element:
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            network = ipaddress.ip_network((address, length))
            return int(network.network_address), int(network.broadcast_address)
        case {"range": [str(first), str(last)]}:
            return int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last))
    return int(ipaddress.ip_address(element)), int(ipaddress.ip_address(element))


def _devices(rule: Json, key: str) -> list[tuple[str, Any]]:
    """(operator, right side) of each comparison of an interface's name in a rule."""
    found = []
    for expression in rule.get("expr", ()):
        match expression:
            case {"match": {"op": str(operator), "left": {"meta": {"key": left}}, "right": right}} if left == key:
                found.append((operator, right))
    return found


def _names_device(rules: list[Json], device: str) -> bool:
    """Whether some rule takes packets out of or into the device, or any packet, past the policy."""
    for rule in rules:
        verdicts = [expression for expression in rule.get("expr", ()) if "accept" in expression]
        named = [right for key in ("iifname", "oifname") for _, right in _devices(rule, key)]
        if verdicts and (len(rule["expr"]) == len(verdicts) or any(_mentions(right, device) for right in named)):
            return True
    return False


def _mentions(right: Any, device: str) -> bool:
    match right:
        case {"set": list(members)}:
            return device in members
        case str(name):
            return name == device or (name.endswith("*") and device.startswith(name[:-1]))
    return False


def _translates(rules: list[Json], device: str) -> bool:
    """Whether source NAT comes before any rule that lets packets into the device pass as they are."""
    for rule in rules:
        named = _devices(rule, "oifname") + _devices(rule, "oif")
        fits = all((operator == "==") == _mentions(right, device) for operator, right in named)
        expressions = rule.get("expr", ())
        if fits and any(key in expression for expression in expressions for key in ("masquerade", "snat")):
            return True
        ends = any(key in expression for expression in expressions for key in ("accept", "return"))
        if fits and ends and len(expressions) == len(named) + 1:
            return False
    return False
