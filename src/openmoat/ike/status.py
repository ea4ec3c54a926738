"""Read-only snapshots of an `Endpoint`, for status screens."""

from collections.abc import Mapping
from dataclasses import dataclass

from openmoat.crypto.identities import Identity
from openmoat.crypto.suites import IkeSuite
from openmoat.ike.events import ChildSa, DownReason, IkeSpi
from openmoat.ike.upkeep import Phase
from openmoat.net import Path

__all__ = ["ChildStatus", "ConnectionStatus", "Counts", "IkeSaStatus"]

Counts = Mapping[str, int]
"""By the words of `config.Count`; what never happened is absent."""


# Many attributes: a snapshot for a screen.
@dataclass(frozen=True, slots=True, kw_only=True)
class IkeSaStatus:
    """One IKE SA. Times are those given to the core; None where a lifetime is switched off."""

    ike: IkeSpi
    peer_spi: int
    state: str
    """Name of the state, as in the diagram."""
    connection: str | None
    peer: Identity | None
    is_initiator: bool
    path: Path
    suite: IkeSuite | None
    since: float
    heard: float
    rekey_at: float | None
    expires_at: float | None
    is_rekeying: bool
    children: tuple[int, ...]
    """Local SPIs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStatus:
    """One Child SA."""

    sa: ChildSa
    is_active: bool
    """We send with it."""
    is_closing: bool
    rekey_at: float | None
    expires_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatus:
    """One connection: where it stands, since when, why, and when it is tried again."""

    name: str
    phase: Phase
    since: float
    reason: DownReason | None
    text: str
    failures: int
    retry_at: float | None
    missing: tuple[str, ...]
    """Children that are wanted and not there."""
