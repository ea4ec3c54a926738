"""What the daemon wants of the IKE core: each verb is given the time, and what comes of it is carried out at once."""

from collections.abc import Callable, Iterable

from openmoat.crypto.identities import Identity
from openmoat.ike.endpoint import Endpoint
from openmoat.model.connection import Connection
from openmoat.net import Address

__all__ = ["Verbs"]


class Verbs:
    """The verbs of one `Endpoint`. Lives in the daemon's event loop."""

    def __init__(self, core: Endpoint, clock: Callable[[], float], flush: Callable[[], None]) -> None:
        """`flush` carries out what the core has to say."""
        self._core = core
        self._clock = clock
        self._flush = flush

    def load(self, connections: Iterable[Connection]) -> None:
        """Add connections, or exchange those of the same name."""
        self._core.load(connections, self._clock())
        self._flush()

    def update(self, connection: Connection) -> None:
        """Exchange a connection whose SAs may stay."""
        self._core.update([connection], self._clock())
        self._flush()

    def unload(self, names: Iterable[str]) -> None:
        """Forget connections and delete their SAs."""
        self._core.unload(names, self._clock())
        self._flush()

    def initiate(self, connection: str) -> None:
        """Bring a connection up; ends a `take_down`."""
        self._core.initiate(connection, None, self._clock())
        self._flush()

    def handle_acquire(self, connection: str, child: str) -> None:
        """A packet wants a child."""
        self._core.handle_acquire(connection, child, self._clock())
        self._flush()

    def take_down(self, connection: str, peer: Identity | None = None) -> None:
        """Delete the SAs of a connection, or of one peer of it, and keep it down."""
        self._core.take_down(connection, self._clock(), peer)
        self._flush()

    def rekey_ike(self, ike: int) -> None:
        """Replace an IKE SA."""
        self._core.rekey_ike(ike, self._clock())
        self._flush()

    def rekey_child(self, handle: int) -> None:
        """Replace a Child SA."""
        self._core.rekey_child(handle, self._clock())
        self._flush()

    def delete_ike(self, ike: int) -> None:
        """Delete an IKE SA with its children. What is kept up comes back."""
        self._core.delete_ike(ike, self._clock())
        self._flush()

    def delete_child(self, handle: int) -> None:
        """Delete a Child SA. What is kept up comes back."""
        self._core.delete_child(handle, self._clock())
        self._flush()

    def probe(self, ike: int) -> None:
        """Ask the peer of an IKE SA for a sign of life."""
        self._core.probe(ike, self._clock())
        self._flush()

    def probe_size(self, ike: int, size: int) -> None:
        """Find out whether outer packets of `size` octets reach the peer; `SizeProbed` tells."""
        self._core.probe_size(ike, size, self._clock())
        self._flush()

    def probe_fragments(self, ike: int) -> None:
        """Find out whether IP fragments reach the peer; `FragmentsProbed` tells."""
        self._core.probe_fragments(ike, self._clock())
        self._flush()

    def handle_addresses(self, addresses: frozenset[Address]) -> None:
        """Our addresses have changed: IKE SAs from where we are no more are deleted; what is kept up comes back."""
        self._core.handle_addresses(addresses, self._clock())
        self._flush()

    def reveal_keys(self, is_wanted: bool) -> None:
        """Tell the keys of IKE SAs from now on, or no more."""
        self._core.reveal_keys(is_wanted)

    def close(self) -> None:
        """Delete everything."""
        self._core.close(self._clock())
        self._flush()
