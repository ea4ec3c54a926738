"""The instruments: what they measure is so, and they notice when something is missing."""

import time
from dataclasses import replace
from ipaddress import ip_network
from typing import Protocol

import pytest

from openmoat_lab.captures import judge
from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import HOMES, two_gateways
from openmoat_lab.topology import Topology
from openmoat_lab.traffic import Place, numbered, ping, probe, transfer

pytestmark = pytest.mark.namespaces

LEFT, RIGHT = Place("left", "192.0.2.2"), Place("right", "198.51.100.2")


class Raise(Protocol):
    def __call__(self, topology: Topology) -> Lab: ...


def test_a_numbered_stream_on_a_sound_line_misses_nothing(raise_lab: Raise) -> None:
    lab = raise_lab(two_gateways())
    with numbered(lab, LEFT, RIGHT) as stream:
        time.sleep(1)
        results = stream.stop()
    for received in results:
        assert received.missing == received.repeated == received.late == 0
        assert received.received > 450


def test_a_numbered_stream_counts_what_a_firewall_takes(raise_lab: Raise) -> None:
    plain = two_gateways()
    lossy = tuple(
        replace(host, drops=("meta length 108 numgen inc mod 10 0",)) if host.name == "router" else host
        for host in plain.hosts
    )
    lab = raise_lab(Topology(name="lossy", hosts=lossy, links=plain.links))
    with numbered(lab, LEFT, RIGHT) as stream:
        time.sleep(1)
        results = stream.stop()
    lost = sum(received.missing for received in results)
    sent = sum(received.expected for received in results)
    assert lost == pytest.approx(sent / 10, rel=0.2)


def test_a_transfer_arrives_whole_and_tells_its_segment_size(raise_lab: Raise) -> None:
    lab = raise_lab(two_gateways(offloads=False))
    done = transfer(lab, LEFT, RIGHT, 1_000_000)
    assert done.segment == 1448
    assert done.bits_per_second > 1_000_000


def test_a_probe_learns_the_mtu_of_the_line(raise_lab: Raise) -> None:
    lab = raise_lab(HOMES)
    moat, portal = Place("moat-a", "100.64.1.2"), Place("portal", "203.0.113.10")
    assert probe(lab, moat, portal, 1492)["answers"] == ["echoed whole"] * 2
    refused = probe(lab, moat, portal, 1500)
    assert refused["answers"][-1] == "Message too long"
    assert refused["path_mtu"] == 1492


def test_the_judge_sees_the_marker_of_a_ping_in_clear(raise_lab: Raise) -> None:
    plain = two_gateways()
    lab = raise_lab(plain)
    lab.run("left", "ip", "route", "add", "10.2.0.0/24", "via", "192.0.2.1")
    capture = lab.capture("router", "left")
    assert ping(lab, "pc-left", "10.2.0.10").received == 5
    verdict = judge(capture.stop(), [ip_network("10.0.0.0/8")])
    assert verdict.leaks == 10
    assert "marker" in verdict.findings[0].text
