"""The configuration file: TOML whose words are those of the RFCs. All errors are told at once, with file and line.

Relative file names are relative to the file they stand in. Files are read and nothing else: no DNS, no network.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openmoat.config.files import check_writers, unreadable
from openmoat.config.kept import Kept, Record
from openmoat.config.key_files import Files
from openmoat.config.options import FILE_ITSELF
from openmoat.config.records import build_connection, build_settings
from openmoat.config.source import Source
from openmoat.config.stamps import files_in, stamp_of
from openmoat.config.words import printable, shown
from openmoat.errors import ConfigError, Fault, FieldError, KeyPath, Secret
from openmoat.model.connection import Connection
from openmoat.model.settings import Settings

__all__ = ["Configuration", "load"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that a daemon is told: checked, and with every file read that it names."""

    settings: Settings = field(default_factory=Settings)
    connections: Mapping[str, Connection] = field(default_factory=dict)
    psks: Mapping[str, Secret] = field(default_factory=dict)
    """Pre-shared keys by `Psk.name`."""
    private_keys: Mapping[str, Secret] = field(default_factory=dict)
    """PEM of our private keys by `PrivateKey.name`; each can be read by `crypto.keys.load_private_key`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The file in which each connection stands, for messages about it."""
    kept: Kept = field(default_factory=Kept, compare=False, repr=False)


def load(file: Path | str, before: Configuration | None = None) -> Configuration:
    """Read a configuration file, what it includes, and the key files they name; `ConfigError` with all errors.

    An included file that is unchanged since `before`, with all key files it names, gives the very same connections.
    """
    return _Loader(Path(file), before.kept if before is not None else Kept()).load()


class _Loader:
    """Goes on after an error, so that all are found."""

    def __init__(self, file: Path, before: Kept) -> None:
        self._file = file
        self._before = before
        self._fresh: list[Connection] = []
        """Of the file that is being read."""
        self._faults: list[Fault] = []
        self._faulty: dict[str, str] = {}
        """Connections with errors, and where each stands."""
        self._directory = file.parent
        """Of the included files."""
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
                self._before = Kept()  # other users' secrets are taken now: all are looked at again
            errors = [*FILE_ITSELF.unknown_keys(main.tree)]
            settings = build_settings(main.tree.get("daemon", {}), main.tree.get("engine", {}), errors)
            names = self._included(main, errors)
            self._tell(main, errors)
            self._take_connections(main, main.file.parent)
            self._take_records(names)
        if self._faults:
            told = dict.fromkeys(self._faults)  # a file that both ends name is at fault once
            raise ConfigError(sorted(told, key=lambda fault: (fault.file != str(self._file), fault.file, fault.line)))
        files = self._files
        return Configuration(settings, self._connections, files.psks, files.private_keys, self._sources, self._kept)

    def _read(self, file: Path) -> Source | None:
        try:
            return Source.read(file)
        except ConfigError as error:
            self._faults += error.faults
            return None

    def _included(self, main: Source, errors: list[FieldError]) -> list[str]:
        """The files of the directory that the main file names."""
        name = main.tree.get("include")
        if name is None:
            return []
        text = f"a directory, not {shown(name)}"
        try:
            if isinstance(name, str) and name and "\0" not in name:
                self._directory = main.file.parent / name
                check_writers(self._directory, self._directory.stat())
                return files_in(str(self._directory), ".toml")
        except OSError as error:
            text = f"a directory; {shown(name)} {unreadable(main.file.parent / name, error)}"
        except ValueError as error:
            text = f"{printable(name)} {error}"
        errors.append(FieldError(("include",), text))
        return []

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
        source = self._read(file)
        if source is None:
            return
        text = "an included file holds [connections.NAME] tables and nothing else"
        self._tell(source, [FieldError((key,), text) for key in source.tree if key != "connections"])
        self._take_connections(source, self._directory)

    def _take_connections(self, source: Source, directory: Path) -> None:
        tables = source.tree.get("connections", {})
        if not isinstance(tables, dict):
            text = f"a table for each connection, as in [connections.office], not {shown(tables)}"
            self._tell(source, [FieldError(("connections",), text)])
            return
        for name, tree in tables.items():
            errors: list[FieldError] = []
            path: KeyPath = ("connections", name)
            if name in self._connections or name in self._faulty:
                first = self._sources.get(name) or self._faulty[name]
                errors.append(FieldError(path, f"is already defined in {first}; give one of them another name"))
            connection = build_connection(path, tree, directory, self._files, errors)
            self._tell(source, errors)
            if connection is None:
                self._faulty.setdefault(name, str(source.file))
            elif name not in self._connections:
                self._connections[name] = connection
                self._fresh.append(connection)
                self._sources[name] = str(source.file)

    def _tell(self, source: Source, errors: Iterable[FieldError]) -> None:
        self._faults += map(source.fault, errors)
