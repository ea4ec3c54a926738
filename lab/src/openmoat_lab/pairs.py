"""A moat and a strongSwan: one description of what they share, written in the configuration language of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from openmoat_lab.namespaces import Lab
from openmoat_lab.networks import two_gateways
from openmoat_lab.peers.moatd import Moatd
from openmoat_lab.peers.strongswan import StrongSwan, SwanChild, SwanConnection, SwanEnd, SwanKeys
from openmoat_lab.pki import Authority, Key
from openmoat_lab.processes import LabError, wait_until
from openmoat_lab.topology import Topology
from openmoat_lab.traffic import Place, RoundTrip, Transfer, ping, reaches, transfer

__all__ = [
    "MOAT",
    "PC_MOAT",
    "PC_SWAN",
    "PSK",
    "SWAN",
    "Credentials",
    "Pair",
    "Terms",
    "credentials",
    "moat_tables",
    "swan_record",
]

MOAT = "moat.example"
SWAN = "swan.example"
PSK = b"a secret between two gateways"
PC_MOAT = Place("pc-left", "10.1.0.10")
PC_SWAN = Place("pc-right", "10.2.0.10")
UP_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What both ends agree on. The moat is `left`, and behind the NAT where there is one; strongSwan is `right`."""

    auth: str = "psk"
    """`psk`, `ed25519` (raw public keys), or certificates of one CA: `rsa`, `ecdsa`, or any of `pki.KINDS`."""
    ike: str = "aes128gcm16-prfsha256-x25519"
    esp: str = "aes128gcm16-x25519"
    moat_begins: bool = True
    nat: bool = False
    version: int = 4
    """IP version outside the tunnel."""
    moat_net: str = "10.1.0.0/24"
    swan_net: str = "10.2.0.0/24"
    offloads: bool = True
    """Whether links carry super-packets, larger than any on a real link."""
    chain: int = 0
    """Intermediate CAs between the root and the end entities; they make IKE_AUTH large."""

    def topology(self) -> Topology:
        """The network for it."""
        return two_gateways(nat=self.nat, version=self.version, offloads=self.offloads)


@dataclass(frozen=True, slots=True)
class Credentials:
    """How the two authenticate, in the configuration language of each."""

    moat_local: Mapping[str, Any]
    moat_peer: Mapping[str, Any]
    moat_both: Mapping[str, Any]
    moat_files: Mapping[str, bytes]
    swan_local: SwanEnd
    swan_remote: SwanEnd
    swan_keys: SwanKeys


def credentials(auth: str, chain: int = 0) -> Credentials:
    """New keys, and certificates if `auth` needs them."""
    if auth == "psk":
        return Credentials(
            {}, {}, {"psk": "psk"}, {"psk": PSK}, SwanEnd(identity=SWAN), SwanEnd(identity=MOAT),
            SwanKeys(shared=((PSK.decode(), (MOAT, SWAN)),)),
        )  # fmt: skip
    if auth == "ed25519":
        return _raw_keys(auth)
    kind = {"rsa": "rsa2048", "ecdsa": "ecdsa256"}.get(auth, auth)
    root = Authority.root("lab root", kind)
    issuer = root
    for number in range(chain):
        issuer = issuer.below(f"lab authority {number + 1}", kind)
    moat, swan = issuer.certify(MOAT, kind), issuer.certify(SWAN, kind)
    between = {f"ca{n}.pem": one for n, one in enumerate(swan.intermediate_pems)}
    return Credentials(
        {"key": "moat.key", "certificates": ["moat.pem"]},
        {"ca-certificates": ["root.pem"]},
        {},
        {"moat.key": moat.key.private_pem, "moat.pem": moat.chain_pem, "root.pem": root.certificate_pem},
        SwanEnd(identity=SWAN, auth="pubkey", certificates=("swan.pem",)),
        SwanEnd(identity=MOAT, auth="pubkey", authorities=("root.pem",)),
        SwanKeys(
            private={"swan.key": swan.key.private_pem},
            certificates={"swan.pem": swan.certificate_pem},
            authorities={"root.pem": root.certificate_pem, **between},
        ),
    )


def _raw_keys(kind: str) -> Credentials:
    moat, swan = Key.make(kind), Key.make(kind)
    return Credentials(
        {"key": "moat.key"},
        {"key-file": "swan.pub"},
        {},
        {"moat.key": moat.private_pem, "swan.pub": swan.public_pem},
        SwanEnd(identity=SWAN, auth="pubkey", public_keys=("swan.pub",)),
        SwanEnd(identity=MOAT, auth="pubkey", public_keys=("moat.pub",)),
        SwanKeys(
            private={"swan.key": swan.private_pem}, public={"swan.pub": swan.public_pem, "moat.pub": moat.public_pem}
        ),
    )


def moat_tables(terms: Terms, proof: Credentials, swan_address: str) -> dict[str, Any]:
    """The connection `swan` as the moat's configuration has it; tests may change it before it is written."""
    return {
        "swan": {
            **proof.moat_both,
            "proposals": [terms.ike],
            "local": {"identity": MOAT, **proof.moat_local},
            "peer": {"identity": SWAN, "addresses": [swan_address], **proof.moat_peer},
            "children": {
                "net": {
                    "local": [terms.moat_net],
                    "remote": [terms.swan_net],
                    "proposals": [terms.esp],
                    "start": "auto" if terms.moat_begins else "none",
                }
            },
        }
    }


def swan_record(terms: Terms, proof: Credentials, moat_address: str) -> SwanConnection:
    """The connection `moat` as strongSwan has it."""
    return SwanConnection(
        local=proof.swan_local,
        remote=proof.swan_remote,
        remote_addresses="%any" if terms.moat_begins else moat_address,
        proposals=terms.ike,
        children=(SwanChild(local=terms.swan_net, remote=terms.moat_net, proposals=terms.esp),),
    )


@dataclass(slots=True)
class Pair:
    """Both ends in a lab; a context manager that starts neither. Change `tables` and `record` before `start`."""

    terms: Terms
    lab: Lab = field(init=False)
    proof: Credentials = field(init=False)
    tables: dict[str, Any] = field(init=False)
    record: SwanConnection = field(init=False)
    daemon: dict[str, Any] = field(default_factory=dict)
    """Settings of moatd."""
    moat: Moatd = field(init=False)
    swan: StrongSwan = field(init=False)

    def __post_init__(self) -> None:
        topology = self.terms.topology()
        self.lab = Lab(topology)
        self.proof = credentials(self.terms.auth, self.terms.chain)
        addresses = {host: str(topology.address(host, "wan", self.terms.version)) for host in ("left", "right")}
        self.tables = moat_tables(self.terms, self.proof, addresses["right"])
        self.record = swan_record(self.terms, self.proof, addresses["left"])

    def __enter__(self) -> Self:
        self.lab.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(self.log_ends())
        self.lab.down()

    def prepare(self) -> None:
        """Write the configuration of both."""
        self.moat = Moatd(self.lab, "left", self.tables, self.proof.moat_files, self.daemon)
        self.swan = StrongSwan(self.lab, "right", [self.record], self.proof.swan_keys)

    def start(self) -> None:
        """Start both, the responder first."""
        self.prepare()
        if self.terms.moat_begins:
            self.swan.start()
            self.moat.start()
        else:
            self.moat.start()
            self.swan.start()
            self.swan.initiate()

    def wait_up(self, seconds: float = UP_SECONDS) -> float:
        """Wait until a packet passes; returns the seconds it took."""
        return wait_until("an echo request is answered through the tunnel", self._echoes, seconds)

    def _echoes(self) -> bool:
        return reaches(self.lab, PC_MOAT.host, PC_SWAN.address)

    def ping(self, count: int = 5) -> tuple[RoundTrip, RoundTrip]:
        """Echo requests from either PC to the other. Raises `LabError` if one is lost."""
        trips = (
            ping(self.lab, PC_MOAT.host, PC_SWAN.address, count=count),
            ping(self.lab, PC_SWAN.host, PC_MOAT.address, count=count),
        )
        for trip in trips:
            if trip.received != trip.sent:
                raise LabError(f"{trip.sent - trip.received} of {trip.sent} echo requests were lost")
        return trips

    def transfer(self, octets: int = 10_000_000) -> tuple[Transfer, Transfer]:
        """A TCP stream from either PC to the other, compared by checksum."""
        return (
            transfer(self.lab, PC_MOAT, PC_SWAN, octets),
            transfer(self.lab, PC_SWAN, PC_MOAT, octets),
        )

    def log_ends(self) -> str:
        """The ends of both logs, for messages about failures."""
        texts = []
        for name in ("moat", "swan"):
            end = getattr(self, name, None)
            if end is not None:
                texts.append(f"--- log of {name}\n{end.log()[-6000:]}")
        return "\n".join(texts)
