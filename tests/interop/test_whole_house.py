"""A house that is wholly behind a tunnel, with real daemons at both ends: remote 0.0.0.0/0 and ::/0 at home, local there."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from openmoat_lab.captures import MARKER, judge
from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.processes import wait_until

pytestmark = pytest.mark.namespaces

PSK = b"a secret between two gateways"
HOME = (ip_network("10.1.0.0/24"), ip_network("fd00:1::/64"))
INSIDE = (*HOME, ip_network("10.2.0.0/24"), ip_network("fd00:2::/64"))
INTERNET = "198.51.100.1"
"""An address beyond the other gateway, and beyond the line of the home as well."""
OTHER_SIDE, OTHER_SIDE6 = "10.2.0.10", "fd00:2::10"
UP_SECONDS = 20.0
MASQUERADE = """table ip out {
    chain out { type nat hook postrouting priority 100; oifname "wan" ip saddr 10.1.0.0/24 masquerade; }
}"""


@dataclass
class House:
    lab: Lab
    home: Moatd
    portal: Moatd

    def reaches(self, host: str, address: str) -> bool:
        # A host that is refused by its own routes says so at once, and sends nothing: no account to compare.
        argv = ("ping", "-n", "-c1", "-W2", "-p", MARKER.hex(), address)
        return "1 received" in self.lab.run(host, *argv, check=False).stdout

    def wait(self) -> None:
        try:
            wait_until(f"{INTERNET} answers", lambda: self.reaches("pc-left", INTERNET), UP_SECONDS)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.home.last_words()}\n{self.portal.last_words()}") from error


def connection(own: str, other: str, local: list[str], remote: list[str], *addresses: str) -> dict[str, object]:
    return {
        "tunnel": {
            "psk": "psk",
            "local": {"identity": own},
            "peer": {"identity": other, **({"addresses": list(addresses)} if addresses else {})},
            "children": {"all": {"local": local, "remote": remote}},
        }
    }


@pytest.fixture
def house() -> Iterator[House]:
    with Lab(two_gateways(nat=True)) as lab:
        for gateway in ("left", "right"):
            # As home gateways do; the one on the right lets the house out into the internet as one address.
            lab.run(gateway, "nft", "-f", "-", text=MASQUERADE)
        ours, theirs = [str(net) for net in HOME], ["0.0.0.0/0", "::/0"]
        home = Moatd(
            lab, "left", connection("home.example", "portal.example", ours, theirs, "198.51.100.2"), {"psk": PSK}
        )
        portal = Moatd(lab, "right", connection("portal.example", "home.example", theirs, ours), {"psk": PSK})
        yield House(lab, home, portal)


def test_a_house_goes_out_by_the_tunnel_alone_and_keeps_its_own_network(house: House) -> None:
    assert house.reaches("pc-left", INTERNET)
    capture = house.lab.capture("router", "left")
    house.home.start()
    assert not house.reaches("pc-left", INTERNET)
    house.portal.start()
    house.wait()
    assert house.reaches("pc-left", OTHER_SIDE)
    assert house.reaches("left", OTHER_SIDE)
    assert house.reaches("pc-left", OTHER_SIDE6)
    assert house.reaches("left", OTHER_SIDE6)
    assert house.reaches("pc-left", "10.1.0.1")
    assert house.reaches("left", "10.1.0.10")
    house.home.kill()
    assert not house.reaches("pc-left", INTERNET)
    assert not house.reaches("left", INTERNET)
    assert house.reaches("pc-left", "10.1.0.1")
    house.home.start()
    house.wait()
    house.home.stop()
    assert not house.reaches("pc-left", INTERNET)
    verdict = judge(capture.stop(), INSIDE)
    assert (verdict.leaks, verdict.findings) == (0, [])
    house.lab.run("left", *house.home.command("cleanup"))
    assert house.reaches("pc-left", INTERNET)
    assert "77" not in house.lab.run("left", "ip", "rule").stdout


def test_a_house_whose_outside_address_changes_is_soon_out_again_and_never_in_clear(house: House) -> None:
    house.portal.start()
    house.home.start()
    house.wait()
    capture = house.lab.capture("router", "left")
    house.lab.run("left", "sh", "-c", "ip addr del 192.0.2.2/24 dev wan")
    assert not house.reaches("pc-left", INTERNET)
    house.lab.run("left", "sh", "-c", "ip addr add 192.0.2.77/24 dev wan; ip route add default via 192.0.2.1")
    house.wait()
    verdict = judge(capture.stop(), INSIDE)
    assert (verdict.leaks, verdict.findings) == (0, [])
    # It does not wait for the peer to be found silent.
    assert "192.0.2.77" in house.home.moat("status", "tunnel")
