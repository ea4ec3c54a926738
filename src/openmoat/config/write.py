"""Connections and settings as TOML: `toml.load` makes the same of it again. Options at their defaults are left out.

Keys are named by their files, as in any configuration. Certificates have no name in the model: they come as files of their
own, named by their content, so that thousands of connections share the file of their CA.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from openmoat.config.options import CONNECTION, DAEMON, ENGINE
from openmoat.config.records import default_start
from openmoat.config.rows import Many, Option, Table, field_of
from openmoat.config.words import printable
from openmoat.crypto.keys import public_line
from openmoat.errors import FieldError
from openmoat.model.connection import Authority, Connection, PrivateKey, Psk, RawKey
from openmoat.model.settings import Settings

__all__ = ["Written", "tree_of", "write_connection", "write_settings"]

Tree = dict[str, Any]
_PEM_LINE = 64
_NAME_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Written:
    """A file of a configuration, and the files that it names and that are not there yet."""

    text: str
    """TOML. Texts of several connections may follow each other in one file."""
    certificates: Mapping[str, bytes] = field(default_factory=dict)
    """PEM by file name, to be put into the directory of the file; equal names have equal content."""


def write_connection(connection: Connection, directory: Path) -> Written:
    """The table of a connection for a file in `directory`, from which key files are named.

    `FieldError` for what a file cannot say, such as an identity of a kind that has no text.
    """
    certificates: dict[str, bytes] = {}
    tree = tree_of(CONNECTION, connection, (connection.name,))
    _add_credentials(tree, connection, directory, certificates)
    start = default_start(connection.peer)
    for child in connection.children:
        if child.start is start:
            del tree["children"][child.name]["start"]
    kind = "A template for the peers" if connection.is_template else "The peer"
    comment = f"# {kind} {connection.peer.identity}, to whom we are {connection.local_identity}."
    return Written(f"{printable(comment)}\n{tomli_w.dumps({'connections': {connection.name: tree}})}", certificates)


def write_settings(settings: Settings, include: str = "") -> str:
    """The main file: settings, and the directory whose files are included."""
    tables = {"daemon": tree_of(DAEMON, settings, ()), "engine": tree_of(ENGINE, settings.engine, ("engine",))}
    tree: Tree = {"include": include} if include else {}
    return tomli_w.dumps(tree | {name: table for name, table in tables.items() if table})


def tree_of(table: Table[Any], record: object, path: tuple[str, ...]) -> Tree:
    """What stands in a table of the file, by its rows. Keys and other credentials are made of several options, and left out."""
    tree: Tree = {}
    for name, row in table.rows.items():
        if isinstance(row, Option):
            if table.gives(row) and (name in table.together or not table.is_usual(row, record)):
                tree[name] = _value(row, getattr(record, field_of(row)), (*path, name))
        elif isinstance(row, Many):
            members = getattr(record, field_of(row))
            tree[name] = {one.name: tree_of(row.table, one, (*path, name, one.name)) for one in members}
        else:
            inner = record if row.table.model is table.model else getattr(record, field_of(row))
            if found := tree_of(row.table, inner, (*path, name)):
                tree[name] = found
    is_usual = set(tree) <= set(table.together) and all(table.is_usual(row, record) for row in table.options)
    return {} if is_usual else tree


def _add_credentials(tree: Tree, connection: Connection, directory: Path, certificates: dict[str, bytes]) -> None:
    local, peer = tree.setdefault("local", {}), tree.setdefault("peer", {})
    match connection.own:
        case Psk(name) if connection.own == connection.peer.credential:
            tree["psk"] = _file(name, directory, (connection.name, "psk"))
        case Psk(name):
            local["psk"] = _file(name, directory, (connection.name, "local", "psk"))
        case PrivateKey(name, chain):
            local["key"] = _file(name, directory, (connection.name, "local", "key"))
            if chain:
                local["certificates"] = _certificates(chain, certificates)
    match connection.peer.credential:
        case Psk(name) if "psk" not in tree:
            peer["psk"] = _file(name, directory, (connection.name, "peer", "psk"))
        case RawKey(spki):
            peer["key"] = public_line(spki)
        case Authority(roots):
            peer["ca-certificates"] = _certificates(roots, certificates)


def _file(name: str, directory: Path, path: tuple[str, ...]) -> str:
    """The key file by its name from `directory`, where it is below it."""
    short = name.removeprefix(f"{directory}/")
    for candidate in (short, name):
        if candidate and str(directory / candidate) == name:
            return candidate
    raise FieldError(path, f'"{printable(name)}" cannot be named in a file of {printable(str(directory))}')


def _certificates(chain: tuple[bytes, ...], certificates: dict[str, bytes]) -> str:
    octets = b"".join(map(_pem, chain))
    name = f"{hashlib.sha256(octets).hexdigest()[:_NAME_DIGITS]}.pem"
    certificates[name] = octets
    return name


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[start : start + _PEM_LINE] for start in range(0, len(text), _PEM_LINE)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def _value(row: Option, value: object, path: tuple[str, ...]) -> object:
    """The value as it stands in the file, which is certain to be read as the same again."""
    written = row.kind.write(value)
    try:
        if row.kind.read(written) == value:
            return written
    except ValueError:
        pass
    raise FieldError(path, f"cannot be written as {row.kind.form}: {value}")
