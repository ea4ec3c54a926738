"""Formats rows of the zoo for people and programs."""

import json
from collections.abc import Iterable, Sequence

from openmoat_lab.zoo.catalog import PATHS, PEER_OURS, POLICIES, SERVERS, Row, is_kept, is_promised

__all__ = ["SCHEMA", "broken", "to_json", "to_markdown", "to_text"]

SCHEMA = "moat.zoo/1"
SOON = 0.1
LEGEND = (
    "Seconds until the first octet arrived; `.` is less than 0.1 s. (f): the client saw fragments. cut: it began, but did",
    "not arrive whole. +N: the longest pause. !: this breaks a promise.",
)


def to_json(rows: Iterable[Row]) -> str:
    """One object with the name of its schema."""
    return json.dumps({"schema": SCHEMA, "rows": [row.record() for row in rows]})


def broken(rows: Iterable[Row]) -> list[Row]:
    """The rows whose promise was not kept."""
    return [row for row in rows if is_promised(row) and not is_kept(row)]


def to_text(rows: Sequence[Row]) -> str:
    """A table for each scene, and the verdict."""
    blocks = []
    for title, header, body in _tables(rows):
        widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (header, *body)
        ]
        blocks.append("\n".join([title, *(f"  {line}" for line in lines)]))
    return "\n\n".join([*blocks, "\n".join(LEGEND).replace("`", ""), verdict(rows)])


def to_markdown(rows: Sequence[Row]) -> str:
    """The same in Markdown, for the guide."""
    blocks = []
    for title, header, body in _tables(rows):
        lines = [_bar(header), _bar(["---"] * len(header)), *(_bar(line) for line in body)]
        blocks.append("\n".join([f"**{title}**", "", *lines]))
    return "\n\n".join([*blocks, "\n".join(LEGEND)])


def verdict(rows: Sequence[Row]) -> str:
    """One line: how many transfers were promised to arrive, and how many did."""
    promised, lost = sum(map(is_promised, rows)), len(broken(rows))
    if not promised:
        return f"{_counted(rows)}; nothing is promised"
    how = f"{lost} did not" if lost else "all of them did" if promised > 1 else "it did"
    return f"{_counted(rows)}; promised to arrive whole: {promised}; {how}"


def _counted(rows: Sequence[Row]) -> str:
    return f"{len(rows)} transfer{'' if len(rows) == 1 else 's'}"


def cell(row: Row | None) -> str:
    """The cell of the table for a row."""
    if row is None:
        return ""
    if row.first_octet_s is None:
        words = ["never"]
    else:
        words = ["." if row.first_octet_s < SOON else f"{row.first_octet_s:.1f}"]
        if row.recovery_s is not None:
            words.append(f"+{row.recovery_s:.1f}")
        if row.fragments_at_sink:
            words.append("(f)")
        if not row.complete and (row.recovery_s is None or SERVERS[row.server].is_tcp):
            words.append("cut")
    if is_promised(row) and not is_kept(row):
        words.append("!")
    return " ".join(words)


def _tables(rows: Sequence[Row]) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """Title, head and body for each scene, in the order of the rows."""
    for path, outer, peer in dict.fromkeys((row.path, row.outer, row.peer) for row in rows):
        here = [row for row in rows if (row.path, row.outer, row.peer) == (path, outer, peer)]
        found = {(row.server, row.inner, row.policy): row for row in here}
        policies = [name for name in POLICIES if any(row.policy == name for row in here)]
        lines = dict.fromkeys((inner, server) for inner in ("IPv4", "IPv6") for server in SERVERS)
        body = [
            [f"{server}{', IPv6' if inner == 'IPv6' else ''}", *(cell(found.get((server, inner, p))) for p in policies)]
            for inner, server in lines
            if any((server, inner, policy) in found for policy in policies)
        ]
        far = "" if peer == PEER_OURS else f", far gateway {peer}"
        yield f"{path}, outside {outer}{far}: {PATHS[path].says}", ["", *policies], body


def _bar(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
