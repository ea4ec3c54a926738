"""The two ends of a flood of numbered UDP packets, as `python flood.py PROGRAM ...`; each ends with one JSON line.

    send PEER PORT SIZE RATE    packets of SIZE octets, RATE a second (0: as fast as they go), until SIGTERM
    take OWN PORT SIZE          count them until SIGTERM, and until a second has passed without any

Uses the standard library only, so that it starts fast and can be copied anywhere.
"""

import json
import os
import signal
import socket
import struct
import sys
import time

__all__ = ["LINGER_SECONDS"]

NUMBER = struct.Struct(">Q")
UDP_SEGMENT = 103
SEGMENTS = 40
"""Packets per system call."""
NICENESS = 10
"""The flood takes only processor time that is left, so that it does not compete with the tunnel."""
PATTERN = bytes(range(251)) * 40
BUFFER_OCTETS = 32 << 20
SO_RCVBUFFORCE = 33
LINGER_SECONDS = 1.0
"""Silence after which no packet is in transit."""


def send(peer: str, port: int, size: int, rate: float) -> dict[str, object]:
    """Send until SIGTERM; returns how many packets the kernel took, and how many calls it refused."""
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    os.nice(NICENESS)
    batch = bytearray(b"".join(PATTERN[:size] for _ in range(SEGMENTS)))
    sent = refused = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        out.connect((peer, port))
        start = time.monotonic()
        while not stopped:
            for index in range(SEGMENTS):
                NUMBER.pack_into(batch, index * size, sent + index)
            try:
                out.send(batch)
                sent += SEGMENTS
            except OSError:
                refused += 1
            if rate:
                time.sleep(max(0.0, start + sent / rate - time.monotonic()))
    return {"sent": sent, "refused": refused, "seconds": time.monotonic() - start}


def take(own: str, port: int, size: int) -> dict[str, object]:
    """Count until SIGTERM and silence; returns how many packets arrived, and how many were changed, repeated or out of order."""
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    received = changed = disordered = 0
    highest = -1
    rest = PATTERN[NUMBER.size : size]
    octets = bytearray(size + 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_OCTETS)
        sock.bind((own, port))
        sock.settimeout(LINGER_SECONDS)
        say("take: listening")
        while True:
            try:
                length = sock.recv_into(octets)
            except TimeoutError:
                if stopped:
                    break
                continue
            received += 1
            (number,) = NUMBER.unpack_from(octets)
            changed += length != size or octets[NUMBER.size : size] != rest
            disordered += number <= highest
            highest = max(highest, number)
    return {"received": received, "changed": changed, "disordered": disordered}


def say(line: str) -> None:
    """Print a line at once: the lab reads the standard output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run one of the programs."""
    match sys.argv[1:]:
        case ["send", peer, port, size, rate]:
            say(json.dumps(send(peer, int(port), int(size), float(rate))))
        case ["take", own, port, size]:
            say(json.dumps(take(own, int(port), int(size))))
        case words:
            sys.exit(f"flood: no program {words}")


if __name__ == "__main__":
    main()
