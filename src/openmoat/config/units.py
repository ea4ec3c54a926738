"""Times and amounts as people write them: `1h30m`, `45s`, `500MB`, `2GiB`."""

import re

from openmoat.config.words import shown

__all__ = ["format_octets", "format_seconds", "parse_octets", "parse_seconds"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_OCTETS = {"": 1, "B": 1}
_OCTETS |= {f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)}
_OCTETS |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)}
_LARGEST_FIRST = sorted(((size, unit) for unit, size in _OCTETS.items() if unit), reverse=True)
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_AMOUNT = re.compile(r"(\d{1,20})\s*([A-Za-z]*)", re.ASCII)
_LONGEST = 1e9
"""Seconds: thirty years."""


def parse_seconds(value: object) -> float:
    """A number of seconds, or text with units; `ValueError` shows the form."""
    seconds = -1.0
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if 0 <= value < _LONGEST else -1.0
    elif isinstance(value, str) and (parts := _TIME.findall(value)) and "".join(map("".join, parts)) == value:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 <= seconds < _LONGEST:
        raise ValueError(f'a time such as "1h", "90m", "1h30m" or "45s", not {shown(value)}')
    return seconds


def format_seconds(seconds: float) -> str | float:
    """`1h30m`, or the number itself where no text says exactly the same; `parse_seconds` reads both."""
    rest = int(seconds)
    words = []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_SECONDS[unit]))
        if count:
            words.append(f"{count}{unit}")
    return "".join(words) if words and seconds == int(seconds) else seconds


def parse_octets(value: object) -> int:
    """A number of octets, or text with a unit; `ValueError` shows the form."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if match and match[2] in _OCTETS:
        return int(match[1]) * _OCTETS[match[2]]
    raise ValueError(f'an amount such as "500MB" or "2GiB", not {shown(value)}')


def format_octets(octets: int) -> str | int:
    """`500MB`, or the number itself where no unit divides it; `parse_octets` reads both."""
    if octets < 1000:
        return octets
    return next((f"{octets // size}{unit}" for size, unit in _LARGEST_FIRST if octets % size == 0 and size > 1), octets)
