"""The packet engine (Rust). Nothing but `crypto` and `dataplane` imports it; see `dataplane.userspace` for the Python face.

Addresses cross as 4 or 16 octets, selectors as `(start, end, protocol, start_port, end_port)`, SPIs and octet counts as
numbers, times as seconds, enumerations by the words of their Python twins. Keys go in as `bytes`, are copied into memory
that is wiped, and never come back. No call blocks on the network; calls that take a lock for long release the GIL.
"""

from collections.abc import Sequence
from typing import final

Selector = tuple[bytes, bytes, int, int, int]
HostPort = tuple[bytes, int]

__version__: str

def suites() -> list[tuple[int, int, int, bool]]:
    """Every suite the engine has: `(encryption id, key bits, integrity id or 0, esn)`, ids of IANA."""

def x25519_public(private: bytes) -> bytes:
    """The public value that belongs to 32 private octets (RFC 7748 6.1)."""

def x25519_shared(private: bytes, peer: bytes) -> bytes:
    """The shared secret, 32 octets. `ValueError` where the peer's value has not 32 octets, or leads to all zeros."""

@final
class Engine:
    """Threads that carry packets between one TUN device and the outside."""

    def __init__(
        self,
        *,
        tun: Sequence[int],
        udp: Sequence[tuple[int, int]],
        raw: Sequence[int],
        slots: int = 65_536,
        ike_queue: int = 1_024,
        noise: int = 256,
        offloads: tuple[bool, bool, bool, bool] = (True, True, True, True),
    ) -> None:
        """Take descriptors, do not open any: queues of one TUN device with `IFF_VNET_HDR`; bound UDP sockets with their
        local port (500 carries IKE, 4500 IKE behind a marker and ESP); raw sockets of protocol 50.

        The engine owns duplicates of them. `slots` bounds SAs, `ike_queue` each of the three queues of IKE datagrams,
        `noise` the ring of unauthenticated events; `offloads` says which of TUN-TSO, TUN-USO, UDP-GSO and UDP-GRO are
        wanted. Raises `DeviceError` where a descriptor is not what it should be.
        """

    def start(self) -> None:
        """Start the threads."""

    def stop(self) -> None:
        """Stop them, drop all SAs and wipe their keys. The engine cannot be started again."""

    def reserve_spis(self, count: int) -> list[int]:
        """See `Backend.reserve_spis`."""

    def release_spis(self, spis: Sequence[int]) -> None:
        """See `Backend.release_spis`."""

    def apply(self, batch: Batch) -> list[SaCounters]:
        """Carry out a batch in order and empty it; its policies become visible to the packet threads at once.

        Raises `UnknownSpi`, `DeviceError` where no socket carries a path, `DataplaneError` for an SPI that is not
        reserved or keys and sizes that cannot be; commands before the failing one stand. Answers with final counters
        of removed pairs, exact because no packet thread still holds them.
        """

    def read_counters(self, handles: Sequence[int] | None) -> list[SaCounters]:
        """See `Backend.read_counters`."""

    def read_drops(self) -> dict[str, int]:
        """All drop reasons that have happened: of no pair, of all pairs there are, of all that have been removed."""

    def read_offloads(self) -> dict[str, str]:
        """See `UserspaceBackend.read_offloads`."""

    def fileno(self) -> int:
        """An eventfd, readable while `drain` has something."""

    def drain(self, limit: int) -> list[SaState | Acquire | StrangeSpi]:
        """See `Backend.drain`."""

    def wire_fileno(self) -> int:
        """An eventfd, readable while `receive_batch` has something."""

    def receive_batch(self, limit: int) -> list[tuple[bytes, HostPort, HostPort]]:
        """IKE datagrams without marker: octets, local and remote end; known SAs first, strangers last."""

    def send_batch(self, datagrams: Sequence[tuple[bytes, HostPort, HostPort, bool, int]]) -> int:
        """Octets without marker, local and remote end, DF, DSCP. Answers how many the network did not take."""

    def know_spis(self, added: Sequence[int], removed: Sequence[int]) -> None:
        """See `Wire.know_spis`."""

@final
class Batch:
    """Commands for `Engine.apply`, one method a command, fields as in `dataplane.backend`.

    `ValueError` for words, addresses or selectors that cannot be, `DataplaneError` for a suite the engine lacks.
    """

    def __init__(self) -> None: ...
    def add_inbound(
        self,
        *,
        spi: int,
        encryption: int,
        key_bits: int,
        integrity: int,
        esn: bool,
        key: bytes,
        integrity_key: bytes,
        udp: bool,
        local: HostPort,
        remote: HostPort,
        local_selectors: Sequence[Selector],
        remote_selectors: Sequence[Selector],
        replay_window: int,
        limits: tuple[int, int, int, int],
        framing: str,
        strict_icmp: bool,
    ) -> None: ...
    def add_outbound(
        self,
        *,
        handle: int,
        spi: int,
        encryption: int,
        key_bits: int,
        integrity: int,
        esn: bool,
        key: bytes,
        integrity_key: bytes,
        udp: bool,
        local: HostPort,
        remote: HostPort,
        local_selectors: Sequence[Selector],
        remote_selectors: Sequence[Selector],
        policy: int,
        plan: MtuPlan,
        limits: tuple[int, int, int, int],
        copy_dscp: bool,
        keepalive_seconds: float,
        hard_at: float | None,
    ) -> None: ...
    def activate(self, handle: int) -> None: ...
    def update(
        self,
        *,
        handle: int,
        udp: bool | None = None,
        local: HostPort | None = None,
        remote: HostPort | None = None,
        plan: MtuPlan | None = None,
        limits: tuple[int, int, int, int] | None = None,
        keepalive_seconds: float | None = None,
        hard_at: float | None = None,
    ) -> None: ...
    def remove(self, handle: int) -> None: ...
    def put_policy(
        self,
        *,
        id: int,
        rank: int,
        action: str,
        missing: str,
        local_selectors: Sequence[Selector],
        remote_selectors: Sequence[Selector],
    ) -> None: ...
    def remove_policy(self, id: int) -> None: ...

@final
class MtuPlan:
    """Twin of `mtu.plan.MtuPlan`."""

    def __init__(
        self,
        *,
        framing: str,
        slices: bool,
        outer_size: int,
        inner_room: int,
        mss_v4: int | None,
        mss_v6: int | None,
        outer_df: str,
        oversize: Sequence[str],
        watch_above: int | None,
        echoes: bool,
        too_big_per_second: float,
        icmp_sources: Sequence[tuple[bytes, bytes, bytes]],
    ) -> None: ...

@final
class SaCounters:
    """Twin of `dataplane.backend.SaCounters`."""

    handle: int
    inbound_packets: int
    inbound_octets: int
    outbound_packets: int
    outbound_octets: int
    inbound_sequence: int
    outbound_sequence: int
    outbound_packed: int
    outbound_sliced: int
    outbound_slices: int
    outbound_proved: int
    inbound_assembled: int
    inbound_reports: int
    inbound_marks: int
    drops: dict[str, int]
    deeds: dict[str, int]

@final
class SaState:
    """Twin of `dataplane.backend.SaState`."""

    handle: int
    flags: int
    path: tuple[HostPort, HostPort] | None

@final
class Acquire:
    """Twin of `dataplane.backend.Acquire`."""

    policy: int
    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int

@final
class StrangeSpi:
    """Twin of `dataplane.backend.StrangeSpi`."""

    spi: int
    local: HostPort
    remote: HostPort
