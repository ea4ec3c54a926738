"""A survey of servers whose kind is known, those of the zoo: without a tunnel before them, and through one."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_network

import pytest

from openmoat_lab.captures import judge
from openmoat_lab.namespaces import Lab
from openmoat_lab.peers.moatd import BINARIES, Moatd
from openmoat_lab.processes import wait_until
from openmoat_lab.topology import End, Host, Link, Topology
from openmoat_lab.zoo.catalog import OUTERS, PATHS, SERVERS
from openmoat_lab.zoo.network import (
    EAST,
    MID,
    SERVER_NETS,
    SINK,
    WEST,
    network,
    server_address,
    server_script,
    sink_address,
    sink_nets,
)
from openmoat_lab.zoo.scene import PORT, PROGRAM

pytestmark = pytest.mark.namespaces

KINDS = {
    "efficient": "efficient",
    "small-mss": "inefficient",
    "no-df-small": "inefficient",
    "no-df-large": "inefficient",
    "semi-naughty": "semi-naughty",
    "naughty": "naughty",
    "incorrigible": "incorrigible",
}
POLICY = "virtual"
"""Of the addresses of the client, those that belong to this policy."""
UP_SECONDS = 20.0
SURVEY_SECONDS = 120.0
Told = dict[str, tuple[str, list[str]]]
"""By kind of server: the verdict, and its evidence."""


@contextmanager
def zoo() -> Iterator[Lab]:
    """All servers, behind their firewall; two gateways that are routers as yet; a client."""
    with Lab(network(KINDS, PATHS["clean1500"], OUTERS["IPv4"])) as lab:
        for name in KINDS:
            lab.run(name, "sh", "-eu", text=server_script(SERVERS[name]))
            lab.spawn(name, *PROGRAM, "serve", str(PORT), name="serve").wait_for_output("serve: listening")
        lab.run(SINK, "ip", "route", "replace", "default", "via", "10.9.1.1", "src", sink_address(POLICY, "IPv4"))
        yield lab


def survey(lab: Lab, host: str, *names: str) -> Told:
    """What `moat mtu survey` on that host says of these servers, or of all; it leaves none of its rules behind."""
    asked = names or tuple(KINDS)
    addresses = [server_address(name, "IPv4") for name in asked]
    words = ("mtu", "survey", "--json", "--port", str(PORT), *addresses)
    told = json.loads(lab.run(host, str(BINARIES / "moat"), *words, seconds=SURVEY_SECONDS).stdout)
    assert told["schema"] == "moat.mtu-survey/1"
    assert "moat_survey" not in lab.run(host, "nft", "list", "ruleset").stdout
    return {name: (row["kind"], row["evidence"]) for name, row in zip(asked, told["rows"], strict=True)}


def gateways(lab: Lab, **words: str) -> tuple[Moatd, Moatd]:
    """Two of ours between servers and client, with these words for the child; the one of the servers first."""
    nets = {WEST: list(SERVER_NETS), EAST: list(sink_nets(POLICY))}

    def gateway(host: str, other: str, addresses: dict[str, list[str]]) -> Moatd:
        tunnel = {
            "psk": "psk",
            "local": {"identity": f"{host}.example"},
            "peer": {"identity": f"{other}.example", **addresses},
            "children": {"net": {"local": nets[host], "remote": nets[other], **words}},
        }
        return Moatd(lab, host, {"tunnel": tunnel}, {"psk": b"a secret between two gateways"})

    west_outside = str(lab.topology.address(WEST, "wan", 4))
    return gateway(WEST, EAST, {}), gateway(EAST, WEST, {"addresses": [west_outside]})


def let_clear_packets_through(lab: Lab) -> None:
    """The router between the gateways knows the ways to what is behind them."""
    for net, via in (("10.1.0.0/16", "192.0.2.1"), ("10.9.0.0/16", "198.51.100.2")):
        lab.run(MID, "ip", "route", "add", net, "via", via)


def both(lab: Lab, *names: str) -> dict[str, Told]:
    """The same, asked at once by the client and by the gateway before it."""
    with ThreadPoolExecutor(2) as beside:
        return dict(zip((SINK, EAST), beside.map(lambda host: survey(lab, host, *names), (SINK, EAST)), strict=True))


def test_every_kind_of_server_is_told_right() -> None:
    assert set(KINDS) == {name for name, server in SERVERS.items() if server.is_tcp}
    with zoo() as lab:
        let_clear_packets_through(lab)
        told = survey(lab, SINK)
    assert {name: kind for name, (kind, _) in told.items()} == KINDS, told
    assert all(evidence for _, evidence in told.values())


def test_a_gateway_and_a_host_behind_it_may_ask_from_one_port() -> None:
    with zoo() as lab:
        let_clear_packets_through(lab)
        for host in (SINK, EAST):
            lab.run(host, "sh", "-c", "echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range")
        found = both(lab, "efficient")
    assert {told["efficient"][0] for told in found.values()} == {"efficient"}, found


@pytest.mark.parametrize("aggfrag", ["prefer", "never"])
def test_through_a_tunnel_a_host_and_the_gateway_itself_tell_every_kind_right(aggfrag: str) -> None:
    with zoo() as lab:
        # Whatever left in clear would arrive, and be seen.
        let_clear_packets_through(lab)
        west, east = gateways(lab, aggfrag=aggfrag)
        west.start()
        capture = lab.capture(MID, EAST)
        east.start()
        wait_until("the tunnel is up", up(east), UP_SECONDS)
        found = both(lab)
        verdict = judge(capture.stop(), tuple(ip_network(net) for net in (*SERVER_NETS, *sink_nets(POLICY))))
        assert (verdict.leaks, verdict.findings) == (0, [])
    for host, told in found.items():
        assert {name: kind for name, (kind, _) in told.items()} == KINDS, (host, told, west.last_words())
        assert all(evidence for _, evidence in told.values())


def up(gateway: Moatd) -> Callable[[], bool]:
    """Whether its Child SA is up."""
    return lambda: any(peer["children"] for peer in gateway.ask("status")["connections"][0]["peers"])


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_survey_that_is_ended_early_leaves_no_rule_behind(sign: signal.Signals) -> None:
    link = Link(a=End.of("here", "eth0", "192.0.2.1/24"), b=End.of("there", "eth0", "192.0.2.2/24"))
    with Lab(Topology(name="silent", hosts=(Host(name="here"), Host(name="there")), links=(link,))) as lab:

        def rules() -> bool:
            return "moat_survey" in lab.run("here", "nft", "list", "ruleset").stdout

        # Nobody has the second address, so that the answer is waited for.
        asking = lab.spawn("here", str(BINARIES / "moat"), "mtu", "survey", "192.0.2.9", name="survey")
        wait_until("its rule is there", rules, UP_SECONDS)
        os.kill(asking.pid, sign)
        wait_until("its rule is gone", lambda: not rules(), UP_SECONDS)


def test_a_server_to_which_no_route_leads_is_told_beside_the_others() -> None:
    with Lab(Topology(name="alone", hosts=(Host(name="here"),), links=())) as lab:
        words = ("mtu", "survey", "--json", "192.0.2.9", "..")
        told = json.loads(lab.run("here", str(BINARIES / "moat"), *words).stdout)
    assert [row["kind"] for row in told["rows"]] == ["unreachable", "unreachable"]
    assert told["rows"][0]["evidence"] == ["no way there: Network is unreachable"]
