"""NAT detection and the port that follows from it (RFC 7296 2.23, RFC 3948)."""

from collections.abc import Iterable
from hashlib import sha1
from ipaddress import IPv4Address

import msgspec

from openmoat.ike.wire.numbers import NotifyType
from openmoat.ike.wire.payloads import Notify
from openmoat.net import IKE_PORT, NATT_PORT, HostPort, Path

__all__ = ["NatView", "detect", "endpoint_hash", "esp_path", "notifies", "on_natt_port"]

FORCED = HostPort(IPv4Address(0), 0)
"""Hashed in place of our own address where UDP encapsulation is wanted without a NAT: it never fits."""


class NatView(msgspec.Struct, frozen=True, gc=False):
    """What the hashes of one IKE_SA_INIT message say."""

    is_supported: bool = False
    """The peer sent both kinds of hash."""
    own: bool = False
    """Our address was changed on the way: we are behind a NAT."""
    peer: bool = False
    """The peer's address was changed on the way."""

    @property
    def is_found(self) -> bool:
        """Whether ESP must go in UDP: a NAT stands at either end (RFC 7296 2.23)."""
        return self.own or self.peer


def endpoint_hash(spi_i: int, spi_r: int, end: HostPort) -> bytes:
    """SHA-1 of SPIi, SPIr, address and port: a fingerprint, not a protection (RFC 7296 2.23)."""
    octets = spi_i.to_bytes(8, "big") + spi_r.to_bytes(8, "big") + end.address.packed + end.port.to_bytes(2, "big")
    return sha1(octets, usedforsecurity=False).digest()


def notifies(spi_i: int, spi_r: int, path: Path, *, forced: bool = False) -> tuple[Notify, Notify]:
    """NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP of a message that leaves on `path`."""
    source = FORCED if forced else path.local
    return (
        Notify(NotifyType.NAT_DETECTION_SOURCE_IP, endpoint_hash(spi_i, spi_r, source)),
        Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, endpoint_hash(spi_i, spi_r, path.remote)),
    )


def detect(spi_i: int, spi_r: int, path: Path, received: Iterable[Notify]) -> NatView:
    """Compare the hashes of a message that came in on `path`. A peer may send several source hashes; one must fit."""
    sources: set[bytes] = set()
    destinations: set[bytes] = set()
    for notify in received:
        if notify.type is NotifyType.NAT_DETECTION_SOURCE_IP:
            sources.add(notify.data)
        elif notify.type is NotifyType.NAT_DETECTION_DESTINATION_IP:
            destinations.add(notify.data)
    if not sources or not destinations:
        return NatView()
    return NatView(
        is_supported=True,
        own=endpoint_hash(spi_i, spi_r, path.local) not in destinations,
        peer=endpoint_hash(spi_i, spi_r, path.remote) not in sources,
    )


def on_natt_port(path: Path) -> Path:
    """The same ends on port 4500; a port that is not 500 was chosen by somebody, and stays."""
    local, remote = path.local, path.remote
    if IKE_PORT not in (local.port, remote.port):
        return path
    if local.port == IKE_PORT:
        local = HostPort(local.address, NATT_PORT)
    if remote.port == IKE_PORT:
        remote = HostPort(remote.address, NATT_PORT)
    return Path(local, remote)


def esp_path(path: Path, *, udp: bool) -> Path:
    """The path of ESP beside this path of IKE: the same in UDP, without ports as IP protocol 50."""
    if udp:
        return on_natt_port(path)
    return Path(HostPort(path.local.address, 0), HostPort(path.remote.address, 0))
