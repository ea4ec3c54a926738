"""The reference of all options as Markdown, made from their rows: the guide holds exactly this text."""

import sys
from typing import Any

from openmoat.config.kinds import word_of
from openmoat.config.options import TABLES
from openmoat.config.rows import UNSET, Inner, Many, Need, Option, Table
from openmoat.crypto.suites import ENCRYPTIONS, INTEGRITIES, KE_METHODS, PRFS, Status

__all__ = ["render", "render_algorithms", "render_table"]

CHANGES = {
    None: "at the next start",
    Need.LIVE: "at once",
    Need.REKEY: "by a rekey",
    Need.REAUTHENTICATE: "by a new IKE SA",
    Need.REESTABLISH: "by a new IKE SA",  # for people it is the same: the daemon deletes the old one first in both cases
}
"""When a change takes effect."""


def render() -> str:
    """All tables, in the order in which a reader meets them."""
    return "\n".join(render_table(table) for table in TABLES)


def render_algorithms() -> str:
    """Every algorithm by its word, with its status in the RFCs."""
    lines = ["| kind | word | IKE (RFC 8247) | ESP (RFC 8221) |", "|---|---|---|---|"]
    lines += [f"| encryption | `{row.name}` | {_status(row.ike)} | {_status(row.esp)} |" for row in ENCRYPTIONS]
    lines += [f"| integrity | `{mac.name}` | {_status(mac.ike)} | {_status(mac.esp)} |" for mac in INTEGRITIES]
    lines += [f"| PRF | `{prf.name}` | {_status(prf.ike)} | |" for prf in PRFS]
    lines += [f"| key exchange | `{method.name}` | {_status(method.ike)} | |" for method in KE_METHODS]
    return "\n".join(lines)


def _status(status: Status) -> str:
    return status.value.upper() if status is not Status.MUST_NOT else "never"


def render_table(table: Table[Any]) -> str:
    """The heading of a table, and a row for each option."""
    heading = f"`{table.header}`: {table.title}" if table.header else f"{table.title[:1].upper()}{table.title[1:]}"
    lines = [
        f"### {heading}",
        "",
        "| option | value | default | a change takes effect | meaning |",
        "|---|---|---|---|---|",
    ]
    for name, row in table.rows.items():
        cells = [f"`{name}`", *_cells(table, row), row.sentence]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _cells(table: Table[Any], row: Option | Inner | Many) -> tuple[str, str, str]:
    """What stands there, the default, and when a change takes effect."""
    default = "required" if table.is_required(row) else ""
    match row:
        case Inner():
            return "a table", default, ""
        case Many():
            return "tables", default, ""
        case Option():
            value = table.default(row)
            if row.default is UNSET and value not in (UNSET, None, "", ()):
                default = f"`{word_of(row.kind, value)}`"
            elif value is None and row.kind.none:
                default = f'`"{row.kind.none}"`'
            return row.kind.form, default, CHANGES[row.need]


if __name__ == "__main__":
    sys.stdout.write(f"{render_algorithms()}\n\n{render()}")
