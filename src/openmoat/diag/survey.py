"""A TCP client that acts as a path with a small size: it sees what a server sends, drops what is too large, and watches.

Needs root: it captures what comes, and keeps the kernel from answering. IPv4 only: IPv6 has no DF.
"""

import contextlib
import errno
import secrets
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from openmoat.mtu.survey import ENOUGH_OCTETS, SILENT_SECONDS, TOLD_SECONDS, Finding, Kind, Observation, classify

__all__ = ["Segment", "Surveyed", "frag_needed", "http_get", "parse", "survey", "survey_all"]

MSS = 1460
WINDOW = 65_535
FIN, SYN, RST, ACK = 1, 2, 4, 16
AGAIN_SECONDS = 1.0
CONNECT_SECONDS = 5.0
NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN}
SERVERS_AT_ONCE = 32
"""Each has a thread, an `nft` and four sockets."""
VNET_HEADER = struct.Struct("=BBHHHH")
"""`virtio_net_hdr`: flags, kind of GSO, length of headers, size of a segment, two offsets of checksums."""
SOL_PACKET, PACKET_VNET_HDR = 263, 15
LINK_HEADERS = {1: 14, 772: 14, 65534: 0, 65535: 0}
"""By kind of hardware: Ethernet, loopback; TUN and the like have none."""
IPV4 = 0x0800


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment, or many of one size that the kernel has joined, as it came."""

    header: bytes
    """IPv4 header."""
    sequence: int
    acknowledged: int
    flags: int
    payload: bytes
    size: int
    """Octets of the IP packet; of the largest one, where many were joined."""
    first_octets: bytes
    """Of TCP: what ICMP quotes."""

    @property
    def is_df(self) -> bool:
        """Don't Fragment."""
        return bool(self.header[6] & 0x40)

    @property
    def destination(self) -> str:
        """Whom it is for."""
        return socket.inet_ntoa(self.header[16:20])


def parse(packet: bytes, gso_size: int) -> tuple[str, int, int, Segment] | None:
    """Sender, its port, our port, and the segment of an IPv4 packet; None where it is no whole TCP segment."""
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
        return None
    start, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    tcp = packet[start : total or len(packet)]
    if start < 20 or len(tcp) < 20 or (tcp[12] >> 4) * 4 not in range(20, len(tcp) + 1):
        return None
    if int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return None  # a fragment
    offset = (tcp[12] >> 4) * 4
    payload = tcp[offset:]
    source_port, own_port, sequence, acknowledged = struct.unpack_from(">HHII", tcp)
    size = start + offset + (min(gso_size, len(payload)) or len(payload))
    segment = Segment(packet[:start], sequence, acknowledged, tcp[13], payload, size, tcp[:8])
    return socket.inet_ntoa(packet[12:16]), source_port, own_port, segment


def frag_needed(segment: Segment, size: int) -> bytes:
    """ICMP that says of a segment that only `size` octets pass (RFC 1191 4)."""
    header = segment.header[:2] + segment.size.to_bytes(2, "big") + segment.header[4:]
    head = struct.pack(">BBHHH", 3, 4, 0, 0, size)
    checksum = _checksum(head + header + segment.first_octets)
    return struct.pack(">BBHHH", 3, 4, checksum, 0, size) + header + segment.first_octets


def http_get(host: str, path: str) -> bytes:
    """A request for a page."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: moat\r\nConnection: close\r\n\r\n".encode()


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What is told of one server."""

    host: str
    """As it was asked for."""
    address: str | None
    kind: str
    evidence: tuple[str, ...]


def survey_all(hosts: Sequence[str], port: int, page: str, limit: int) -> list[Surveyed]:
    """Survey web servers, several at once: one row for each, also for a name without an address. Raises `OSError` as `survey` does."""
    stopped = threading.Event()

    def one(host: str) -> Surveyed:
        try:
            address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
        except (socket.gaierror, UnicodeError) as error:
            why = f"no IPv4 address: {error.strerror if isinstance(error, OSError) else 'no name of a host'}"
            return Surveyed(host, None, Kind.UNREACHABLE.value, (why,))
        try:
            found = survey(str(address), port, http_get(host, page), limit, stopped)
        except OSError as error:
            if error.errno not in NO_WAY:
                raise
            found = Finding(Kind.UNREACHABLE, (f"no way there: {error.strerror}",))
        return Surveyed(host, str(address), found.kind.value, found.evidence)

    with ThreadPoolExecutor(max_workers=SERVERS_AT_ONCE) as workers:
        try:
            return list(workers.map(one, hosts))
        finally:
            stopped.set()  # who ends us early does not wait for the rest
            workers.shutdown(cancel_futures=True)


def survey(address: str, port: int, request: bytes, limit: int, stopped: threading.Event) -> Finding:
    """Find out what kind of server this is; takes up to a minute, or until `stopped`, whatever comes of it then.

    Raises `OSError` where this host does not permit it.
    """
    with _Client(address, port, request, limit, stopped) as client:
        silent = client.observe(SILENT_SECONDS, tells=False)
    told = None
    if silent.dropped and silent.recovered is None and not stopped.is_set():
        with _Client(address, port, request, limit, stopped) as client:
            told = client.observe(TOLD_SECONDS, tells=True)
    return classify(silent, told)


class _Client:
    """One TCP connection of its own making."""

    def __init__(self, address: str, port: int, request: bytes, limit: int, stopped: threading.Event) -> None:
        self._peer = (address, port)
        self._request = request
        self._limit = limit
        self._stopped = stopped
        self._stack = contextlib.ExitStack()
        self._sent = secrets.randbits(32)
        """Sequence number of our next octet; of the first one of the request, once connected."""
        self._expected = 0
        self._octets = self._largest = self._dropped = self._fragmentable = 0
        self._first_drop: float | None = None
        self._recovered: float | None = None
        self._has_ended = False

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        try:
            # Holds the port; that the kernel knows nothing of our connection is what the rule is for.
            holder = enter(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finder:
                finder.connect(self._peer)
                self._own = finder.getsockname()[0]
            holder.bind((self._own, 0))
            self._port: int = holder.getsockname()[1]
            enter(_kept_from_kernel(self._own, self._peer, self._port))
            self._ear = enter(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(IPV4)))
            self._ear.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            self._mouth = enter(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
            self._mouth.bind((self._own, 0))
            self._icmp = enter(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
            self._icmp.bind((self._own, 0))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def observe(self, seconds: float, *, tells: bool) -> Observation:
        """Ask, drop segments that are too large, and watch for some seconds after the first; `tells`: answer each with ICMP."""
        if not self._connect():
            return Observation(limit=self._limit, is_connected=False)
        self._ask()
        deadline = time.monotonic() + CONNECT_SECONDS
        asked = time.monotonic()
        while time.monotonic() < deadline and not self._is_enough() and not self._stopped.is_set():
            for segment in self._segments(AGAIN_SECONDS / 4):
                self._take(segment, tells=tells)
                deadline = (self._first_drop or time.monotonic()) + (seconds if self._first_drop else CONNECT_SECONDS)
            if not self._octets and not self._dropped and time.monotonic() - asked > AGAIN_SECONDS:
                self._ask()
                asked = time.monotonic()
        self._send(RST | ACK, self._sent + len(self._request))
        return Observation(
            limit=self._limit,
            octets=self._octets,
            largest=self._largest,
            dropped=self._dropped,
            fragmentable=self._fragmentable,
            recovered=self._recovered,
        )

    def _is_enough(self) -> bool:
        return self._has_ended or self._recovered is not None or (self._octets >= ENOUGH_OCTETS and not self._dropped)

    def _connect(self) -> bool:
        deadline = time.monotonic() + CONNECT_SECONDS
        while time.monotonic() < deadline and not self._stopped.is_set():
            self._send(SYN, self._sent, struct.pack(">BBH", 2, 4, MSS))
            for segment in self._segments(AGAIN_SECONDS):
                if segment.flags & RST:
                    return False
                if segment.flags & SYN and segment.acknowledged == (self._sent + 1) & 0xFFFFFFFF:
                    self._sent = segment.acknowledged
                    self._expected = (segment.sequence + 1) & 0xFFFFFFFF
                    return True
        return False

    def _ask(self) -> None:
        self._send(ACK, self._sent, payload=self._request)

    def _take(self, segment: Segment, *, tells: bool) -> None:
        """One segment of the answer: as a path of `limit` octets would deal with it."""
        if segment.flags & RST:
            self._has_ended = True
        if segment.payload:
            self._largest = max(self._largest, segment.size)
            if segment.size > self._limit and segment.is_df:
                self._dropped += 1
                self._first_drop = self._first_drop or time.monotonic()
                if tells:
                    self._icmp.sendto(frag_needed(segment, self._limit), (self._peer[0], 0))
                return
            self._fragmentable += segment.size > self._limit
        elif not segment.flags & FIN:
            return
        if segment.sequence == self._expected:
            self._octets += len(segment.payload)
            self._has_ended |= bool(segment.flags & FIN)
            self._expected = (self._expected + len(segment.payload)) & 0xFFFFFFFF
            # What was sent before the first loss and came after it is no recovery: it must be what was lost, sent anew.
            if self._first_drop is not None and segment.payload:
                self._recovered = time.monotonic() - self._first_drop
        self._send(ACK, self._sent + len(self._request))

    def _segments(self, seconds: float) -> Iterator[Segment]:
        """Segments that arrive on this connection within the time given."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and select.select([self._ear], [], [], left)[0]:
            octets, source = self._ear.recvfrom(1 << 17)
            skipped = LINK_HEADERS.get(source[3])
            if skipped is None or source[2] == socket.PACKET_OUTGOING or len(octets) < VNET_HEADER.size:
                continue
            gso_size = VNET_HEADER.unpack_from(octets)[3]
            found = parse(octets[VNET_HEADER.size + skipped :], gso_size)
            # On a gateway, what it carries for others is seen as well, and may have the same port.
            if found is not None and found[:3] == (*self._peer, self._port) and found[3].destination == self._own:
                yield found[3]

    def _send(self, flags: int, sequence: int, options: bytes = b"", payload: bytes = b"") -> None:
        offset = (20 + len(options)) // 4 << 4
        acknowledged = self._expected if flags & ACK else 0

        def header(checksum: int) -> bytes:
            numbers = (self._port, self._peer[1], sequence & 0xFFFFFFFF, acknowledged)
            return struct.pack(">HHIIBBHHH", *numbers, offset, flags, WINDOW, checksum, 0)

        length = 20 + len(options) + len(payload)
        pseudo = socket.inet_aton(self._own) + socket.inet_aton(self._peer[0]) + struct.pack(">HH", 6, length)
        checksum = _checksum(pseudo + header(0) + options + payload)
        self._mouth.sendto(header(checksum) + options + payload, (self._peer[0], 0))


@contextlib.contextmanager
def _kept_from_kernel(own: str, peer: tuple[str, int], port: int) -> Iterator[None]:
    """Keeps packets of one connection from the kernel's TCP, which would reset what it does not know.

    The table belongs to the `nft` that made it, and goes with it; that one ends when we do, however that comes about.
    """
    table = f"inet moat_survey_{port}"
    commands = (
        f"add table {table} {{ flags owner; }}",
        f"add chain {table} arriving {{ type filter hook prerouting priority raw; policy accept; }}",
        f"add rule {table} arriving ip saddr {peer[0]} ip daddr {own} tcp sport {peer[1]} tcp dport {port} drop",
        f"list table {table}",
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(["nft", "-i"], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as nft:
        try:
            answer = _answer(nft, commands)
            if not answer.startswith(f"table {table}"):
                raise PermissionError(f"nft: {answer or 'it ended without a word'}")
            yield
        finally:
            nft.kill()


def _answer(nft: "subprocess.Popen[str]", commands: Sequence[str]) -> str:
    """First line of the error of `nft`; if it accepts the commands, the first line of the listing after them."""
    if nft.stdin is None or nft.stdout is None:
        raise ValueError("nft was started without pipes")
    with contextlib.suppress(BrokenPipeError):  # it has ended, and said why
        nft.stdin.write("\n".join(commands) + "\n")
        nft.stdin.flush()
    return nft.stdout.readline().strip()


def _checksum(octets: bytes) -> int:
    padded = octets + bytes(len(octets) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
