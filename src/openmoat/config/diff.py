"""What a change of configuration needs, connection by connection: nothing else is touched.

The row of an option says what its change needs (`config.options`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from openmoat.config.options import CHILD, CONNECTION, DAEMON, LOCAL, PEER
from openmoat.config.rows import Need
from openmoat.config.toml import Configuration
from openmoat.errors import Secret
from openmoat.model.connection import Child, Connection, PrivateKey, Psk
from openmoat.model.settings import Settings

__all__ = [
    "CHILD_NEEDS",
    "CONNECTION_NEEDS",
    "LIVE_SETTINGS",
    "PEER_NEEDS",
    "ConnectionChange",
    "Difference",
    "Need",
    "diff",
]


CONNECTION_NEEDS: Mapping[str, Need] = {"name": Need.NOTHING, "lifetimes": Need.LIVE, **CONNECTION.needs, **LOCAL.needs}
"""Of all fields of `Connection` but `peer` and `children`, which have tables of their own."""
PEER_NEEDS: Mapping[str, Need] = PEER.needs
CHILD_NEEDS: Mapping[str, Need] = {"name": Need.NOTHING, "lifetimes": Need.LIVE, **CHILD.needs}
LIVE_SETTINGS = frozenset(DAEMON.needs)
"""Settings that need no restart."""


@dataclass(frozen=True, slots=True)
class ConnectionChange:
    """One connection that is in both configurations, and not the same."""

    need: Need
    """Of the IKE SA, and with it of all children where it is REAUTHENTICATE or more."""
    children: Mapping[str, Need]
    """Children that stand in both and changed."""
    added_children: tuple[str, ...] = ()
    removed_children: tuple[str, ...] = ()

    @property
    def most(self) -> Need:
        """The heaviest of all, for people."""
        return max(self.need, *self.children.values(), Need.LIVE)


@dataclass(frozen=True, slots=True)
class Difference:
    """All that leads from one configuration to another; names are in the order of the new one."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, ConnectionChange]
    live_settings: tuple[str, ...]
    restart_settings: tuple[str, ...]
    """Settings that changed and wait for the next start."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.live_settings or self.restart_settings)


def diff(old: Configuration, new: Configuration) -> Difference:
    """Compare; a key file whose content changed is a change of every connection that names it."""
    settings = [f.name for f in fields(Settings) if getattr(old.settings, f.name) != getattr(new.settings, f.name)]
    known, changed = old.connections, {}
    added, removed = new.connections.keys() - known.keys(), known.keys() - new.connections.keys()
    has_same_keys = _is_same(old.psks, new.psks) and _is_same(old.private_keys, new.private_keys)
    # Where all keys are the same, so are all connections of files that are unchanged.
    look = [name for name, one in new.connections.items() if not has_same_keys or known.get(name) is not one]
    for name in look:
        if name not in added and (change := _compare(known[name], new.connections[name], old, new)):
            changed[name] = change
    return Difference(
        added=tuple(name for name in look if name in added),
        removed=tuple(name for name in known if name in removed) if removed else (),
        changed=changed,
        live_settings=tuple(name for name in settings if name in LIVE_SETTINGS),
        restart_settings=tuple(name for name in settings if name not in LIVE_SETTINGS),
    )


def _is_same(old: Mapping[str, Secret], new: Mapping[str, Secret]) -> bool:
    """Whether what both name has the same content."""
    return all((before := old.get(name, secret)) is secret or before == secret for name, secret in new.items())


def _compare(
    old: Connection, new: Connection, old_files: Configuration, new_files: Configuration
) -> ConnectionChange | None:
    has_own = _secret(new.own, new_files) == _secret(old.own, old_files)
    has_peer = _secret(new.peer.credential, new_files) == _secret(old.peer.credential, old_files)
    if old is new and has_own and has_peer:
        return None  # of a file that is unchanged
    need = max(_need(old, new, CONNECTION_NEEDS), _need(old.peer, new.peer, PEER_NEEDS))
    if not has_own:
        need = max(need, Need.REAUTHENTICATE)
    if not has_peer:
        need = max(need, Need.REESTABLISH)
    before = {child.name: child for child in old.children}
    after = {child.name: child for child in new.children}
    needs = {name: _child_need(before[name], child) for name, child in after.items() if name in before}
    change = ConnectionChange(
        need=need,
        children={name: child_need for name, child_need in needs.items() if child_need is not Need.NOTHING},
        added_children=tuple(name for name in after if name not in before),
        removed_children=tuple(name for name in before if name not in after),
    )
    is_same = need is Need.NOTHING and not change.children and not change.added_children and not change.removed_children
    return None if is_same else change


def _child_need(old: Child, new: Child) -> Need:
    return Need.NOTHING if old == new else _need(old, new, CHILD_NEEDS)


def _need(old: object, new: object, needs: Mapping[str, Need]) -> Need:
    return max((need for name, need in needs.items() if getattr(old, name) != getattr(new, name)), default=Need.NOTHING)


def _secret(credential: object, files: Configuration) -> bytes | None:
    match credential:
        case Psk(name=name):
            return files.psks.get(name)
        case PrivateKey(name=name):
            return files.private_keys.get(name)
        case _:
            return None
