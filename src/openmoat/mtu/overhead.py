"""Octets that ESP adds in tunnel mode, and the largest inner packet for a given outer one (RFC 4303 2, RFC 3948 2.1).

The layout, outside in: IP header, UDP header where encapsulated, SPI and sequence number, IV, framing header, inner
packet, padding, pad length and next header, ICV. ESN costs nothing: its high half is not sent.
"""

import msgspec

from openmoat.crypto.suites import EspSuite

__all__ = ["AGGFRAG_HEADER", "ESP_HEADER", "ESP_TRAILER", "IP_HEADER", "TCP_HEADER", "UDP_HEADER", "Overhead"]

IP_HEADER = {4: 20, 6: 40}
"""Octets by version, without options or extension headers."""
UDP_HEADER = 8
TCP_HEADER = 20
"""Without options, as the MSS option counts (RFC 6691 2)."""
ESP_HEADER = 8
"""SPI and sequence number."""
ESP_TRAILER = 2
"""Pad length and next header."""
AGGFRAG_HEADER = 4
"""Without congestion control, sub-type 0 (RFC 9347 6.1.1)."""


class Overhead(msgspec.Struct, frozen=True, gc=False):
    """Everything that decides how much an ESP packet adds to what it carries."""

    suite: EspSuite
    outer_version: int
    """4 or 6."""
    udp: bool
    """ESP in UDP (RFC 3948)."""
    framing_header: int = 0
    """Octets between IV and inner packets: 0 in plain tunnel mode, `AGGFRAG_HEADER` with AGGFRAG."""

    @property
    def before(self) -> int:
        """Octets before the encrypted part; a constant."""
        return IP_HEADER[self.outer_version] + (UDP_HEADER if self.udp else 0) + ESP_HEADER + self.suite.encryption.iv

    @property
    def alignment(self) -> int:
        """The encrypted part is a multiple of this (RFC 4303 2.4)."""
        return max(4, self.suite.encryption.align)

    @property
    def worst(self) -> int:
        """The most octets that are ever added to a packet."""
        inside = self.framing_header + ESP_TRAILER + self.alignment - 1
        return self.before + inside + self.suite.icv

    def outer_size(self, inner: int) -> int:
        """Octets of the outer IP packet that carries `inner` octets."""
        plain = inner + self.framing_header + ESP_TRAILER
        return self.before + -(-plain // self.alignment) * self.alignment + self.suite.icv

    def inner_room(self, outer: int) -> int:
        """Largest inner packet that fits into an outer IP packet of `outer` octets; below 0 where not even ESP fits."""
        plain = (outer - self.before - self.suite.icv) // self.alignment * self.alignment
        return plain - ESP_TRAILER - self.framing_header
