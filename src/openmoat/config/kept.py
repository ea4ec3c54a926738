"""What the last reading gave, file by file: where one of ten thousand files has changed, only that one is read again."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from openmoat.config.key_files import Files
from openmoat.config.stamps import Stamp, stamps_of
from openmoat.model.connection import Connection

__all__ = ["Kept", "Record"]


@dataclass(frozen=True, slots=True)
class Record:
    """What one included file gave."""

    stamp: Stamp | None
    """From before it was read."""
    keys: tuple[str, ...]
    """The key files it names; their stamps are those of `Files`."""
    connections: tuple[Connection, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """What one reading gave. Dictionaries are copied as a whole, which costs a hundredth of making them again."""

    files: Files = field(default_factory=Files)
    records: dict[str, Record] = field(default_factory=dict)
    """By included file."""
    connections: dict[str, Connection] = field(default_factory=dict)
    """By name: those of all records."""
    sources: dict[str, str] = field(default_factory=dict)
    """By name of a connection, the file."""

    def still_true(self, names: Iterable[str], files: Files, taken: Collection[str]) -> "Kept":
        """The part that these files would give again: they and the key files they name are unchanged. `files` takes those over.

        Files with a connection whose name is `taken` are left out: they are read again, and the error is told.
        """
        known = self.records
        there = [name for name in names if name in known]
        gone = dict.fromkeys(known.keys() - set(there))
        looks = zip(there, stamps_of(there), strict=True)
        gone.update(dict.fromkeys(name for name, now in looks if now is None or now != known[name].stamp))
        gone.update(dict.fromkeys(self.sources[one] for one in taken if one in self.sources))
        left = self._without(gone, files)
        keys = set().union(*(record.keys for record in left.records.values()))
        stale = {key for key in keys if (now := files.stamp(key)) is None or now != self.files.stamps[key]}
        files.adopt(self.files, keys - stale)
        if stale:
            left = left._without([n for n, r in left.records.items() if not stale.isdisjoint(r.keys)], files)
        return left

    def add(self, name: str, record: Record) -> None:
        """One more file was read."""
        self.records[name] = record
        for one in record.connections:
            self.connections[one.name], self.sources[one.name] = one, name

    def _without(self, gone: Iterable[str], files: Files) -> "Kept":
        left = Kept(files, dict(self.records), dict(self.connections), dict(self.sources))
        for name in gone:
            record = left.records.pop(name, None)
            for one in record.connections if record is not None else ():
                del left.connections[one.name], left.sources[one.name]
        return left
