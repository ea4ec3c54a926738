"""The sender and the sink of UDP measurements, run on hosts of the lab as `python flood.py ROLE ...`.

    send SOURCE TARGET PORT OCTETS RATE SECONDS TOGETHER TARGETS STEP
                         datagrams of OCTETS of payload at RATE a second by `sendmmsg`, TOGETHER of them as one super-packet,
                         in turn to TARGETS addresses, the first of which is TARGET, each STEP after the one before
    sink ADDRESS PORT    counts datagrams until SIGTERM without reading one

The sink's socket has a filter that drops everything: the kernel counts each datagram after its checksum, at no
cost to us, and the count is in `/proc/PID/net/udp`. Uses the standard library only.
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

__all__ = ["BATCH", "MAX_TOGETHER", "main", "sockaddr", "transmitter"]

BATCH = 64
"""Datagrams per system call at most: the size of a burst when the sender is late."""
MAX_TOGETHER = 64_000
"""Octets of a super-packet at most."""
NAP_SECONDS = 0.0001
UDP_SEGMENT = 103
PATIENCE = 2
"""A sender that is late may take this many times the seconds it was given."""
SOCKADDR = struct.Struct("H2s4s8x")
SO_ATTACH_FILTER = 26
RETURN_NOTHING = struct.pack("HBBI", 6, 0, 0, 0)
"""BPF: `ret 0`, that is: keep no octet of any packet."""


class IoVector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(IoVector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", Header), ("sent", ctypes.c_uint))


def send(source: str, targets: Sequence[bytes], octets: int, rate: float, seconds: float, together: int) -> None:
    """Send at a steady rate, or as fast as this host can where that is less; says how many and how long it took."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((source, 0))
    if together > 1:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, octets)
    transmit = transmitter(sock, octets * together, targets)
    sent = refused = 0
    start = now = time.monotonic()
    # The number is fixed beforehand, so that a slow machine is asked for as many as a fast one.
    wanted = max(1, int(rate * seconds / together))
    while sent + refused < wanted and now - start < PATIENCE * seconds:
        due = min(BATCH // together, wanted - sent - refused, int((now - start) * rate / together) - sent - refused)
        if due <= 0:
            time.sleep(NAP_SECONDS)
        else:
            taken = transmit(due)
            sent, refused = sent + taken, refused + (taken == 0)
        now = time.monotonic()
    say(json.dumps({"sent": sent * together, "refused": refused * together, "seconds": now - start}))


def transmitter(sock: socket.socket, octets: int, targets: Sequence[bytes]) -> Callable[[int], int]:
    """A function that sends a number of packets of the same content, in turn to the targets, and returns how many the kernel took."""
    libc = ctypes.CDLL(None)
    kept = [ctypes.create_string_buffer(os.urandom(octets), octets), *map(ctypes.create_string_buffer, targets)]
    vector = IoVector(ctypes.addressof(kept[0]), octets)
    # All targets once, and enough of them again for a batch that begins at the last one.
    count = len(targets)
    messages = (Message * (count + BATCH))(
        *(
            Message(Header(ctypes.addressof(kept[1 + n % count]), SOCKADDR.size, ctypes.pointer(vector), 1))
            for n in range(count + BATCH)
        )
    )
    descriptor, place = sock.fileno(), 0

    def transmit(due: int) -> int:
        nonlocal place
        # A reference from this function keeps `kept` alive.
        taken = libc.sendmmsg(descriptor, ctypes.byref(messages, place * ctypes.sizeof(Message)), due, 0) if kept else 0
        place = (place + max(taken, 0)) % count
        return max(int(taken), 0)

    return transmit


def sockaddr(address: int, port: int) -> bytes:
    """An IPv4 address and a port as the kernel takes them."""
    return SOCKADDR.pack(socket.AF_INET, port.to_bytes(2, "big"), address.to_bytes(4, "big"))


def sink(address: str, port: int) -> None:
    """Wait for SIGTERM; the kernel counts each datagram that arrives in `drops` of the socket."""
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
        case ["send", source, target, port, octets, rate, seconds, together, count, step]:
            first = int.from_bytes(socket.inet_aton(target), "big")
            targets = [sockaddr(first + int(step) * n, int(port)) for n in range(int(count))]
            send(source, targets, int(octets), float(rate), float(seconds), int(together))
        case ["sink", address, port]:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            sink(address, int(port))
        case _:
            raise SystemExit(
                "flood.py send SOURCE TARGET PORT OCTETS RATE SECONDS TOGETHER TARGETS STEP | sink ADDRESS PORT"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
