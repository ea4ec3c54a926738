"""No packet in clear: from before the first start to after the last stop, through crashes and with the peer away.

Captures on both sides of the ISP take every frame; traffic that carries the marker never stops. The network outside has
routes to all inside networks, so that what leaks arrives.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from openmoat_lab.captures import Verdict, judge
from openmoat_lab.homes import INSIDE, OFFICE, OFFICE6, OUTSIDE, Homes, pc, pc6
from openmoat_lab.namespaces import Lab, stop_captures
from openmoat_lab.networks import HOMES
from openmoat_lab.processes import wait_until
from openmoat_lab.traffic import Place, reaches, shouting

pytestmark = pytest.mark.namespaces

GATEWAY = Place("moat-a", "10.1.0.1")
"""The moat itself, speaking from its inside address."""


@contextmanager
def watched(lab: Lab) -> Iterator[list[Verdict]]:
    """Captures on both sides of the ISP and at the portal; their verdicts stand in the list after the block."""
    captures = [lab.capture(host, interface) for host, interface in OUTSIDE]
    verdicts: list[Verdict] = []
    yield verdicts
    verdicts += [judge(file, INSIDE) for file in stop_captures(captures)]


def wait_through(lab: Lab) -> None:
    for target in (OFFICE, OFFICE6):
        wait_until(f"{target.address} answers", lambda t=target: reaches(lab, "pc-a", t.address), 60)  # type: ignore[misc]


def live_through(lab: Lab, homes: Homes, *, guard: bool) -> None:
    """A day of a moat, in a hurry: peer away, up, crash, crash of the peer, stop."""
    moat, portal = homes.moats["a"], homes.portal
    moat.start()
    with ExitStack() as stack:
        for source, target in ((pc("a"), OFFICE), (pc6("a"), OFFICE6), (GATEWAY, OFFICE)):
            stack.enter_context(shouting(lab, source, target))
        time.sleep(1)  # the peer is away
        portal.start()
        for source, target in ((OFFICE, pc("a")), (OFFICE6, pc6("a"))):
            stack.enter_context(shouting(lab, source, target))
        wait_through(lab)
        moat.kill()
        if not guard:
            lab.run("moat-a", *moat.command("cleanup"))
        time.sleep(1)
        moat.start()
        wait_through(lab)
        portal.kill()
        time.sleep(1)
        portal.start()
        wait_through(lab)
        moat.stop()
        portal.stop()
        time.sleep(1)


def test_not_one_packet_passes_in_clear() -> None:
    with Lab(HOMES) as lab:
        homes = Homes.install(lab, hasty="a")
        with watched(lab) as verdicts:
            live_through(lab, homes, guard=True)
        for place, verdict in zip(OUTSIDE, verdicts, strict=True):
            assert verdict.leaks == 0, (place, verdict.findings)
        assert all(verdict.frames for verdict in verdicts[:3])


def test_without_the_guard_the_same_judge_finds_packets_in_clear() -> None:
    with Lab(HOMES) as lab:
        homes = Homes.install(lab, hasty="a")
        with watched(lab) as verdicts:
            live_through(lab, homes, guard=False)
        at_home = dict(zip(OUTSIDE, verdicts, strict=True))["isp", "home-a"]
        assert at_home.leaks > 0
        assert any("marker" in finding.text for finding in at_home.findings)
