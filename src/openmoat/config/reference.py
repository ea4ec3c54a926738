"""The reference of all options as Markdown, made from the schema: the guide holds exactly this text."""

import sys

from openmoat.config.schema import (
    ChildLifetimesTable,
    ChildTable,
    ConnectionTable,
    DaemonTable,
    EngineTable,
    FileTable,
    IkeLifetimesTable,
    LocalTable,
    PeerTable,
    Table,
)
from openmoat.crypto.suites import ENCRYPTIONS, INTEGRITIES, KE_METHODS, PRFS, Status

__all__ = ["TABLES", "render", "render_algorithms"]

TABLES: tuple[type[Table], ...] = (
    FileTable,
    DaemonTable,
    EngineTable,
    ConnectionTable,
    LocalTable,
    PeerTable,
    IkeLifetimesTable,
    ChildTable,
    ChildLifetimesTable,
)


def render() -> str:
    """All tables, in the order in which a reader meets them."""
    return "\n".join(_render(table) for table in TABLES)


def render_algorithms() -> str:
    """Every algorithm by its word, with what the RFCs say of it today."""
    lines = ["| kind | word | IKE (RFC 8247) | ESP (RFC 8221) |", "|---|---|---|---|"]
    lines += [f"| encryption | `{row.name}` | {_status(row.ike)} | {_status(row.esp)} |" for row in ENCRYPTIONS]
    lines += [f"| integrity | `{mac.name}` | {_status(mac.ike)} | {_status(mac.esp)} |" for mac in INTEGRITIES]
    lines += [f"| PRF | `{prf.name}` | {_status(prf.ike)} | |" for prf in PRFS]
    lines += [f"| key exchange | `{method.name}` | {_status(method.ike)} | |" for method in KE_METHODS]
    return "\n".join(lines)


def _status(status: Status) -> str:
    return status.value.upper() if status is not Status.MUST_NOT else "never"


def _render(table: type[Table]) -> str:
    summary = (table.__doc__ or "").strip()
    lines = [f"### {summary.rstrip(chr(46))}", "", "| option | default | meaning |", "|---|---|---|"]
    for name, field in table.model_fields.items():
        option = name.replace("_", "-")
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=False))
        lines.append(f"| `{option}` | {default} | {(field.description or '').replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    match value:
        case bool():
            return "`true`" if value else "`false`"
        case int() | float():
            return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
        case str() if value:
            return f'`"{value}"`'
        case _:
            return ""


if __name__ == "__main__":
    sys.stdout.write(f"{render_algorithms()}\n\n{render()}")
