"""Lines of keys, units of values."""

import pytest

from openmoat.config.lines import LineIndex
from openmoat.config.units import parse_octets, parse_seconds

TEXT = """# a comment with [brackets]
include = "conf.d" # and = signs

[connections."my home"]
psk = '''
[not.a.table]
x = 1'''
proposals = [
  "a]", # ]
  "b",
]
local = { identity = "x", address = "y" }
peer.identity = "z"

[[lists]]
a = 1
[[lists]]
a = 2
[lists.inner]
b = 3
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("include",), 2),
        (("connections", "my home"), 4),
        (("connections", "my home", "psk"), 5),
        (("connections", "my home", "proposals"), 8),
        (("connections", "my home", "proposals", 1), 10),
        (("connections", "my home", "local", "address"), 12),
        (("connections", "my home", "local", "missing"), 12),
        (("connections", "my home", "peer", "identity"), 13),
        (("lists", 0, "a"), 16),
        (("lists", 1, "a"), 18),
        (("lists", 1, "inner", "b"), 20),
        (("nowhere",), 0),
    ],
)
def test_each_key_has_its_line(path: tuple[str | int, ...], line: int) -> None:
    assert LineIndex(TEXT).line(path) == line


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h", 3600), ("1h30m", 5400), ("45s", 45), ("500ms", 0.5), (90, 90), (0, 0), ("2d", 172800)]
)
def test_a_time_is_a_number_with_units(text: object, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1 h", "-1s", -1, True, None, "1h!", 1e12])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match='a time such as "1h"'):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "octets"), [("500MB", 500_000_000), ("2GiB", 2 << 30), ("7", 7), (12, 12), ("1 kB", 1000)]
)
def test_an_amount_is_a_number_with_a_unit(text: object, octets: int) -> None:
    assert parse_octets(text) == octets


@pytest.mark.parametrize("text", ["", "MB", "1.5MB", "500mb", -1, True, None])
def test_what_is_no_amount_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="an amount such as"):
        parse_octets(text)
