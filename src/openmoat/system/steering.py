"""Which of several sockets of one kind the kernel gives a packet to: ESP by its SPI, IKE to a socket of its own.

Classic BPF, which needs no privilege (socket(7): SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_FILTER). Whatever number the kernel
takes, a packet is handled in full: steering decides who works, never what is done.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

__all__ = ["steer_by_spi", "suitable_workers", "take_share"]

MAX_SUITABLE_WORKERS: Final = 16
"""As many as are started unasked: beyond that memory for buffers is the operator's to spend."""
SO_ATTACH_FILTER: Final = 26
SO_ATTACH_REUSEPORT_CBPF: Final = 51

LOAD_WORD: Final = 0x20
LOAD_WORD_BEHIND_X: Final = 0x40
X_IS_IPV4_HEADER: Final = 0xB1
"""Octets of the IPv4 header at the front."""
MODULO: Final = 0x94
JUMP_IF_EQUAL: Final = 0x15
RETURN: Final = 0x06
RETURN_A: Final = 0x16
WHOLE_PACKET: Final = 0xFFFF_FFFF

Instruction = tuple[int, int, int, int]
"""Code, jumps if true and false, operand."""


def suitable_workers() -> int:
    """Pairs of packet threads for this machine: one thread a core that we may run on, and one pair at least."""
    return max(1, min(MAX_SUITABLE_WORKERS, len(os.sched_getaffinity(0)) // 2))


def steer_by_spi(sock: socket.socket, workers: int) -> None:
    """For `workers` + 1 sockets of one UDP port with SO_REUSEPORT, in the order they were bound; call it on one of them.

    ESP goes to number SPI modulo `workers`, IKE behind its marker (RFC 3948 2.2) to the last, so that no flood of data
    fills the buffer in which IKE waits. A keep-alive, too short to have an SPI, goes to the first.
    """
    program = [(LOAD_WORD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, 0), (RETURN, 0, 0, workers), (MODULO, 0, 0, workers)]
    _attach(sock, SO_ATTACH_REUSEPORT_CBPF, [*program, (RETURN_A, 0, 0, 0)])


def take_share(sock: socket.socket, worker: int, workers: int) -> None:
    """Let a raw socket of protocol 50 take only ESP whose SPI modulo `workers` is `worker`: each has a copy of all."""
    # An IPv4 packet begins with its header, an IPv6 packet with what follows.
    is_v4 = sock.family == socket.AF_INET
    load: list[Instruction] = [(X_IS_IPV4_HEADER, 0, 0, 0), (LOAD_WORD_BEHIND_X, 0, 0, 0)]
    program = load if is_v4 else [(LOAD_WORD, 0, 0, 0)]
    choose = [(MODULO, 0, 0, workers), (JUMP_IF_EQUAL, 0, 1, worker), (RETURN, 0, 0, WHOLE_PACKET), (RETURN, 0, 0, 0)]
    _attach(sock, SO_ATTACH_FILTER, [*program, *choose])


def _attach(sock: socket.socket, option: int, program: Sequence[Instruction]) -> None:
    octets = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(octets, len(octets))
    # struct sock_fprog: the number of instructions and where they stand.
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
