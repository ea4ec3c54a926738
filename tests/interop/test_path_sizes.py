"""What is found out about the way to a peer: the size it carries in one piece, and whether IP fragments pass."""

from collections.abc import Mapping
from typing import Any

import pytest

from openmoat.lab.namespaces import Lab
from openmoat.lab.pairs import Pair, Terms
from openmoat.lab.processes import wait_until

pytestmark = [pytest.mark.namespaces, pytest.mark.strongswan]

FRAGMENTS = "ip frag-off & 0x3fff != 0 drop"
FOUND_SECONDS = 30.0


def harm(lab: Lab, *rules: str) -> None:
    """From now on the router drops what these rules of nftables say, without a word, and before it joins fragments."""
    chain = "add chain ip harm way { type filter hook prerouting priority -450; }"
    lines = ["add table ip harm", chain, "flush chain ip harm way", *(f"add rule ip harm way {rule}" for rule in rules)]
    lab.run("router", "nft", "-f", "-", text="\n".join(lines) + "\n")


def outside(pair: Pair) -> Mapping[str, Any]:
    """What the moat knows of the way to strongSwan."""
    (peer,) = pair.moat.ask("status", "swan")["peers"]
    found: Mapping[str, Any] = peer["ike"]["outside"]
    return found


@pytest.mark.parametrize(
    ("rules", "size", "passes"),
    [
        pytest.param((), 1500, True, id="clean"),
        pytest.param(("meta length > 1400 drop",), 1400, False, id="black-hole-above-1400"),
        pytest.param((FRAGMENTS,), 1500, False, id="no-fragments"),
        pytest.param(("meta length > 1280 drop", FRAGMENTS), 1280, False, id="the-least"),
    ],
)
@pytest.mark.parametrize("nat", [False, True], ids=["raw", "nat"])
def test_strongswan_answers_probes_and_its_ike_sa_lives(
    rules: tuple[str, ...], size: int, passes: bool, nat: bool
) -> None:
    with Pair(Terms(nat=nat)) as pair:
        harm(pair.lab, *rules)
        pair.start()
        pair.wait_up()
        before = pair.swan.spis()
        wait_until("size and passage are found out", lambda: outside(pair)["fragments_pass"] is not None, FOUND_SECONDS)
        found = outside(pair)
        assert (found["size"], found["learned"], found["fragments_pass"]) == (size, "probe", passes)
        pair.ping()
        assert pair.swan.spis() == before
