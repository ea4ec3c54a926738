"""Two homes and a cabin with a moat each, an office behind a portal: the installation that `make demo` shows.

The homes authenticate with certificates and share one template of the portal; the cabin, on IPv6, uses a raw public key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from openmoat_lab.namespaces import Lab
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.pki import Authority, Holder, Key
from openmoat_lab.traffic import Place

__all__ = ["INSIDE", "LETTERS", "OFFICE", "OFFICE6", "OUTSIDE", "PORTAL", "PORTAL6", "Homes", "pc", "pc6"]

LETTERS = "abc"
PORTAL = "203.0.113.10"
PORTAL6 = "2001:db8:99::10"
OFFICE = Place("office", "10.99.0.10")
OFFICE6 = Place("office", "fd00:99::10")
OFFICE_NETS = ("10.99.0.0/24", "fd00:99::/64")
HOME_NETS: Mapping[str, tuple[str, str]] = {
    letter: (f"10.{number}.0.0/24", f"fd00:{number}::/64") for number, letter in enumerate(LETTERS, start=1)
}
INSIDE = tuple(ip_network(text) for nets in (*HOME_NETS.values(), OFFICE_NETS) for text in nets)
"""Networks whose addresses must never be seen outside."""
CHILD_HASTE: Mapping[str, Any] = {"lifetimes": {"rekey-after": "5s", "hard": "60s", "jitter": 0.0}}
IKE_HASTE: Mapping[str, Any] = {
    "lifetimes": {"rekey-after": "8s", "hard": "90s", "jitter": 0.0, "liveness-after": "3s"}
}
"""Lifetimes of seconds instead of hours, so that rekeys can be watched."""
OUTSIDE = (("isp", "home-a"), ("isp", "home-b"), ("isp", "wan"), ("internet", "portal"), ("internet", "cabin"))
"""Where captures see what leaves the moats and the portal: both sides of the ISP first."""


def pc(letter: str) -> Place:
    """The PC of a home, by its IPv4 address."""
    return Place(f"pc-{letter}", f"10.{LETTERS.index(letter) + 1}.0.10")


def pc6(letter: str) -> Place:
    """The PC of a home, by its IPv6 address."""
    return Place(f"pc-{letter}", f"fd00:{LETTERS.index(letter) + 1}::10")


@dataclass(slots=True)
class Homes:
    """The daemons of the installation, configured but not started."""

    portal: Moatd
    moats: dict[str, Moatd]
    """By the letter of the home."""

    @classmethod
    def install(cls, lab: Lab, *, hasty: str = "") -> "Homes":
        """Make keys and certificates, and write the configurations.

        Homes whose letter is in `hasty` rekey every few seconds, and notice as fast that the portal is silent.
        """
        root = Authority.root("Lab authority")
        portal, raw_portal, raw_cabin = root.certify("portal.example"), Key.make("ed25519"), Key.make("ed25519")
        moats = {
            letter: _home(lab, letter, root, root.certify(f"{letter}.homes.example"), is_hasty=letter in hasty)
            for letter in "ab"
        }
        moats["c"] = _cabin(lab, raw_cabin, raw_portal)
        return cls(_portal(lab, root, portal, raw_portal, raw_cabin), moats)

    def all(self) -> tuple[Moatd, ...]:
        """Portal first."""
        return (self.portal, *self.moats.values())


def _child(local: tuple[str, ...], remote: tuple[str, ...], **more: Any) -> dict[str, Any]:
    return {"local": list(local), "remote": list(remote), **more}


def _home(lab: Lab, letter: str, root: Authority, holder: Holder, *, is_hasty: bool) -> Moatd:
    child = _child(HOME_NETS[letter], OFFICE_NETS, **(CHILD_HASTE if is_hasty else {}))
    tables = {
        "office": {
            **(IKE_HASTE if is_hasty else {}),
            "local": {"identity": f"{letter}.homes.example", "key": "own.key", "certificates": ["own.pem"]},
            "peer": {"identity": "portal.example", "addresses": [PORTAL], "ca-certificates": ["root.pem"]},
            "children": {"office": child},
        }
    }
    files = {
        "own.key": holder.key.private_pem,
        "own.pem": holder.certificate_pem,
        "root.pem": root.certificate_pem,
    }
    return Moatd(lab, f"moat-{letter}", tables, files)


def _cabin(lab: Lab, own: Key, portal: Key) -> Moatd:
    tables = {
        "office": {
            "local": {"identity": "cabin.example", "key": "own.key"},
            "peer": {"identity": "portal.example", "addresses": [PORTAL6], "key-file": "portal.pub"},
            "children": {"office": _child(HOME_NETS["c"], OFFICE_NETS)},
        }
    }
    return Moatd(lab, "moat-c", tables, {"own.key": own.private_pem, "portal.pub": portal.public_pem})


def _portal(lab: Lab, root: Authority, holder: Holder, raw: Key, cabin: Key) -> Moatd:
    homes = (*HOME_NETS["a"], *HOME_NETS["b"])
    tables = {
        "homes": {
            "local": {"identity": "portal.example", "key": "own.key", "certificates": ["own.pem"]},
            "peer": {"identity": "*.homes.example", "ca-certificates": ["root.pem"]},
            "children": {"office": _child(OFFICE_NETS, homes)},
        },
        "cabin": {
            "local": {"identity": "portal.example", "key": "raw.key"},
            "peer": {"identity": "cabin.example", "key-file": "cabin.pub"},
            "children": {"office": _child(OFFICE_NETS, HOME_NETS["c"])},
        },
    }
    files = {
        "own.key": holder.key.private_pem,
        "own.pem": holder.certificate_pem,
        "root.pem": root.certificate_pem,
        "raw.key": raw.private_pem,
        "cabin.pub": cabin.public_pem,
    }
    return Moatd(lab, "portal", tables, files)
