"""A `Backend` over the packet engine (`openmoat._native`), which reads the fields of commands by their names; decides nothing.

The engine also carries IKE datagrams on the same sockets: see `dataplane.engine_wire`.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from openmoat import _native
from openmoat.crypto.suites import ENCRYPTIONS, INTEGRITIES, EspSuite
from openmoat.dataplane.backend import (
    Acquire,
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
from openmoat.errors import DataplaneError
from openmoat.mtu.plan import Framing, Rung
from openmoat.net import HostPort, Path

__all__ = [
    "EVERY_OFFLOAD",
    "MAX_REPLAY_WINDOW",
    "Offloads",
    "UserspaceBackend",
    "from_host_port",
    "open_engine",
    "to_host_port",
]

MAX_REPLAY_WINDOW = 4096
"""Packets."""
_KNOWN_ENDS = 1_024
"""Addresses with their ports that are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offloads:
    """What the kernel is to do for the engine, where it can; without them the same packets go one by one."""

    tun_tso: bool = True
    """Super-packets of TCP at the TUN device, both ways."""
    tun_uso: bool = True
    """Super-packets of UDP there (Linux 6.2)."""
    udp_gso: bool = True
    """Many ESP packets to one peer in one datagram with segments."""
    udp_gro: bool = True
    """ESP packets of one peer joined by the kernel on receipt."""


EVERY_OFFLOAD: Final = Offloads()


def open_engine(
    *,
    tun: Sequence[int],
    udp: Sequence[tuple[int, int]],
    raw: Sequence[int],
    slots: int = 65_536,
    offloads: Offloads = EVERY_OFFLOAD,
) -> _native.Engine:
    """An engine that runs on duplicates of these descriptors; see `system.sockets.Descriptors` for what they are.

    Its `stop`, which `UserspaceBackend.close` calls, ends it for good. Raises `DeviceError`.
    """
    wanted = (offloads.tun_tso, offloads.tun_uso, offloads.udp_gso, offloads.udp_gro)
    engine = _native.Engine(tun=tun, udp=udp, raw=raw, slots=slots, offloads=wanted)
    engine.start()
    return engine


class UserspaceBackend:
    """Meets `Backend`."""

    def __init__(self, engine: _native.Engine) -> None:
        self._engine = engine

    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`. Only suites that have a row in `crypto.suites` are told."""
        return Capabilities(
            suites=frozenset(_suites()),
            framings=frozenset(Framing),
            rungs=frozenset(Rung),
            max_replay_window=MAX_REPLAY_WINDOW,
        )

    def reserve_spis(self, count: int) -> list[Spi]:
        """See `Backend.reserve_spis`."""
        return self._engine.reserve_spis(count)

    def release_spis(self, spis: Sequence[Spi]) -> None:
        """See `Backend.release_spis`."""
        self._engine.release_spis(spis)

    def apply(self, commands: Sequence[Command]) -> list[SaCounters]:
        """See `Backend.apply`. A command that the engine cannot even read fails before any is carried out."""
        batch = _native.Batch()
        for command in commands:
            _ADD[type(command)](batch, command)
        return [_counters(counters) for counters in self._engine.apply(batch)]

    def read_counters(self, handles: Sequence[Spi] | None = None) -> list[SaCounters]:
        """See `Backend.read_counters`."""
        return [_counters(counters) for counters in self._engine.read_counters(handles)]

    def read_drops(self) -> Mapping[str, int]:
        """See `Backend.read_drops`."""
        return self._engine.read_drops()

    def read_offloads(self) -> Mapping[str, str]:
        """See `Backend.read_offloads`."""
        return self._engine.read_offloads()

    def fileno(self) -> int:
        """An eventfd."""
        return self._engine.fileno()

    def drain(self, limit: int) -> list[BackendEvent]:
        """See `Backend.drain`."""
        states, acquires = self._engine.drain(limit)
        events: list[BackendEvent] = [
            SaState(handle, SaFlag(flags), None if ends is None else _path(*ends)) for handle, flags, ends in states
        ]
        for policy, source, destination, protocol, source_port, destination_port in acquires:
            events.append(
                Acquire(
                    policy=policy,
                    source=ipaddress.ip_address(source),
                    destination=ipaddress.ip_address(destination),
                    protocol=protocol,
                    source_port=source_port,
                    destination_port=destination_port,
                )
            )
        return events

    def close(self) -> None:
        """See `Backend.close`. The engine, and any `EngineWire` over it, carries nothing from now on."""
        self._engine.stop()


def to_host_port(end: HostPort) -> tuple[bytes, int]:
    """As the engine writes it."""
    return end.address.packed, end.port


@lru_cache(maxsize=_KNOWN_ENDS)
def from_host_port(end: tuple[bytes, int]) -> HostPort:
    """As the engine writes it. Ours are few, and those of a peer come several times."""
    return HostPort(ipaddress.ip_address(end[0]), end[1])


def _suites() -> list[EspSuite]:
    encryptions = {(int(row.id), row.key_bits): row for row in ENCRYPTIONS}
    integrities = {int(row.id): row for row in INTEGRITIES}
    suites = []
    for encryption, key_bits, integrity, esn in _native.suites():
        row = encryptions.get((encryption, key_bits))
        if row is not None:
            suites.append(EspSuite(row, integrities.get(integrity), esn))
    return suites


def _add_inbound(batch: _native.Batch, command: AddInbound) -> None:
    try:
        batch.add_inbound(command)
    except ValueError as error:
        raise DataplaneError(f"SA {command.spi:08x}: {error}") from error


def _add_outbound(batch: _native.Batch, command: AddOutbound) -> None:
    try:
        batch.add_outbound(command)
    except ValueError as error:
        raise DataplaneError(f"SA {command.handle:08x}: {error}") from error


def _set_policies(batch: _native.Batch, command: SetPolicies) -> None:
    for policy in command.put:
        batch.put_policy(policy)
    for number in command.remove:
        batch.remove_policy(number)


_ADD: Mapping[type, Callable[[_native.Batch, Any], None]] = {
    AddInbound: _add_inbound,
    AddOutbound: _add_outbound,
    Activate: lambda batch, command: batch.activate(command.handle),
    Update: lambda batch, command: batch.update(command),
    Remove: lambda batch, command: batch.remove(command.handle),
    SetPolicies: _set_policies,
}


def _counters(row: "_native._CounterRow") -> SaCounters:
    handle, values, drops, deeds = row
    return SaCounters(handle, drops, deeds, *values)


def _path(local: tuple[bytes, int], remote: tuple[bytes, int]) -> Path:
    return Path(from_host_port(local), from_host_port(remote))
