"""What `moat` shows to people: 80 columns, and of everything that is not well why, and the next command. Pure text.

Nothing parses this: programs take `--json`.
"""

import datetime as dt
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from openmoat.control.messages import (
    Candidate,
    ChildStatus,
    Connections,
    ConnectionState,
    ConnectionStatus,
    Counters,
    Entry,
    Failure,
    IkeStatus,
    Loop,
    PeerStatus,
    Reloaded,
    Status,
)
from openmoat.control.reasons import REASONS, Reason
from openmoat.control.remedies import Remedy

__all__ = [
    "MAX_SHOWN",
    "WIDTH",
    "amount",
    "connection_screen",
    "connections_screen",
    "entry_line",
    "failure_lines",
    "reloaded_screen",
    "span",
    "status_screen",
]

WIDTH = 80
MAX_SHOWN = 40
"""Connections of one `moat status`; those that are not well come first."""
_INDENT = 11
_ORDER = {
    ConnectionState.DOWN: 0,
    ConnectionState.CONNECTING: 1,
    ConnectionState.STOPPED: 2,
    ConnectionState.WAITING: 3,
    ConnectionState.REKEYING: 4,
    ConnectionState.UP: 5,
}


def status_screen(status: Status) -> str:
    """`moat status`."""
    lines = [f"moatd {status.version}, running for {span(status.now - status.since)}; {_census(status.connections)}"]
    for warning in status.warnings:
        lines += _field("warning", warning)
    lines += _offloads(status.offloads)
    lines += _loop(status.loop)
    shown = sorted(status.connections, key=lambda c: (_ORDER[c.state], c.name))[:MAX_SHOWN]
    for connection in shown:
        lines += ["", *_summary(connection, status.now)]
    if len(shown) < len(status.connections):
        lines += ["", f"and {len(status.connections) - len(shown)} more: moat connections"]
    if status.unknown_peers:
        lines += ["", "refused unknown peers (newest first):"]
        for failure in status.unknown_peers[:3]:
            lines += _wrap(f"{failure.peer}, {_ago(failure.at, status.now)}: {failure.summary}", "  ", "    ")
            for candidate in failure.candidates[:1]:
                lines += _wrap(f"closest: {_parting(candidate)}", "    ", "      ")
    return "\n".join(lines)


def _offloads(offloads: Mapping[str, str]) -> list[str]:
    """What the kernel does not do for the engine, with the reason; nothing where it does everything."""
    off = [f"{name} is {state}" for name, state in offloads.items() if state != "on"]
    labels = ["offloads", *[""] * len(off)]
    return [line for label, words in zip(labels, off, strict=False) for line in _field(label, words)]


def _loop(loop: Loop) -> list[str]:
    """Said where it is not as it should be; all of it is in the JSON."""
    if not loop.too_long:
        return []
    longest = f"the longest {loop.longest * 1000:.0f} ms of CPU time"
    return _field("turns", f"{loop.too_long} of {loop.count} took too long, {longest}")


def connection_screen(connection: ConnectionStatus, now: float) -> str:
    """`moat status CONNECTION`."""
    lines = _wrap(f"{connection.name}: {_state(connection, now)}, since {_moment(connection.since)}", "", "  ")
    lines += _why(connection, now, is_detail=True)
    lines += _field("we", connection.local)
    addresses = f" at {', '.join(connection.addresses)}" if connection.addresses else ""
    lines += _field("peer", f"{connection.remote}{addresses}")
    if connection.is_template:
        lines += _field("", f"a template; peers that are up: {_here(connection)}")
    lines += _group(connection, now)
    for peer in connection.peers[:MAX_SHOWN]:
        lines += _peer_lines(peer, connection, now)
    if connection.source:
        lines += _field("file", connection.source)
    if connection.failure:
        lines += ["", *failure_lines(connection.failure, now)]
    return "\n".join(lines)


def connections_screen(connections: Connections, now: float) -> str:
    """`moat connections`: one line each."""
    rows = [("CONNECTION", "STATE", "SINCE", "PEER")]
    rows += [(c.name, c.state.value, span(now - c.since), c.remote) for c in connections.connections]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
        lines.append("  ".join([*cells, row[3]]).rstrip())
    return "\n".join(_cut(line) for line in lines)


def failure_lines(failure: Failure, now: float) -> list[str]:
    """The explanation of a failed negotiation."""
    lines = _wrap(f"last failure, {_ago(failure.at, now)}, with {failure.peer}: {failure.summary}", "", "  ")
    for received in failure.received:
        lines += _wrap(f"received: {received}", "  ", "    ")
    for candidate in failure.candidates:
        lines += _wrap(f"closest: {_parting(candidate)}", "  ", "    ")
    if failure.advice:
        lines += _wrap(f"advice: {failure.advice}", "  ", "    ")
    return lines


def reloaded_screen(reloaded: Reloaded) -> str:
    """`moat reload`."""
    lines = []
    for word, names in (("added", reloaded.added), ("removed", reloaded.removed)):
        if names:
            lines += _wrap(f"{word}: {', '.join(names)}", "", "  ")
    for name, need in reloaded.changed.items():
        lines += _wrap(f"changed: {name} ({need})", "", "  ")
    for name, reason in reloaded.refused.items():
        lines += _wrap(f"refused: {name}: {reason}", "", "  ")
    if reloaded.restart_needed:
        lines += _wrap(f"waits for the next start: {', '.join(reloaded.restart_needed)}", "", "  ")
    lines.append(f"unchanged: {reloaded.unchanged}")
    return "\n".join(lines)


def entry_line(entry: Entry) -> str:
    """One line of `moat log` and `moat events`; its length is that of what it says."""
    fields = "".join(f" {name}={value}" for name, value in entry.fields.items())
    mark = "" if entry.level in {"info", "debug"} else f"{entry.level}: "
    return f"{_moment(entry.at)} {mark}{entry.text}{fields}"


def span(seconds: float) -> str:
    """A length of time in its two greatest units at most: `12 s`, `5 min`, `2 h 10 min`, `3 d 4 h`."""
    total = max(0, int(seconds))
    parts = [(total // 86400, "d"), (total // 3600 % 24, "h"), (total // 60 % 60, "min"), (total % 60, "s")]
    first = next((place for place, (number, _) in enumerate(parts) if number), 3)
    # Seconds beside minutes, and minutes beside days, are noise.
    keep = parts[first : first + 1] if first >= 2 else parts[first : first + 2]
    return " ".join(f"{number} {unit}" for number, unit in keep if number or len(keep) == 1)


def amount(octets: int) -> str:
    """Octets with a unit: `0 B`, `1.2 MB`."""
    if octets < 1000:
        return f"{octets} B"
    value = float(octets)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95 or unit == "PB":
            break
    return f"{value:.1f} {unit}"


def _parting(candidate: Candidate) -> str:
    """On which field a connection and the peer part."""
    if candidate.field == "none":
        return f"{candidate.connection}: everything that is known fits"
    return f"{candidate.connection}: {candidate.field}: ours {candidate.ours}; received {candidate.received}"


def _census(connections: Sequence[ConnectionStatus]) -> str:
    if not connections:
        return "no connections"
    counts = {state: sum(c.state is state for c in connections) for state in _ORDER}
    told = ", ".join(f"{counts[state]} {state.value}" for state in reversed(_ORDER) if counts[state])
    return f"{len(connections)} connection{'s' if len(connections) != 1 else ''}: {told}"


def _summary(connection: ConnectionStatus, now: float) -> Iterator[str]:
    yield from _wrap(f"{connection.name}: {_state(connection, now)}", "", "  ")
    yield from _why(connection, now)
    for peer in connection.peers[:1] if not connection.is_template else []:
        at = f" at {peer.ike.path.rpartition(' - ')[2]}" if peer.ike else ""
        yield from _field("peer", f"{peer.identity}{at}")
        for child in peer.children:
            yield from _field(child.name, f"{child.local} = {child.remote}")
        yield from _field("", _traffic(peer.counters))
    if connection.is_template:
        yield from _field("peers", f"{_here(connection)} up, matching {connection.remote}")
    yield from _group(connection, now)


def _here(connection: ConnectionStatus) -> int:
    """How many peers of a template are up; others are listed for their counters."""
    return sum(peer.ike is not None for peer in connection.peers)


def _group(connection: ConnectionStatus, now: float) -> list[str]:
    """Which of the alternatives carries, and why that one."""
    group = connection.group
    if group is None:
        return []
    since = f" (for {span(now - group.since)})" if group.since is not None else ""
    return _field("group", f"{group.name}, order {group.order}: {group.text}{since}")


def _state(connection: ConnectionStatus, now: float) -> str:
    return f"{connection.state.value} for {span(now - connection.since)}"


def _why(connection: ConnectionStatus, now: float, *, is_detail: bool = False) -> Iterator[str]:
    if connection.reason is None:
        return
    if connection.is_template and connection.reason is Reason.NOT_ASKED:
        return  # its peers come by themselves, and there is nothing to do
    if not connection.addresses and connection.reason is Reason.NOT_ASKED:
        yield from _field("why", "waiting for the peer: it has no address here, so it must start the connection")
        yield from _field("next", f"at the peer: {Remedy.STATUS_OF_ALL}")
        return
    row = REASONS[connection.reason]
    yield from _field("why", row.sentence)
    if connection.text:
        yield from _field("", connection.text)
    if connection.retry_at is not None and connection.retry_at > now:
        yield from _field("again", f"in {span(connection.retry_at - now)}")
    hint = row.hint
    if is_detail:  # without the command that shows this very screen
        hint = hint.removeprefix(Remedy.STATUS).removeprefix("; ")
    if hint:
        yield from _field("next", hint.format(name=connection.name))


def _peer_lines(peer: PeerStatus, connection: ConnectionStatus, now: float) -> Iterator[str]:
    if connection.is_template:
        yield from ["", *_field("peer", peer.identity)]
    if peer.ike:
        yield from _ike_lines(peer.ike, now)
    elif peer.reason is not None:
        yield from _field("down", f"{_ago(peer.since, now)}: {REASONS[peer.reason].sentence}")
    for child in peer.children:
        yield from _child_lines(child, now)
    yield from _field("traffic", _traffic(peer.counters))
    last = [f"{word} {_ago(at, now)}" for word, at in (("in", peer.last_in), ("out", peer.last_out)) if at is not None]
    if last:
        yield from _field("", f"last packet {', '.join(last)}")


def _ike_lines(ike: IkeStatus, now: float) -> Iterator[str]:
    role = "initiator" if ike.is_initiator else "responder"
    nat = {(True, True): ", NAT at both ends", (True, False): ", we are behind NAT", (False, True): ", peer behind NAT"}
    yield from _field("path", ike.path + nat.get((ike.behind_nat, ike.peer_behind_nat), ""))
    yield from _field("IKE SA", f"{ike.spi} - {ike.peer_spi}, {role}, {ike.suite}")
    rekey = f"; rekey in {span(ike.rekey_at - now)}" if ike.rekey_at is not None else ""
    yield from _field("", f"we by {ike.own_method}, peer by {ike.peer_method}; since {_moment(ike.since)}{rekey}")


def _child_lines(child: ChildStatus, now: float) -> Iterator[str]:
    carried = "ESP in UDP" if child.encapsulation == "udp" else "ESP"
    rekeying = ", being rekeyed" if child.is_rekeying else ""
    yield from _field("child", f"{child.name}: {child.local} = {child.remote}")
    framing = ", AGGFRAG" * child.aggfrag + " without slices" * (child.aggfrag and not child.takes_slices)
    yield from _field("", f"{child.local_spi} - {child.remote_spi}, {carried}, {child.suite}{framing}")
    yield from _field("", f"for {span(now - child.since)}{rekeying}")


def _traffic(counters: Counters) -> str:
    return (
        f"in {counters.inbound_packets} packets, {amount(counters.inbound_octets)};"
        f" out {counters.outbound_packets} packets, {amount(counters.outbound_octets)}"
    )


def _field(label: str, text: str) -> list[str]:
    head = f"  {label}".ljust(_INDENT)
    return _wrap(text, head if head.endswith(" ") else head + "  ", " " * _INDENT)


def _wrap(text: str, first: str, rest: str) -> list[str]:
    """Lines of at most `WIDTH` columns; a word that is longer (a key, an identity) is cut rather than spill over."""
    lines = textwrap.wrap(
        _plain(text), WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=True
    )
    return lines or [first.rstrip()]


def _plain(text: str) -> str:
    """A peer can send anything: none of it may move the cursor or colour the screen."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _cut(line: str) -> str:
    line = _plain(line)
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."


def _ago(at: float, now: float) -> str:
    return f"{span(now - at)} ago"


def _moment(at: float) -> str:
    return dt.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
