"""An in-memory `Backend` and `Wire`: they keep what they are told and carry nothing. For tests and dry runs."""

import contextlib
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from openmoat.crypto.suites import AEADS, CIPHERS, INTEGRITIES, EspSuite
from openmoat.dataplane.backend import (
    Activate,
    AddInbound,
    AddOutbound,
    BackendEvent,
    Capabilities,
    Command,
    Remove,
    SaCounters,
    SaFlag,
    SaState,
    SetPolicies,
    Spi,
    Update,
)
from openmoat.dataplane.wire import Datagram
from openmoat.errors import DataplaneError, UnknownSpi
from openmoat.mtu.plan import Framing, Rung
from openmoat.net import Path
from openmoat.policy.spd import Policy, PolicyId

__all__ = ["MemoryBackend", "MemoryWire", "Pair"]

FIRST_SPI = 0xC000_0000


@dataclass(slots=True)
class Pair:
    """One Child SA as the backend was told of it."""

    inbound: AddInbound
    outbound: AddOutbound | None = None
    is_active: bool = False
    activated: int = 0
    """Which activation of all was the last of this pair: of several the newest sends."""
    flags: SaFlag = SaFlag(0)
    new_path: Path | None = None
    inbound_packets: int = 0
    outbound_packets: int = 0


@dataclass
class MemoryBackend:
    """Meets `Backend`; what it holds is open to the test that owns it."""

    capacity: int = 1 << 16
    pairs: dict[Spi, Pair] = field(default_factory=dict)
    policies: dict[PolicyId, Policy] = field(default_factory=dict)
    reserved: set[Spi] = field(default_factory=set)
    retired: dict[Spi, SaCounters] = field(default_factory=dict)
    noise: deque[BackendEvent] = field(default_factory=lambda: deque(maxlen=256))

    def __post_init__(self) -> None:
        self._next_spi = FIRST_SPI
        self._activations = 0
        self._dirty: dict[Spi, None] = {}
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def capabilities(self) -> Capabilities:
        """Everything."""
        plain = [EspSuite(aead, None) for aead in AEADS]
        plain += [EspSuite(cipher, integrity) for cipher in CIPHERS for integrity in INTEGRITIES]
        both = [EspSuite(s.encryption, s.integrity, esn) for s in plain for esn in (False, True)]
        return Capabilities(
            suites=frozenset(both),
            framings=frozenset(Framing),
            rungs=frozenset(Rung),
            max_replay_window=4096,
        )

    def reserve_spis(self, count: int) -> list[Spi]:
        """Numbers from `FIRST_SPI` on, so that tests can name them."""
        count = min(count, self.capacity - len(self.reserved) - len(self.pairs))
        spis = list(range(self._next_spi, self._next_spi + max(0, count)))
        self._next_spi += len(spis)
        self.reserved.update(spis)
        return spis

    def release_spis(self, spis: Sequence[Spi]) -> None:
        """See `Backend.release_spis`."""
        self.reserved.difference_update(spis)

    def apply(self, commands: Sequence[Command]) -> list[SaCounters]:
        """See `Backend.apply`."""
        final: list[SaCounters] = []
        for command in commands:
            match command:
                case AddInbound(spi=spi):
                    if spi not in self.reserved:
                        raise DataplaneError(f"inbound SA {spi:08x}: SPI must be reserved first")
                    self.reserved.remove(spi)
                    self.pairs[spi] = Pair(command)
                case AddOutbound(handle=handle):
                    self._pair(handle).outbound = command
                case Activate(handle=handle):
                    self._activations += 1
                    pair = self._pair(handle)
                    pair.is_active, pair.activated = True, self._activations
                case Update(handle=handle):
                    self._update(self._pair(handle), command)
                case Remove(handle=handle):
                    final.append(self._counters(handle, self._pair(handle)))
                    del self.pairs[handle]
                    self._dirty.pop(handle, None)
                    self.retired[handle] = final[-1]
                case SetPolicies(put=put, remove=remove):
                    for gone in remove:
                        self.policies.pop(gone, None)
                    self.policies.update({policy.id: policy for policy in put})
        return final

    def read_counters(self, handles: Sequence[Spi] | None = None) -> list[SaCounters]:
        """See `Backend.read_counters`."""
        wanted = self.pairs if handles is None else handles
        return [self._counters(handle, self.pairs[handle]) for handle in wanted if handle in self.pairs]

    def sender(self, policy: PolicyId) -> Spi | None:
        """The pair by which packets of a policy go out."""
        pairs = [
            (pair.activated, handle)
            for handle, pair in self.pairs.items()
            if pair.is_active and pair.outbound is not None and pair.outbound.policy == policy
        ]
        return max(pairs)[1] if pairs else None

    def read_drops(self) -> dict[str, int]:
        """Nothing is ever dropped."""
        return {}

    def read_offloads(self) -> dict[str, str]:
        """There are none."""
        return {}

    def fileno(self) -> int:
        """An eventfd."""
        return self._event_fd

    def drain(self, limit: int) -> list[BackendEvent]:
        """See `Backend.drain`."""
        events: list[BackendEvent] = []
        while self._dirty and len(events) < limit:
            handle = next(iter(self._dirty))
            del self._dirty[handle]
            pair = self.pairs[handle]
            events.append(SaState(handle, pair.flags, pair.new_path))
            pair.flags &= ~(SaFlag.SUSPECT | SaFlag.BLACK_HOLE)
        while self.noise and len(events) < limit:
            events.append(self.noise.popleft())
        if not self._dirty and not self.noise:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event_fd)
        return events

    def close(self) -> None:
        """See `Backend.close`."""
        self.pairs.clear()
        os.close(self._event_fd)

    def raise_flags(self, handle: Spi, flags: SaFlag, path: Path | None = None) -> None:
        """Let the pair look as if packets had brought these flags about."""
        pair = self._pair(handle)
        pair.flags |= flags
        pair.new_path = path or pair.new_path
        self._dirty[handle] = None
        os.eventfd_write(self._event_fd, 1)

    def make_noise(self, event: BackendEvent) -> None:
        """Let `drain` report `event`."""
        self.noise.append(event)
        os.eventfd_write(self._event_fd, 1)

    def _pair(self, handle: Spi) -> Pair:
        try:
            return self.pairs[handle]
        except KeyError:
            raise UnknownSpi(f"SA {handle:08x} is not installed") from None

    def _update(self, pair: Pair, change: Update) -> None:
        if change.path is not None:
            pair.new_path = None
            pair.flags &= ~SaFlag.NEW_PATH
        old = pair.outbound
        if old is None:
            return
        pair.outbound = AddOutbound(
            handle=old.handle,
            spi=old.spi,
            suite=old.suite,
            key=old.key,
            integrity_key=old.integrity_key,
            local=old.local,
            remote=old.remote,
            policy=old.policy,
            copy_dscp=old.copy_dscp,
            path=change.path or old.path,
            encapsulation=change.encapsulation or old.encapsulation,
            plan=change.plan or old.plan,
            limits=change.limits or old.limits,
            keepalive_seconds=old.keepalive_seconds if change.keepalive_seconds is None else change.keepalive_seconds,
            hard_at=old.hard_at if change.hard_at is None else change.hard_at,
        )

    def _counters(self, handle: Spi, pair: Pair) -> SaCounters:
        return SaCounters(
            handle=handle,
            inbound_packets=pair.inbound_packets,
            outbound_packets=pair.outbound_packets,
            inbound_sequence=pair.inbound_packets,
            outbound_sequence=pair.outbound_packets,
            drops={},
        )


@dataclass
class MemoryWire:
    """Meets `Wire`; datagrams wait in `inbox` until received and in `sent` until looked at."""

    inbox: deque[Datagram] = field(default_factory=deque)
    sent: deque[Datagram] = field(default_factory=deque)
    known_spis: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def deliver(self, datagram: Datagram) -> None:
        """Let `receive_batch` give `datagram`."""
        self.inbox.append(datagram)
        os.eventfd_write(self._event_fd, 1)

    def fileno(self) -> int:
        """An eventfd."""
        return self._event_fd

    def receive_batch(self, limit: int) -> list[Datagram]:
        """In order of delivery."""
        batch = [self.inbox.popleft() for _ in range(min(limit, len(self.inbox)))]
        if not self.inbox:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event_fd)
        return batch

    def send_batch(self, datagrams: Sequence[Datagram]) -> int:
        """Everything is taken."""
        self.sent.extend(datagrams)
        return 0

    def know_spis(self, added: Sequence[int], removed: Sequence[int]) -> None:
        """Kept in `known_spis`."""
        self.known_spis.update(added)
        self.known_spis.difference_update(removed)

    def read_drops(self) -> dict[str, int]:
        """Nothing is ever dropped."""
        return {}
