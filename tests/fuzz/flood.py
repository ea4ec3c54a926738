"""Floods an endpoint with hostile datagrams and prints one JSON object with what it cost. Run by `test_flood.py`.

A process of its own, so that its resident memory is that of the endpoint: `python flood.py DATAGRAMS WARMUP`.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path as FilePath

from openmoat.net import HostPort, Path
from scenario.link import Host, Link, two_hosts

PAGE = resource.getpagesize()
BURST = 20
STEP = 0.01
"""Virtual seconds between two bursts of hostile datagrams: 2 000 a second."""
SOURCES = 5_000


def resident() -> int:
    """Octets of memory that this process has in use now."""
    return int(FilePath("/proc/self/statm").read_text().split()[1]) * PAGE


def corpus() -> list[bytes]:
    """Real messages of another pair of endpoints: both directions of a whole life."""
    link = Link(seed=99)
    home, portal = two_hosts(link)
    link.settle()
    home.do("rekey_child", home.child().local_spi)
    link.settle()
    home.do("rekey_ike", home.ike().ike)
    link.settle()
    return [transmit.octets for host in (home, portal) for transmit in host.transmits]


def hostile(chance: random.Random, seeds: list[bytes], own_spis: list[bytes]) -> Iterator[bytes]:
    """Random octets, mutated messages, and messages that claim to belong to the victim's own IKE SAs."""
    while True:
        kind = chance.randrange(10)
        if kind == 0:
            yield chance.randbytes(chance.randrange(64))
            continue
        octets = bytearray(chance.choice(seeds))
        if kind < 4:
            octets[:8] = chance.randbytes(8)
        elif kind < 6 and own_spis:
            octets[:16] = chance.choice(own_spis)
        for _ in range(chance.randrange(4)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
        if chance.randrange(8) == 0:
            del octets[chance.randrange(len(octets)) :]
        yield bytes(octets)


def flood(portal: Host, link: Link, total: int, warm_up: int) -> dict[str, int]:
    """Send it all; gives resident memory after the warm-up and at the end."""
    chance = random.Random(7)  # noqa: S311
    status = portal.ike()
    spis = [status.peer_spi.to_bytes(8, "big") + status.ike.to_bytes(8, "big")]
    datagrams = hostile(chance, corpus(), [*spis, spis[0][8:] + spis[0][:8]])
    local = HostPort(portal.address, 500)
    after_warm_up = 0
    for number in range(total):
        if number == warm_up:
            after_warm_up = resident()
        source = HostPort(ip_address(0xC6330000 + chance.randrange(SOURCES)), chance.randrange(1, 65536))
        portal.endpoint.handle_datagram(next(datagrams), Path(local, source), link.now)
        portal.flush()
        if number % BURST == 0:
            link.run(STEP)
            for host in link.hosts:
                host.transmits.clear()
                host.events.clear()
    return {"after_warm_up": after_warm_up, "after_all": resident()}


def main() -> None:
    """Flood, then see whether the peer that was there before still is."""
    total, warm_up = (int(word) for word in sys.argv[1:3])
    link = Link(seed=1)
    home, portal = two_hosts(link)
    link.settle()
    child = portal.child()
    began = time.process_time()
    result: dict[str, object] = dict(flood(portal, link, total, warm_up))
    result["microseconds_each"] = round((time.process_time() - began) / total * 1e6, 1)
    asked = link.now
    home.do("probe", home.ike().ike)
    link.settle()
    result["peer_was_answered"] = home.ike().heard > asked
    result["child_stands"] = portal.child() == child
    result["half_open"] = len(portal.endpoint.ike_sas()) - 1
    result["counts"] = portal.endpoint.counts()
    print(json.dumps(result))  # noqa: T201


if __name__ == "__main__":
    main()
