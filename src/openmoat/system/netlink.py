"""Netlink in its smallest form: messages, attributes, addresses in them, one socket. Knows no route, rule or link.

Our own codec and not pyroute2, because ten thousand routes must take less than a second, and because its synchronous
calls cannot be made from a thread that already runs an event loop.
"""

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, Self

from openmoat.errors import SystemFault
from openmoat.net import Address, Network

__all__ = [
    "NESTED",
    "NETLINK_NETFILTER",
    "NETLINK_ROUTE",
    "NF_HEADER",
    "SOL_NETLINK",
    "Answer",
    "Group",
    "Kind",
    "Mode",
    "Netlink",
    "Refusal",
    "Request",
    "attribute",
    "attributes",
    "family_of",
    "messages",
    "network_of",
]

HEADER: Final = struct.Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port."""
ATTRIBUTE: Final = struct.Struct("=HH")
NESTED: Final = 0x8000
"""Of an attribute that holds others."""
NESTED_BITS: Final = 0xC000
NF_HEADER: Final = struct.Struct(">BBH")
"""nfgenmsg, with which every message of netfilter begins: family, version, resource."""
RECEIVE_OCTETS: Final = 1 << 18
BUFFER_OCTETS: Final = 4 << 20
CHUNK: Final = 128
"""Requests in one datagram; their acknowledgements must fit the receive buffer."""

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
NETLINK_GET_STRICT_CHK: Final = 12
EXT_ACK_TEXT: Final = 1


class Kind(IntEnum):
    """Message types (linux/rtnetlink.h)."""

    ERROR = 2
    DONE = 3
    NEW_LINK = 16
    DEL_LINK = 17
    GET_LINK = 18
    NEW_ADDRESS = 20
    DEL_ADDRESS = 21
    GET_ADDRESS = 22
    NEW_ROUTE = 24
    DEL_ROUTE = 25
    GET_ROUTE = 26
    NEW_RULE = 32
    DEL_RULE = 33
    GET_RULE = 34


class Mode(IntFlag):
    """Header flags."""

    REQUEST = 0x1
    ACK = 0x4
    DUMP = 0x300
    REPLACE = 0x100
    EXCLUSIVE = 0x200
    CREATE = 0x400


class Group(IntFlag):
    """Multicast groups of the old kind, one bit each."""

    LINK = 0x1
    IPV4_ADDRESS = 0x10
    IPV4_ROUTE = 0x40
    IPV6_ADDRESS = 0x100
    IPV6_ROUTE = 0x400


@dataclass(frozen=True, slots=True)
class Request:
    """One message to send; `body` is the family's fixed header and its attributes."""

    kind: int
    """One of `Kind`, or a number of another netlink protocol."""
    mode: Mode
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """One message received."""

    kind: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the kernel thinks of a request: error number (0: carried out) and its own words, where it has any."""

    errno: int
    text: str = ""

    def __str__(self) -> str:
        return self.text or os.strerror(self.errno).lower()


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four octets."""
    return ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def attributes(octets: bytes) -> dict[int, bytes]:
    """Attributes by kind, flags of the kind taken off; what does not fit ends the walk, a repeated kind keeps the last."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(octets):
        length, kind = ATTRIBUTE.unpack_from(octets, at)
        if not 4 <= length <= len(octets) - at:
            break
        found[kind & ~NESTED_BITS] = octets[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def messages(octets: bytes) -> Iterator[tuple[int, Answer]]:
    """The messages of one datagram, each with its sequence number."""
    at = 0
    while at + HEADER.size <= len(octets):
        length, kind, _flags, sequence, _port = HEADER.unpack_from(octets, at)
        if not HEADER.size <= length <= len(octets) - at:
            return
        yield sequence, Answer(kind, octets[at + HEADER.size : at + length])
        at += (length + 3) & ~3


def family_of(address: Address) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def network_of(family: int, length: int, octets: bytes | None) -> Network:
    """The prefix that a header's length and an attribute make; without the attribute it is all addresses."""
    if family == socket.AF_INET:
        return ipaddress.IPv4Network((octets or bytes(4), length), strict=False)
    return ipaddress.IPv6Network((octets or bytes(16), length), strict=False)


class Netlink:
    """One netlink socket for requests. Calls block for as long as the kernel works, a few microseconds a message."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_OCTETS)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def transact(self, requests: Sequence[Request]) -> list[Refusal]:
        """Carry out all, in order; one answer for each, whether the ones before it were refused or not."""
        outcomes: list[Refusal] = []
        for start in range(0, len(requests), CHUNK):
            chunk = requests[start : start + CHUNK]
            first = self._send(chunk, Mode.REQUEST | Mode.ACK)
            acknowledged: dict[int, Refusal] = {}
            while len(acknowledged) < len(chunk):
                for sequence, answer in self._receive():
                    if answer.kind == Kind.ERROR and first <= sequence < first + len(chunk):
                        acknowledged[sequence] = _refusal(answer.body)
            outcomes.extend(acknowledged[first + i] for i in range(len(chunk)))
        return outcomes

    def transact_whole(self, begin: Request, requests: Sequence[Request], end: Request) -> Refusal:
        """Carry out all or nothing, between two messages that say so (nfnetlink); answers the first refusal, if there is one."""
        asked = [Request(request.kind, request.mode | Mode.ACK, request.body) for request in requests]
        first = self._send([begin, *asked, end], Mode.REQUEST)
        waiting = set(range(first + 1, first + 1 + len(asked)))
        while waiting:
            for sequence, answer in self._receive():
                # The first message is answered only where the whole is refused.
                if answer.kind == Kind.ERROR and (sequence == first or sequence in waiting):
                    refusal = _refusal(answer.body)
                    if refusal.errno:
                        return refusal
                    waiting.discard(sequence)
        return Refusal(0)

    def ask(self, request: Request) -> Answer | Refusal:
        """A request with one message, or a refusal, for an answer."""
        first = self._send([request], Mode.REQUEST)
        while True:
            for sequence, answer in self._receive():
                if sequence == first:
                    return _refusal(answer.body) if answer.kind == Kind.ERROR else answer

    def dump(self, kind: int, body: bytes) -> list[Answer] | Refusal:
        """All objects of a kind that `body` selects, or why there are none to be had."""
        first = self._send([Request(kind, Mode.DUMP, body)], Mode.REQUEST)
        found: list[Answer] = []
        while True:
            for sequence, answer in self._receive():
                if sequence != first:
                    continue
                if answer.kind == Kind.ERROR:
                    return _refusal(answer.body)
                if answer.kind == Kind.DONE:
                    code = struct.unpack_from("=i", answer.body)[0] if len(answer.body) >= 4 else 0
                    return Refusal(-code) if code < 0 else found
                found.append(answer)

    def _send(self, requests: Sequence[Request], mode: Mode) -> int:
        first = self._sequence + 1
        parts = []
        for request in requests:
            self._sequence += 1
            length = HEADER.size + len(request.body)
            parts.append(HEADER.pack(length, request.kind, request.mode | mode, self._sequence, 0))
            parts.append(request.body + bytes(-length % 4))
        try:
            self._socket.send(b"".join(parts))
        except OSError as error:
            raise SystemFault(f"netlink: the kernel takes no requests: {error.strerror}") from error
        return first

    def _receive(self) -> Iterator[tuple[int, Answer]]:
        try:
            return messages(self._socket.recv(RECEIVE_OCTETS))
        except OSError as error:
            raise SystemFault(f"netlink: no answer from the kernel: {error.strerror}") from error


def _refusal(body: bytes) -> Refusal:
    """Of an error message: errno, the header it answers (its payload is capped), then attributes."""
    errno = -struct.unpack_from("=i", body)[0]
    text = attributes(body[4 + HEADER.size :]).get(EXT_ACK_TEXT, b"")
    return Refusal(errno, text.rstrip(b"\0").decode("utf-8", "replace"))
