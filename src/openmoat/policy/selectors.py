"""Traffic selectors and their algebra (RFC 4301 4.4.1.1, RFC 7296 2.9 and 3.13.1). Knows no wire format."""

from dataclasses import dataclass
from typing import Self

from openmoat.net import Address, Network

__all__ = ["ANY_PROTOCOL", "MAX_PORT", "Selectors", "TrafficSelector"]

ANY_PROTOCOL = 0
MAX_PORT = 65535


@dataclass(frozen=True, slots=True, order=True)
class TrafficSelector:
    """One range of addresses of one family, with a protocol and a range of ports.

    For ICMP (1) and ICMPv6 (58) the ports are type * 256 + code (RFC 7296 3.13.1). OPAQUE is start 65535, end 0.
    """

    start: Address
    end: Address
    protocol: int = ANY_PROTOCOL
    """IP protocol number, 0 for any."""
    start_port: int = 0
    end_port: int = MAX_PORT

    @classmethod
    def of(cls, network: Network, protocol: int = ANY_PROTOCOL, start_port: int = 0, end_port: int = MAX_PORT) -> Self:
        """The selector of all addresses of `network`."""
        return cls(network[0], network[-1], protocol, start_port, end_port)


Selectors = tuple[TrafficSelector, ...]
"""A list of selectors as one payload carries them: their union. Order is preference, the first the most specific."""
