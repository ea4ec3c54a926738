"""Requests to the XFRM of a Linux kernel, as octets: SAs and policies in tunnel mode and IP-TFS, which `ip xfrm` cannot express.

Layouts are those of include/uapi/linux/xfrm.h, in host byte order except for addresses, ports and SPIs.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from openmoat.crypto.suites import Aead, EspSuite
from openmoat.errors import Secret
from openmoat.net import Address, Network

__all__ = ["Direction", "Iptfs", "KernelPolicy", "KernelSa"]

ESP = 50
NLM_F_REQUEST_ACK_CREATE = 0x1 | 0x4 | 0x400
NEW_SA, NEW_POLICY = 0x10, 0x13
MODE_TUNNEL, MODE_IPTFS = 1, 5
FAMILY = {4: 2, 6: 10}
STATE_AF_UNSPEC, STATE_ESN = 32, 128
UDP_ENCAP_ESPINUDP = 2
ALG_CRYPT, ENCAP, TMPL, ALG_AEAD, ALG_AUTH_TRUNC, REPLAY_ESN_VAL, SA_DIR = 2, 4, 5, 18, 20, 23, 33
DROP_TIME, REORDER_WINDOW, DONT_FRAG, INIT_DELAY, MAX_QSIZE, PKT_SIZE = range(36, 42)
UNLIMITED = struct.pack("=8Q", *([2**64 - 1] * 4 + [0] * 4))
UNUSED = bytes(32)
REPLAY_WINDOW = 256


class Direction(IntEnum):
    """Of a policy, by the kernel's numbers."""

    IN = 0
    OUT = 1
    FORWARD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Iptfs:
    """The kernel's settings of IP-TFS; None is its own default. Times in microseconds, sizes in octets."""

    drop_time: int | None = None
    """Inbound: how long a later packet waits for an earlier one."""
    reorder_window: int | None = None
    """Inbound, packets."""
    dont_frag: bool = False
    """Outbound: inner packets are not sliced."""
    init_delay: int | None = None
    """Outbound: how long a packet waits for others to share its outer packet with."""
    max_queue: int | None = None
    packet_size: int | None = None
    """Outbound; without trailer and ICV. None or 0 is the path MTU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSa:
    """One direction of a Child SA, from `source` to `destination`; port 0 is raw ESP."""

    spi: int
    suite: EspSuite
    key: Secret
    integrity_key: Secret
    source: Address
    destination: Address
    is_inbound: bool
    port: int = 0
    iptfs: Iptfs | None = None

    def request(self) -> bytes:
        """The message that installs it."""
        flags = STATE_AF_UNSPEC | (STATE_ESN if self.suite.esn else 0)
        body = bytes(56) + _address(self.destination) + self.spi.to_bytes(4, "big") + struct.pack("=B3x", ESP)
        body += _address(self.source) + UNLIMITED + UNUSED + bytes(12)
        mode = MODE_TUNNEL if self.iptfs is None else MODE_IPTFS
        body += struct.pack("=IIHBBB7x", 0, 1, FAMILY[self.source.version], mode, 0, flags)
        body += self._algorithms() + _attribute(SA_DIR, struct.pack("=B", 1 if self.is_inbound else 2))
        window = REPLAY_WINDOW if self.is_inbound else 0
        body += _attribute(REPLAY_ESN_VAL, struct.pack("=6I", window // 32, 0, 0, 0, 0, window) + bytes(window // 8))
        if self.port:
            ports = struct.pack("=H", UDP_ENCAP_ESPINUDP) + struct.pack("!HH2x", self.port, self.port)
            body += _attribute(ENCAP, ports + bytes(16))
        return _message(NEW_SA, body + self._settings())

    def _algorithms(self) -> bytes:
        cipher, integrity = self.suite.encryption, self.suite.integrity
        name, bits = cipher.kernel.encode().ljust(64, b"\0"), len(self.key) * 8
        if isinstance(cipher, Aead):
            return _attribute(ALG_AEAD, name + struct.pack("=II", bits, cipher.icv * 8) + bytes(self.key))
        if integrity is None:
            raise ValueError(f"{self.suite.name}: a cipher without integrity")
        octets = _attribute(ALG_CRYPT, name + struct.pack("=I", bits) + bytes(self.key))
        words = struct.pack("=II", len(self.integrity_key) * 8, integrity.icv * 8)
        mac = integrity.kernel.encode().ljust(64, b"\0")
        return octets + _attribute(ALG_AUTH_TRUNC, mac + words + bytes(self.integrity_key))

    def _settings(self) -> bytes:
        tfs = self.iptfs or Iptfs()
        inbound = ((DROP_TIME, "=I", tfs.drop_time), (REORDER_WINDOW, "=H", tfs.reorder_window))
        outbound = (
            (INIT_DELAY, "=I", tfs.init_delay),
            (MAX_QSIZE, "=I", tfs.max_queue),
            (PKT_SIZE, "=I", tfs.packet_size),
        )
        chosen = inbound if self.is_inbound else outbound
        octets = b"".join(
            _attribute(kind, struct.pack(form, value)) for kind, form, value in chosen if value is not None
        )
        return octets + (_attribute(DONT_FRAG, b"") if tfs.dont_frag and not self.is_inbound else b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPolicy:
    """Inner packets from `source` to `destination` go through the tunnel between the two ends."""

    source: Network
    destination: Network
    direction: Direction
    tunnel_source: Address
    tunnel_destination: Address
    is_iptfs: bool = False

    def request(self) -> bytes:
        """The message that installs it."""
        lengths = (self.destination.prefixlen, self.source.prefixlen)
        family = FAMILY[self.source.version]
        body = _address(self.destination.network_address) + _address(self.source.network_address)
        body += struct.pack("=5HBBB3xiI", 0, 0, 0, 0, family, *lengths, 0, 0, 0)
        body += UNLIMITED + UNUSED + struct.pack("=IIBBBB4x", 0, 0, self.direction, 0, 0, 0)
        template = _address(self.tunnel_destination) + struct.pack("=IB3x", 0, ESP)
        template += struct.pack("=H2x", FAMILY[self.tunnel_source.version]) + _address(self.tunnel_source)
        mode = MODE_IPTFS if self.is_iptfs else MODE_TUNNEL
        template += struct.pack("=IBBBxIII", 1, mode, 0, 0, 2**32 - 1, 2**32 - 1, 2**32 - 1)
        return _message(NEW_POLICY, body + _attribute(TMPL, template))


def _address(address: Address) -> bytes:
    return address.packed.ljust(16, b"\0")


def _attribute(kind: int, octets: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(octets), kind) + octets + bytes(-len(octets) % 4)


def _message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST_ACK_CREATE, 1, 0) + body
