"""Values of a file as errors repeat them."""

import datetime as dt

__all__ = ["MAX_SHOWN", "listed", "printable", "shown"]

MAX_SHOWN = 60
"""Characters of a value that an error repeats."""


def shown(value: object) -> str:
    """A value as it stands in TOML, on one line, and cut off where it is long."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            cut = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}..."
            return f'"{printable(cut)}"'
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a table" if value else "an empty table"
        case dt.date() | dt.time():
            return value.isoformat()
        case _:
            return str(value)


def printable(text: str) -> str:
    """The text with everything that could move a cursor, or end a line, written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def listed(words: list[str]) -> str:
    """`a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
