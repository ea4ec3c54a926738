"""At which line each key of a TOML text stands, which the standard reader does not say, and how deep the text nests."""

import re
import tomllib

from openmoat.errors import KeyPath

__all__ = ["MAX_NESTING", "LineIndex", "too_nested"]

MAX_NESTING = 16
"""Parts of a dotted key, and lists and tables in each other. The standard reader takes seconds for a key of ten thousand."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRINGS = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_NOT_KEYS = re.compile(rf"{_STRINGS.pattern}|#[^\n]*", re.DOTALL)
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]+[ \t]*\.[ \t]*){{{MAX_NESTING}}}")
_BRACKET = re.compile(r"[\[\]{}]")


def too_nested(text: str) -> tuple[int, str] | None:
    """The line at which a text nests deeper than `MAX_NESTING`, and what is wrong there; None for all that does not."""
    brackets = text.count("[") + text.count("{")
    if brackets <= MAX_NESTING and not any(line.count(".") >= MAX_NESTING for line in text.split("\n")):
        return None  # nearly every file ends here, at little cost
    bare = _NOT_KEYS.sub(lambda found: "x" + "\n" * found.group().count("\n"), text)
    if long := _LONG_KEY.search(bare):
        return bare.count("\n", 0, long.start()) + 1, f"a key of at most {MAX_NESTING} parts; there are more"
    depth = 0
    for bracket in _BRACKET.finditer(bare):
        depth += 1 if bracket.group() in "[{" else -1
        if depth > MAX_NESTING:
            line = bare.count("\n", 0, bracket.start()) + 1
            return line, f"at most {MAX_NESTING} lists and tables in each other; there are more"
    return None


class LineIndex:
    """Lines of all keys of a text that `tomllib` has accepted; of anything else it says something, and never fails."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counts: dict[KeyPath, int] = {}
        self._lines: dict[KeyPath, int] = {}
        self._implied: dict[KeyPath, int] = {}
        """Tables that have no header: where the first table or key in them stands."""
        self._newlines = 0
        self._counted = 0
        self._read_document()

    def line(self, path: KeyPath) -> int:
        """Line of this key, or of the nearest table around it; 0 for the file as a whole."""
        for size in range(len(path), 0, -1):
            found = self._lines.get(path[:size]) or self._implied.get(path[:size])
            if found:
                return found
        return 0

    def _read_document(self) -> None:
        table: KeyPath = ()
        while True:
            self._skip(_BLANK)
            start = self._at
            if start >= len(self._text):
                return
            if self._text.startswith("[", start):
                table = self._read_header()
            else:
                self._read_pair(table)
            if self._at == start:
                return  # not TOML; the reader has said so

    def _read_header(self) -> KeyPath:
        is_list = self._text.startswith("[[", self._at)
        line = self._line_here()
        self._at += 2 if is_list else 1
        table = self._inside_lists(self._read_key())
        if is_list:
            number = self._counts.get(table, 0)
            self._counts[table] = number + 1
            table = (*table, number)
        self._lines.setdefault(table, line)
        for size in range(1, len(table)):
            self._implied.setdefault(table[:size], line)
        self._at = self._end_of_line()
        return table

    def _inside_lists(self, key: list[str]) -> KeyPath:
        """The path of a header: a name that stands for a list of tables means its last table."""
        path: KeyPath = ()
        for place, name in enumerate(key):
            path = (*path, name)
            if path in self._counts and place < len(key) - 1:
                path = (*path, self._counts[path] - 1)
        return path

    def _read_pair(self, table: KeyPath) -> None:
        line = self._line_here()
        path = table
        for name in self._read_key():
            path = (*path, name)
            self._lines.setdefault(path, line)
        self._skip(_SPACE)
        if self._text.startswith("=", self._at):
            self._at += 1
            self._read_value(path)

    def _read_key(self) -> list[str]:
        names = []
        while True:
            self._skip(_SPACE)
            if string := _STRINGS.match(self._text, self._at):
                names.append(_decoded(string.group()))
                self._at = string.end()
            elif bare := _BARE.match(self._text, self._at):
                names.append(bare.group())
                self._at = bare.end()
            else:
                return names
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return names
            self._at += 1
            if len(names) > MAX_NESTING:
                return names  # refused; see `too_nested`

    def _read_value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        opening = self._text[self._at : self._at + 1]
        if opening in {"[", "{"}:
            self._at += 1
            self._read_members(path, "]" if opening == "[" else "}")
        elif string := _STRINGS.match(self._text, self._at):
            self._at = string.end()
        else:
            self._skip(_SCALAR)

    def _read_members(self, path: KeyPath, closing: str) -> None:
        number = 0
        while self._at < len(self._text):
            self._skip(_BLANK)
            start = self._at
            if self._text.startswith(closing, start):
                self._at += 1
                return
            if closing == "}":
                self._read_pair(path)
            else:
                self._lines.setdefault((*path, number), self._line_here())
                self._read_value((*path, number))
                number += 1
            self._skip(_BLANK)
            if self._text.startswith(",", self._at):
                self._at += 1
            elif self._at == start:
                return

    def _skip(self, pattern: re.Pattern[str]) -> None:
        if match := pattern.match(self._text, self._at):
            self._at = match.end()

    def _end_of_line(self) -> int:
        end = self._text.find("\n", self._at)
        return len(self._text) if end < 0 else end

    def _line_here(self) -> int:
        self._newlines += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._newlines + 1


def _decoded(string: str) -> str:
    """A quoted key without quotes and escapes; as it is, where it is not TOML."""
    if "\\" not in string:
        return string[1:-1]
    try:
        return str(tomllib.loads(f"key = {string}")["key"])
    except tomllib.TOMLDecodeError:
        return string[1:-1]
