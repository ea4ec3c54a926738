"""What the zoo is made of, as data: kinds of servers, policies of the tunnel, paths outside; and what is promised of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "BIG",
    "INNERS",
    "MAX_FIRST_OCTET",
    "OUTERS",
    "PATHS",
    "PEERS",
    "PEER_OURS",
    "PEER_SWAN",
    "POLICIES",
    "PROMISED_SIZE",
    "SERVERS",
    "TCP_OCTETS",
    "UDP_DATAGRAMS",
    "Outer",
    "Path",
    "Policy",
    "Row",
    "Server",
    "is_kept",
    "is_promised",
]

MAX_FIRST_OCTET = 40.0
"""Seconds after which a transfer that has not ended is cut; one without a first octet is *never*. The slowest that still
recovers by itself, semi-naughty, needs 27."""
TCP_OCTETS = 300_000
BIG = 1 << 20
UDP_DATAGRAMS = 50
PROMISED_SIZE = 1280
"""Octets of an outer path from which on we promise that everything arrives."""
RECOVERY_SLICED = 1.0
RECOVERY_PLAIN = 5.0
"""Seconds within which a transfer goes on after its path has shrunk in silence, with AGGFRAG and in plain tunnel mode."""

INNERS: Mapping[str, int] = {"IPv4": 4, "IPv6": 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One kind of server, and the firewall in front of it."""

    name: str
    says: str
    """For people: what it does when packets do not arrive."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """Below /proc/sys/net of its host."""
    mss: int | None = None
    """The largest MSS that it announces and uses."""
    locked_mtu: int | None = None
    """MTU of its default route, locked: nothing that it sends has DF."""
    eats_icmp: bool = True
    """Its firewall drops incoming ICMP."""
    is_tcp: bool = True
    inners: tuple[str, ...] = ("IPv4", "IPv6")


_PROBING = "ipv4/tcp_mtu_probing"
SERVERS: Mapping[str, Server] = {
    server.name: server
    for server in (
        Server(
            name="efficient",
            says="large segments with DF, smaller ones as soon as it notices that they are lost",
            settings={_PROBING: 1, "ipv4/tcp_base_mss": 1024, "ipv4/tcp_retries1": 3},
        ),
        Server(name="small-mss", says="inefficient: segments of 536 octets, come what may", mss=536),
        Server(name="no-df-small", says="inefficient: 576 octets, without DF", locked_mtu=576, inners=("IPv4",)),
        Server(
            name="no-df-large",
            says="large segments, without DF",
            settings={"ipv4/ip_no_pmtu_disc": 1},
            inners=("IPv4",),
        ),
        Server(
            name="semi-naughty",
            says="as efficient, but takes its time to notice",
            settings={_PROBING: 1, "ipv4/tcp_base_mss": 1024, "ipv4/tcp_retries1": 6},
        ),
        Server(name="naughty", says="sends less only when ICMP says so", settings={_PROBING: 0}, eats_icmp=False),
        Server(name="incorrigible", says="as naughty, behind a firewall that eats ICMP", settings={_PROBING: 0}),
        Server(name="udp-df", says="UDP packets of 1500 octets with DF", is_tcp=False),
    )
}
"""The classes of the MTU bug that the paper of 1999 found among web servers, and UDP with DF. All are real TCPs and UDPs of
Linux, told apart by settings. IPv6 has no DF bit, so the servers that leave it out exist for IPv4 only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How the tunnel handles packets that are too large."""

    name: str
    words: Mapping[str, str]
    """Settings of a child."""
    is_silenced: bool = False
    """A firewall on its own side drops the ICMP errors of the gateway."""
    is_for_swan: bool = True
    """Whether it differs from another where the peer is strongSwan."""


POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(name="silent", words={"mtu-policy": "rfc4301", "aggfrag": "never"}, is_silenced=True),
        Policy(name="df-copy", words={"mtu-policy": "outer-fragments", "df": "copy", "aggfrag": "never"}),
        Policy(name="rfc4301", words={"mtu-policy": "rfc4301", "aggfrag": "never"}),
        Policy(name="clamp", words={"mtu-policy": "clamp", "aggfrag": "never"}),
        Policy(name="outer-fragments", words={"mtu-policy": "outer-fragments", "aggfrag": "never"}),
        Policy(name="pre-fragment", words={"mtu-policy": "pre-fragment", "aggfrag": "never"}),
        Policy(name="ladder", words={"mtu-policy": "virtual", "aggfrag": "never"}, is_for_swan=False),
        Policy(name="virtual", words={"mtu-policy": "virtual"}),
    )
}
"""In the order of the columns. `ladder` is what `virtual` does with a peer that has no AGGFRAG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """What a router between the gateways does to their packets, from the portal's side to the far one."""

    name: str
    says: str
    mtu: int = 1500
    eats_fragments: bool = False
    is_silent: bool = False
    """It sends no ICMP."""
    sink_eats_fragments: bool = False
    shrinks_to: int | None = None
    """MTU that it has from the middle of the transfers on."""
    is_forging: bool = False
    """An attacker on the path answers each outer packet with a forged "fragmentation needed" of any size."""
    octets: int = TCP_OCTETS
    outers: tuple[str, ...] = ("IPv4",)
    is_for_swan: bool = False

    @property
    def carries_fragments(self) -> bool:
        """Whether IP fragments reach the far gateway."""
        return not self.eats_fragments


@dataclass(frozen=True, slots=True)
class Outer:
    """How ESP is carried."""

    name: str
    version: int
    is_nat: bool


OUTERS: Mapping[str, Outer] = {
    outer.name: outer for outer in (Outer("IPv4", 4, False), Outer("NAT-T", 4, True), Outer("IPv6", 6, False))
}
_ALL = tuple(OUTERS)
PATHS: Mapping[str, Path] = {
    path.name: path
    for path in (
        Path(name="clean1500", says="1500 octets, nothing is lost", outers=_ALL, is_for_swan=True),
        Path(name="nofrags1500", says="fragments are eaten", eats_fragments=True, outers=_ALL, is_for_swan=True),
        Path(name="min1400", says="1400 octets, and ICMP says so", mtu=1400, outers=_ALL, is_for_swan=True),
        Path(
            name="blackhole1400",
            says="1400 octets; what is larger and fragments vanish in silence",
            mtu=1400,
            eats_fragments=True,
            is_silent=True,
            outers=_ALL,
            is_for_swan=True,
        ),
        Path(
            name="sinknofrag",
            says="as clean1500, but the client's own firewall eats fragments",
            sink_eats_fragments=True,
            outers=_ALL,
            is_for_swan=True,
        ),
        Path(
            name="shrink1400",
            says="1500 octets, in mid-transfer 1400, in silence",
            is_silent=True,
            shrinks_to=1400,
            eats_fragments=True,
        ),
        Path(name="forged1500", says="as clean1500, in a storm of forged frag-needed", is_forging=True),
        Path(
            name="blackhole1280",
            says="as blackhole1400, with 1280 octets, and 1 MiB to carry",
            mtu=1280,
            eats_fragments=True,
            is_silent=True,
            octets=BIG,
        ),
        Path(
            name="blackhole1124",
            says="as blackhole1400, with 1124 octets: less than is promised",
            mtu=1124,
            eats_fragments=True,
            is_silent=True,
        ),
        Path(name="min1124", says="1124 octets, fragments and ICMP pass: less than is promised", mtu=1124),
        Path(name="min576", says="576 octets, fragments and ICMP pass: less than is promised", mtu=576),
    )
}
PEER_OURS = "moatd"
PEER_SWAN = "strongswan"
PEERS = (PEER_OURS, PEER_SWAN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one transfer."""

    path: str
    policy: str
    server: str
    inner: str
    outer: str
    peer: str
    first_octet_s: float | None
    """None: none came."""
    octets: int
    complete: bool
    """Every octet arrived as it was sent."""
    fragments_at_sink: int
    recovery_s: float | None = None
    """The longest pause, where the path shrinks."""

    def record(self) -> dict[str, Any]:
        """The fields in JSON; `recovery_s` only if the path shrinks."""
        fields: dict[str, Any] = {
            "path": self.path,
            "policy": self.policy,
            "class": self.server,
            "inner": self.inner,
            "outer": self.outer,
            "peer": self.peer,
            "first_octet_s": self.first_octet_s,
            "octets": self.octets,
            "complete": self.complete,
            "fragments_at_sink": self.fragments_at_sink,
        }
        if PATHS[self.path].shrinks_to is not None:
            fields["recovery_s"] = self.recovery_s
        return fields


def is_promised(row: Row) -> bool:
    """Whether we promise that this arrives whole.

    Of `virtual` alone: between ours everything over any path that carries 1280 octets; towards a peer without AGGFRAG all
    TCP, and everything wherever fragments pass.
    """
    path = PATHS[row.path]
    if row.policy != "virtual" or min(path.mtu, path.shrinks_to or path.mtu) < PROMISED_SIZE:
        return False
    return row.peer == PEER_OURS or SERVERS[row.server].is_tcp or path.carries_fragments


def is_kept(row: Row) -> bool:
    """Whether the promise for such a row was kept."""
    if row.recovery_s is not None:
        limit = RECOVERY_SLICED if row.peer == PEER_OURS else RECOVERY_PLAIN
        # UDP is not retransmitted: what was lost until the new size was known stays lost.
        return row.recovery_s <= limit and (row.complete or not SERVERS[row.server].is_tcp)
    return row.complete and row.fragments_at_sink == 0
