"""Addresses, paths and open enumerations: the words every other part shares. Knows no socket."""

import ipaddress
from enum import IntEnum
from typing import Self

import msgspec

__all__ = ["IKE_PORT", "NATT_PORT", "Address", "HostPort", "Network", "OpenEnum", "Path"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IKE_PORT = 500
"""UDP port of IKE without NAT traversal (RFC 7296 2)."""
NATT_PORT = 4500
"""UDP port of IKE with a non-ESP marker, and of ESP in UDP (RFC 3948 2)."""


class HostPort(msgspec.Struct, frozen=True, gc=False):
    """An address and a UDP port; port 0 where the protocol has none (ESP as IP protocol 50)."""

    address: Address
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}" if self.port else str(self.address)


class Path(msgspec.Struct, frozen=True, gc=False):
    """Where a datagram came from or goes to, seen from this host. Never an identity: paths may change at any time."""

    local: HostPort
    remote: HostPort

    def __str__(self) -> str:
        return f"{self.local} - {self.remote}"


class OpenEnum(IntEnum):
    """A registry in which numbers we do not know survive, as `UNKNOWN_999`, and can be sent back unchanged.

    Unknown members are created each time and never stored, so that an unknown peer cannot make the registry grow.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int) or value < 0:
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member

    @classmethod
    def of(cls, number: int) -> Self:
        """The same as calling the class, and several times as fast for numbers that have a name."""
        member = cls._value2member_map_.get(number)
        return cls(number) if member is None else member  # type: ignore[return-value]

    @property
    def is_known(self) -> bool:
        """Whether the registry has a name for this number."""
        return self.value in type(self)._value2member_map_
