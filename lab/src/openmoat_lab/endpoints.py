"""The tiny programs that run on hosts of the lab, as `python endpoints.py PROGRAM ...`; each ends with one JSON line.

    numbered OWN PEER PORT RATE    numbered UDP packets both ways until SIGTERM, then the number of missing ones
    receive OWN PORT               read one TCP stream to its end and answer with its SHA-256
    send PEER PORT OCTETS          send such a stream, with DF on every packet
    probe PEER PORT SIZE           one UDP packet of SIZE octets with DF: does it arrive, or which error comes back
    echo OWN PORT                  send UDP packets back until SIGTERM
    shout OWN PEER PORT RATE       UDP packets with the marker and TCP SYNs until SIGTERM; errors are ignored

Uses the standard library only, so that it starts fast and can be copied anywhere.
"""

import contextlib
import hashlib
import json
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable

__all__ = ["MEET_SECONDS"]

MARKER = b"-INSIDE-A-MOAT!-"
HELLO, NUMBER, END = 1, 2, 3
HEADER = struct.Struct(">BxxxIQ")
"""Kind, number (of END: how many were sent), and time of sending in nanoseconds of the sender's clock."""
PADDING = MARKER * 4
"""A numbered packet has 80 octets of payload."""
HELLO_SECONDS = 0.05
MEET_SECONDS = 15.0
"""How long the ends wait for each other before the first numbered packet."""
LINGER_SECONDS = 3.0
"""How long an end waits for the other's END, and for late packets before it."""
BLOCK = MARKER * 4096
IPV6_MTU_DISCOVER, IP_MTU_DISCOVER, PMTU_DO, IP_MTU = 23, 10, 2, 14
ANSWER_SECONDS = 2.0


def say(line: str) -> None:
    """Print a line at once: the lab reads the standard output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def family(address: str) -> socket.AddressFamily:
    """The address family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Received:
    """What came of a stream of numbered packets."""

    def __init__(self) -> None:
        self.expected: int | None = None
        """How many the other end has sent, once it has said so."""
        self.seen: set[int] = set()
        self._repeated = 0
        self._late = 0
        self._highest = -1
        self._last_at = 0.0
        self._longest_gap = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether all has come."""
        return self.expected is not None and len(self.seen) >= self.expected

    def take(self, number: int) -> None:
        """Count one packet."""
        now = time.monotonic()
        if self._last_at:
            self._longest_gap = max(self._longest_gap, now - self._last_at)
        self._last_at = now
        self._repeated += number in self.seen
        self._late += number < self._highest
        self.seen.add(number)
        self._highest = max(self._highest, number)

    def account(self) -> dict[str, object]:
        """In numbers."""
        missing = [n for n in range(self.expected or self._highest + 1) if n not in self.seen]
        return {
            "expected": self.expected,
            "received": len(self.seen),
            "missing": len(missing),
            "first_missing": missing[:10],
            "repeated": self._repeated,
            "late": self._late,
            "longest_gap": round(self._longest_gap, 4),
        }


class Numbered:
    """Both directions of a stream of numbered packets, seen from one end."""

    def __init__(self, own: str, peer: str, port: int, rate: float) -> None:
        self.received = Received()
        self.stopped = False
        self._socket = socket.socket(family(own), socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((own, port))
        self._socket.setblocking(False)
        self._target = (peer, port)
        self._interval = 1 / rate
        self._has_met = False
        self._sent = 0
        self._refused = 0

    def send(self, kind: int, number: int) -> bool:
        """Send one packet. An error (no route, ICMP error) is counted, since the packet will be missing."""
        try:
            self._socket.sendto(HEADER.pack(kind, number, time.monotonic_ns()) + PADDING, self._target)
        except OSError:
            if kind == NUMBER:
                self._refused += 1
            return False
        return True

    def receive(self, seconds: float) -> None:
        """Read packets that arrive within this time."""
        if not select.select([self._socket], [], [], max(seconds, 0))[0]:
            return
        while True:
            try:
                octets = self._socket.recv(2048)
            except BlockingIOError:
                return
            except OSError:
                continue
            if len(octets) == HEADER.size + len(PADDING):
                self.take(*HEADER.unpack_from(octets))

    def take(self, kind: int, number: int, _sent_at: int) -> None:
        """One packet of the other end."""
        self._has_met = True
        if kind == END:
            self.received.expected = number
        elif kind == NUMBER:
            self.received.take(number)

    def run(self) -> dict[str, object]:
        """Meet the other end and send until stopped; returns the account of what was received."""
        deadline = time.monotonic() + MEET_SECONDS
        while not self._has_met and not self.stopped:
            if time.monotonic() > deadline:
                return {"error": f"nobody answers at {self._target[0]} after {MEET_SECONDS:g} s"}
            self.send(HELLO, 0)
            self.receive(HELLO_SECONDS)
        self.send(HELLO, 0)
        say("numbered: met")
        due = time.monotonic()
        while not self.stopped:
            self.send(NUMBER, self._sent)
            self._sent += 1
            due += self._interval
            while not self.stopped and (left := due - time.monotonic()) > 0:
                self.receive(left)
            self.receive(0)
        return self.part()

    def part(self) -> dict[str, object]:
        """Exchange with the other end how many packets were sent."""
        deadline = time.monotonic() + LINGER_SECONDS
        enough = time.monotonic() + LINGER_SECONDS / 4
        while time.monotonic() < deadline:
            self.send(END, self._sent)
            self.receive(HELLO_SECONDS)
            if self.received.is_complete and time.monotonic() > enough:
                break
        return {"sent": self._sent, "refused": self._refused, **self.received.account()}


def numbered(own: str, peer: str, port: str, rate: str) -> dict[str, object]:
    """Numbered packets both ways until SIGTERM."""
    stream = Numbered(own, peer, int(port), float(rate))

    def stop(*_: object) -> None:
        stream.stopped = True

    signal.signal(signal.SIGTERM, stop)
    return stream.run()


def receive(own: str, port: str) -> dict[str, object]:
    """Read one TCP stream and answer with its digest. Reports the longest time without data."""
    with socket.create_server((own, int(port)), family=family(own)) as server:
        say("receive: listening")
        connection, _ = server.accept()
        digest, octets = hashlib.sha256(), 0
        longest_gap, last = 0.0, time.monotonic()
        with connection:
            while block := connection.recv(1 << 18):
                now = time.monotonic()
                longest_gap, last = max(longest_gap, now - last), now
                digest.update(block)
                octets += len(block)
            connection.sendall(digest.digest())
    return {"octets": octets, "sha256": digest.hexdigest(), "longest_gap": round(longest_gap, 4)}


def send(peer: str, port: str, octets: str) -> dict[str, object]:
    """Send a stream of markers and numbers, with path MTU discovery (DF) as the kernel does it, and compare digests."""
    start = time.monotonic()
    digest, left = hashlib.sha256(), int(octets)
    with socket.socket(family(peer), socket.SOCK_STREAM) as stream:
        if family(peer) == socket.AF_INET:
            stream.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTU_DO)
        stream.settimeout(60)
        stream.connect((peer, int(port)))
        number = 0
        while left:
            block = (number.to_bytes(8, "big") + BLOCK)[:left]
            stream.sendall(block)
            digest.update(block)
            left, number = left - len(block), number + 1
        stream.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := stream.recv(64):
            answer += chunk
        segment = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    seconds = time.monotonic() - start
    return {
        "octets": int(octets),
        "matches": answer == digest.digest(),
        "seconds": round(seconds, 4),
        "bits_per_second": round(int(octets) * 8 / seconds),
        "segment": segment,
    }


def probe(peer: str, port: str, size: str) -> dict[str, object]:
    """One packet of `size` octets with DF to an `echo`; twice, since the first may only bring the ICMP error."""
    headers = 28 if family(peer) == socket.AF_INET else 48
    payload = (MARKER * (int(size) // len(MARKER) + 1))[: int(size) - headers]
    answers: list[str] = []
    with socket.socket(family(peer), socket.SOCK_DGRAM) as out:
        if family(peer) == socket.AF_INET:
            out.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTU_DO)
        else:
            out.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTU_DO)
        out.connect((peer, int(port)))
        out.settimeout(ANSWER_SECONDS / 2)
        for _ in range(2):
            try:
                out.send(payload)
                answers.append("echoed whole" if out.recv(65536) == payload else "changed")
            except TimeoutError:
                answers.append("silence")
            except OSError as error:
                answers.append(error.strerror or str(error))
        mtu = out.getsockopt(socket.IPPROTO_IP, IP_MTU) if family(peer) == socket.AF_INET else None
    return {"size": int(size), "answers": answers, "path_mtu": mtu}


def echo(own: str, port: str) -> dict[str, object]:
    """Send back what comes."""
    packets = 0
    with socket.socket(family(own), socket.SOCK_DGRAM) as server, contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        server.bind((own, int(port)))
        say("echo: listening")
        while True:
            octets, source = server.recvfrom(65536)
            server.sendto(octets, source)
            packets += 1
    return {"packets": packets}


def shout(own: str, peer: str, port: str, rate: str) -> dict[str, object]:
    """Send by UDP and TCP again and again; refused packets are counted and sent again."""
    sent = refused = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with socket.socket(family(own), kind) as voice:
                    voice.setblocking(False)
                    try:
                        voice.bind((own, 0))
                        voice.connect((peer, int(port)))
                        voice.send(MARKER)
                        sent += 1
                    except BlockingIOError:
                        sent += 1
                    except OSError:
                        refused += 1
            time.sleep(1 / float(rate))
    return {"sent": sent, "refused": refused}


PROGRAMS: dict[str, Callable[..., dict[str, object]]] = {
    "numbered": numbered,
    "receive": receive,
    "send": send,
    "probe": probe,
    "echo": echo,
    "shout": shout,
}

if __name__ == "__main__":
    say(json.dumps(PROGRAMS[sys.argv[1]](*sys.argv[2:])))
