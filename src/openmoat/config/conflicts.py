"""Connections that are right one by one and cannot be in force together: `moatd` would refuse the second of them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from openmoat.config.source import Source
from openmoat.config.toml import Configuration, load
from openmoat.errors import ConfigError, FieldError
from openmoat.model.connection import Child, Connection
from openmoat.policy.selectors import canonical, format_selectors
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
    known: dict[str, tuple[str, Child]] = {}
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
                yield from _differences(connection, child, *known[name])
                continue
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
                known[name] = connection.name, child
            except PolicyConflict as conflict:
                place = ("connections", connection.name, "children", child.name, "remote")
                yield FieldError(place, str(conflict))


def _differences(connection: Connection, child: Child, other: str, standing: Child) -> Iterator[FieldError]:
    """Alternatives protect the same networks: where children of one name in a group do not."""
    for word, ours, theirs in (("local", child.local, standing.local), ("remote", child.remote, standing.remote)):
        if canonical(ours) != canonical(theirs):
            text = (
                f'the same as in connection "{other}" of group "{connection.group}", which has {format_selectors(theirs)};'
                " or give the child another name"
            )
            yield FieldError(("connections", connection.name, "children", child.name, word), text)
    if child.priority != standing.priority:
        text = f'the same as in connection "{other}" of group "{connection.group}", which has {standing.priority}'
        yield FieldError(("connections", connection.name, "children", child.name, "priority"), text)
