"""A survey of servers whose kind is known: those of the zoo, without a tunnel before them."""

import json

import pytest

from openmoat.lab.namespaces import Lab
from openmoat.lab.peers.moatd import BINARIES
from openmoat.lab.zoo.exhibits import OUTERS, PATHS, SERVERS
from openmoat.lab.zoo.network import MID, SINK, network, server_address, server_script, sink_address
from openmoat.lab.zoo.scene import PORT, PROGRAM

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


def test_every_kind_of_server_is_told_right() -> None:
    assert set(KINDS) == {name for name, server in SERVERS.items() if server.is_tcp}
    with Lab(network(KINDS, PATHS["clean1500"], OUTERS["IPv4"])) as lab:
        for name in KINDS:
            lab.run(name, "sh", "-eu", text=server_script(SERVERS[name]))
            lab.spawn(name, *PROGRAM, "serve", str(PORT), name="serve").wait_for_output("serve: listening")
        # The gateways are routers here.
        for net, via in (("10.1.0.0/16", "192.0.2.1"), ("10.9.0.0/16", "198.51.100.2")):
            lab.run(MID, "ip", "route", "add", net, "via", via)
        lab.run(SINK, "ip", "route", "replace", "default", "via", "10.9.1.1", "src", sink_address("virtual", "IPv4"))
        addresses = [server_address(name, "IPv4") for name in KINDS]
        moat = str(BINARIES / "moat")
        said = lab.run(SINK, moat, "mtu", "survey", "--json", "--port", str(PORT), *addresses, seconds=120).stdout
        told = json.loads(said)
        assert told["schema"] == "moat.mtu-survey/1"
        assert dict(zip(KINDS, (row["kind"] for row in told["rows"]), strict=True)) == KINDS, told
        assert all(row["evidence"] for row in told["rows"])
        # Nothing is left of the rules that kept the kernel out.
        assert "moat_survey" not in lab.run(SINK, "nft", "list", "ruleset").stdout
