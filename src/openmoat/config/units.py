"""Times and amounts as people write them: `1h30m`, `45s`, `500MB`, `2GiB`."""

import re

__all__ = ["parse_octets", "parse_seconds"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_OCTETS = {"": 1, "B": 1}
_OCTETS |= {f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)}
_OCTETS |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_AMOUNT = re.compile(r"(\d+)\s*([A-Za-z]*)")


def parse_seconds(value: object) -> float:
    """A number of seconds, or text with units; `ValueError` shows the form."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    if isinstance(value, str) and (parts := _TIME.findall(value)) and "".join(map("".join, parts)) == value:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    raise ValueError(f'a time such as "1h", "90m", "1h30m" or "45s", {value!r} came')


def parse_octets(value: object) -> int:
    """A number of octets, or text with a unit; `ValueError` shows the form."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if match and match[2] in _OCTETS:
        return int(match[1]) * _OCTETS[match[2]]
    raise ValueError(f'an amount such as "500MB" or "2GiB", {value!r} came')
