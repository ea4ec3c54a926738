"""strongSwan with strongSwan: proves that lab and harness carry a tunnel before anything of ours is judged by them."""

from typing import Protocol

import pytest

from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
from openmoat_lab.peers.strongswan import StrongSwan, SwanChild, SwanConnection, SwanEnd, SwanKeys
from openmoat_lab.topology import Topology

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan]

KEYS = SwanKeys(shared=(("a secret between two", ("left.example", "right.example")),))


class Raise(Protocol):
    def __call__(self, topology: Topology) -> Lab: ...


def connection(own: str, peer: str, remote: str, local_net: str, remote_net: str) -> SwanConnection:
    return SwanConnection(
        local=SwanEnd(identity=own),
        remote=SwanEnd(identity=peer),
        remote_addresses=remote,
        children=(SwanChild(local=local_net, remote=remote_net),),
    )


@pytest.mark.parametrize("nat", [False, True])
def test_strongswan_to_strongswan_carries_ping(raise_lab: Raise, nat: bool) -> None:
    lab = raise_lab(two_gateways(nat=nat))
    ends = (
        ("left", connection("left.example", "right.example", "198.51.100.2", "10.1.0.0/24", "10.2.0.0/24")),
        ("right", connection("right.example", "left.example", "%any", "10.2.0.0/24", "10.1.0.0/24")),
    )
    left, right = (StrongSwan(lab, host, [record], KEYS) for host, record in ends)
    left.start()
    right.start()
    left.initiate()
    lab.run("pc-left", "ping", "-c", "3", "-i", "0.1", "-W", "2", "10.2.0.10")
    assert "ESTABLISHED" in right.sas()


def test_a_killed_strongswan_starts_again(raise_lab: Raise) -> None:
    lab = raise_lab(two_gateways())
    record = connection("left.example", "right.example", "198.51.100.2", "10.1.0.0/24", "10.2.0.0/24")
    swan = StrongSwan(lab, "left", [record], KEYS)
    swan.start()
    swan.kill()
    swan.start()
    assert "moat" in swan.control("--list-conns")
