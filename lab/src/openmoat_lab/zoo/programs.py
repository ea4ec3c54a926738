"""The programs that run on hosts of the zoo, as `python programs.py PROGRAM ...`. Standard library only.

serve PORT                 answers requests for octets over TCP and UDP, IPv4 and IPv6, until SIGTERM
fetch JOBS                 runs the requests of a JSON file, each from its own address; one JSON line for each that ends
forge INTERFACE VERSION    answers each ESP packet that comes there with forged frag-needed, until SIGTERM
"""

import asyncio
import contextlib
import json
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["body", "datagram"]

PACKET = 1500
"""Octets of each IP packet sent by UDP."""
HEADERS = {4: 28, 6: 48}
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTU_PROBE = 10, 23, 3
TURN_SECONDS = 0.02
ASK_SECONDS = 1.0
"""A request by UDP is repeated until the answer is complete: a packet lost once does not count as one that never passes."""
REQUEST = struct.Struct(">II")
"""Octets (UDP: datagrams), and octets per second; 0 means as fast as possible."""
UDP_RATE = 750_000
NUMBER = struct.Struct(">II")
FORGED_SIZES = (68, 296, 552, 576, 1006, 1279)
COPIES = 4
PAGE = 300_000


def say(line: str) -> None:
    """Print a line at once: the lab reads the standard output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def body(octets: int) -> bytes:
    """The octets sent by TCP; no two blocks are equal."""
    return b"".join(number.to_bytes(8, "big") for number in range(octets // 8 + 1))[:octets]


def datagram(number: int, count: int, version: int) -> bytes:
    """The UDP payload with this number, of `count`."""
    head = NUMBER.pack(number, count)
    return (head * (PACKET // len(head)))[: PACKET - HEADERS[version]]


# The servers' side.


def serve(port: str) -> None:
    """Answer all requests, each in a thread of its own."""
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        threading.Thread(target=_serve_udp, args=(family, version, int(port)), daemon=True).start()
    with socket.create_server(("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256) as server:
        say("serve: listening")
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_answer_tcp, args=(connection,), daemon=True).start()


def _answer_tcp(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        request = connection.recv(REQUEST.size, socket.MSG_WAITALL)
        # A request by HTTP gets a page as large as the other answers.
        octets, rate = (PAGE, 0) if request.startswith(b"GET ") else REQUEST.unpack(request)
        whole = body(octets)
        turn = round(rate * TURN_SECONDS) or octets
        due = time.monotonic()
        for start in range(0, octets, turn):
            connection.sendall(whole[start : start + turn])
            due += TURN_SECONDS
            if rate:
                time.sleep(max(due - time.monotonic(), 0))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


def _serve_udp(family: socket.AddressFamily, version: int, port: int) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        if version == 6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTU_PROBE)
        else:
            server.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTU_PROBE)
        server.bind(("", port))
        while True:
            with contextlib.suppress(OSError):
                request, client = server.recvfrom(2048)
                threading.Thread(target=_answer_udp, args=(server, client, request, version), daemon=True).start()


def _answer_udp(server: socket.socket, client: Any, request: bytes, version: int) -> None:
    count, rate = REQUEST.unpack(request)
    due = time.monotonic()
    for number in range(count):
        with contextlib.suppress(OSError):
            server.sendto(datagram(number, count, version), client)
        due += PACKET / (rate or UDP_RATE)
        time.sleep(max(due - time.monotonic(), 0))


# The client's side.


class Account:
    """What came of one request."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        self.first: float | None = None
        self.longest_gap = 0.0
        self.octets = 0
        self.complete = False

    def take(self, octets: int) -> None:
        """Record that octets arrived."""
        now = time.monotonic()
        if self.first is None:
            self.first = now - self.began
        else:
            self.longest_gap = max(self.longest_gap, now - self.last)
        self.last = now
        self.octets += octets

    def end(self, *, complete: bool, cut: bool) -> dict[str, Any]:
        """The line for the harness; a pause that lasts until the end counts, too."""
        gap = max(self.longest_gap, time.monotonic() - self.last) if cut else self.longest_gap
        first = None if self.first is None else round(self.first, 3)
        return {"first": first, "octets": self.octets, "complete": complete, "longest_gap": round(gap, 3)}


class Datagrams(asyncio.DatagramProtocol):
    """Receives the datagrams of one answer."""

    def __init__(self, version: int, account: Account, *, is_stream: bool) -> None:
        self.version = version
        self.is_stream = is_stream
        self.account = account
        self.seen: set[int] = set()
        self.is_whole = True
        self.ended = asyncio.Event()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Count a datagram once; one that differs from what was sent makes the answer wrong."""
        number, count = NUMBER.unpack_from(data) if len(data) >= NUMBER.size else (0, 0)
        self.is_whole &= data == datagram(number, count, self.version)
        if number not in self.seen:
            self.seen.add(number)
            self.account.take(len(data))
        # In a paced stream nothing is sent again: after the last datagram nothing follows.
        if len(self.seen) == count or (self.is_stream and number == count - 1):
            self.ended.set()

    def error_received(self, exc: Exception) -> None:
        """An ICMP error: it says nothing about what arrives."""


async def _fetch_tcp(job: dict[str, Any], account: Account) -> bool:
    reader, writer = await asyncio.open_connection(job["target"], job["port"], local_addr=(job["source"], 0))
    try:
        writer.write(REQUEST.pack(job["count"], job["rate"]))
        whole = bytearray()
        while block := await reader.read(1 << 16):
            account.take(len(block))
            whole += block
        return bytes(whole) == body(job["count"])
    finally:
        writer.transport.abort()


async def _fetch_udp(job: dict[str, Any], account: Account) -> bool:
    loop = asyncio.get_running_loop()
    version = 6 if ":" in job["target"] else 4
    transport, taker = await loop.create_datagram_endpoint(
        lambda: Datagrams(version, account, is_stream=bool(job["rate"])),
        local_addr=(job["source"], 0),
        remote_addr=(job["target"], job["port"]),
    )
    try:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        while not taker.ended.is_set():
            if account.first is None or (not taker.is_stream and time.monotonic() - account.last > ASK_SECONDS):
                transport.sendto(REQUEST.pack(job["count"], job["rate"]))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(taker.ended.wait(), ASK_SECONDS)
        return taker.is_whole and len(taker.seen) == job["count"]
    finally:
        transport.abort()


async def _fetch_one(job: dict[str, Any]) -> None:
    await asyncio.sleep(job["delay"])
    account = Account()
    fetch_by = _fetch_tcp if job["tcp"] else _fetch_udp
    complete, cut = False, False
    try:
        async with asyncio.timeout(job["seconds"]):
            complete = await fetch_by(job, account)
    except (TimeoutError, OSError):
        cut = True
    say(json.dumps({"job": job["job"], **account.end(complete=complete, cut=cut)}))


async def _fetch_all(jobs: list[dict[str, Any]]) -> None:
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(_fetch_one(job))


def fetch(file: str) -> None:
    """Run all requests at once, each after its own delay."""
    asyncio.run(_fetch_all(json.loads(Path(file).read_text())))
    say("fetch: done")


# The attacker on the path.


def forge(interface: str, version: str) -> None:
    """Answer each packet that passes with ICMP errors of any size, from the address of this router: hard to distrust."""
    forgers = {4: _forged_v4, 6: _forged_v6}
    kinds = {4: (socket.AF_INET, socket.IPPROTO_ICMP, 0x0800), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6, 0x86DD)}
    family, protocol, ethertype = kinds[int(version)]
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ethertype)) as ear,
        socket.socket(family, socket.SOCK_RAW, protocol) as mouth,
    ):
        ear.bind((interface, ethertype))
        say("forge: listening")
        while True:
            packet, source = ear.recvfrom(65535)
            if source[2] == socket.PACKET_OUTGOING:
                continue
            for turn in range(COPIES):
                forged = forgers[int(version)](packet, FORGED_SIZES[turn % len(FORGED_SIZES)])
                if forged is not None:
                    with contextlib.suppress(OSError):
                        mouth.sendto(*forged)


def _forged_v4(packet: bytes, size: int) -> tuple[bytes, tuple[str, int]] | None:
    if packet[9] not in (socket.IPPROTO_UDP, socket.IPPROTO_ESP):
        return None
    quote = packet[: (packet[0] & 15) * 4 + 8]
    head = struct.pack(">BBHHH", 3, 4, 0, 0, size)
    head = struct.pack(">BBHHH", 3, 4, _checksum(head + quote), 0, size)
    return head + quote, (socket.inet_ntoa(packet[12:16]), 0)


def _forged_v6(packet: bytes, size: int) -> tuple[bytes, tuple[str, int]] | None:
    if packet[6] not in (socket.IPPROTO_UDP, socket.IPPROTO_ESP):
        return None
    # The kernel fills in the checksum.
    return struct.pack(">BBHI", 2, 0, 0, size) + packet[:48], (socket.inet_ntop(socket.AF_INET6, packet[8:24]), 0)


def _checksum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


PROGRAMS: dict[str, Callable[..., None]] = {"serve": serve, "fetch": fetch, "forge": forge}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
