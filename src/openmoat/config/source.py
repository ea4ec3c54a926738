"""One TOML file: its text, its tree, and errors at the lines of its keys."""

import tomllib
from pathlib import Path
from typing import Any

from openmoat.config.files import read_file, unreadable
from openmoat.config.lines import LineIndex, too_nested
from openmoat.config.words import printable
from openmoat.errors import ConfigError, Fault, FieldError, KeyPath

__all__ = ["MAX_FILE", "MAX_TEXT", "Source"]

MAX_FILE = 16 << 20
"""Octets of one configuration file."""
MAX_TEXT = 500
"""Characters of an error: it may repeat what stands in the file."""
_ENTITIES = {"connections": "connection", "children": "child"}


class Source:
    """A file that was read."""

    def __init__(self, file: Path, text: str, owner: int) -> None:
        self.file = file
        self.owner = owner
        self.tree: dict[str, Any] = tomllib.loads(text)
        self._text = text
        self._index: LineIndex | None = None

    @classmethod
    def read(cls, file: Path) -> "Source":
        """Read a file and parse it; `ConfigError` says why not."""
        text = ""
        try:
            octets, status = read_file(file, MAX_FILE)
            text = octets.decode()
            if found := too_nested(text):
                raise ConfigError([Fault(str(file), *found)])
            return cls(file, text, status.st_uid)
        except OSError as error:
            raise ConfigError([Fault(str(file), 0, unreadable(file, error))]) from None
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigError([Fault(str(file), line, "not text in UTF-8")]) from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError([_syntax_error(file, text, error)]) from None
        except RecursionError:
            raise ConfigError([Fault(str(file), 0, "lists and tables nest too deep")]) from None
        except ValueError as error:
            raise ConfigError([Fault(str(file), 0, str(error))]) from None

    def fault(self, error: FieldError) -> Fault:
        """The error at its line, with words before it that say where it is in the tree."""
        if self._index is None:
            self._index = LineIndex(self._text)  # made only where an error is told
        text = printable(_place(error.path) + error.text)
        if len(text) > MAX_TEXT:
            text = f"{text[:MAX_TEXT]}..."
        return Fault(str(self.file), self._index.line(error.path), text, error.path)


def _place(path: KeyPath) -> str:
    """`connection "cabin": child "office": remote: ` for the path of an option."""
    words, rest = [], [part for part in path if isinstance(part, str)]
    while rest:
        part = rest.pop(0)
        words.append(f'{_ENTITIES[part]} "{rest.pop(0)}"' if part in _ENTITIES and rest else part)
    return "".join(f"{word}: " for word in words)


def _syntax_error(file: Path, text: str, error: tomllib.TOMLDecodeError) -> Fault:
    words, _, place = str(error).partition(" (at ")
    digits = [part for part in place.replace(",", " ").replace(")", " ").split() if part.isdecimal()]
    line = int(digits[0]) if digits else text.count("\n") + 1
    hint = '; text stands in quotes, as in name = "text"' if words == "Invalid value" else ""
    return Fault(str(file), line, f"not TOML: {words[:1].lower()}{words[1:]}{hint}")
