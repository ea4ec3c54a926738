"""The port for IKE datagrams: batches in, batches out. Non-ESP markers (RFC 3948 2.2) live below this line."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from openmoat.net import Path

__all__ = ["MAX_IKE_DATAGRAM", "Datagram", "Wire"]

MAX_IKE_DATAGRAM = 65_507
"""Octets; the largest UDP payload over IPv4."""


class Datagram(msgspec.Struct, frozen=True, gc=False):
    """One IKE message without marker, and the path it came or goes by. A path whose local port is 4500 carries the marker."""

    octets: bytes
    path: Path
    df: bool = False
    """Outbound: forbid IPv4 fragmentation."""
    dscp: int = 0
    """Outbound: 6 bits."""


class Wire(Protocol):
    """Carries IKE datagrams. One task calls it; no call blocks."""

    def fileno(self) -> int:
        """Readable while `receive_batch` has something."""
        ...

    def receive_batch(self, limit: int) -> list[Datagram]:
        """Up to `limit` datagrams: those for known IKE SAs first, then responses, those of unknown peers last.

        Each of the three waits in a bounded queue of its own; what does not fit is dropped and counted.
        """
        ...

    def send_batch(self, datagrams: Sequence[Datagram]) -> int:
        """Send in order; answers how many were not taken by the network (they count as lost, IKE retransmits)."""
        ...

    def know_spis(self, added: Sequence[int], removed: Sequence[int]) -> None:
        """Tell which of our IKE SPIs (64 bits) exist, so that their datagrams go before those of unknown peers."""
        ...

    def read_drops(self) -> dict[str, int]:
        """Datagrams dropped since the start, by reason."""
        ...
