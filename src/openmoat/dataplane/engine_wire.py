"""A `Wire` over the packet engine, which owns the sockets, sorts IKE out of what they receive and keeps the markers."""

from collections.abc import Sequence

from openmoat import _native
from openmoat.dataplane.userspace import from_host_port, to_host_port
from openmoat.dataplane.wire import Datagram
from openmoat.net import Path

__all__ = ["EngineWire"]


class EngineWire:
    """Meets `Wire`. Its drops are among those of the backend over the same engine; it names none of its own."""

    def __init__(self, engine: _native.Engine) -> None:
        self._engine = engine

    def fileno(self) -> int:
        """An eventfd."""
        return self._engine.wire_fileno()

    def receive_batch(self, limit: int) -> list[Datagram]:
        """See `Wire.receive_batch`."""
        received = self._engine.receive_batch(limit)
        return [
            Datagram(octets, Path(from_host_port(local), from_host_port(remote))) for octets, local, remote in received
        ]

    def send_batch(self, datagrams: Sequence[Datagram]) -> int:
        """See `Wire.send_batch`."""
        rows = [
            (bytes(d.octets), to_host_port(d.path.local), to_host_port(d.path.remote), d.df, d.dscp) for d in datagrams
        ]
        return self._engine.send_batch(rows)

    def know_spis(self, added: Sequence[int], removed: Sequence[int]) -> None:
        """See `Wire.know_spis`."""
        self._engine.know_spis(added, removed)

    def read_drops(self) -> dict[str, int]:
        """Datagrams without room are `queue-full`, those that are no IKE message `too-short`, in the engine's sums."""
        return {}
