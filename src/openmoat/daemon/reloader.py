"""What is loaded: a configuration brought into policies, host and core, and a reload as the diff of two.

The order keeps packets from going out in clear: what is new is guarded before it is negotiated, and what is gone is
guarded until its SAs are deleted (D8).
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from openmoat.config.diff import ConnectionChange, Need, diff
from openmoat.config.toml import Configuration, load
from openmoat.control.messages import ErrorCode, Reloaded
from openmoat.daemon.core.driver import Driver
from openmoat.daemon.core.installer import Installer
from openmoat.daemon.core.keyholder import Keyholder
from openmoat.daemon.host.keeper import HostKeeper
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.status.book import Book
from openmoat.daemon.worker_threads import WorkerThreads
from openmoat.dataplane.backend import SetPolicies
from openmoat.errors import ConfigError, ControlError, CryptoError, SystemFault
from openmoat.ike.endpoint import Endpoint
from openmoat.model.connection import Connection
from openmoat.model.settings import Settings

__all__ = ["Loaded", "Reloader"]


class Loaded:
    """The configuration as it stands. Others only look things up in it."""

    def __init__(self) -> None:
        self.configuration = Configuration()
        self.conflicts: dict[str, str] = {}
        """Connections that could not be taken in, and why."""

    def find(self, name: str) -> Connection | None:
        """The connection of this name."""
        return self.configuration.connections.get(name)

    def connections(self) -> list[Connection]:
        """All, by name."""
        return [self.configuration.connections[name] for name in sorted(self.configuration.connections)]


class Reloader:
    """Changes what is loaded; one change at a time."""

    def __init__(
        self,
        file: Path,
        loaded: Loaded,
        *,
        policies: Policies,
        installer: Installer,
        keyholder: Keyholder,
        book: Book,
        host: HostKeeper | None,
        driver: Driver,
        core: Endpoint,
        beside: WorkerThreads,
        use_settings: Callable[[Settings], None],
    ) -> None:
        """`host` is None where nothing of the host is to be touched; `use_settings` takes those that need no restart."""
        self.file = file
        self.loaded = loaded
        self._policies = policies
        self._installer = installer
        self._keyholder = keyholder
        self._book = book
        self._host = host
        self._driver = driver
        self._core = core
        self._beside = beside
        self._use_settings = use_settings
        self._policy_names: dict[int, str] = {}
        self._is_changing = False

    async def reload(self) -> Reloaded:
        """Read the file again and bring about what has changed; with faults in it nothing is."""
        if self._is_changing:
            raise ControlError(ErrorCode.BUSY, "a reload is under way", "try again in a moment")
        self._is_changing = True
        try:
            try:
                configuration = await self._beside.run(load, self.file, self.loaded.configuration)
            except ConfigError as error:
                raise ControlError(ErrorCode.CONFIGURATION, str(error), f"moat check {self.file}") from error
            try:
                return await self.bring_about(configuration)
            except (SystemFault, CryptoError) as error:
                raise ControlError(ErrorCode.CONFIGURATION, str(error), "mend it, then: moat reload") from error
        finally:
            self._is_changing = False

    async def bring_about(self, configuration: Configuration) -> Reloaded:
        """From what is loaded to `configuration`; connections that are the same in both are not touched."""
        before, loaded = self.loaded.configuration, self.loaded
        difference = await self._beside.run(diff, before, configuration)
        # A conflict may have gone with the connection it was with.
        again = [name for name in loaded.conflicts if name in configuration.connections]
        light = {name: change for name, change in difference.changed.items() if is_light(change) and name not in again}
        heavy = [name for name in difference.changed if name not in light]
        fresh = dict.fromkeys((*difference.added, *heavy, *again))
        self._keyholder.load(
            {**before.psks, **configuration.psks}, {**before.private_keys, **configuration.private_keys}
        )
        if difference.live_settings:
            self._use_settings(configuration.settings)
        self._core.unload(difference.removed, self._driver.clock())
        self._driver.flush()
        loaded.configuration = configuration
        self._book.load(fresh, difference.removed)
        await self._protect([configuration.connections[name] for name in (*fresh, *light)], difference.removed)
        gone = [name for name in loaded.conflicts if name in before.connections and name in difference.changed]
        self._core.unload(gone, self._driver.clock())
        ready = [configuration.connections[name] for name in fresh if name not in loaded.conflicts]
        self._core.load(ready, self._driver.clock())
        self._installer.refresh(light.keys() - loaded.conflicts.keys())
        for name, change in light.items():
            if name not in loaded.conflicts:
                self._update(configuration.connections[name], change)
        self._driver.flush()
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
        """SAs stay, and packets flow on: new values at once where they can be had, by a rekey where not."""
        now, record = self._driver.clock(), self._book.record(connection.name)
        self._core.update([connection], now)
        if record is None:
            return
        if change.need is Need.REKEY:
            for ike in list(record.ike_sas):
                self._core.rekey_ike(ike, now)
        for spi, live in list(record.children.items()):
            name = live.child.child
            if name in change.removed_children:
                self._core.delete_child(spi, now)
            elif change.children.get(name) is Need.REKEY:
                self._core.rekey_child(spi, now)

    def policy_child(self, policy: int) -> tuple[str, str] | None:
        """Connection and child whose policy bears this number."""
        connection, _, child = self._policy_names.get(policy, "").partition("/")
        return (connection, child) if child else None

    async def _protect(self, put: Iterable[Connection], removed: Iterable[str]) -> None:
        """Policies and guard for what is new; no packet of it goes out in clear from here on."""
        changes, conflicts = self._policies.load(put, removed)
        self.loaded.conflicts = {name: str(conflict) for name, conflict in conflicts.items()}
        self._installer.backend.apply([changes])
        self._note_names(changes)
        if self._host is not None:
            await self._host.apply()

    def _note_names(self, changes: SetPolicies) -> None:
        for number in changes.remove:
            self._policy_names.pop(number, None)
        self._policy_names.update({policy.id: policy.name for policy in changes.put})


def is_light(change: ConnectionChange) -> bool:
    """Whether the SAs of a connection can stay. Reauthentication is done by deleting first, as for the heaviest."""
    return max(change.need, *change.children.values(), Need.NOTHING) <= Need.REKEY
