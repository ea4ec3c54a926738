"""`moat mtu`: what ESP adds, and what is left for the packets inside."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from openmoat.mtu.table import OUTER_SIZES, Row

app = typer.Typer(name="mtu", help="Sizes of packets in tunnels.", no_args_is_help=True)

__all__ = ["app", "table_screen"]

MIN_OUTER = 128
"""Octets; below it no suite leaves room for a packet worth sending."""
MAX_OUTER = 65_535


@app.callback()
def mtu() -> None:
    """Sizes of packets in tunnels."""


@app.command("table")
def table(
    outer: Annotated[
        list[int] | None,
        typer.Option(
            help="Octets of the outer packet; give it again for more rows.",
            min=MIN_OUTER,
            max=MAX_OUTER,
            show_default=", ".join(map(str, OUTER_SIZES)),
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with the name of its schema.")] = False,
) -> None:
    """What each suite leaves of an outer packet, computed.

    Largest inner packet in plain tunnel mode, and the TCP segments (MSS) that fit into it.
    """
    from openmoat.crypto.suites import AEADS, CIPHERS, INTEGRITIES, EspSuite
    from openmoat.mtu.table import overhead_table

    suites = [EspSuite(aead, None) for aead in AEADS]
    suites += [EspSuite(cipher, integrity) for cipher in CIPHERS for integrity in INTEGRITIES]
    rows = list(overhead_table(suites, outer or OUTER_SIZES))
    if as_json:
        print(json.dumps({"schema": "moat.mtu-table/1", "rows": [asdict(row) for row in rows]}))
    else:
        print(table_screen(rows))


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
