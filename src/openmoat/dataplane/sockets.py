"""A `Wire` over plain UDP sockets, for backends that leave IKE to us. Descriptors are given; nothing is opened here.

ESP in UDP (RFC 3948) that shares the sockets is not for this wire: it is dropped and counted.
"""

import errno
import ipaddress
import select
import socket
import struct
from collections import Counter, deque
from collections.abc import Sequence

from openmoat.dataplane.wire import MAX_IKE_DATAGRAM, Datagram
from openmoat.net import NATT_PORT, Address, HostPort, Path

__all__ = ["MAX_WAITING", "SocketWire"]

MAX_WAITING = 1_024
"""Datagrams in each of the three queues."""
MAX_READ = 256
"""Datagrams taken from the sockets at a time, so that those of known IKE SAs are found behind strangers."""

MARKER = bytes(4)
"""Goes before IKE on port 4500 (RFC 3948 2.2)."""
SPIS = struct.Struct(">QQ")
FLAGS_OFFSET = 19
FLAG_INITIATOR, FLAG_RESPONSE = 0x08, 0x20
IKE_HEADER = 28
IP_PKTINFO, IP_MTU_DISCOVER = 8, 10
PMTUDISC_OMIT, PMTUDISC_PROBE = 5, 3
PKTINFO4, PKTINFO6 = struct.Struct("=i4s4s"), struct.Struct("=16si")
CONTROL_OCTETS = 256


class SocketWire:
    """Meets `Wire`. Owns duplicates of the descriptors, which are bound wildcard sockets with packet info."""

    def __init__(self, udp: Sequence[tuple[int, int]]) -> None:
        """(descriptor, local port), IPv4 and IPv6 apart."""
        self._sockets: dict[int, tuple[socket.socket, int]] = {}
        self._by_place: dict[tuple[int, int], socket.socket] = {}
        self._epoll = select.epoll()
        self._known: set[int] = set()
        self._drops: Counter[str] = Counter()
        self._queues: tuple[deque[Datagram], ...] = (deque(), deque(), deque())
        """Known IKE SAs, responses, strangers."""
        for descriptor, port in udp:
            sock = socket.socket(fileno=socket.dup(descriptor))
            self._sockets[sock.fileno()] = (sock, port)
            self._by_place[sock.family, port] = sock
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        """Readable while a socket is; `receive_batch` leaves nothing in the queues that a caller could miss."""
        return self._epoll.fileno()

    def receive_batch(self, limit: int) -> list[Datagram]:
        """See `Wire.receive_batch`."""
        if sum(map(len, self._queues)) < limit:
            for descriptor, _ in self._epoll.poll(0):
                self._read(*self._sockets[descriptor])
        batch: list[Datagram] = []
        for queue in self._queues:
            while queue and len(batch) < limit:
                batch.append(queue.popleft())
        return batch

    def send_batch(self, datagrams: Sequence[Datagram]) -> int:
        """See `Wire.send_batch`."""
        return sum(not self._send(datagram) for datagram in datagrams)

    def know_spis(self, added: Sequence[int], removed: Sequence[int]) -> None:
        """See `Wire.know_spis`."""
        self._known.update(added)
        self._known.difference_update(removed)

    def read_drops(self) -> dict[str, int]:
        """See `Wire.read_drops`."""
        return dict(self._drops)

    def close(self) -> None:
        """Close our duplicates."""
        self._epoll.close()
        for sock, _ in self._sockets.values():
            sock.close()

    def _read(self, sock: socket.socket, port: int) -> None:
        for _ in range(MAX_READ):
            try:
                octets, control, _, source = sock.recvmsg(MAX_IKE_DATAGRAM, CONTROL_OCTETS)
            except BlockingIOError:
                return
            except OSError as error:
                # An ICMP error that came for an earlier datagram: IKE retransmits, so it is news to nobody.
                self._drops[f"wire_{errno.errorcode.get(error.errno or 0, 'error').lower()}"] += 1
                continue
            local = destination(control)
            if local is None:
                self._drops["wire_no_destination"] += 1
                continue
            if port == NATT_PORT:
                if not octets.startswith(MARKER):
                    self._drops["wire_not_ike"] += len(octets) > 1
                    continue
                octets = octets[len(MARKER) :]
            remote = HostPort(ipaddress.ip_address(source[0].partition("%")[0]), source[1])
            self._sort(Datagram(octets, Path(HostPort(local, port), remote)))

    def _sort(self, datagram: Datagram) -> None:
        if len(datagram.octets) < IKE_HEADER:
            self._drops["wire_too_short"] += 1
            return
        initiator, responder = SPIS.unpack_from(datagram.octets)
        flags = datagram.octets[FLAGS_OFFSET]
        own = responder if flags & FLAG_INITIATOR else initiator
        queue = self._queues[0 if own in self._known else 1 if flags & FLAG_RESPONSE else 2]
        if len(queue) >= MAX_WAITING:
            self._drops["wire_queue_full"] += 1
            return
        queue.append(datagram)

    def _send(self, datagram: Datagram) -> bool:
        path = datagram.path
        family = socket.AF_INET if path.local.address.version == 4 else socket.AF_INET6
        sock = self._by_place.get((family, path.local.port))
        if sock is None:
            self._drops["wire_no_socket"] += 1
            return False
        octets = MARKER + datagram.octets if path.local.port == NATT_PORT else datagram.octets
        level = socket.IPPROTO_IP if family == socket.AF_INET else socket.IPPROTO_IPV6
        if family == socket.AF_INET:
            control = [(level, IP_PKTINFO, PKTINFO4.pack(0, path.local.address.packed, bytes(4)))]
            sock.setsockopt(level, IP_MTU_DISCOVER, PMTUDISC_PROBE if datagram.df else PMTUDISC_OMIT)
        else:
            control = [(level, socket.IPV6_PKTINFO, PKTINFO6.pack(path.local.address.packed, 0))]
        try:
            sock.sendmsg([octets], control, socket.MSG_DONTWAIT, (str(path.remote.address), path.remote.port))
        except OSError as error:
            self._drops[f"wire_send_{errno.errorcode.get(error.errno or 0, 'error').lower()}"] += 1
            return False
        return True


def destination(control: Sequence[tuple[int, int, bytes]]) -> Address | None:
    """Our address that a datagram was sent to, out of its packet info."""
    for level, kind, octets in control:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return ipaddress.IPv4Address(PKTINFO4.unpack(octets[: PKTINFO4.size])[2])
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return ipaddress.IPv6Address(PKTINFO6.unpack(octets[: PKTINFO6.size])[0])
    return None
