"""The configuration file: TOML whose words are the RFCs'. Everything wrong with it is told at once, with file and line.

Relative file names are relative to the file they stand in. Reading is all that is done here: no DNS, no network.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from openmoat.config.kept import Kept, Record
from openmoat.config.lines import KeyPath, LineIndex
from openmoat.config.records import Files, build_connection, read_octets, unreadable
from openmoat.config.schema import ConnectionTable, DaemonTable, EngineTable, FileTable, Table
from openmoat.config.stamps import files_in, stamp_of
from openmoat.errors import ConfigError, Fault, Secret
from openmoat.model.connection import Connection
from openmoat.model.settings import EngineSettings, OnStop, Settings

__all__ = ["MAX_FILE", "Configuration", "load"]

MAX_FILE = 16 << 20
"""Octets of one configuration file."""

_NO_OPTION = "no option "
TableType = TypeVar("TableType", bound=Table)


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that a daemon is told: checked, and with every file read that it names."""

    settings: Settings = field(default_factory=Settings)
    connections: Mapping[str, Connection] = field(default_factory=dict)
    psks: Mapping[str, Secret] = field(default_factory=dict)
    """Shared secrets by `Psk.name`."""
    private_keys: Mapping[str, Secret] = field(default_factory=dict)
    """PEM of our private keys by `PrivateKey.name`; each can be read by `crypto.keys.load_private_key`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The file in which each connection stands, for messages about it."""
    kept: Kept = field(default_factory=Kept, compare=False, repr=False)


def load(file: Path | str, before: Configuration | None = None) -> Configuration:
    """Read a configuration file, what it includes, and the key files they name; `ConfigError` with all faults.

    An included file that is unchanged since `before`, with all key files it names, gives the very same connections.
    """
    return _Loader(Path(file), before.kept if before is not None else Kept()).load()


class _Text:
    """One file: its octets as a tree, and the lines of its keys."""

    def __init__(self, file: Path, text: str, tree: dict[str, Any], owner: int) -> None:
        self.file = file
        self.tree = tree
        self.owner = owner
        self._text = text
        self._index: LineIndex | None = None

    def fault(self, path: KeyPath, text: str) -> Fault:
        """A fault at the line of `path`; words before the text say where it is in the tree."""
        if self._index is None:
            self._index = LineIndex(self._text)  # made only where a fault is told
        place = path[:-1] if text.startswith(_NO_OPTION) else path
        return Fault(str(self.file), self._index.line(path), _place(place) + text)


class _Loader:
    def __init__(self, file: Path, before: Kept) -> None:
        self._file = file
        self._before = before
        self._fresh: list[Connection] = []
        """Of the file that is being read."""
        self._faults: list[Fault] = []
        self._files = Files()
        self._kept = Kept(self._files)
        self._connections: dict[str, Connection] = {}
        self._sources: dict[str, str] = {}

    def load(self) -> Configuration:
        settings = Settings()
        main = self._read(self._file)
        if main is not None:
            self._files.owners = frozenset({main.owner})
            if self._files.owners != self._before.files.owners:
                self._before = Kept()  # whose secrets are taken has changed: all are looked at again
            settings = self._settings(main)
            self._take_connections(main)
            self._take_records(self._included(main))
            self._check_keys(main, (), main.tree, FileTable)
        if self._faults:
            told = dict.fromkeys(self._faults)  # a file that both ends name is at fault once
            raise ConfigError(sorted(told, key=lambda fault: (fault.file != str(self._file), fault.file, fault.line)))
        files = self._files
        return Configuration(settings, self._connections, files.psks, files.private_keys, self._sources, self._kept)

    def _read(self, file: Path) -> _Text | None:
        try:
            with file.open("rb") as stream:
                status = os.fstat(stream.fileno())
                octets = read_octets(stream, status.st_size, MAX_FILE)
            if len(octets) > MAX_FILE:
                raise ValueError(f"at most {MAX_FILE} octets, more came")
            text = octets.decode()
            return _Text(file, text, tomllib.loads(text), status.st_uid)
        except OSError as error:
            self._faults.append(Fault(str(file), 0, unreadable(file, error)))
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            self._faults.append(Fault(str(file), line, "text in UTF-8, other octets came"))
        except tomllib.TOMLDecodeError as error:
            self._faults.append(_syntax_fault(file, text, error))
        except (ValueError, RecursionError) as error:
            self._faults.append(Fault(str(file), 0, str(error)))
        return None

    def _included(self, main: _Text) -> list[str]:
        name = main.tree.get("include")
        if name is None:
            return []
        directory = main.file.parent / name if isinstance(name, str) and name else None
        if directory is None or not directory.is_dir():
            self._faults.append(main.fault(("include",), f"a directory, {name!r} came"))
            return []
        return files_in(str(directory), ".toml")

    def _settings(self, main: _Text) -> Settings:
        table = self._validate(main, ("daemon",), main.tree.get("daemon", {}), DaemonTable)
        engine = self._validate(main, ("engine",), main.tree.get("engine", {}), EngineTable)
        if table is None or engine is None:
            return Settings()
        place = "engine"
        try:
            threads = EngineSettings(**engine.model_dump())
            place = "daemon"
            return Settings(**{**table.model_dump(), "on_stop": OnStop(table.on_stop)}, engine=threads)
        except ValueError as error:
            name, text = _split(error)
            self._faults.append(main.fault((place, name), text))
            return Settings()

    def _take_records(self, names: list[str]) -> None:
        """All included files; those that would give what they gave before are not read."""
        self._kept = kept = self._before.still_true(names, self._files, self._connections)
        if self._connections:
            self._connections |= kept.connections
            self._sources |= kept.sources
        else:  # the same tables, as what an included file adds is added to both
            self._connections, self._sources = kept.connections, kept.sources
        for name in sorted(name for name in names if name not in kept.records):
            self._take_record(name)

    def _take_record(self, name: str) -> None:
        self._files.named.clear()
        stamp = stamp_of(name)  # before it is read: what is written meanwhile is seen the next time
        self._fresh = []
        self._read_record(Path(name))
        self._kept.add(name, Record(stamp, tuple(dict.fromkeys(self._files.named)), tuple(self._fresh)))

    def _read_record(self, file: Path) -> None:
        text = self._read(file)
        if text is None:
            return
        for key in text.tree:
            if key != "connections":
                self._faults.append(
                    text.fault((key,), "an included file holds [connections.NAME] tables, nothing else")
                )
        self._take_connections(text)

    def _take_connections(self, text: _Text) -> None:
        records = text.tree.get("connections", {})
        if not isinstance(records, dict):
            self._faults.append(text.fault(("connections",), "a table for each connection: [connections.NAME]"))
            return
        for name, record in records.items():
            self._take_connection(text, name, record)

    def _take_connection(self, text: _Text, name: str, record: object) -> None:
        path: KeyPath = ("connections", name)
        if name in self._connections:
            self._faults.append(text.fault(path, f"stands already in {self._sources[name]}"))
            return
        table = self._validate(text, path, record, ConnectionTable)
        if table is None:
            return
        connection, faults = build_connection(name, table, text.file.parent, self._files)
        self._faults += [text.fault((*path, *where), words) for where, words in faults]
        if connection is not None:
            self._connections[name] = connection
            self._fresh.append(connection)
            self._sources[name] = str(text.file)

    def _validate(self, text: _Text, path: KeyPath, value: object, table: type[TableType]) -> TableType | None:
        try:
            return table.model_validate(value)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                where, words = _explain(dict(detail), table)
                self._faults.append(text.fault((*path, *where), words))
        return None

    def _check_keys(self, text: _Text, path: KeyPath, value: Mapping[str, Any], table: type[Table]) -> None:
        known = _options(table)
        for key in value:
            if key not in known:
                self._faults.append(text.fault((*path, key), _unknown(key, known)))


def _options(table: type[BaseModel]) -> list[str]:
    return [name.replace("_", "-") for name in table.model_fields]


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.replace("_", "-"), known, n=2, cutoff=0.5)
    return f'{_NO_OPTION}"{key}"; ' + (f"near: {', '.join(near)}" if near else f"there are: {', '.join(known)}")


def _explain(detail: Mapping[str, Any], table: type[BaseModel]) -> tuple[KeyPath, str]:
    """Where in the tree a value is at fault, and the sentence about it."""
    where: KeyPath = tuple(detail["loc"])
    came = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            inner = _table_at(table, where[:-1])
            return where, _unknown(str(where[-1]), _options(inner) if inner else [])
        case "missing":
            return where, "is missing"
        case "value_error":
            return where, str(detail["ctx"]["error"])
        case "literal_error":
            return where, f"{detail['ctx']['expected'].replace(chr(39), '')}; {came!r} came"
        case "bool_type" | "int_type" | "float_type" | "string_type" as kind:
            names = {"bool": "true or false", "int": "a whole number", "float": "a number", "string": "text"}
            return where, f"{names[kind.removesuffix('_type')]}, {came!r} came"
        case "dict_type" | "model_type":
            return where, f"a table, {came!r} came"
        case "too_short":
            return where, "one table at least"
        case _:
            return where, f"{detail['msg']}, {came!r} came"


def _table_at(table: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The table that stands at `path` below `table`; names of children are passed over."""
    for name in path:
        field_info = table.model_fields.get(str(name).replace("-", "_"))
        if field_info is None:
            continue
        arguments = (field_info.annotation, *getattr(field_info.annotation, "__args__", ()))
        inner = [a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)]
        if not inner:
            return None
        table = inner[0]
    return table


def _place(path: KeyPath) -> str:
    """`connection "cabin": child "office": remote: ` for the path of an option."""
    names = {"connections": "connection", "children": "child"}
    words, rest = [], [str(part) for part in path if isinstance(part, str)]
    while rest:
        part = rest.pop(0)
        words.append(f'{names[part]} "{rest.pop(0)}"' if part in names and rest else part)
    return "".join(f"{word}: " for word in words)


def _split(error: ValueError) -> tuple[str, str]:
    """The option that a model's complaint begins with, and the rest."""
    name, colon, text = str(error).partition(": ")
    return (name.replace("_", "-"), text) if colon else ("", str(error))


def _syntax_fault(file: Path, text: str, error: tomllib.TOMLDecodeError) -> Fault:
    words, _, place = str(error).partition(" (at ")
    digits = [part for part in place.replace(",", " ").replace(")", " ").split() if part.isdecimal()]
    line = int(digits[0]) if digits else text.count("\n") + 1
    return Fault(str(file), line, f"not TOML: {words[:1].lower()}{words[1:]}")
