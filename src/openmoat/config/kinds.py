"""Kinds of values: how each is read from a file, checked for its form, and written. What fits together the model checks."""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Generic, TypeVar

from openmoat.config.units import format_octets, format_seconds, parse_octets, parse_seconds
from openmoat.config.words import listed, shown
from openmoat.errors import FieldError, FieldErrors, did_you_mean, field_errors

__all__ = [
    "FILE",
    "FILES",
    "FLAG",
    "FRACTION",
    "MAX_REMEMBERED_TEXTS",
    "NUMBER",
    "OCTETS",
    "SECONDS",
    "TEXT",
    "Kind",
    "Toml",
    "choice",
    "either",
    "one_of",
    "text",
    "texts",
    "word_of",
]

MAX_REMEMBERED_TEXTS = 1024
"""Of each kind of option: what thousands of connections have in common is read once, and is one object."""

Toml = str | int | float | bool | list[str]
"""What stands in a file."""
T = TypeVar("T")
E = TypeVar("E", bound=Enum)


class Kind(Generic[T]):
    """One kind of value."""

    def __init__(self, form: str, read: Callable[[object], T], write: Callable[[T], Toml], none: str = "") -> None:
        self.form = form
        """What the guide says stands there."""
        self.read = read
        """The value as the model has it; `ValueError` says what was expected and what came."""
        self.write = write
        """The value as it stands in a file: `read` makes the same of it again."""
        self.none = none
        """The word that stands for None, where there is one."""


def text(form: str, parse: Callable[[str], T], write: Callable[[T], str] = str) -> Kind[T]:
    """One text; equal texts give the same object."""
    return Kind(form, _read_text(form, parse), write)


def texts(form: str, parse: Callable[[str], T], write: Callable[[T], str] = str) -> Kind[tuple[T, ...]]:
    """One text or a list of them; the errors of all members are told."""
    read_one = _read_text(form, parse)

    def read(value: object) -> tuple[T, ...]:
        if isinstance(value, str):
            return (read_one(value),)
        if not isinstance(value, list):
            raise ValueError(f"{form}, or a list of them, not {shown(value)}")
        values: list[T] = []
        errors: list[FieldError] = []
        for place, member in enumerate(value):
            try:
                values.append(read_one(member))
            except ValueError as error:
                errors += field_errors(error, place)
        if errors:
            raise FieldErrors(errors)
        return tuple(values)

    def written(values: tuple[T, ...]) -> Toml:
        return write(values[0]) if len(values) == 1 else [write(value) for value in values]

    return Kind(f"{form}, or a list", read, written)


def choice(kind: type[E]) -> Kind[E]:
    """One of a few words, those of an enumeration."""
    return _choice({str(member.value): member for member in kind}, lambda member: str(member.value))


def one_of(words: Iterable[str]) -> Kind[str]:
    """One of a few words."""
    return _choice({word: word for word in words}, str)


def _choice(members: Mapping[str, T], write: Callable[[T], str]) -> Kind[T]:
    words = list(members)

    def read(value: object) -> T:
        try:
            return members[value]  # type: ignore[index]  # any value of a file may come
        except (KeyError, TypeError):
            near = did_you_mean(value, words, 1) if isinstance(value, str) else ""
            raise ValueError(f"{listed(words)}, not {shown(value)}{near}") from None

    return Kind(listed([f"`{word}`" for word in words]), read, write)


def either(words: Mapping[str, Any], other: Kind[Any]) -> Kind[Any]:
    """One of a few words that stand for something, or a value of another kind."""

    def read(value: object) -> Any:
        if isinstance(value, str) and value in words:
            return words[value]
        try:
            return other.read(value)
        except ValueError:
            plain = " without quotes" if isinstance(value, str) and value.isdecimal() else ""
            near = did_you_mean(value, words, 1) if isinstance(value, str) else ""
            raise ValueError(f"{listed([*words, other.form])}{plain}, not {shown(value)}{near}") from None

    def write(value: Any) -> Toml:
        return next((word for word, meaning in words.items() if meaning == value), None) or other.write(value)

    none = next((word for word, meaning in words.items() if meaning is None), "")
    return Kind(listed([*(f"`{word}`" for word in words), other.form]), read, write, none)


def word_of(kind: Kind[Any], value: object) -> str:
    """A value as the guide prints it."""
    written = kind.write(value)
    return ", ".join(written) if isinstance(written, list) else shown(written)


def _read_text(form: str, parse: Callable[[str], T]) -> Callable[[object], T]:
    remembered = lru_cache(maxsize=MAX_REMEMBERED_TEXTS)(parse)

    def read(value: object) -> T:
        if not isinstance(value, str):
            raise ValueError(f"{form} as text, not {shown(value)}")
        try:
            return remembered(value)
        except FieldErrors as error:  # their paths are those of the object that the text stands for
            raise ValueError("; ".join(one.text for one in error.errors)) from None
        except FieldError as error:
            raise ValueError(error.text) from None

    return read


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false without quotes, not {shown(value)}")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"a whole number without quotes, not {shown(value)}")
    return value


def _fraction(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"a number such as 0.1 without quotes, not {shown(value)}")
    return float(value)


def _plain(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"printable text, not {shown(value)}")
    return value


def _file(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError(f"a file name, not {shown(value)}")
    return value


FLAG = Kind[bool]("`true` or `false`", _flag, bool)
NUMBER = Kind[int]("a number", _number, int)
FRACTION = Kind[float]("a number", _fraction, float)
SECONDS = Kind[float]("a time", parse_seconds, format_seconds)
OCTETS = Kind[int]("an amount", parse_octets, format_octets)
TEXT = text("text", _plain)
FILE = text("a file", _file)
FILES = texts("a file", _file)
