"""Two daemons that agree on AGGFRAG or not, and between them a way that carries 1280 octets and tells nobody."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.processes import wait_until

pytestmark = pytest.mark.namespaces

PSK = b"a secret between two gateways"
UP_SECONDS = 20.0
JUMBO = 9000
NARROW = """table ip narrow {
    chain way { type filter hook prerouting priority -450; meta length > 1280 drop; ip frag-off & 0x3fff != 0 drop; }
}"""


def connection(
    own: str, other: str, local: int, remote: int, word: str, address: str | None = None
) -> dict[str, dict[str, Any]]:
    peer: dict[str, Any] = {"identity": other} | ({"addresses": [address]} if address else {})
    sides = {"local": [f"10.{local}.0.0/24"], "remote": [f"10.{remote}.0.0/24"]}
    children = {"net": {**sides, "aggfrag": word}}
    return {"tunnel": {"psk": "psk", "local": {"identity": own}, "peer": peer, "children": children}}


def left_side(word: str) -> dict[str, dict[str, Any]]:
    return connection("left.example", "right.example", 1, 2, word, "198.51.100.2")


def right_side(word: str) -> dict[str, dict[str, Any]]:
    return connection("right.example", "left.example", 2, 1, word)


@dataclass
class Ends:
    lab: Lab
    left: Moatd
    right: Moatd

    def start(self) -> None:
        self.right.start()
        self.left.start()

    def children(self) -> list[Mapping[str, Any]]:
        # A connection that is not up gives another exit code than 0.
        status = json.loads(self.left.moat("status", "tunnel", "--json", check=False))
        return [row for peer in status["peers"] for row in peer["children"]]

    def wait(self, *, aggfrag: bool) -> None:
        try:
            wait_until("a Child SA is up", lambda: [row["aggfrag"] for row in self.children()] == [aggfrag], UP_SECONDS)
        except Exception as error:
            raise AssertionError(f"{error}\n{self.left.last_words()}\n{self.right.last_words()}") from error

    def pings(self, size: int) -> bool:
        """Whether a packet of that size with DF comes back in one piece."""
        argv = ("ping", "-n", "-c1", "-W2", "-M", "do", "-s", str(size - 28), "10.2.0.10")
        return "1 received" in self.lab.run("pc-left", *argv, check=False).stdout


@contextmanager
def ends(left_word: str, right_word: str) -> Iterator[Ends]:
    with Lab(two_gateways(offloads=False)) as lab:
        lab.run("router", "nft", "-f", "-", text=NARROW)
        for host in ("pc-left", "left", "right", "pc-right"):
            lab.run(host, "ip", "link", "set", "lan", "mtu", str(JUMBO))
        left = Moatd(lab, "left", left_side(left_word), {"psk": PSK})
        right = Moatd(lab, "right", right_side(right_word), {"psk": PSK})
        yield Ends(lab, left, right)


@pytest.fixture
def willing() -> Iterator[Ends]:
    with ends("prefer", "prefer") as both:
        yield both


def test_packets_with_df_of_1500_and_9000_octets_pass_a_way_of_1280_whole_through_rekeys_and_a_change_of_mind(
    willing: Ends,
) -> None:
    willing.start()
    willing.wait(aggfrag=True)
    for size in (1280, 1500, JUMBO):
        assert willing.pings(size), (size, willing.left.drops(), willing.right.drops())
    assert "AGGFRAG" in willing.left.moat("status", "tunnel")
    # The other side will not have it any more: its reload rekeys, and the end of AGGFRAG is told as a warning.
    willing.right.configure(right_side("never"), {"psk": PSK})
    willing.right.moat("reload")
    willing.wait(aggfrag=False)
    assert "AGGFRAG has ended with this rekey" in willing.left.log()
    assert willing.pings(500)
    assert not willing.pings(JUMBO)
    willing.right.configure(right_side("require"), {"psk": PSK})
    willing.right.moat("reload")
    willing.wait(aggfrag=True)
    assert "AGGFRAG; new with this rekey" in willing.left.log()
    willing.lab.run("pc-left", "ip", "route", "flush", "cache")  # it was told of the smaller size meanwhile
    assert willing.pings(JUMBO)


@pytest.mark.parametrize("words", [("prefer", "never"), ("never", "prefer")], ids="-".join)
def test_where_one_side_never_uses_it_packets_pass_in_plain_tunnel_mode(words: tuple[str, str]) -> None:
    with ends(*words) as both:
        both.start()
        both.wait(aggfrag=False)
        assert both.pings(500)
        assert not both.pings(1500)
        assert "AGGFRAG" not in both.left.moat("status", "tunnel")


@pytest.mark.parametrize("words", [("require", "never"), ("never", "require")], ids="-".join)
def test_where_one_side_requires_it_and_the_other_never_uses_it_both_explain(words: tuple[str, str]) -> None:
    with ends(*words) as both:
        both.start()
        strict = both.left if words[0] == "require" else both.right
        lax = both.right if words[0] == "require" else both.left
        wait_until("the refusal is explained", lambda: "USE_AGGFRAG" in strict.explanations(), UP_SECONDS)
        assert 'child "net" requires it' in strict.explanations()
        assert both.children() == []
        assert not both.pings(500)
        if lax is both.left:
            assert "requires AGGFRAG" in lax.explanations()
