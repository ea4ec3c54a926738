"""What is loaded: a configuration brought into policies, host and core, and a reload as the difference of two.

The order keeps packets from leaving in cleartext: what is new is guarded before it is negotiated, and what is gone is
guarded until its SAs are deleted.
"""

import logging
from pathlib import Path

from openmoat.config.diff import ConnectionChange, Need, diff
from openmoat.config.toml import Configuration, load
from openmoat.control.messages import ErrorCode, Reloaded
from openmoat.daemon.core.installer import Installer
from openmoat.daemon.core.keyholder import Keyholder
from openmoat.daemon.core.keylog import KeySink
from openmoat.daemon.core.verbs import Verbs
from openmoat.daemon.host.keeper import HostKeeper
from openmoat.daemon.peers import Peers
from openmoat.daemon.worker_threads import WorkerThreads
from openmoat.errors import ConfigError, ControlError, CryptoError, SystemFault
from openmoat.model.connection import Connection, OuterIcmp
from openmoat.model.settings import Settings

__all__ = ["Loaded", "Reloader"]


class Loaded:
    """The configuration as it stands. Others only look things up in it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.configuration = Configuration()
        self.conflicts: dict[str, str] = {}
        """Connections that could not be taken in, and why."""

    def find(self, name: str) -> Connection | None:
        """The connection of this name."""
        return self.configuration.connections.get(name)

    def outer_icmp(self, name: str) -> OuterIcmp:
        """What a connection does about ICMP that says an outer packet was too large."""
        connection = self.find(name)
        return connection.outer_icmp if connection is not None else OuterIcmp.IGNORE

    def connections(self) -> list[Connection]:
        """All, by name."""
        return [self.configuration.connections[name] for name in sorted(self.configuration.connections)]


class LiveSettings:
    """Puts settings into force that need no restart."""

    def __init__(self, keys: KeySink, verbs: Verbs) -> None:
        self._keys = keys
        self._verbs = verbs

    def use(self, settings: Settings) -> None:
        """From now on. Raises `SystemFault` where the key log cannot be written; then nothing has changed."""
        self._keys.use(settings.key_log)
        logging.getLogger("openmoat").setLevel(settings.log_level.upper())
        self._verbs.reveal_keys(bool(settings.key_log))


class Reloader:
    """Changes what is loaded; one change at a time."""

    # Many parameters: all of these change with what is loaded, and none of them belongs to another.
    def __init__(
        self,
        loaded: Loaded,
        *,
        verbs: Verbs,
        installer: Installer,
        peers: Peers,
        host: HostKeeper | None,
        keyholder: Keyholder,
        keys: KeySink,
        threads: WorkerThreads,
    ) -> None:
        """`host` is None where nothing of the host is to be touched."""
        self.loaded = loaded
        self._verbs = verbs
        self._installer = installer
        self._peers = peers
        self._host = host
        self._keyholder = keyholder
        self._settings = LiveSettings(keys, verbs)
        self._threads = threads
        self._is_changing = False

    async def reload(self) -> Reloaded:
        """Read the file again and bring about what has changed; with errors in it nothing is."""
        if self._is_changing:
            raise ControlError(ErrorCode.BUSY, "a reload is under way", "try again in a moment")
        self._is_changing = True
        file = self.loaded.file
        try:
            try:
                configuration = await self._threads.run(load, file, self.loaded.configuration)
            except ConfigError as error:
                raise ControlError(ErrorCode.CONFIGURATION, str(error), f"moat check {file}") from error
            try:
                return await self.apply(configuration)
            except (SystemFault, CryptoError) as error:
                raise ControlError(ErrorCode.CONFIGURATION, str(error), "correct it, then: moat reload") from error
        finally:
            self._is_changing = False

    async def apply(self, configuration: Configuration) -> Reloaded:
        """From what is loaded to `configuration`; connections that are the same in both are not touched."""
        before, loaded = self.loaded.configuration, self.loaded
        difference = await self._threads.run(diff, before, configuration)
        # A conflict may have gone with the connection it was with.
        again = [name for name in loaded.conflicts if name in configuration.connections]
        light = {name: change for name, change in difference.changed.items() if is_light(change) and name not in again}
        heavy = [name for name in difference.changed if name not in light]
        fresh = dict.fromkeys((*difference.added, *heavy, *again))
        self._keyholder.load(
            {**before.psks, **configuration.psks}, {**before.private_keys, **configuration.private_keys}
        )
        if difference.live_settings:
            self._settings.use(configuration.settings)
        self._verbs.unload(difference.removed)
        loaded.configuration = configuration
        self._peers.load(fresh, difference.removed)
        await self._protect([configuration.connections[name] for name in (*fresh, *light)], difference.removed)
        self._verbs.unload(
            [name for name in loaded.conflicts if name in before.connections and name in difference.changed]
        )
        self._verbs.load([configuration.connections[name] for name in fresh if name not in loaded.conflicts])
        self._installer.refresh(light.keys() - loaded.conflicts.keys())
        for name, change in light.items():
            if name not in loaded.conflicts:
                self._update(configuration.connections[name], change)
        self._keyholder.load(configuration.psks, configuration.private_keys)
        return Reloaded(
            added=difference.added,
            removed=difference.removed,
            changed={
                name: (change.most if name in light else Need.REESTABLISH).word
                for name, change in difference.changed.items()
            },
            unchanged=len(configuration.connections) - len(difference.added) - len(difference.changed),
            refused=dict(loaded.conflicts),
            restart_needed=difference.restart_settings,
        )

    def _update(self, connection: Connection, change: ConnectionChange) -> None:
        """SAs stay, and packets flow on: new values at once where that is possible, by a rekey where not."""
        self._verbs.update(connection)
        for peer in list(self._peers.of(connection.name)):
            if change.need is Need.REKEY:
                for ike in list(peer.ike_sas):
                    self._verbs.rekey_ike(ike)
            for handle, live in list(peer.children.items()):
                name = live.child.child
                if name in change.removed_children:
                    self._verbs.delete_child(handle)
                elif change.children.get(name) is Need.REKEY:
                    self._verbs.rekey_child(handle)

    async def _protect(self, put: list[Connection], removed: tuple[str, ...]) -> None:
        """Policies and guard for what is new; no packet of it leaves in cleartext from here on."""
        conflicts = self._installer.load(put, removed)
        self.loaded.conflicts = {name: str(conflict) for name, conflict in conflicts.items()}
        if self._host is not None:
            await self._host.apply()


def is_light(change: ConnectionChange) -> bool:
    """Whether the SAs of a connection can stay. Reauthentication is done by deleting first, as for the heaviest."""
    return max(change.need, *change.children.values(), Need.NOTHING) <= Need.REKEY
