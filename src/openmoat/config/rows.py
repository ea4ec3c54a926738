"""What a row of a table of options is, and how a table of a file is read by its rows, all errors together."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import IntEnum
from typing import Any, Final, Generic, TypeVar

from openmoat.config.kinds import Kind
from openmoat.config.words import shown
from openmoat.errors import FieldError, KeyPath, did_you_mean, field_errors

__all__ = ["AT_START", "UNSET", "Inner", "Many", "Need", "Option", "Read", "Table"]


M = TypeVar("M")


class Need(IntEnum):
    """What a change needs at least to take effect; each includes those before it.

    A daemon may do more than is needed, and says so in its answer to a reload.
    """

    NOTHING = 0
    LIVE = 1
    """The new value is used from now on."""
    REKEY = 2
    """New SAs are negotiated within the IKE SA; packets flow on."""
    REAUTHENTICATE = 3
    """A new IKE SA is made, and the old one is deleted when it stands (RFC 7296 2.8.3)."""
    REESTABLISH = 4
    """The old one is deleted first: it may not carry another packet."""

    @property
    def word(self) -> str:
        """As the control socket says it."""
        return "re-establish" if self is Need.REESTABLISH else self.name.lower()


UNSET: Final = object()
"""No value; None is one."""
AT_START: Final = None
"""The need of a setting whose change waits for the next start of moatd."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option. This row is all that reader, difference, guide and writer know of it; its default is that of the model."""

    name: str
    """The key in the file."""
    kind: Kind[Any]
    need: Need | None
    """What its change needs; `AT_START` for what waits for the next start."""
    sentence: str
    """What it does, for the guide."""
    field: str = ""
    """The field of the model that it gives; empty: its name, with underscores."""
    part_of: str = ""
    """The field of the model that is made of this option and others."""
    default: Any = UNSET
    """Where the model has none: the value that stands for an option that is left out."""
    instead: Any = UNSET
    """What is put in the place of a wrong value, so that the rest can still be checked; `UNSET`: the default."""


@dataclass(frozen=True, slots=True)
class Inner:
    """A table within a table."""

    name: str
    table: "Table[Any]"
    sentence: str
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Many:
    """Tables within a table, each with a name that the operator chooses."""

    name: str
    table: "Table[Any]"
    sentence: str
    is_required: bool = False


Row = Option | Inner | Many


@dataclass(slots=True)
class Read:
    """What a table of a file gave."""

    path: KeyPath
    values: dict[str, Any] = field(default_factory=dict)
    """By the key in the file: the values that are right, and what inner tables gave."""
    wrong: set[str] = field(default_factory=set)
    """Keys whose values are not right, or that are missing or misspelt; an error has been told of each."""

    def get(self, name: str) -> Any:
        """The value of a key; None where it is not there, or not right."""
        return self.values.get(name)

    def has(self, name: str) -> bool:
        """Whether the key is there and not an empty list, right or wrong."""
        return self.values.get(name, ()) != () or name in self.wrong


class Table(Generic[M]):
    """One table of the file: its place, its rows, and the part of the model that it gives."""

    def __init__(
        self, header: str, title: str, model: type[M], rows: tuple[Row, ...], together: tuple[str, ...] = ()
    ) -> None:
        """`model` is the dataclass whose fields the rows give, and whose defaults hold.

        Options that are `together` depend on each other where only some are given; they are written all or not at all.
        """
        self.header = header
        self.title = title
        self.rows: Mapping[str, Row] = {row.name: row for row in rows}
        self.model = model
        self.together = together
        self._fields: Mapping[str, Field[Any]] = {one.name: one for one in fields(model)} if is_dataclass(model) else {}
        self._required = [row.name for row in rows if self.is_required(row)]
        self._inner = [(row.name, row) for row in rows if isinstance(row, Inner)]
        direct = [one for one in self.options if field_of(one) in self._fields and not one.part_of]
        self._direct = {one.name: field_of(one) for one in direct}
        self._defaults = {field_of(one): one.default for one in direct if one.default is not UNSET}
        self._instead = {one.name: one.instead for one in direct if one.instead is not UNSET}
        self.places: dict[str, tuple[KeyPath, Row]] = {}
        for row in rows:
            if isinstance(row, Inner) and row.table.model is model:  # a part of the same record
                self.places |= {one: ((row.name, *before), it) for one, (before, it) in row.table.places.items()}
            else:
                self.places[field_of(row)] = ((), row)
        """By field of the model: tables of the same record on the way to its row, and the row."""

    @property
    def options(self) -> list[Option]:
        """Its options, without those of tables within."""
        return [row for row in self.rows.values() if isinstance(row, Option)]

    @property
    def needs(self) -> Mapping[str, Need]:
        """What changes of the fields of the model need; the most, where several options give one field."""
        needs: dict[str, Need] = {}
        for row in self.options:
            if row.need is not AT_START and field_of(row) in self._fields:
                needs[field_of(row)] = max(row.need, needs.get(field_of(row), Need.NOTHING))
        return needs

    def is_required(self, row: Row) -> bool:
        """Whether the file must have it."""
        return self.default(row) is UNSET if isinstance(row, Option) else row.is_required

    def gives(self, row: Option) -> bool:
        """Whether the option alone gives a field of the model."""
        return row.name in self._direct

    def is_usual(self, row: Option, record: object) -> bool:
        """Whether a record has the default of an option."""
        return row.name not in self._direct or bool(getattr(record, self._direct[row.name]) == self.default(row))

    def default(self, row: Option) -> Any:
        """The value of an option that is left out; `UNSET` where it must not be."""
        one = self._fields.get(field_of(row))
        if row.default is not UNSET or one is None:
            return row.default
        return UNSET if one.default is MISSING else one.default

    def read(self, tree: object, path: KeyPath, errors: list[FieldError]) -> Read:
        """Read a table that stands at `path`; errors are added to `errors`, and the rest is still read."""
        read = Read(path)
        if not isinstance(tree, dict):
            errors.append(FieldError(path, f"a table, not {shown(tree)}"))
            read.wrong.update(self.rows)
            tree = {}
        rows, values = self.rows, read.values
        for name, value in tree.items():
            row = rows.get(name)
            if row is None:
                errors.append(self.unknown(name, tree, read))
            elif isinstance(row, Option):
                try:
                    values[name] = row.kind.read(value)
                except ValueError as error:
                    errors += field_errors(error, *path, name)
                    read.wrong.add(name)
            elif isinstance(row, Inner):
                values[name] = row.table.read(value, (*path, name), errors)
            elif isinstance(row, Many):
                self._read_many(row, value, read, errors)
        for name in self._required:
            if name not in values and name not in read.wrong:
                errors.append(FieldError((*path, name), "is missing"))
                read.wrong.add(name)
        for name, row in self._inner:
            if name not in values:
                values[name] = Read((*path, name), wrong=set(row.table.rows) if row.is_required else set())
        return read

    def unknown_keys(self, tree: Mapping[str, object]) -> Iterator[FieldError]:
        """The errors of all keys that no row names."""
        read = Read(())
        return (self.unknown(name, tree, read) for name in tree if name not in self.rows)

    def unknown(self, name: str, tree: Mapping[str, object], read: Read) -> FieldError:
        """The error of a key that no row names. What it was meant for is then not reported as missing."""
        free = [one for one in self.rows if one not in tree]
        word = name.replace("_", "-").lower()
        near = did_you_mean(word, free, 1) or did_you_mean(word, self.rows, 1)
        read.wrong.update(one for one in free if f'"{one}"' in near)
        text = f"no such option{near}" if near else f"no such option; there are {', '.join(self.rows)}"
        return FieldError((*read.path, name), text)

    def fields(self, read: Read) -> dict[str, Any]:
        """Arguments for the model, of the options that are there; of a wrong one, what stands in its place."""
        found = dict(self._defaults)
        direct = self._direct
        for name, value in read.values.items():
            if name in direct:
                found[direct[name]] = value
        for name in read.wrong:
            if name in self._instead:
                found[direct[name]] = self._instead[name]
        return found

    def build(self, read: Read, errors: list[FieldError], **more: Any) -> M | None:
        """The record of the model, with `more` fields; None where it cannot be."""
        return self.build_from(self.fields(read), read, errors, **more)

    def build_from(self, fields: Mapping[str, Any], read: Read, errors: list[FieldError], **more: Any) -> M | None:
        """The same of fields that were read before. What the model says about values that are wrong anyway is left out."""
        try:
            return self.model(**{**fields, **more})
        except ValueError as error:
            for one in field_errors(error):
                place = self.place(one.path)
                if not place or str(place[0]) not in read.wrong:
                    errors.append(FieldError((*read.path, *place), one.text))
        return None

    def place(self, path: KeyPath) -> KeyPath:
        """Where in this table a field of the model stands."""
        if not path:
            return ()
        before, row = self.places.get(str(path[0]), ((), None))
        match row:
            case Option():
                return (*before, row.name, *path[1:])
            case Inner():
                return (*before, row.name, *row.table.place(path[1:]))
            case Many():
                return (*before, row.name, *path[1:2], *row.table.place(path[2:]))
            case None:
                return path

    def _read_many(self, row: Many, value: object, read: Read, errors: list[FieldError]) -> None:
        path = (*read.path, row.name)
        if not isinstance(value, dict) or (row.is_required and not value):
            errors.append(FieldError(path, f"one table at least, not {shown(value)}"))
            read.wrong.add(row.name)
            return
        read.values[row.name] = {name: row.table.read(tree, (*path, name), errors) for name, tree in value.items()}


def field_of(row: Row) -> str:
    """The field of the model that a row gives."""
    given = (row.part_of or row.field) if isinstance(row, Option) else ""
    return given or row.name.replace("-", "_")
