"""Classic BPF: small programs with which the kernel chooses for a socket, before anything is copied. They need no privilege."""

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final

__all__ = [
    "JUMP_IF_EQUAL",
    "LOAD_OCTET",
    "LOAD_OCTET_BEHIND_X",
    "LOAD_WORD",
    "LOAD_WORD_BEHIND_X",
    "MODULO",
    "RETURN",
    "RETURN_A",
    "SO_ATTACH_FILTER",
    "SO_ATTACH_REUSEPORT_CBPF",
    "WHOLE_PACKET",
    "X_IS_IPV4_HEADER",
    "Instruction",
    "attach",
]

SO_ATTACH_FILTER: Final = 26
SO_ATTACH_REUSEPORT_CBPF: Final = 51

LOAD_WORD: Final = 0x20
LOAD_OCTET: Final = 0x30
LOAD_WORD_BEHIND_X: Final = 0x40
LOAD_OCTET_BEHIND_X: Final = 0x50
X_IS_IPV4_HEADER: Final = 0xB1
"""Octets of the IPv4 header at the front."""
MODULO: Final = 0x94
JUMP_IF_EQUAL: Final = 0x15
RETURN: Final = 0x06
RETURN_A: Final = 0x16
WHOLE_PACKET: Final = 0xFFFF_FFFF

Instruction = tuple[int, int, int, int]
"""Code, jumps if true and false, operand."""


def attach(sock: socket.socket, option: int, program: Sequence[Instruction]) -> None:
    """Give a socket a program, by one of the two options (socket(7))."""
    octets = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(octets, len(octets))
    # struct sock_fprog: the number of instructions and where they stand.
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
