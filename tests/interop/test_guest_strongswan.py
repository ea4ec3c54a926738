"""A moat with strongSwan 6.1 over the ESP of a Linux kernel: AGGFRAG negotiated as IP-TFS, and plain tunnel mode, by either."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from openmoat_lab.guest.machine import Guest
from openmoat_lab.guest.strongswan import GuestStrongSwan
from openmoat_lab.namespaces import Lab
from openmoat_lab.pairs import Terms, credentials, moat_tables, swan_record
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.processes import wait_until
from openmoat_lab.topology import End, Host, Link, Route, Topology

pytestmark = [pytest.mark.namespaces, pytest.mark.guest]
PC, FAR = "10.1.0.10", "10.2.0.10"
OUTSIDE = ("192.0.2.1", "192.0.2.2")
LAN_MTU = 9000
TOPOLOGY = Topology(
    name="guest",
    hosts=(Host(name="pc-left", routes=(Route.of("default", "10.1.0.1"),)), Host(name="left", forwards=True)),
    links=(Link(a=End.of("pc-left", "eth0", f"{PC}/24"), b=End.of("left", "lan", "10.1.0.1/24"), mtu=LAN_MTU),),
)


class Scene:
    """The moat `left` with a PC behind it; strongSwan in the guest, whose network is an address of its own."""

    def __init__(self, lab: Lab, guest: Guest, terms: Terms, mode: str, aggfrag: str) -> None:
        self.lab, self.guest = lab, guest
        proof = credentials("psk")
        tables: dict[str, Any] = moat_tables(terms, proof, OUTSIDE[1])
        tables["swan"]["children"]["net"] |= {"aggfrag": aggfrag, "path-mtu": 1500}
        record = swan_record(terms, proof, OUTSIDE[0])
        record = replace(record, children=(replace(record.children[0], extra={"mode": mode}),))
        self.moat = Moatd(lab, "left", tables, proof.moat_files)
        self.swan = GuestStrongSwan(guest, [record], proof.swan_keys)

    def start(self, *, moat_begins: bool) -> None:
        self.swan.start()
        self.moat.start()
        if not moat_begins:
            self.swan.initiate()
        wait_until("an echo request is answered", lambda: self.echoes(56, count=1), 15.0)

    def echoes(self, size: int, count: int = 3) -> bool:
        """Echo requests with Don't Fragment, from the PC."""
        words = ("ping", "-M", "do", "-c", str(count), "-i", "0.05", "-W", "2", "-s", str(size), FAR)
        return f" {count} received" in self.lab.run("pc-left", *words, check=False).stdout

    def far_echoes(self, size: int, count: int = 3) -> bool:
        """Echo requests from the guest."""
        words = ("ping", "-c", str(count), "-i", "0.05", "-W", "2", "-s", str(size), "-I", FAR, PC)
        return f" {count} received" in self.guest.run(*words, check=False).stdout

    def children(self) -> list[dict[str, Any]]:
        [row] = self.moat.ask("status")["connections"]
        return [child for peer in row["peers"] for child in peer["children"]]


@contextmanager
def scene(terms: Terms, mode: str, aggfrag: str = "prefer") -> Iterator[Scene]:
    with Lab(TOPOLOGY) as lab, Guest(lab.namespace("left"), lab.directory / "guest", cables=("wan",)) as guest:
        lab.run("left", "ip", "addr", "add", f"{OUTSIDE[0]}/24", "dev", "wan")
        guest.script(
            f"ip link set vec0 up; ip addr add {OUTSIDE[1]}/24 dev vec0; ip addr add {FAR}/32 dev lo\n"
            f"ip route add 10.1.0.0/24 via {OUTSIDE[0]} src {FAR} mtu lock 65535"
        )
        made = Scene(lab, guest, terms, mode, aggfrag)
        try:
            yield made
        except BaseException as error:
            error.add_note(f"--- moat\n{made.moat.last_words(60)}\n--- swan\n{made.swan.log()[-5000:]}")
            raise


@pytest.mark.parametrize("moat_begins", [True, False], ids=["moat-begins", "strongswan-begins"])
def test_iptfs_is_negotiated_carries_whole_what_is_large_and_outlives_rekeys(moat_begins: bool) -> None:
    with scene(Terms(moat_begins=moat_begins), "iptfs", "require") as made:
        made.start(moat_begins=moat_begins)
        assert made.echoes(LAN_MTU - 28)
        assert made.far_echoes(LAN_MTU - 28)
        before = {child["local_spi"] for child in made.children()}
        made.swan.rekey()
        wait_until("the child is another one", lambda: not before & {child["local_spi"] for child in made.children()})
        assert made.echoes(LAN_MTU - 28)
        assert all(child["aggfrag"] for child in made.children()), json.dumps(made.children())
        assert "IPTFS" in made.swan.sas()
        # A packet before the SA was up, a multicast of the host: nothing that has to do with AGGFRAG or with ESP.
        assert set(made.moat.drops()) <= {"no-sa", "not-unicast", "link-local"}


@pytest.mark.parametrize("moat_begins", [True, False], ids=["moat-begins", "strongswan-begins"])
@pytest.mark.parametrize(("mode", "aggfrag"), [("tunnel", "prefer"), ("iptfs", "never"), ("tunnel", "never")])
def test_where_either_does_not_want_it_there_is_plain_tunnel_mode(moat_begins: bool, mode: str, aggfrag: str) -> None:
    with scene(Terms(moat_begins=moat_begins), mode, aggfrag) as made:
        made.start(moat_begins=moat_begins)
        assert made.echoes(1300)
        assert made.far_echoes(1300)
        assert not any(child["aggfrag"] for child in made.children())
        assert "TUNNEL" in made.swan.sas()
