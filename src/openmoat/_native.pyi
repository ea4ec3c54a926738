"""The packet engine (Rust). Only `crypto`, `dataplane` and `config` import it; see `dataplane.userspace` for
the Python face.

Addresses come out as 4 or 16 octets, SPIs and octet counts are numbers, times are seconds, enumerations go by the words of
their Python twins. Keys go in as `bytes`, are copied into memory that is wiped, and never come back. No call blocks on the network; calls that take a lock for long release the GIL.
"""

from collections.abc import Sequence
from typing import final

_HostPort = tuple[bytes, int]
_CounterRow = tuple[int, list[int], dict[str, int], dict[str, int]]
"""Handle, counters in the order of `sa_counters`, drops by reason, and what was done about sizes."""
_StateRow = tuple[int, int, tuple[_HostPort, _HostPort] | None]
"""Fields of `dataplane.backend.SaState`."""
_AcquireRow = tuple[int, bytes, bytes, int, int, int]
"""Fields of `dataplane.backend.Acquire`."""

__version__: str
__all__ = [
    "Batch",
    "Engine",
    "__version__",
    "drop_reasons",
    "sa_counters",
    "sa_flags",
    "stamps",
    "suites",
    "x25519_public",
    "x25519_shared",
]

def suites() -> list[tuple[int, int, int, bool]]:
    """Every suite the engine has: `(encryption id, key bits, integrity id or 0, esn)`, ids of IANA."""

def sa_counters() -> list[tuple[str, str]]:
    """Name and sentence of each counter of an SA, in the order of `_CounterRow`. `dataplane.declared` is made from it."""

def sa_flags() -> list[tuple[str, int, str]]:
    """Name, bit and sentence of each flag of an SA."""

def drop_reasons() -> list[tuple[str, str]]:
    """Name and sentence of each reason to drop a packet."""

def stamps(files: Sequence[str], unsettled: tuple[int, int]) -> list[bytes | None]:
    """What each file is: device, inode, size and times, as octets that are the same while all of these are. Follows links.

    None where it cannot be looked at, or one of its times is between the two given, in nanoseconds; the second is left out.
    """

def x25519_public(private: bytes) -> bytes:
    """The public value that belongs to 32 private octets (RFC 7748 6.1)."""

def x25519_shared(private: bytes, peer: bytes) -> bytes:
    """The shared secret, 32 octets. `ValueError` where the peer's value has not 32 octets, or leads to all zeros."""

@final
class Engine:
    """Threads that carry packets between one TUN device and the outside."""

    def __new__(
        cls,
        *,
        tun: Sequence[int],
        udp: Sequence[tuple[int, int]],
        raw: Sequence[int],
        slots: int = 65_536,
        ike_queue: int = 1_024,
        noise: int = 256,
        offloads: tuple[bool, bool, bool, bool] = ...,
    ) -> Engine:
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

    def apply(self, batch: Batch) -> list[_CounterRow]:
        """Carry out a batch in order and empty it; its policies become visible to the packet threads at once.

        Raises `UnknownSpi`, `DeviceError` where no socket carries a path, `DataplaneError` for an SPI that is not
        reserved or keys and sizes that cannot be; commands before the failing one stand. Answers with final counters
        of removed pairs, exact because no packet thread still holds them.
        """

    def read_counters(self, handles: Sequence[int] | None) -> list[_CounterRow]:
        """See `Backend.read_counters`."""

    def read_drops(self) -> dict[str, int]:
        """All drop reasons that have happened: of no pair, of all pairs there are, of all that have been removed."""

    def read_offloads(self) -> dict[str, str]:
        """See `UserspaceBackend.read_offloads`."""

    def fileno(self) -> int:
        """An eventfd, readable while `drain` has something."""

    def drain(self, limit: int) -> tuple[list[_StateRow], list[_AcquireRow]]:
        """See `Backend.drain`: states, and packets that no SA serves."""

    def wire_fileno(self) -> int:
        """An eventfd, readable while `receive_batch` has something."""

    def receive_batch(self, limit: int) -> list[tuple[bytes, _HostPort, _HostPort]]:
        """IKE datagrams without marker: octets, local and remote end; known SAs first, unknown peers last."""

    def send_batch(self, datagrams: Sequence[tuple[bytes, _HostPort, _HostPort, bool, int]]) -> int:
        """Octets without marker, local and remote end, DF, DSCP. Answers how many the network did not take."""

    def know_spis(self, added: Sequence[int], removed: Sequence[int]) -> None:
        """See `Wire.know_spis`."""

@final
class Batch:
    """Commands for `Engine.apply`, one method a command: the records of `dataplane.backend` and `policy.spd`, whose fields
    are read by their names.

    `ValueError` for words, addresses or selectors that cannot be, `DataplaneError` for a suite the engine lacks.
    """

    def __new__(cls) -> Batch: ...
    def add_inbound(self, command: object) -> None: ...
    def add_outbound(self, command: object) -> None: ...
    def activate(self, handle: int) -> None: ...
    def update(self, command: object) -> None: ...
    def remove(self, handle: int) -> None: ...
    def put_policy(self, policy: object) -> None: ...
    def remove_policy(self, id: int) -> None: ...
