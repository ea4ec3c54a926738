"""Opens what packets come in and go out by: the TUN device, UDP 500 and 4500, raw protocol 50. Gives descriptors away."""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from openmoat.errors import DeviceError, SystemFault
from openmoat.net import IKE_PORT, NATT_PORT
from openmoat.system import sysctls
from openmoat.system.links import set_up_tun
from openmoat.system.names import DEVICE, OUTER_MARK
from openmoat.system.netlink import Netlink
from openmoat.system.steering import steer_by_spi, take_share

__all__ = ["Descriptors", "has_ipv6", "mark_outer", "open_all", "open_raw", "open_tun", "open_udp"]

CLONE_DEVICE: Final = "/dev/net/tun"
MAX_DEVICE_NAME: Final = 15
"""Octets (IFNAMSIZ without its end)."""
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
IFF_MULTI_QUEUE: Final = 0x0100
IFREQ: Final = struct.Struct("16sH22x")

IP_PKTINFO: Final = 8
IP_RECVTOS: Final = 13
IP_MTU_DISCOVER: Final = 10
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_OMIT: Final = 5
"""DF clear, and no ICMP message changes the size: a forged one could otherwise cut our outer packets to pieces."""
SO_MARK: Final = 36
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
BUFFER_OCTETS: Final = 8 << 20
"""Some milliseconds of a fast line, so that a busy moment of ours is no loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """What the packet engine and the wire take; they duplicate what they keep. All are non-blocking."""

    device: str
    """Name of the TUN device, which lives as long as one of its descriptors."""
    tun: tuple[int, ...]
    """One descriptor a queue, with `IFF_VNET_HDR`."""
    udp: tuple[tuple[int, int], ...]
    """(descriptor, local port): wildcard sockets, IPv4 and IPv6 apart, with packet info. Of port 4500 one a queue, in
    their order, and one more that gets IKE alone: see `system.steering`."""
    raw: tuple[int, ...]
    """Protocol 50, IPv4 with its header on receipt, IPv6 without; of each family one a queue, in their order."""

    def close(self) -> None:
        """Close them all; the TUN device vanishes with its last descriptor, duplicates included."""
        for descriptor in (*self.tun, *(descriptor for descriptor, _port in self.udp), *self.raw):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def open_all(device: str = DEVICE, queues: int = 1, ports: tuple[int, ...] = (IKE_PORT, NATT_PORT)) -> Descriptors:
    """Everything at once, or nothing: raises `DeviceError` or `SystemFault` with the remedy. IPv6 only where there is any."""
    opened: list[int] = []

    def keep(descriptor: int) -> int:
        opened.append(descriptor)
        return descriptor

    families = [socket.AF_INET, socket.AF_INET6] if has_ipv6() else [socket.AF_INET]
    try:
        # Port 500 comes first and is bound exclusively: another program that wants both ports is refused there.
        udp = tuple(
            (keep(descriptor), port)
            for port in ports
            for family in families
            for descriptor in (_open_shared(port, family, queues) if port == NATT_PORT else [open_udp(port, family)])
        )
        raw = tuple(keep(open_raw(family, queue, queues)) for family in families for queue in range(queues))
        tun = open_tun(device, queues)
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return Descriptors(device=device, tun=tun, udp=udp, raw=raw)


def open_tun(device: str = DEVICE, queues: int = 1) -> tuple[int, ...]:
    """A TUN device with one descriptor a queue, MTU 65535 and up. It is gone when all descriptors are closed."""
    if not 0 < len(device.encode()) <= MAX_DEVICE_NAME or set(device) & set("/% :"):
        raise DeviceError(f"TUN device {device!r}: a name has 1 to {MAX_DEVICE_NAME} octets, no blanks, / % or :")
    opened: list[int] = []
    try:
        for _ in range(queues):
            opened.append(os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE
            fcntl.ioctl(opened[-1], TUNSETIFF, IFREQ.pack(device.encode(), flags))
        # Some hosts switch IPv6 off on all new interfaces; what is carried inside ours is not their concern.
        sysctls.write(sysctls.disable_ipv6(device), 0)
        with Netlink() as netlink:
            set_up_tun(netlink, socket.if_nametoindex(device))
    except BaseException as error:
        for descriptor in opened:
            os.close(descriptor)
        if isinstance(error, OSError):
            raise DeviceError(f"TUN device {device}: {_tun_remedy(error)}") from error
        raise
    return tuple(opened)


def open_udp(port: int, family: int = socket.AF_INET, *, is_shared: bool = False) -> int:
    """A wildcard socket for IKE and UDP-encapsulated ESP, marked as outer; with others of its user if it is shared."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _set_options(sock, family)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    except OSError as error:
        sock.close()
        raise SystemFault(f"UDP port {port}: {_udp_remedy(error, port)}") from error
    except BaseException:
        sock.close()
        raise
    return sock.detach()


def open_raw(family: int = socket.AF_INET, queue: int = 0, queues: int = 1) -> int:
    """A raw socket for ESP as IP protocol 50, marked as outer; the one of `queue` where there are several."""
    try:
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_ESP)
    except OSError as error:
        raise SystemFault(f"raw socket for ESP: {error.strerror}; it needs CAP_NET_RAW") from error
    try:
        _set_options(sock, family)
        if queues > 1:
            take_share(sock, queue, queues)
    except BaseException:
        sock.close()
        raise
    return sock.detach()


def _open_shared(port: int, family: int, queues: int) -> list[int]:
    """A socket for the ESP packets of each queue, and one for IKE."""
    opened: list[int] = []
    try:
        while len(opened) <= queues:
            opened.append(open_udp(port, family, is_shared=True))
        with socket.socket(fileno=os.dup(opened[0])) as first:
            steer_by_spi(first, queues)
    except BaseException as error:
        for descriptor in opened:
            os.close(descriptor)
        if isinstance(error, OSError):
            raise SystemFault(f"UDP port {port}: steering by SPI: {error.strerror}") from error
        raise
    return opened


def mark_outer(sock: socket.socket) -> None:
    """Let a socket of ours go around the tunnels: for IKE, ESP, and the DNS queries that find a peer."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, OUTER_MARK)
    except OSError as error:
        raise SystemFault(f"socket mark: {error.strerror}; it needs CAP_NET_ADMIN") from error


def _set_options(sock: socket.socket, family: int) -> None:
    mark_outer(sock)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_OMIT)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_OMIT)
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, BUFFER_OCTETS)
        except PermissionError:
            # In a user namespace the host's own limit holds; a smaller buffer is no error.
            sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_OCTETS)


def has_ipv6() -> bool:
    """Whether this kernel has the family at all."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        # An interface that is down has no ::1 yet; only a kernel without the family has no IPv6 at all.
        return error.errno != errno.EAFNOSUPPORT
    return True


def _udp_remedy(error: OSError, port: int) -> str:
    remedies: dict[int, Callable[[], str]] = {
        errno.EADDRINUSE: lambda: (
            "taken by another program, most likely another IKE daemon or another moatd; "
            f"find it with: ss -ulpn sport = :{port}, and stop it (as: systemctl disable --now strongswan)"
        ),
        errno.EACCES: lambda: "needs CAP_NET_BIND_SERVICE",
    }
    return remedies.get(error.errno or 0, lambda: str(error.strerror))()


def _tun_remedy(error: OSError) -> str:
    remedies = {
        errno.ENOENT: f"{CLONE_DEVICE} is not there; load the module: modprobe tun",
        errno.ENODEV: f"{CLONE_DEVICE} has no driver; load the module: modprobe tun",
        errno.EPERM: "needs CAP_NET_ADMIN",
        errno.EACCES: f"{CLONE_DEVICE} may not be opened; it should have mode 0666",
        errno.EBUSY: "in use; is another moatd running? see: systemctl status moatd",
        errno.EINVAL: "a device of this name is there and of another kind; see: ip link show, or choose another name",
    }
    return remedies.get(error.errno or 0, str(error.strerror))
