"""A traceroute through the tunnel names both gateways and the host, whoever the other gateway is, and nothing goes in clear."""

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from openmoat_lab.captures import judge
from openmoat_lab.hops import NO_ANSWER, trace
from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
from openmoat_lab.pairs import Pair, Terms
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.processes import wait_until
from openmoat_lab.traffic import reaches

pytestmark = pytest.mark.namespaces

PSK = b"a secret between two gateways"
INSIDE = tuple(ip_network(net) for net in ("10.1.0.0/24", "fd00:1::/64", "10.2.0.0/24", "fd00:2::/64"))
UP_SECONDS = 20.0


def connection(own: str, other: str, number: int, **child: str) -> dict[str, object]:
    return {
        "tunnel": {
            "psk": "psk",
            "local": {"identity": own},
            "peer": {"identity": other, **({"addresses": ["198.51.100.2"]} if number == 1 else {})},
            "children": {
                "net": {
                    "local": [f"10.{number}.0.0/24", f"fd00:{number}::/64"],
                    "remote": [f"10.{3 - number}.0.0/24", f"fd00:{3 - number}::/64"],
                    **child,
                }
            },
        }
    }


@pytest.fixture(params=["prefer", "never"], ids=["aggfrag", "plain"])
def tunnel(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, Moatd]]:
    with Lab(two_gateways()) as lab:
        words = {"aggfrag": request.param}
        left = Moatd(lab, "left", connection("left.example", "right.example", 1, **words), {"psk": PSK})
        right = Moatd(lab, "right", connection("right.example", "left.example", 2, **words), {"psk": PSK})
        right.start()
        left.start()
        wait_until("the tunnel is up", lambda: reaches(lab, "pc-left", "10.2.0.10"), UP_SECONDS)
        yield lab, right


def test_between_two_of_ours_every_hop_has_a_name_and_nothing_is_in_clear(tunnel: tuple[Lab, Moatd]) -> None:
    lab, right = tunnel
    capture = lab.capture("router", "right")
    assert trace(lab, "pc-left", "10.2.0.10") == ["10.1.0.1", "10.2.0.1", "10.2.0.10"]
    assert trace(lab, "pc-left", "fd00:2::10") == ["fd00:1::1", "fd00:2::1", "fd00:2::10"]
    assert trace(lab, "pc-right", "10.1.0.10") == ["10.2.0.1", "10.1.0.1", "10.1.0.10"]
    # From the gateway itself the other one is the first hop, and is reached in one.
    assert trace(lab, "left", "10.2.0.10") == ["10.2.0.1", "10.2.0.10"]
    assert trace(lab, "pc-left", "10.2.0.1") == ["10.1.0.1", "10.2.0.1"]
    verdict = judge(capture.stop(), INSIDE)
    assert (verdict.leaks, verdict.findings) == (0, [])
    assert '"hops-exceeded"' in right.moat("status", "--json")


def test_a_gateway_without_an_address_inside_speaks_from_its_protected_side(tunnel: tuple[Lab, Moatd]) -> None:
    lab, _ = tunnel
    lab.run("right", "sh", "-c", "ip addr add 172.16.9.1/24 dev lan && ip addr del 10.2.0.1/24 dev lan")
    lab.run("right", "sh", "-c", "ip route add 10.2.0.0/24 dev lan src 172.16.9.1")
    lab.run("pc-right", "sh", "-c", "ip route add 172.16.9.1 dev lan; ip route replace default via 172.16.9.1")
    capture = lab.capture("router", "right")
    expected = ["10.1.0.1", "172.16.9.1", "10.2.0.10"]
    wait_until("it has noticed", lambda: trace(lab, "pc-left", "10.2.0.10") == expected, UP_SECONDS)
    verdict = judge(capture.stop(), INSIDE)
    assert (verdict.leaks, verdict.findings) == (0, [])


def test_a_gateway_without_an_address_inside_speaks_from_the_one_it_was_given() -> None:
    with Lab(two_gateways()) as lab:
        named = connection("right.example", "left.example", 2, **{"tunnel-address": "10.2.0.77"})
        left = Moatd(lab, "left", connection("left.example", "right.example", 1), {"psk": PSK})
        Moatd(lab, "right", named, {"psk": PSK}).start()
        left.start()
        wait_until("the tunnel is up", lambda: reaches(lab, "pc-left", "10.2.0.10"), UP_SECONDS)
        lab.run("right", "sh", "-c", "ip addr add 172.16.9.1/24 dev lan && ip addr del 10.2.0.1/24 dev lan")
        lab.run("right", "sh", "-c", "ip route add 10.2.0.0/24 dev lan src 172.16.9.1")
        lab.run("pc-right", "sh", "-c", "ip route add 172.16.9.1 dev lan; ip route replace default via 172.16.9.1")
        expected = ["10.1.0.1", "10.2.0.77", "10.2.0.10"]
        wait_until("it has noticed", lambda: trace(lab, "pc-left", "10.2.0.10") == expected, UP_SECONDS)


@pytest.mark.strongswan
def test_behind_strongswan_ours_is_named_as_the_far_gateway(pair_up: Pair) -> None:
    capture = pair_up.lab.capture("router", "left")
    hops = trace(pair_up.lab, "pc-right", "10.1.0.10")
    assert hops[-2:] == ["10.1.0.1", "10.1.0.10"]
    assert NO_ANSWER not in hops
    verdict = judge(capture.stop(), INSIDE)
    assert (verdict.leaks, verdict.findings) == (0, [])


@pytest.mark.strongswan
def test_towards_strongswan_what_it_answers_arrives(pair_up: Pair) -> None:
    capture = pair_up.lab.capture("router", "left")
    hops = trace(pair_up.lab, "pc-left", "10.2.0.10")
    assert hops[0] == "10.1.0.1"
    assert hops[-1] == "10.2.0.10"
    assert NO_ANSWER not in hops
    verdict = judge(capture.stop(), INSIDE)
    assert (verdict.leaks, verdict.findings) == (0, [])


@pytest.fixture
def pair_up() -> Iterator[Pair]:
    with Pair(Terms()) as pair:
        pair.start()
        pair.wait_up()
        yield pair
