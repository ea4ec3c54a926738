"""`moat mtu`: sizes in use and how they were learned, and what ESP adds."""

import json
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from openmoat.cli.asking import asking
from openmoat.cli.common import (
    MAY_NOT_BE_UP,
    NEEDS_DAEMON,
    ConnectionName,
    ExitCode,
    Group,
    Integer,
    Number,
    end,
    fail,
    json_option,
)
from openmoat.control.messages import ChildSizes, ChildStatus, ConnectionStatus, OutsideSize, PeerStatus
from openmoat.control.remedies import Remedy
from openmoat.errors import ControlError, did_you_mean
from openmoat.mtu.explain import Explanation, Packet
from openmoat.mtu.explain import explain as explain_packet
from openmoat.mtu.overhead import IP_HEADER
from openmoat.mtu.plan import MAX_PACKET, MtuPlan, Rung
from openmoat.mtu.table import OUTER_SIZES, Row

__all__ = ["app", "sizes_lines", "table_screen"]

PASSAGE = {None: "IP fragments not tested", True: "IP fragments pass", False: "IP fragments are lost"}
LEARNED = {
    "base": "assumed, as for every path",
    "probe": "proved by a probe",
    "hint": "named by ICMP, and proved by a probe",
    "icmp": "named by ICMP, which is trusted",
}
MAX_SHOWN = 40
"""Connections of one `moat mtu`."""
POLL_SECONDS = 0.2
MIN_OUTER = 576
"""Octets, as the least `path-mtu` has: what every host of IPv4 takes (RFC 1122 3.3.2)."""
MAX_OUTER = 65_535


app = Group(name="mtu", help="Show and find out packet sizes.")


@app.command(
    exits=MAY_NOT_BE_UP,
    examples={"moat mtu": "all connections that are up", "moat mtu office": "one of them"},
)
@click.argument("connection", type=ConnectionName(), required=False, help="One connection; otherwise all that are up.")
@json_option
def show(connection: str | None, as_json: bool) -> None:
    """Show the packet sizes in use, and how they were learned.

    Also since when, and what happened to packets that did not fit.

    `moat mtu CONNECTION` is enough, unless its name is that of another command of this group.
    """
    # Where nobody knows the connection, the word may have been meant to be a command.
    with asking(as_json=as_json, note=_meant(connection)) as client:
        names = [connection] if connection is not None else [one.name for one in client.connections().connections]
        found = [client.connection(name) for name in names[:MAX_SHOWN]]
    if as_json:
        rows = [{"name": one.name, "peers": [peer_row(peer) for peer in one.peers]} for one in found]
        print(json.dumps({"schema": "moat.mtu/1", "connections": rows}))
    else:
        print("\n".join(line for one in found for line in sizes_lines(one, time.time())))
        if len(found) < len(names):
            print(f"and {len(names) - len(found)} more: moat mtu CONNECTION")
    if connection is not None:
        _end_if_not_up(found[0])


@app.command(exits=NEEDS_DAEMON, examples={"moat mtu probe office": "until the search is complete"})
@click.argument("connection", type=ConnectionName(), help="Name of a connection.")
@click.option("--wait", default=60.0, type=Number(min=0), metavar="SECONDS", help="Seconds to wait for the end.")
@json_option
def probe(connection: str, wait: float, as_json: bool) -> None:
    """Find the path MTU of a connection now.

    Larger sizes than the one in use are tried, otherwise that one is confirmed; then whether IP fragments pass.
    """
    with asking(as_json=as_json) as client:
        client.probe(connection)
        deadline, said = time.time() + wait, ""
        while True:
            found = client.connection(connection)
            paths = [peer.ike.outside for peer in found.peers if peer.ike is not None and peer.ike.outside is not None]
            text = "; ".join(progress(path) for path in paths)
            if text != said and not as_json:
                print(text, flush=True)
            said = text
            if time.time() >= deadline or not any(path.probing or path.probing_fragments for path in paths):
                break
            time.sleep(POLL_SECONDS)
    if as_json:
        rows = [{"name": found.name, "peers": [peer_row(peer) for peer in found.peers]}]
        print(json.dumps({"schema": "moat.mtu/1", "connections": rows}))
    else:
        print("\n".join(sizes_lines(found, time.time())))


def _meant(word: str | None) -> str:
    """The command of this group that a misspelt one may stand for."""
    meant = did_you_mean(word or "", app.commands, most=1)
    return meant.replace('mean "', 'mean "moat mtu ')


def progress(path: OutsideSize) -> str:
    """One path while it is probed."""
    if path.probing:
        return f"{path.size} octets in use, probing {path.probing}"
    if path.probing_fragments:
        return f"{path.size} octets in use, probing whether IP fragments pass"
    return f"{path.size} octets, {PASSAGE[path.fragments_pass]}"


def peer_row(peer: PeerStatus) -> dict[str, Any]:
    """What programs are told of one peer."""
    from msgspec import to_builtins

    outside = peer.ike.outside if peer.ike is not None else None
    children = [
        {"name": child.name, "local_spi": child.local_spi, "aggfrag": child.aggfrag, **to_builtins(child.sizes)}
        for child in peer.children
        if child.sizes is not None
    ]
    return {
        "identity": peer.identity,
        "outside": to_builtins(outside) if outside is not None else None,
        "children": children,
    }


def sizes_lines(connection: ConnectionStatus, now: float) -> Iterator[str]:
    """One connection for people."""
    for peer in connection.peers:
        if peer.ike is None:
            continue
        yield f"{connection.name}: {peer.identity}"
        yield from _outside_lines(peer.ike.outside, now)
        for child in peer.children:
            yield from _child_lines(child)
    if not any(peer.ike is not None for peer in connection.peers):
        yield f"{connection.name}: not up; see: {Remedy.STATUS.format(name=connection.name)}"


def _outside_lines(path: "OutsideSize | None", now: float) -> Iterator[str]:
    from openmoat.cli.screens import span

    if path is None:
        return
    learned = LEARNED[path.learned] + (f" {span(now - path.at)} ago" if path.at is not None else "")
    yield f"  path     {path.size} octets, {learned}; {PASSAGE[path.fragments_pass]}"
    if path.hints:
        yield f"           ICMP about too large packets used {path.hints} times"
    if path.black_hole is not None:
        hole = path.black_hole
        yield f"           {hole.before} octets were lost {span(now - hole.at)} ago, {hole.after} were found instead"


def _child_lines(child: ChildStatus) -> Iterator[str]:
    sizes = child.sizes
    if sizes is None:
        return
    how = " (configured)" if sizes.is_configured else ""
    framing = "AGGFRAG" if child.aggfrag else "ESP"
    head = f"  {child.name}".ljust(10)
    yield f"{head} {framing}, outer packets of {sizes.outer_size} octets{how}, room for {sizes.inner_room}"
    told = [f"{sizes.whole} whole", f"{sizes.packed} packed", f"{sizes.sliced} sliced into {sizes.slices}"]
    told += [f"{sizes.assembled} reassembled"]
    if sizes.marks:
        told.append(f"{sizes.marks} received with a congestion mark")
    yield f"           packets: {', '.join(told if child.aggfrag else told[:1])}"
    for title, counts in (("did not fit", sizes.deeds), ("dropped", sizes.drops)):
        if counts:
            yield f"           {title}: {', '.join(f'{word} {number}' for word, number in sorted(counts.items()))}"


@app.command(
    exits=MAY_NOT_BE_UP,
    examples={
        "moat mtu explain office 1500": "an IPv4 packet that may be fragmented",
        "moat mtu explain office 1500 --df": "one that may not",
    },
)
@click.argument("connection", type=ConnectionName(), help="Name of a connection that is up.")
@click.argument("size", type=Integer(IP_HEADER[4], MAX_PACKET), help="Octets of an inner IP packet.")
@click.option("--df", is_flag=True, help="The packet has DF set: it must not be fragmented.")
@click.option("--ipv6", is_flag=True, help="An IPv6 packet, which only its sender fragments.")
@json_option
def explain(connection: str, size: int, df: bool, ipv6: bool, as_json: bool) -> None:
    """Show what happens to a packet of some size, and why.

    Lists the rules for packets that do not fit, in order, and which one applies.
    """
    packet = Packet(6 if ipv6 else 4, size, df or ipv6)
    if size < IP_HEADER[packet.version]:
        raise click.BadParameter(f"the IPv6 header alone has {IP_HEADER[6]} octets, not {size}", param_hint="'size'")
    with asking(as_json=as_json) as client:
        found = client.connection(connection)
    if as_json:
        rows = [{"peer": peer, "child": child, **asdict(one)} for peer, child, one in explanations(found, packet)]
        steps = {"schema": "moat.mtu-explain/1", "name": found.name, "packet": asdict(packet), "children": rows}
        print(json.dumps(steps, default=lambda rung: rung.value))
    else:
        print("\n".join(explanation_lines(found, packet)))
    _end_if_not_up(found)


def _end_if_not_up(connection: ConnectionStatus) -> None:
    """A template counts as up while any peer of it is here."""
    if not any(peer.ike is not None for peer in connection.peers):
        end(ExitCode.NOT_UP)


def explanations(connection: ConnectionStatus, packet: Packet) -> Iterator[tuple[str, str, Explanation]]:
    """By peer and child, of each name the newest: what is done with the packet now."""
    for peer in connection.peers[:MAX_SHOWN]:
        newest = {child.name: child.sizes for child in peer.children if child.sizes is not None}
        for name, sizes in newest.items():
            yield peer.identity, name, explain_packet(_plan(sizes), packet)


def _plan(sizes: ChildSizes) -> MtuPlan:
    """What of a plan decides about single packets."""
    return MtuPlan(
        outer_size=sizes.outer_size,
        inner_room=sizes.inner_room,
        slices=sizes.slices_all,
        oversize=tuple(map(Rung, sizes.ladder)),
    )


def explanation_lines(connection: ConnectionStatus, packet: Packet) -> Iterator[str]:
    """The same for people."""
    said, is_any = "", False
    for peer, child, found in explanations(connection, packet):
        if peer != said:
            yield f"{connection.name}: {peer}"
        said, is_any = peer, True
        line = f"{f'  {child}'.ljust(10)} {packet}: {found.verdict}"
        yield from textwrap.wrap(line, 80, subsequent_indent=" " * 11, break_on_hyphens=False)
        for step in found.steps:
            yield f"             {step.rung.value:<15} {'acts: ' if step.acts else 'no:   '}{step.why}"
    if not is_any:
        yield f"{connection.name}: not up; see: {Remedy.STATUS.format(name=connection.name)}"
    elif len(connection.peers) > MAX_SHOWN:
        yield f"and {len(connection.peers) - MAX_SHOWN} more peers"


@app.command(examples={"moat mtu table --outer 1492 --outer 1280": "for these two sizes of outer packets"})
@click.option(
    "--outer",
    multiple=True,
    type=Integer(MIN_OUTER, MAX_OUTER),
    metavar="OCTETS",
    default=OUTER_SIZES,
    help="Octets of the outer packet; give it again for more rows.",
)
@json_option
def table(outer: tuple[int, ...], as_json: bool) -> None:
    """Show how much room each suite leaves in a packet.

    Largest inner packet in plain tunnel mode, and the TCP segments (MSS) that fit into it.
    """
    from openmoat.crypto.suites import AEADS, CIPHERS, INTEGRITIES, EspSuite
    from openmoat.mtu.table import overhead_table

    suites = [EspSuite(aead, None) for aead in AEADS]
    suites += [EspSuite(cipher, integrity) for cipher in CIPHERS for integrity in INTEGRITIES]
    rows = list(overhead_table(suites, outer))
    if as_json:
        print(json.dumps({"schema": "moat.mtu-table/1", "rows": [asdict(row) for row in rows]}))
    else:
        print(table_screen(rows))


@app.command(examples={"moat mtu survey www.example.org": "ask one server for its largest packets"})
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True, help="Servers, by name or IPv4 address.")
@click.option("--port", default=80, type=Integer(1, 65_535), metavar="PORT", help="TCP port of an HTTP server.")
@click.option("--page", default="/", help="Page to ask for: the larger, the better.")
@click.option(
    "--size",
    default=1280,
    type=Integer(576, 1499),
    metavar="OCTETS",
    help="Octets of the largest packet that is let in.",
)
@json_option
def survey(hosts: tuple[str, ...], port: int, page: str, size: int, as_json: bool) -> None:
    """Show how servers react to too large packets (root).

    It takes up to a minute. Asks for a page as a client of 1500 octets, drops what is larger than `--size`, first in silence, then with ICMP, and
    watches what the server does.
    """
    from openmoat.diag.survey import survey_all

    try:
        rows = survey_all(list(hosts), port, page, size)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        denied = ControlError("not-permitted", text, f"{Remedy.BECOME_ROOT}; a survey also needs nft")
        fail(ExitCode.REFUSED, denied, as_json=as_json)
    if as_json:
        print(json.dumps({"schema": "moat.mtu-survey/1", "size": size, "rows": [asdict(row) for row in rows]}))
        return
    for row in rows:
        print("\n  ".join([f"{row.host}: {row.kind}", *row.evidence]))


def table_screen(rows: Sequence[Row]) -> str:
    """The table for people: a block for each kind of suite, since most suites are of equal size."""
    lines = [
        "ESP in tunnel mode: octets of the largest inner packet, and of its TCP segments",
        "(MSS) over inner IPv4 and IPv6.",
    ]
    for names, block in _blocks(rows).items():
        lines += ["", *_names(names), _line("outside", "outer", "worst added", "inner", "MSS v4", "MSS v6", "sliced")]
        for row in block:
            outside = f"IPv{row.outer_version}{', UDP' if row.udp else ''}"
            lines.append(_line(outside, row.outer, row.worst, row.inner, row.mss_v4, row.mss_v6, row.slice_room))
    lines += ["", "sliced: room in each outer packet for packets cut and packed (RFC 9347)."]
    return "\n".join(lines)


def _blocks(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows of suites that add the same, by the names of those suites."""
    by_suite: dict[str, list[Row]] = {}
    for row in rows:
        by_suite.setdefault(row.suite, []).append(row)
    by_size: dict[tuple[tuple[int, ...], ...], list[str]] = {}
    for suite, found in by_suite.items():
        sizes = tuple((row.outer_version, row.udp, row.outer, row.worst, row.inner) for row in found)
        by_size.setdefault(sizes, []).append(suite)
    return {tuple(names): by_suite[names[0]] for names in by_size.values()}


def _names(names: Sequence[str]) -> list[str]:
    return textwrap.wrap(", ".join(names), 80, break_on_hyphens=False)


def _line(outside: str, *cells: object) -> str:
    widths = (7, 13, 7, 8, 8, 8)
    columns = "".join(str(cell).rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"  {outside:10}{columns}"
