"""Keeps the host as the loaded connections want it: routes to the TUN, and the guard against clear packets.

The kernel's state outlives this process (see `system.reconcile`); here it is only decided when to look and to apply.
"""

import asyncio
import logging
from dataclasses import replace
from typing import Protocol

from openmoat.daemon.host.prefixes import Prefixes, Protected
from openmoat.daemon.host.state import host_state, state_change
from openmoat.daemon.status.journal import Journal
from openmoat.daemon.worker_threads import WorkerThreads
from openmoat.errors import SystemFault
from openmoat.model.settings import OnStop
from openmoat.net import IKE_PORT, NATT_PORT
from openmoat.policy.selectors import Selectors
from openmoat.system.firewall import is_own_process
from openmoat.system.links import InterfaceAddress, read_addresses
from openmoat.system.netlink import Netlink
from openmoat.system.reconcile import Applied, Reconciler, StateChange
from openmoat.system.watch import Change, EverythingChanged, Watch

__all__ = ["MAX_CHANGES", "PERIOD_SECONDS", "AddressListener", "HostKeeper", "bounded"]

PERIOD_SECONDS = 60.0
"""What is ours in the kernel is read afresh after so long, whether a change was reported or not."""
RETRY_SECONDS = 10.0
"""The same, while the host is not as it should be."""
SWARM_SECONDS = 0.1
MAX_CHANGES = 256
"""Changes that wait to be looked at; with more, everything is looked at again."""

log = logging.getLogger("openmoat.daemon.host.keeper")


class AddressListener(Protocol):
    """Follows the addresses of this host: `daemon.distribution.Distribution`."""

    def handle_addresses(self, rows: tuple[InterfaceAddress, ...]) -> None:
        """All addresses of the host, whenever they are others than before."""
        ...


class HostKeeper:
    """Owns the `Reconciler`; one call at a time, in a thread."""

    def __init__(
        self,
        reconciler: Reconciler,
        device: str,
        prefixes: Prefixes,
        threads: WorkerThreads,
        journal: Journal,
        listener: AddressListener,
        ports: tuple[int, ...] = (IKE_PORT, NATT_PORT),
    ) -> None:
        """`ports`: where IKE and encapsulated ESP come in on this host."""
        self._reconciler = reconciler
        self._device = device
        self._ports = ports
        self._prefixes = prefixes
        self._threads = threads
        self._journal = journal
        self._listener = listener
        self._watch: Watch | None = None
        self._changes: list[Change] = []
        self._is_guarded = False
        self._revision = 0
        """Of what is protected, as it was last applied."""
        self._is_ended = False
        self._foreign: tuple[str, ...] = ()
        self._turn = asyncio.Lock()
        self._told: set[str] = set()
        self._addresses: tuple[InterfaceAddress, ...] = ()
        self.fault = ""
        """Why the host is not as it should be; empty while it is."""
        self.notes: tuple[str, ...] = ()
        """What of the host's own settings stands in the way, each with its remedy."""

    async def start(self) -> None:
        """Adopt what is there, and follow changes from now on.

        Nothing is applied: as long as no connection is loaded, that would take down the guard that was adopted.
        """
        self._watch = Watch(is_own_process)
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._watch_readable)
        adopted = await self._threads.run(self._reconciler.adopt)
        if adopted:
            self._journal.note("host-adopted", logging.INFO, f"adopted {adopted} routes, rules and ranges of before")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                # Not wait_for: in Python 3.11 it can swallow a cancellation that comes with the event.
                async with asyncio.timeout(RETRY_SECONDS if self.fault else PERIOD_SECONDS):
                    await self._prefixes.changed.wait()
                # Changes come in swarms: an interface brings its addresses, and they their routes.
                await asyncio.sleep(SWARM_SECONDS)
            except TimeoutError:
                self._changes.append(EverythingChanged())
            await self.apply()

    async def apply(self) -> None:
        """Bring the host to what is wanted now; an error is told once, and it is tried again soon.

        Raises `SystemFault` the first time: nothing is negotiated as long as there never was a guard.
        """
        async with self._turn:
            self._prefixes.changed.clear()
            if self._is_ended:
                return
            revision = self._prefixes.revision
            if self._is_guarded and not self.fault and not self._changes and revision == self._revision:
                return  # a rekey leaves the host as it is, and so do most SAs that come and go
            changes, self._changes = self._changes, []
            before = self._addresses
            touched = self._prefixes.take_touched()
            try:
                applied = None
                if self._is_guarded and not self.fault and not changes and touched is not None:
                    # A peer or a connection that comes or goes, or its sizes, are work for what they name, and no other.
                    change = state_change(self._prefixes, touched, self._addresses)
                    applied = await self._threads.run(self._change, change)
                if applied is None:
                    wanted = self._prefixes.protected(), self._prefixes.reserved()
                    applied = await self._threads.run(self._apply, changes, *wanted)
            except SystemFault as fault:
                if not self._is_guarded:
                    raise
                if str(fault) != self.fault:
                    self._journal.note("host-fault", logging.ERROR, str(fault))
                self.fault = str(fault)
                self._changes.append(EverythingChanged())
                return
            self.fault = ""
            self._is_guarded = True
            self._revision = revision
            self._tell(applied)
            if self._addresses != before:
                self._listener.handle_addresses(self._addresses)

    async def stop(self, on_stop: OnStop) -> None:
        """Leave the host guarded, or remove everything of ours."""
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
        async with self._turn:
            self._is_ended = True
            try:
                await self._threads.run(self._reconciler.release, keeps_guard=on_stop is OnStop.BLOCK)
            except SystemFault as fault:
                self._journal.note("host-fault", logging.ERROR, str(fault))

    def _watch_readable(self) -> None:
        if self._watch is None:
            return
        self._changes = bounded([*self._changes, *self._watch.drain()])
        if self._changes:
            self._prefixes.changed.set()

    def _change(self, change: StateChange) -> Applied | None:
        """In a thread."""
        applied = self._reconciler.change(change)
        return replace(applied, notes=self.notes) if applied is not None else None

    def _apply(
        self,
        changes: list[Change],
        protected: tuple[Protected, ...],
        reserved: tuple[tuple[Selectors, Selectors], ...],
    ) -> Applied:
        """In a thread. Changes are noted here, so that an `apply` that was under way forgets none."""
        self._reconciler.handle_changes(changes)
        with Netlink() as netlink:
            self._addresses = read_addresses(netlink)
        applied = self._reconciler.apply(host_state(self._device, protected, self._addresses, reserved, self._ports))
        if not self._is_guarded or EverythingChanged() in changes:
            self._foreign = self._reconciler.inspect(self._device) if protected or reserved else ()
        return replace(applied, notes=(*applied.notes, *self._foreign))

    def _tell(self, applied: Applied) -> None:
        for setting in applied.settings:
            self._journal.note("host-setting", logging.INFO, f"setting of the host changed: {setting}")
        for note in applied.notes:
            if note not in self._told:
                self._journal.note("host-note", logging.WARNING, note)
        self._told = set(applied.notes)
        self.notes = applied.notes


def bounded(changes: list[Change]) -> list[Change]:
    """These changes, or that everything may have changed where there are too many to keep."""
    return changes if len(changes) <= MAX_CHANGES else [EverythingChanged()]
