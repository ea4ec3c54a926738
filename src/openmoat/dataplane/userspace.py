"""A `Backend` over the packet engine (`openmoat._native`): translates commands and events, decides nothing.

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
    Encapsulation,
    Limits,
    Remove,
    SaCounters,
    SaFlag,
    SaState,
    SetPolicies,
    Spi,
    StrangeSpi,
    Update,
)
from openmoat.errors import DataplaneError
from openmoat.mtu.plan import Framing, MtuPlan, Rung
from openmoat.net import HostPort, Path
from openmoat.policy.selectors import Selectors
from openmoat.policy.spd import Policy

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
            encapsulations=frozenset(Encapsulation),
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
        return [_event(event) for event in self._engine.drain(limit)]

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
        batch.add_inbound(
            spi=command.spi,
            encryption=int(command.suite.encryption.id),
            key_bits=command.suite.encryption.key_bits,
            integrity=_integrity(command.suite),
            esn=command.suite.esn,
            key=command.key,
            integrity_key=command.integrity_key,
            udp=command.encapsulation is Encapsulation.UDP,
            local=to_host_port(command.path.local),
            remote=to_host_port(command.path.remote),
            local_selectors=_selectors(command.local),
            remote_selectors=_selectors(command.remote),
            replay_window=command.replay_window,
            limits=_limits(command.limits),
            framing=command.framing.value,
            strict_icmp=command.strict_icmp,
        )
    except ValueError as error:
        raise DataplaneError(f"SA {command.spi:08x}: {error}") from error


def _add_outbound(batch: _native.Batch, command: AddOutbound) -> None:
    try:
        batch.add_outbound(
            handle=command.handle,
            spi=command.spi,
            encryption=int(command.suite.encryption.id),
            key_bits=command.suite.encryption.key_bits,
            integrity=_integrity(command.suite),
            esn=command.suite.esn,
            key=command.key,
            integrity_key=command.integrity_key,
            udp=command.encapsulation is Encapsulation.UDP,
            local=to_host_port(command.path.local),
            remote=to_host_port(command.path.remote),
            local_selectors=_selectors(command.local),
            remote_selectors=_selectors(command.remote),
            policy=command.policy,
            plan=_plan(command.plan),
            limits=_limits(command.limits),
            copy_dscp=command.copy_dscp,
            keepalive_seconds=command.keepalive_seconds,
            hard_at=command.hard_at,
        )
    except ValueError as error:
        raise DataplaneError(f"SA {command.handle:08x}: {error}") from error


def _update(batch: _native.Batch, command: Update) -> None:
    batch.update(
        handle=command.handle,
        udp=None if command.encapsulation is None else command.encapsulation is Encapsulation.UDP,
        local=None if command.path is None else to_host_port(command.path.local),
        remote=None if command.path is None else to_host_port(command.path.remote),
        plan=None if command.plan is None else _plan(command.plan),
        limits=None if command.limits is None else _limits(command.limits),
        keepalive_seconds=command.keepalive_seconds,
        hard_at=command.hard_at,
    )


def _set_policies(batch: _native.Batch, command: SetPolicies) -> None:
    for policy in command.put:
        _put_policy(batch, policy)
    for number in command.remove:
        batch.remove_policy(number)


def _put_policy(batch: _native.Batch, policy: Policy) -> None:
    batch.put_policy(
        id=policy.id,
        rank=policy.rank,
        action=policy.action.value,
        missing=policy.missing.value,
        local_selectors=_selectors(policy.local),
        remote_selectors=_selectors(policy.remote),
    )


_ADD: Mapping[type, Callable[[_native.Batch, Any], None]] = {
    AddInbound: _add_inbound,
    AddOutbound: _add_outbound,
    Activate: lambda batch, command: batch.activate(command.handle),
    Update: _update,
    Remove: lambda batch, command: batch.remove(command.handle),
    SetPolicies: _set_policies,
}


def _integrity(suite: EspSuite) -> int:
    return int(suite.integrity.id) if suite.integrity else 0


def _selectors(selectors: Selectors) -> "list[_native.Selector]":
    return [(*s.packed, s.protocol, s.start_port, s.end_port) for s in selectors]


def _limits(limits: Limits) -> tuple[int, int, int, int]:
    return limits.soft_octets, limits.hard_octets, limits.soft_packets, limits.hard_packets


def _plan(plan: MtuPlan) -> _native.MtuPlan:
    return _native.MtuPlan(
        framing=plan.framing.value,
        slices=plan.slices,
        outer_size=plan.outer_size,
        inner_room=plan.inner_room,
        mss_v4=plan.mss_v4,
        mss_v6=plan.mss_v6,
        outer_df=plan.outer_df.value,
        oversize=[rung.value for rung in plan.oversize],
        watch_above=plan.watch_above,
        echoes=plan.echoes,
        too_big_per_second=plan.too_big_per_second,
        icmp_sources=[
            (row.prefix.network_address.packed, row.prefix.broadcast_address.packed, row.address.packed)
            for row in plan.icmp_sources
        ],
    )


def _counters(counters: _native.SaCounters) -> SaCounters:
    return SaCounters(
        handle=counters.handle,
        inbound_packets=counters.inbound_packets,
        inbound_octets=counters.inbound_octets,
        outbound_packets=counters.outbound_packets,
        outbound_octets=counters.outbound_octets,
        inbound_sequence=counters.inbound_sequence,
        outbound_sequence=counters.outbound_sequence,
        outbound_packed=counters.outbound_packed,
        outbound_sliced=counters.outbound_sliced,
        outbound_slices=counters.outbound_slices,
        outbound_proved=counters.outbound_proved,
        inbound_assembled=counters.inbound_assembled,
        inbound_reports=counters.inbound_reports,
        inbound_marks=counters.inbound_marks,
        drops=counters.drops,
        deeds=counters.deeds,
    )


def _event(event: "_native.SaState | _native.Acquire | _native.StrangeSpi") -> BackendEvent:
    match event:
        case _native.SaState():
            path = None if event.path is None else _path(*event.path)
            return SaState(event.handle, SaFlag(event.flags), path)
        case _native.Acquire():
            return Acquire(
                policy=event.policy,
                source=ipaddress.ip_address(event.source),
                destination=ipaddress.ip_address(event.destination),
                protocol=event.protocol,
                source_port=event.source_port,
                destination_port=event.destination_port,
            )
        case _native.StrangeSpi():
            return StrangeSpi(event.spi, _path(event.local, event.remote))


def _path(local: tuple[bytes, int], remote: tuple[bytes, int]) -> Path:
    return Path(from_host_port(local), from_host_port(remote))
