"""Who follows what: every event of the core and the backend goes from here to the parts of the daemon, in a fixed order.

The table of peers is told first of what has happened, so that whatever follows an event finds it as it is now.
"""

from openmoat.daemon.core.installer import Installer
from openmoat.daemon.core.keylog import KeySink
from openmoat.daemon.core.verbs import Verbs
from openmoat.daemon.host.path_sizes import PathSizes
from openmoat.daemon.host.policies import Policies
from openmoat.daemon.names.renewal import NameWatch
from openmoat.daemon.peers import Peers
from openmoat.daemon.status.journal import Journal
from openmoat.dataplane.backend import Acquire, Spi
from openmoat.dataplane.wire import Wire
from openmoat.ike.events import Event, IkeSaDown, IkeSaUp, PeerSilent
from openmoat.system.links import InterfaceAddress

__all__ = ["Distribution"]


class Distribution:
    """Meets `core.driver.Listener` and `host.keeper.AddressListener`."""

    # Many parameters: one for each part that follows events, so that none can be forgotten.
    def __init__(
        self,
        *,
        journal: Journal,
        peers: Peers,
        wire: Wire,
        sizes: PathSizes,
        renewal: NameWatch,
        keys: KeySink,
        installer: Installer,
        policies: Policies,
        verbs: Verbs,
    ) -> None:
        self._journal = journal
        self._peers = peers
        self._wire = wire
        self._sizes = sizes
        self._renewal = renewal
        self._keys = keys
        self._installer = installer
        self._policies = policies
        self._verbs = verbs

    def handle_event(self, event: Event) -> None:
        """The core tells news."""
        self._journal.tell(event)
        self._peers.handle_event(event)
        match event:
            case IkeSaUp(ike=ike):
                self._wire.know_spis([ike], [])
            case PeerSilent():
                self._installer.suspect(event)
            case IkeSaDown(ike=ike):
                self._wire.know_spis([], [ike])
            case _:
                pass
        self._keys.handle_event(event)
        self._sizes.handle_event(event)
        self._renewal.handle_event(event)

    def handle_acquire(self, acquire: Acquire) -> None:
        """The first packet of a trapping policy: its child is wanted now."""
        for connection, child in self._policies.spd.children_of(acquire.policy):
            self._verbs.handle_acquire(connection, child)

    def handle_suspicion(self, handle: Spi) -> None:
        """Large packets of a pair seem to be lost."""
        self._sizes.handle_suspicion(handle)

    def handle_black_hole(self, handle: Spi) -> None:
        """The peer of a pair gets small packets, and none as large as possible."""
        self._sizes.handle_black_hole(handle)

    def handle_ignored_df(self, handle: Spi) -> None:
        """A pair fragments packets although their senders forbid it."""
        child = self._installer.ignored_df(handle)
        if child is not None:
            self._journal.df_ignored(child)

    def handle_addresses(self, rows: tuple[InterfaceAddress, ...]) -> None:
        """ICMP errors come from other addresses than before, and IKE SAs cannot be reached where we are no more."""
        self._installer.readdress(rows)
        self._verbs.handle_addresses(frozenset(row.address for row in rows))
