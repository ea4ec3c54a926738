"""The program that the guest runs: it carries out requests from files in the shared folder. Standard library only, started by init.sh.

A line N on the serial port announces N.request, which is JSON; the same line back announces N.reply. Files carry what a
terminal would change. Requests are carried out one after another.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Agent", "main"]

SERIAL = "/dev/ttyS0"
NETLINK_XFRM = 6
NLMSG_ERROR = 2
NLMSG_HEADER = 16
BUFFER = 65_536
SO_RCVBUFFORCE = 33
WAITING = 32 << 20
"""Octets of datagrams that wait for `collect`."""


class Agent:
    """`operation` of a request names the method; the other fields are its keyword arguments."""

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._encapsulating: list[socket.socket] = []
        self._listening: dict[int, socket.socket] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The result, or an `error` in words."""
        operations: dict[str, Callable[..., dict[str, Any]]] = {
            "run": self.run,
            "spawn": self.spawn,
            "stop": self.stop,
            "netlink": self.netlink,
            "encapsulate": self.encapsulate,
            "listen": self.listen,
            "send": self.send,
            "collect": self.collect,
        }
        try:
            return operations[request.pop("operation")](**request)
        except subprocess.TimeoutExpired as late:
            said = b" ".join(filter(None, (late.stdout, late.stderr))).decode(errors="replace")
            return {"error": f"no end after {late.timeout:g} s: {said[-4000:]}"}
        except (OSError, KeyError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def run(self, *, argv: list[str], text: str | None, seconds: float) -> dict[str, Any]:
        """A command to its end."""
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=seconds, check=False, errors="replace"
        )
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr}

    def spawn(self, *, argv: list[str], log: str) -> dict[str, Any]:
        """A command in the background; its output goes to a file of the shared folder."""
        with Path(log).open("ab") as out:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        self._children[child.pid] = child
        return {"pid": child.pid}

    def stop(self, *, pid: int, number: int, seconds: float) -> dict[str, Any]:
        """Signal one of them (0: none) and wait for its end."""
        child = self._children[pid]
        if number:
            child.send_signal(number)
        return {"code": child.wait(seconds)}

    def netlink(self, *, messages: list[str]) -> dict[str, Any]:
        """Requests to the kernel's XFRM, each complete with its header; stops at the first that is refused."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM) as kernel:
            kernel.setsockopt(270, 11, 1)  # SOL_NETLINK, NETLINK_EXT_ACK: errors come with a text
            for number, message in enumerate(messages):
                kernel.send(bytes.fromhex(message))
                reply = kernel.recv(BUFFER)
                kind = struct.unpack_from("=H", reply, 4)[0]
                code = struct.unpack_from("=i", reply, NLMSG_HEADER)[0] if kind == NLMSG_ERROR else 0
                if code:
                    words = "".join(chr(octet) for octet in reply[NLMSG_HEADER + 20 :] if 32 <= octet < 127)
                    return {"error": f"message {number}: {os.strerror(-code)}: {words}"}
        return {}

    def encapsulate(self, *, port: int) -> dict[str, Any]:
        """Let the kernel take ESP in UDP at a port (RFC 3948), over IPv4 and IPv6."""
        for family in (socket.AF_INET, socket.AF_INET6):
            one = socket.socket(family, socket.SOCK_DGRAM)
            self._encapsulating.append(one)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.IPPROTO_UDP, 100, 2)  # UDP_ENCAP, UDP_ENCAP_ESPINUDP
            one.bind(("", port))
        return {}

    def listen(self, *, address: str) -> dict[str, Any]:
        """Receive datagrams from now on; returns the port."""
        one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WAITING)
        one.bind((address, 0))
        port = one.getsockname()[1]
        self._listening[port] = one
        return {"port": port}

    def send(self, *, source: str, target: str, port: int, payloads: list[str], pause: float) -> dict[str, Any]:
        """Datagrams, one after another, with seconds in between."""
        with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((source, 0))
            for payload in payloads:
                one.sendto(bytes.fromhex(payload), (target, port))
                time.sleep(pause)
        return {}

    def collect(self, *, port: int, count: int, seconds: float) -> dict[str, Any]:
        """Up to `count` received datagrams, or those received until none has arrived for `seconds`; then the port is closed."""
        payloads: list[str] = []
        with self._listening.pop(port) as one:
            one.settimeout(seconds)
            try:
                while len(payloads) < count:
                    payloads.append(one.recv(BUFFER).hex())
            except TimeoutError:
                pass
        return {"payloads": payloads}


def main() -> None:
    """Serve until the machine is switched off."""
    share = Path(sys.argv[1])
    line = os.open(SERIAL, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    agent = Agent()
    os.write(line, b"ready\n")
    with os.fdopen(line, "rb", buffering=0, closefd=False) as bell:
        waiting = b""
        while octets := bell.read(64):
            *numbers, waiting = (waiting + octets).split(b"\n")
            for number in (raw.decode() for raw in numbers):
                answer = agent.answer(json.loads((share / f"{number}.request").read_text()))
                (share / f"{number}.reply").write_text(json.dumps(answer))
                os.write(line, number.encode() + b"\n")


if __name__ == "__main__":
    main()
