"""Which of several sockets of one kind the kernel gives a packet to: ESP by its SPI, IKE to a socket of its own.

Whatever number the kernel takes, a packet is handled in full: steering decides who works, never what is done.
"""

import os
import socket
from typing import Final

from openmoat.system.bpf import (
    JUMP_IF_EQUAL,
    LOAD_WORD,
    LOAD_WORD_BEHIND_X,
    MODULO,
    RETURN,
    RETURN_A,
    SO_ATTACH_FILTER,
    SO_ATTACH_REUSEPORT_CBPF,
    WHOLE_PACKET,
    X_IS_IPV4_HEADER,
    Instruction,
    attach,
)

__all__ = ["steer_by_spi", "suitable_workers", "take_share"]

MAX_SUITABLE_WORKERS: Final = 16
"""As many as are started unasked: beyond that memory for buffers is the operator's to spend."""


def suitable_workers() -> int:
    """Pairs of packet threads for this machine: one thread a core that we may run on, and one pair at least."""
    return max(1, min(MAX_SUITABLE_WORKERS, len(os.sched_getaffinity(0)) // 2))


def steer_by_spi(sock: socket.socket, workers: int) -> None:
    """For `workers` + 1 sockets of one UDP port with SO_REUSEPORT, in the order they were bound; call it on one of them.

    ESP goes to number SPI modulo `workers`, IKE behind its marker (RFC 3948 2.2) to the last, so that no flood of data
    fills the buffer in which IKE waits. A keep-alive, too short to have an SPI, goes to the first.
    """
    program = [(LOAD_WORD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, 0), (RETURN, 0, 0, workers), (MODULO, 0, 0, workers)]
    attach(sock, SO_ATTACH_REUSEPORT_CBPF, [*program, (RETURN_A, 0, 0, 0)])


def take_share(sock: socket.socket, worker: int, workers: int) -> None:
    """Let a raw socket of protocol 50 take only ESP whose SPI modulo `workers` is `worker`: each has a copy of all."""
    # An IPv4 packet begins with its header, an IPv6 packet with what follows.
    is_v4 = sock.family == socket.AF_INET
    load: list[Instruction] = [(X_IS_IPV4_HEADER, 0, 0, 0), (LOAD_WORD_BEHIND_X, 0, 0, 0)]
    program = load if is_v4 else [(LOAD_WORD, 0, 0, 0)]
    choose = [(MODULO, 0, 0, workers), (JUMP_IF_EQUAL, 0, 1, worker), (RETURN, 0, 0, WHOLE_PACKET), (RETURN, 0, 0, 0)]
    attach(sock, SO_ATTACH_FILTER, [*program, *choose])
