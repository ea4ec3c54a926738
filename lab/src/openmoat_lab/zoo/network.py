"""The network of the zoo as data: servers behind a firewall, two gateways with a router between, a client behind the far one.

```
SERVERS - fw1 - internet - fw2 - west === mid === east - sink
```
Each server is a host of its own; the client has an address for each policy, and so each policy a Child SA.
"""

from collections.abc import Iterable

from openmoat_lab.topology import End, Host, Link, Route, Topology
from openmoat_lab.zoo.catalog import POLICIES, SERVERS, Outer, Path, Server

__all__ = [
    "EAST",
    "MID",
    "SERVER_NETS",
    "SINK",
    "SINK_FRAGMENTS",
    "WEST",
    "mid_rules",
    "network",
    "server_address",
    "server_script",
    "sink_address",
    "sink_nets",
    "sink_rules",
]

WEST = "west"
EAST = "east"
MID = "mid"
SINK = "sink"
SERVER_NETS = ("10.1.0.0/16", "fd00:1::/32")
SINK_FRAGMENTS = "fragments"
OUTSIDE = {4: ("192.0.2.{}/24", "198.51.100.{}/24"), 6: ("2001:db8:1::{:x}/64", "2001:db8:2::{:x}/64")}
BEFORE_DEFRAGMENTATION = -450
"""Priority of a chain that sees fragments before they are reassembled."""


def server_address(name: str, inner: str) -> str:
    """Address of a server."""
    number = list(SERVERS).index(name) + 1
    return f"10.1.{number}.1" if inner == "IPv4" else f"fd00:1:{number}::1"


def sink_address(policy: str, inner: str) -> str:
    """Address of the client for this policy."""
    number = list(POLICIES).index(policy) + 1
    return f"10.9.{number}.2" if inner == "IPv4" else f"fd00:9:{number}::2"


def sink_nets(policy: str) -> tuple[str, str]:
    """Networks of the client that the Child SA of a policy protects."""
    number = list(POLICIES).index(policy) + 1
    return f"10.9.{number}.0/24", f"fd00:9:{number}::/64"


def network(servers: Iterable[str], path: Path, outer: Outer) -> Topology:
    """The whole network, with only the servers of these names."""
    chosen = [SERVERS[name] for name in servers]
    west, east = OUTSIDE[outer.version]
    hosts = [
        *(_server(server) for server in chosen),
        Host(name="fw1", forwards=True, drops=tuple(_eaten(chosen)), routes=_defaults("10.2.0.2", "fd00:2::2")),
        Host(
            name="internet",
            forwards=True,
            routes=(*_to_servers("10.2.0.1", "fd00:2::1"), *_defaults("10.3.0.2", "fd00:3::2")),
        ),
        Host(
            name="fw2",
            forwards=True,
            drops=tuple(_silenced()),
            routes=(*_to_servers("10.3.0.1", "fd00:3::1"), *_defaults("10.4.0.2", "fd00:4::2")),
        ),
        Host(
            name=WEST,
            forwards=True,
            routes=(*_to_servers("10.4.0.1", "fd00:4::1"), Route.of("default", _bare(west, 254))),
        ),
        Host(name=MID, forwards=True, masquerades=(EAST,) if outer.is_nat else ()),
        Host(name=EAST, forwards=True, routes=(Route.of("default", _bare(east, 254)),)),
        Host(name=SINK, routes=_defaults("10.9.1.1", "fd00:9:1::1")),
    ]
    links = [
        *(_server_link(server) for server in chosen),
        _link(End.of("fw1", "wan", "10.2.0.1/24", "fd00:2::1/64"), End.of("internet", "fw1", "10.2.0.2/24", "fd00:2::2/64")),
        _link(End.of("internet", "fw2", "10.3.0.1/24", "fd00:3::1/64"), End.of("fw2", "wan", "10.3.0.2/24", "fd00:3::2/64")),
        _link(End.of("fw2", "lan", "10.4.0.1/24", "fd00:4::1/64"), End.of(WEST, "lan", "10.4.0.2/24", "fd00:4::2/64")),
        _link(End.of(WEST, "wan", west.format(1)), End.of(MID, WEST, west.format(254))),
        _link(End.of(MID, EAST, east.format(254)), End.of(EAST, "wan", east.format(2)), path.mtu),
        _link(End.of(EAST, "lan", *_sink_ends(1)), End.of(SINK, "lan", *_sink_ends(2))),
    ]  # fmt: skip
    return Topology(name="zoo", hosts=tuple(hosts), links=tuple(links))


def server_script(server: Server) -> str:
    """Commands for `sh` that make a host this kind of server."""
    lines = [f"echo {value} > /proc/sys/net/{name}" for name, value in server.settings.items()]
    if server.locked_mtu:
        number = list(SERVERS).index(server.name) + 1
        lines.append(f"ip route replace default via 10.1.{number}.2 mtu lock {server.locked_mtu}")
    if server.mss:
        lines.append(f"nft -f - <<'END'\n{_mss_rules(server.mss)}END")
    return "\n".join(lines) + "\n"


def mid_rules(path: Path) -> str:
    """Rules of the router between the gateways, for `nft`."""
    lines = [f"type filter hook prerouting priority {BEFORE_DEFRAGMENTATION}; policy accept"]
    if path.eats_fragments:
        lines += ["ip frag-off & 0x3fff != 0 counter drop", "exthdr frag exists counter drop"]
    silence = ["type filter hook output priority filter; policy accept"]
    if path.is_silent:
        silence += [
            "icmp type { destination-unreachable, time-exceeded } counter drop",
            "icmpv6 type { packet-too-big, time-exceeded, destination-unreachable } counter drop",
        ]
    return _table("mid", transit=lines, own=silence)


def sink_rules(path: Path) -> str:
    """Rules that count the fragments that reach the client, by sender and address, and drop them if the path says so."""
    lines = [
        f"type filter hook prerouting priority {BEFORE_DEFRAGMENTATION}; policy accept",
        f"ip frag-off & 0x3fff != 0 update @{SINK_FRAGMENTS}4 {{ ip saddr . ip daddr counter }}",
        f"exthdr frag exists update @{SINK_FRAGMENTS}6 {{ ip6 saddr . ip6 daddr counter }}",
    ]
    if path.sink_eats_fragments:
        lines += ["ip frag-off & 0x3fff != 0 drop", "exthdr frag exists drop"]
    sets = "".join(
        f"set {SINK_FRAGMENTS}{version} {{ type {kind} . {kind}; size 1024; flags dynamic; }}\n"
        for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr"))
    )
    return _table("sink", sets=sets, arriving=lines)


def _table(name: str, sets: str = "", **chains: list[str]) -> str:
    body = "".join(f"chain {chain} {{\n{chr(10).join(lines)}\n}}\n" for chain, lines in chains.items())
    return f"table inet {name} {{\n{sets}{body}}}\n"


def _mss_rules(mss: int) -> str:
    # Both directions, or else only one side sends less.
    rule = f"tcp flags & syn == syn tcp option maxseg size set {mss}"
    return _table(
        "mss",
        ingoing=["type filter hook input priority -150; policy accept", rule],
        outgoing=["type route hook output priority -150; policy accept", rule],
    )


def _eaten(servers: Iterable[Server]) -> Iterable[str]:
    for server in servers:
        if server.eats_icmp:
            yield f"ip daddr {server_address(server.name, 'IPv4')} ip protocol icmp"
            yield f"ip6 daddr {server_address(server.name, 'IPv6')} icmpv6 type packet-too-big"


def _silenced() -> Iterable[str]:
    """ICMP errors about packets to the client under a silenced policy, matched by the destination that they quote."""
    for number, policy in enumerate(POLICIES.values(), start=1):
        if policy.is_silenced:
            yield f"icmp type destination-unreachable @th,192,24 0x0a09{number:02x}"
            yield f"icmpv6 type packet-too-big @th,256,64 0xfd000009{number:04x}0000"


def _server(server: Server) -> Host:
    number = list(SERVERS).index(server.name) + 1
    return Host(name=server.name, routes=_defaults(f"10.1.{number}.2", f"fd00:1:{number}::2"))


def _server_link(server: Server) -> Link:
    number = list(SERVERS).index(server.name) + 1
    return _link(
        End.of(server.name, "lan", f"10.1.{number}.1/24", f"fd00:1:{number}::1/64"),
        End.of("fw1", f"s{number}", f"10.1.{number}.2/24", f"fd00:1:{number}::2/64"),
    )


def _sink_ends(host: int) -> list[str]:
    numbers = range(1, len(POLICIES) + 1)
    return [f"10.9.{n}.{host}/24" for n in numbers] + [f"fd00:9:{n}::{host}/64" for n in numbers]


def _to_servers(*via: str) -> tuple[Route, ...]:
    return tuple(Route.of(net, one) for net, one in zip(SERVER_NETS, via, strict=True))


def _defaults(*via: str) -> tuple[Route, ...]:
    return tuple(Route.of("default", one) for one in via)


def _bare(pattern: str, host: int) -> str:
    return pattern.format(host).partition("/")[0]


def _link(a: End, b: End, mtu: int = 1500) -> Link:
    """A link without offloads: each frame is a real frame."""
    return Link(a=a, b=b, mtu=mtu, offloads=False)
