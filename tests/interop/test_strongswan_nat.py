"""Three peers behind one NAT: told apart by who they are, never by where they come from."""

from ipaddress import ip_network

import pytest

from openmoat_lab.captures import judge
from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import three_behind_nat
from openmoat_lab.pairs import MOAT
from openmoat_lab.peers.moatd import Moatd, Table
from openmoat_lab.peers.strongswan import StrongSwan, SwanChild, SwanConnection, SwanEnd, SwanKeys
from openmoat_lab.processes import wait_until
from openmoat_lab.traffic import Place, ping, reaches, transfer

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan]

PSK = "one secret for three"
INSIDE = [ip_network(f"10.{number}.0.0/24") for number in (1, 2, 3, 9)]


def swan(lab: Lab, number: int) -> StrongSwan:
    identity = f"peer-{number}.example"
    record = SwanConnection(
        local=SwanEnd(identity=identity),
        remote=SwanEnd(identity=MOAT),
        remote_addresses="198.51.100.2",
        children=(SwanChild(local=f"10.{number}.0.0/24", remote="10.9.0.0/24"),),
    )
    return StrongSwan(lab, f"peer-{number}", [record], SwanKeys(shared=((PSK, (identity, MOAT)),)))


def test_three_peers_behind_one_nat_share_one_template() -> None:
    with Lab(three_behind_nat()) as lab:
        outside = lab.capture("router", "right")
        template: Table = {
            "peers": {
                "psk": "psk",
                "local": {"identity": MOAT},
                "peer": {"identity": "*.example"},
                "children": {
                    "net": {"local": ["10.9.0.0/24"], "remote": [f"10.{number}.0.0/24" for number in (1, 2, 3)]}
                },
            }
        }
        moat = Moatd(lab, "right", template, {"psk": PSK.encode()})
        moat.start()
        for number in (1, 2, 3):
            peer = swan(lab, number)
            peer.start()
            peer.initiate()
        for number in (1, 2, 3):
            host, address = f"pc-{number}", f"10.{number}.0.10"
            wait_until(f"{host} is answered", lambda h=host: reaches(lab, h, "10.9.0.10"))  # type: ignore[misc]
            assert ping(lab, "pc-right", address).received == 5
            transfer(lab, Place("pc-right", "10.9.0.10"), Place(host, address), 1_000_000)
        assert judge(outside.stop(), INSIDE).leaks == 0
