"""Keeps the host as the loaded connections want it: routes to the TUN, and the guard against clear packets.

The kernel's state outlives this process (see `system.reconcile`); here it is only decided when to look and to apply.
"""

import asyncio
import logging

from openmoat.daemon.beside import Beside
from openmoat.daemon.hoststate import host_state
from openmoat.daemon.journal import Journal
from openmoat.daemon.policies import Policies, Protected
from openmoat.errors import SystemFault
from openmoat.system.links import read_addresses
from openmoat.system.netlink import Netlink
from openmoat.system.reconcile import Applied, OnStop, Reconciler

__all__ = ["PERIOD_SECONDS", "HostKeeper"]

PERIOD_SECONDS = 10.0
"""The host is looked at again after so long at most: addresses come and go by DHCP."""
MISTRUST_EVERY = 6
"""Every so many periods what we know of the kernel's state is read afresh: others may have changed what is ours."""

log = logging.getLogger("openmoat.daemon.host")


class HostKeeper:
    """Owns the `Reconciler`; one call at a time, in a thread."""

    def __init__(
        self, reconciler: Reconciler, device: str, policies: Policies, beside: Beside, journal: Journal
    ) -> None:
        self._reconciler = reconciler
        self._device = device
        self._policies = policies
        self._beside = beside
        self._journal = journal
        self._is_wanted = asyncio.Event()
        self._told: set[str] = set()
        self.fault = ""
        """Why the host is not as it should be; empty while it is."""
        self.notes: tuple[str, ...] = ()
        """What of the host's own settings stands in the way, each with its remedy."""

    def refresh(self) -> None:
        """What is protected has changed."""
        self._is_wanted.set()

    async def start(self) -> None:
        """Adopt what is there, and guard everything protected before the first packet of ours goes out."""
        adopted = await self._beside.run(self._reconciler.adopt)
        if adopted:
            self._journal.note("host-adopted", logging.INFO, f"adopted {adopted} routes, rules and ranges of before")
        await self.apply()

    async def run(self) -> None:
        """Until cancelled."""
        rounds = 0
        while True:
            try:
                await asyncio.wait_for(self._is_wanted.wait(), PERIOD_SECONDS)
            except TimeoutError:
                rounds += 1
                if rounds % MISTRUST_EVERY == 0:
                    self._reconciler.mistrust(guard=True)
            await self.apply()

    async def apply(self) -> None:
        """Bring the host to what is wanted now; a fault is told once, and tried again in the next period."""
        self._is_wanted.clear()
        protected = self._policies.protected()
        try:
            applied = await self._beside.run(self._apply, protected)
        except SystemFault as fault:
            if str(fault) != self.fault:
                self._journal.note("host-fault", logging.ERROR, str(fault))
            self.fault = str(fault)
            self._reconciler.mistrust(guard=True)
            return
        self.fault = ""
        self._tell(applied)

    async def stop(self, on_stop: OnStop) -> None:
        """Leave the host guarded, or as if we had never been."""
        try:
            await self._beside.run(self._reconciler.release, on_stop)
        except SystemFault as fault:
            self._journal.note("host-fault", logging.ERROR, str(fault))

    def _apply(self, protected: tuple[Protected, ...]) -> Applied:
        with Netlink() as netlink:
            addresses = read_addresses(netlink)
        return self._reconciler.apply(host_state(self._device, protected, addresses))

    def _tell(self, applied: Applied) -> None:
        for setting in applied.settings:
            self._journal.note("host-setting", logging.INFO, f"setting of the host changed: {setting}")
        for note in applied.notes:
            if note not in self._told:
                self._journal.note("host-note", logging.WARNING, note)
        self._told = set(applied.notes)
        self.notes = applied.notes
