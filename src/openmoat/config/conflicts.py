"""Connections that are right one by one and cannot be in force together: `moatd` would refuse the second of them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from openmoat.config.source import Source
from openmoat.config.toml import Configuration, load
from openmoat.errors import ConfigError, FieldError
from openmoat.model.connection import Connection
from openmoat.policy.spd import Action, PolicyConflict, Spd, WantedPolicy

__all__ = ["check", "conflicts"]


def check(file: Path | str) -> Configuration:
    """Read a configuration as `load` does; `ConfigError` also for connections that exclude each other."""
    found = load(file)
    by_file: dict[str, list[FieldError]] = {}
    for error in conflicts(found.connections.values()):
        by_file.setdefault(found.sources[str(error.path[1])], []).append(error)
    faults = [Source.read(Path(name)).fault(error) for name, errors in by_file.items() for error in errors]
    if faults:
        raise ConfigError(sorted(faults, key=lambda fault: (fault.file != str(file), fault.file, fault.line)))
    return found


def conflicts(connections: Iterable[Connection]) -> Iterator[FieldError]:
    """Children whose packets another peer already gets, each at its path from the root of the file.

    Peers of templates are not known yet, and connections of one group lead to one peer as far as the SPD is concerned.
    """
    spd = Spd()
    known = set()
    for connection in sorted(connections, key=lambda one: one.name):
        if connection.is_template:
            if connection.group is not None:
                text = "not in a template: only connections with one peer can be alternatives"
                yield FieldError(("connections", connection.name, "group"), text)
            continue
        peer = f'group "{connection.group}"' if connection.group else str(connection.peer.identity)
        for child in connection.children:
            name = f"{peer if connection.group else connection.name}/{child.name}"
            if name in known:
                continue  # of the same group
            wanted = WantedPolicy(
                name=name,
                action=Action.PROTECT,
                local=child.local,
                remote=child.remote,
                priority=child.priority,
                peer=peer,
            )
            try:
                spd.change([wanted])
                known.add(name)
            except PolicyConflict as conflict:
                place = ("connections", connection.name, "children", child.name, "remote")
                yield FieldError(place, str(conflict))
