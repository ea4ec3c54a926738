"""The sender and the sink of UDP measurements, run on hosts of the lab as `python flood.py ROLE ...`.

    send SOURCE TARGET PORT OCTETS RATE SECONDS TOGETHER
                         datagrams of OCTETS of payload at RATE a second by `sendmmsg`, so many TOGETHER as one super-packet
    sink ADDRESS PORT    takes datagrams until SIGTERM without ever reading one

The sink's socket has a filter that drops everything: the kernel counts each datagram after its checksum, at no cost of
ours, and whoever wants to know reads `/proc/PID/net/udp`. Uses the standard library only.
"""

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

__all__ = ["BATCH", "MAX_TOGETHER", "main"]

BATCH = 64
"""Datagrams a system call at most: what a burst is when the sender is late."""
MAX_TOGETHER = 64_000
"""Octets of a super-packet at most."""
NAP_SECONDS = 0.0001
UDP_SEGMENT = 103
PATIENCE = 2
"""How many times the seconds it was given a sender that is late may take."""
SO_ATTACH_FILTER = 26
RETURN_NOTHING = struct.pack("HBBI", 6, 0, 0, 0)
"""BPF: `ret 0`, that is: keep no octet of any packet."""


class IoVector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(IoVector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


def send(source: str, target: str, port: int, octets: int, rate: float, seconds: float, together: int) -> None:
    """Send at a steady rate, or as fast as this host can where that is less; says how many and how long it took."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((source, 0))
    sock.connect((target, port))
    if together > 1:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, octets)
    transmit = _transmitter(sock, octets * together)
    sent = refused = 0
    start = now = time.monotonic()
    # The number is set before, so that a machine that is late is asked for as much as one that is not.
    wanted = int(rate * seconds / together)
    while sent + refused < wanted and now - start < PATIENCE * seconds:
        due = min(BATCH // together, wanted - sent - refused, int((now - start) * rate / together) - sent - refused)
        if due <= 0:
            time.sleep(NAP_SECONDS)
        else:
            taken = transmit(due)
            sent, refused = sent + taken, refused + (taken == 0)
        now = time.monotonic()
    say(json.dumps({"sent": sent * together, "refused": refused * together, "seconds": now - start}))


def _transmitter(sock: socket.socket, octets: int) -> Callable[[int], int]:
    """What sends so many packets of one content at once, and says how many the kernel took."""
    libc = ctypes.CDLL(None)
    payload = ctypes.create_string_buffer(os.urandom(octets), octets)
    vector = IoVector(ctypes.addressof(payload), octets)
    messages = (Message * BATCH)(*(Message(vectors=ctypes.pointer(vector), vector_count=1) for _ in range(BATCH)))
    descriptor = sock.fileno()

    def transmit(count: int) -> int:
        # `payload` lives as long as this function does.
        return max(int(libc.sendmmsg(descriptor, messages, count, 0)), 0) if payload else 0

    return transmit


def sink(address: str, port: int) -> None:
    """Be there until SIGTERM; `drops` of the socket is how many datagrams arrived."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    program = ctypes.create_string_buffer(RETURN_NOTHING, len(RETURN_NOTHING))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(program)))
    sock.bind((address, port))
    say("sink: ready")
    signal.sigwait({signal.SIGTERM})


def say(line: str) -> None:
    """Tell the harness, which reads the standard output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(words: Sequence[str]) -> None:
    """Play one role."""
    match words:
        case ["send", source, target, port, octets, rate, seconds, together]:
            send(source, target, int(port), int(octets), float(rate), float(seconds), int(together))
        case ["sink", address, port]:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            sink(address, int(port))
        case _:
            raise SystemExit("flood.py send SOURCE TARGET PORT OCTETS RATE SECONDS TOGETHER | sink ADDRESS PORT")


if __name__ == "__main__":
    main(sys.argv[1:])
