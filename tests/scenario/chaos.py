"""Two endpoints on a bad line, with wishes on both sides: everything of a run follows from its seed."""

import random
from collections.abc import Sequence

from openmoat.model.connection import IkeLifetimes, Start
from scenario.link import Host, Link, child, connection

LOSS = 0.3
DOUBLING = 0.1
SPREAD = 0.3
"""Seconds by which datagrams may overtake each other."""
RESTARTS = 0.03
"""Part of the wishes that are a kill and a restart."""
SLOWNESS = 0.3
"""Seconds that answers to questions take in every second run; in the others they come at once."""
QUIET = 60.0
"""Seconds after the end of the loss in which everything must be in order again."""


def run_chaos(seed: int, *, retry: bool, links: list[Link] | None = None) -> tuple[Link, Host, Host]:
    """The link and its hosts, `QUIET` seconds after the line has become good."""
    rng = random.Random(seed)  # noqa: S311
    link = Link(seed)
    if links is not None:
        links.append(link)
    link.loss, link.doubling, link.spread = LOSS, DOUBLING, SPREAD
    link.slowness = rng.choice((0.0, SLOWNESS))
    home = link.host("home", "192.0.2.1")
    portal = link.host("portal", "198.51.100.1")
    lifetimes = IkeLifetimes(liveness_after=15.0)
    portal_begins = rng.random() < 0.5
    there = child(local="10.2.0.0/16", remote="10.1.0.0/16", start=Start.AUTO if portal_begins else Start.NONE)
    portal.load(
        connection(
            "portal.example",
            "home.example",
            "192.0.2.1" if portal_begins else None,
            there,
            retry=retry,
            lifetimes=lifetimes,
        )
    )
    home.load(connection("home.example", "portal.example", "198.51.100.1", child(), retry=retry, lifetimes=lifetimes))
    lossy = rng.uniform(5, 40)
    ends = link.now + lossy
    while link.now < ends:
        link.run(min(rng.expovariate(0.5), ends - link.now))
        wish(rng, rng.choice((home, portal)), retry=retry)
        if rng.random() < 0.3:
            both = rng.choice(("rekey_child", "rekey_ike"))
            for host in (home, portal):
                wish(rng, host, retry=retry, verb=both)
    link.loss = link.doubling = link.spread = 0.0
    link.run(QUIET)
    return link, home, portal


def wish(rng: random.Random, host: Host, *, retry: bool, verb: str = "") -> None:
    """One random verb on something the host has."""
    destructive: Sequence[str] = ("delete_child", "delete_ike") if retry else ()
    if retry and rng.random() < RESTARTS:
        host.restart()
        return
    verb = verb or rng.choice(("rekey_child", "rekey_child", "rekey_ike", "rekey_ike", "probe", *destructive))
    if verb.endswith("child"):
        if host.sas:
            host.do(verb, rng.choice(sorted(host.sas)))
    elif found := host.ike_sas():
        host.do(verb, rng.choice(found).ike)


def faults(home: Host, portal: Host) -> list[str]:
    """What is not as it should be: exactly one child with matching SPIs and keys, and no old SA."""
    found = [f"{host.name}: {len(host.sas)} children" for host in (home, portal) if len(host.sas) != 1]
    for host in (home, portal):
        states = [(sa.state, hex(sa.ike)) for sa in host.endpoint.ike_sas()]
        if [state for state, _ in states] != ["Established"]:
            found.append(f"{host.name}: IKE SAs {states}")
    if found:
        return found
    ours, theirs = next(iter(home.sas.values())), next(iter(portal.sas.values()))
    if (ours.child.local_spi, ours.child.remote_spi) != (theirs.child.remote_spi, theirs.child.local_spi):
        found.append("SPIs do not match")
    if (ours.keys.inbound, ours.keys.outbound) != (theirs.keys.outbound, theirs.keys.inbound):
        found.append("keys do not match")
    if not (ours.is_active and theirs.is_active):
        found.append("one side does not send")
    return found
