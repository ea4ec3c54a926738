"""A `Wire` over plain UDP sockets, for a backend whose packets do not pass through this process.

Sockets come open and bound to the wildcard address, with packet info switched on (`system.sockets.open_udp`). What is not
IKE on port 4500, keep-alives and ESP that the kernel did not take, is counted and dropped.
"""

import contextlib
import ipaddress
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final

from openmoat.dataplane.wire import MAX_IKE_DATAGRAM, Datagram
from openmoat.net import NATT_PORT, HostPort, Path

__all__ = ["MAX_QUEUED", "MAX_QUEUED_OCTETS", "MAX_READ", "SocketWire"]

MAX_QUEUED: Final = 1_024
"""Datagrams in each of the three queues."""
MAX_QUEUED_OCTETS: Final = 2 << 20
"""Octets in each of them."""
MAX_READ: Final = 64
"""Datagrams read from one socket before the next has its turn."""

NON_ESP_MARKER: Final = bytes(4)
KEEPALIVE: Final = b"\xff"
IKE_HEADER: Final = 28
FLAG_INITIATOR: Final = 0x08
FLAG_RESPONSE: Final = 0x20
ANCILLARY: Final = 256

IP_TOS: Final = 1
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IPV6_DONTFRAG: Final = 62
PMTUDISC_PROBE: Final = 3
PMTUDISC_OMIT: Final = 5
PKTINFO_V4: Final = struct.Struct("=I4s4s")
PKTINFO_V6: Final = struct.Struct("=16sI")
INT: Final = struct.Struct("=i")


class _Queue:
    """Datagrams that wait, bounded in number and octets."""

    def __init__(self) -> None:
        self._waiting: deque[Datagram] = deque()
        self._octets = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, datagram: Datagram) -> bool:
        size = len(datagram.octets)
        if len(self._waiting) >= MAX_QUEUED or self._octets + size > MAX_QUEUED_OCTETS:
            return False
        self._waiting.append(datagram)
        self._octets += size
        return True

    def pop(self) -> Datagram:
        datagram = self._waiting.popleft()
        self._octets -= len(datagram.octets)
        return datagram


class SocketWire:
    """Meets `Wire`."""

    def __init__(self, sockets: Sequence[tuple[int, int]]) -> None:
        """`(descriptor, local port)` each; duplicates are kept."""
        self._sockets = {}
        self._known: set[int] = set()
        self._queues = (_Queue(), _Queue(), _Queue())
        self._drops: dict[str, int] = {}
        self._poll = select.epoll()
        self._waiting_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._waiting_fd, select.EPOLLIN)
        self._by_descriptor = {}
        for descriptor, port in sockets:
            sock = socket.socket(fileno=os.dup(descriptor))
            sock.setblocking(False)
            self._sockets[sock.family == socket.AF_INET6, port] = sock
            self._by_descriptor[sock.fileno()] = (sock, port)
            self._poll.register(sock.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        """An epoll descriptor over all of them."""
        return self._poll.fileno()

    def receive_batch(self, limit: int) -> list[Datagram]:
        """See `Wire.receive_batch`."""
        for descriptor, _events in self._poll.poll(0):
            if descriptor in self._by_descriptor:
                self._read(*self._by_descriptor[descriptor])
        batch: list[Datagram] = []
        for queue in self._queues:
            while len(queue) and len(batch) < limit:
                batch.append(queue.pop())
        self._show_waiting(any(len(queue) for queue in self._queues))
        return batch

    def send_batch(self, datagrams: Sequence[Datagram]) -> int:
        """See `Wire.send_batch`."""
        return sum(not self._send(datagram) for datagram in datagrams)

    def know_spis(self, added: Sequence[int], removed: Sequence[int]) -> None:
        """See `Wire.know_spis`."""
        self._known.update(added)
        self._known.difference_update(removed)

    def read_drops(self) -> dict[str, int]:
        """`queue-full`, `too-short`, `too-long`, `not-ike`, and `keepalive`, which is no fault."""
        return dict(self._drops)

    def close(self) -> None:
        """Close the duplicates."""
        for sock, _port in self._by_descriptor.values():
            sock.close()
        self._poll.close()
        os.close(self._waiting_fd)

    def _show_waiting(self, is_waiting: bool) -> None:
        if is_waiting:
            os.eventfd_write(self._waiting_fd, 1)
        else:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._waiting_fd)

    def _read(self, sock: socket.socket, port: int) -> None:
        for _ in range(MAX_READ):
            try:
                octets, ancillary, flags, source = sock.recvmsg(MAX_IKE_DATAGRAM + len(NON_ESP_MARKER), ANCILLARY)
            except OSError:  # nothing more, or an ICMP error that says no more than silence would
                return
            if port == NATT_PORT:
                if not octets.startswith(NON_ESP_MARKER):
                    self._drop("keepalive" if octets == KEEPALIVE else "not-ike")
                    continue
                octets = octets[len(NON_ESP_MARKER) :]
            if flags & socket.MSG_TRUNC or len(octets) > MAX_IKE_DATAGRAM:  # over IPv6 a little more can come
                self._drop("too-long")
                continue
            local = _local_address(ancillary, sock.family)
            remote = HostPort(ipaddress.ip_address(source[0].partition("%")[0]), source[1])
            self._sort(Datagram(octets, Path(HostPort(local, port), remote)))

    def _sort(self, datagram: Datagram) -> None:
        header = datagram.octets[:IKE_HEADER]
        if len(header) < IKE_HEADER:
            self._drop("too-short")
            return
        # The initiator's SPI stands first; where the sender is the initiator, by its flag, the second is ours.
        ours = header[8:16] if header[19] & FLAG_INITIATOR else header[:8]
        if int.from_bytes(ours, "big") in self._known:
            queue = self._queues[0]
        else:
            queue = self._queues[1 if header[19] & FLAG_RESPONSE else 2]
        if not queue.push(datagram):
            self._drop("queue-full")

    def _send(self, datagram: Datagram) -> bool:
        path = datagram.path
        is_v6 = path.local.address.version == 6
        sock = self._sockets.get((is_v6, path.local.port))
        if sock is None:
            return False
        octets = (NON_ESP_MARKER if path.local.port == NATT_PORT else b"") + datagram.octets
        try:
            if not is_v6:
                # IPv4 knows no Don't Fragment for one datagram, only for the socket, which nobody else uses.
                mode = PMTUDISC_PROBE if datagram.df else PMTUDISC_OMIT
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, mode)
            sock.sendmsg([octets], _ancillary(datagram, is_v6), 0, (str(path.remote.address), path.remote.port))
        except OSError:
            return False
        return True

    def _drop(self, reason: str) -> None:
        self._drops[reason] = self._drops.get(reason, 0) + 1


def _ancillary(datagram: Datagram, is_v6: bool) -> list[tuple[int, int, bytes]]:
    source = datagram.path.local.address.packed
    tos = INT.pack(datagram.dscp << 2)
    if not is_v6:
        return [(socket.IPPROTO_IP, IP_PKTINFO, PKTINFO_V4.pack(0, source, bytes(4))), (socket.IPPROTO_IP, IP_TOS, tos)]
    items = [
        (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, PKTINFO_V6.pack(source, 0)),
        (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos),
    ]
    if datagram.df:
        items.append((socket.IPPROTO_IPV6, IPV6_DONTFRAG, INT.pack(1)))
    return items


def _local_address(
    ancillary: Sequence[tuple[int, int, bytes]], family: int
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(value) >= PKTINFO_V4.size:
            return ipaddress.IPv4Address(PKTINFO_V4.unpack_from(value)[2])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(value) >= PKTINFO_V6.size:
            return ipaddress.IPv6Address(PKTINFO_V6.unpack_from(value)[0])
    return ipaddress.IPv6Address(0) if family == socket.AF_INET6 else ipaddress.IPv4Address(0)
