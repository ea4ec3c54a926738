"""Raw sockets for ICMP about outer packets that were too large, apart from those that carry packets."""

import os
import socket
import struct
from typing import Final

from openmoat.errors import SystemFault
from openmoat.system.bpf import (
    JUMP_IF_EQUAL,
    LOAD_OCTET,
    LOAD_OCTET_BEHIND_X,
    RETURN,
    SO_ATTACH_FILTER,
    WHOLE_PACKET,
    X_IS_IPV4_HEADER,
    Instruction,
    attach,
)
from openmoat.system.sockets import has_ipv6

__all__ = ["open_reports"]

REPORT_BUFFER_OCTETS: Final = 16 << 10
"""A few ICMP messages: what floods them is lost in the kernel."""
SOL_RAW: Final = 255
ICMP_FILTER: Final = 1
ICMP6_FILTER: Final = 1
ICMP_UNREACHABLE: Final = 3
ICMP6_TOO_BIG: Final = 2


def open_reports() -> tuple[tuple[int, int], ...]:
    """Raw sockets for ICMP about outer packets that were too large, and nothing else, with the IP version of each."""
    opened: list[tuple[int, int]] = []
    try:
        opened.append((_open_reports(socket.AF_INET, socket.IPPROTO_ICMP), 4))
        if has_ipv6():
            opened.append((_open_reports(socket.AF_INET6, socket.IPPROTO_ICMPV6), 6))
    except OSError as error:
        for descriptor, _version in opened:
            os.close(descriptor)
        raise SystemFault(f"raw socket for ICMP: {error.strerror}; it needs CAP_NET_RAW") from error
    return tuple(opened)


def _open_reports(family: int, protocol: int) -> int:
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, REPORT_BUFFER_OCTETS)
        # A bit of a type lets nothing of that type through. The kernel looks here before it makes a copy.
        if family == socket.AF_INET:
            sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("@I", ~(1 << ICMP_UNREACHABLE) & 0xFFFF_FFFF))
        else:
            blocked = [~(1 << ICMP6_TOO_BIG) & 0xFFFF_FFFF, *[0xFFFF_FFFF] * 7]
            sock.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("@8I", *blocked))
        _choose(sock)
    except BaseException:
        sock.close()
        raise
    return sock.detach()


def _choose(sock: socket.socket) -> None:
    """Let through only what says that a packet of UDP or ESP was too large (RFC 1191, RFC 4443 3.2)."""
    if sock.family == socket.AF_INET:
        # Destination Unreachable, fragmentation needed; and the protocol in the header that is quoted.
        program: list[Instruction] = [(X_IS_IPV4_HEADER, 0, 0, 0)]
        load, wanted, protocol = LOAD_OCTET_BEHIND_X, {0: 3, 1: 4}, 8 + 9
    else:
        program, load, wanted, protocol = [], LOAD_OCTET, {0: 2}, 8 + 6
    for place, value in wanted.items():
        program += [(load, 0, 0, place), (JUMP_IF_EQUAL, 1, 0, value), (RETURN, 0, 0, 0)]
    either = [(JUMP_IF_EQUAL, 1, 0, socket.IPPROTO_ESP), (JUMP_IF_EQUAL, 0, 1, socket.IPPROTO_UDP)]
    program += [(load, 0, 0, protocol), *either, (RETURN, 0, 0, WHOLE_PACKET), (RETURN, 0, 0, 0)]
    attach(sock, SO_ATTACH_FILTER, program)
