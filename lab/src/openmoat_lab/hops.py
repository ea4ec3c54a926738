"""A traceroute: UDP probes with growing hop limits, and which hosts answer that the limit was exceeded (RFC 1393 1)."""

import json
import sys

from openmoat_lab.namespaces import Lab

__all__ = ["NO_ANSWER", "trace"]

NO_ANSWER = "*"
"""Stands where no answer came."""

PROGRAM = """
import ipaddress, json, select, socket, sys

target, limit, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
is_v6 = ":" in target
level, hops, errors = (41, 16, 25) if is_v6 else (0, 2, 11)  # IPPROTO_IP(V6), hop limit, RECVERR
place, size = (8, 16) if is_v6 else (4, 4)  # of the address in the sockaddr behind the error
seen = []
for number in range(1, limit + 1):
    with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(level, errors, 1)
        probe.setsockopt(level, hops, number)
        probe.connect((target, 33434 + number))
        probe.send(b"probe")
        waiter = select.poll()
        waiter.register(probe, 0)
        if not waiter.poll(1000 * seconds):
            seen.append("*")
            continue
        [(_, _, octets)] = probe.recvmsg(2048, 512, socket.MSG_ERRQUEUE)[1]
        seen.append(str(ipaddress.ip_address(octets[16 + place : 16 + place + size])))
    if seen[-1] == target:
        break
print(json.dumps(seen))
"""


def trace(lab: Lab, host: str, target: str, limit: int = 6, seconds: float = 1.0) -> list[str]:
    """The hosts that answer probes with 1, 2, ... hops, up to `target`; `NO_ANSWER` if none does within `seconds`."""
    argv = (sys.executable, "-c", PROGRAM, target, str(limit), str(seconds))
    answers: list[str] = json.loads(lab.run(host, *argv).stdout)
    return answers
