"""The subjects of a comparison: what raises a tunnel between the two gateways of a lab. PSK, one suite for all."""

from collections.abc import Callable, Mapping
from typing import Any

from openmoat.lab.namespaces import Lab
from openmoat.lab.peers.moatd import Moatd
from openmoat.lab.peers.strongswan import StrongSwan, SwanChild, SwanConnection, SwanEnd, SwanKeys

__all__ = ["SUITE", "TUNNELS"]

SUITE = "aes128gcm16"
PSK = "a secret between two gateways"
LEFT = ("left", "left.example", "192.0.2.2", "10.1.0.0/24")
RIGHT = ("right", "right.example", "198.51.100.2", "10.2.0.0/24")


def _moat_raw(lab: Lab) -> None:
    _moats(lab, encapsulates=False)


def _moat_udp(lab: Lab) -> None:
    """As strongSwan's userspace ESP does it, which knows nothing else."""
    _moats(lab, encapsulates=True)


def _moats(lab: Lab, *, encapsulates: bool) -> None:
    for (host, own, _, net), (_, peer, address, remote) in ((RIGHT, LEFT), (LEFT, RIGHT)):
        begins = host == "left"
        end: dict[str, Any] = {"identity": peer, **({"addresses": [address]} if begins else {})}
        tables = {
            "bench": {
                "psk": "psk",
                "force-encapsulation": encapsulates,
                "local": {"identity": own},
                "peer": end,
                "children": {"net": {"local": [net], "remote": [remote], "proposals": [SUITE]}},
            }
        }
        Moatd(lab, host, tables, {"psk": PSK.encode()}, {"log-level": "warning"}).start()


def _strongswan(lab: Lab) -> None:
    for (host, own, _, net), (_, peer, address, remote) in ((RIGHT, LEFT), (LEFT, RIGHT)):
        record = SwanConnection(
            local=SwanEnd(identity=own),
            remote=SwanEnd(identity=peer),
            remote_addresses=address,
            children=(SwanChild(local=net, remote=remote, proposals=SUITE),),
        )
        swan = StrongSwan(lab, host, [record], SwanKeys(shared=((PSK, (own, peer)),)))
        swan.start()
        if host == "left":
            swan.initiate()


TUNNELS: Mapping[str, Callable[[Lab], None]] = {
    "moat": _moat_udp,
    "moat raw": _moat_raw,
    "strongswan": _strongswan,
}
