"""A network as data: hosts, links, addresses, routes, NAT, firewalls. Knows nothing of how it is raised."""

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network

from openmoat.net import Address, Network

__all__ = ["DEFAULT_MTU", "MAX_HOST_NAME", "MAX_INTERFACE_NAME", "End", "Host", "Link", "Route", "Topology"]

DEFAULT_MTU = 1500
MAX_INTERFACE_NAME = 15
"""Octets of an interface's name at most (IFNAMSIZ without its zero)."""
MAX_HOST_NAME = 24
"""Keeps the names of namespaces readable in the output of `ip netns`."""


@dataclass(frozen=True, slots=True)
class Route:
    """A prefix that a host reaches through a neighbour; 0.0.0.0/0 and ::/0 are default routes."""

    to: Network
    via: Address

    @classmethod
    def of(cls, to: str, via: str) -> "Route":
        """The route as `ip route` would write it; `default` takes the family of `via`."""
        neighbour = ip_interface(via).ip
        everything = "0.0.0.0/0" if neighbour.version == 4 else "::/0"
        return cls(ip_network(everything if to == "default" else to), neighbour)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A network namespace. Its interfaces are the ends of links that name it."""

    name: str
    routes: tuple[Route, ...] = ()
    forwards: bool = False
    """Whether it forwards packets, IPv4 and IPv6."""
    masquerades: tuple[str, ...] = ()
    """Interfaces that masquerade: what leaves there gets their IPv4 address (NAT with port translation)."""
    drops: tuple[str, ...] = ()
    """Forwarded packets that its firewall drops, as nft matches them: `icmp type destination-unreachable`."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link: the interface it makes on a host, and the addresses there."""

    host: str
    interface: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()

    @classmethod
    def of(cls, host: str, interface: str, *addresses: str) -> "End":
        """The end with addresses written as `10.1.0.1/24`."""
        return cls(host, interface, tuple(ip_interface(text) for text in addresses))


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A cable between two hosts."""

    a: End
    b: End
    mtu: int = DEFAULT_MTU
    offloads: bool = True
    """Whether super-packets may pass (GSO, GRO, TSO, checksums left open). Without them each frame is a real frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Hosts and the links between them; always valid: every name is known, no name is used twice."""

    name: str
    hosts: tuple[Host, ...]
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        names = [host.name for host in self.hosts]
        for name in names:
            if len(name) > MAX_HOST_NAME or not name.replace("-", "").isalnum():
                raise ValueError(f"{self.name}: host {name!r}: up to {MAX_HOST_NAME} letters, digits and hyphens")
            if names.count(name) > 1:
                raise ValueError(f"{self.name}: host {name!r} stands twice")
        self._check_ends(frozenset(names))
        self._check_hosts()

    def _check_ends(self, names: frozenset[str]) -> None:
        seen: set[tuple[str, str]] = set()
        for end in self.ends():
            where = f"{self.name}: {end.host}:{end.interface}"
            if end.host not in names:
                raise ValueError(f"{where}: no such host")
            if not 0 < len(end.interface) <= MAX_INTERFACE_NAME:
                raise ValueError(f"{where}: interface names have 1 to {MAX_INTERFACE_NAME} octets")
            if (end.host, end.interface) in seen:
                raise ValueError(f"{where}: interface stands twice")
            seen.add((end.host, end.interface))

    def _check_hosts(self) -> None:
        for host in self.hosts:
            interfaces = {end.interface for end in self.ends_of(host.name)}
            for name in host.masquerades:
                if name not in interfaces:
                    raise ValueError(f"{self.name}: {host.name}: masquerades {name!r}, which is no interface of it")
            networks = [address.network for end in self.ends_of(host.name) for address in end.addresses]
            for route in host.routes:
                if not any(route.via.version == net.version and route.via in net for net in networks):
                    raise ValueError(f"{self.name}: {host.name}: {route.via} is on no link of it")

    def host(self, name: str) -> Host:
        """The host of that name."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise ValueError(f"{self.name}: no host {name!r}; there are {', '.join(host.name for host in self.hosts)}")

    def ends(self) -> tuple[End, ...]:
        """Both ends of all links."""
        return tuple(end for link in self.links for end in (link.a, link.b))

    def ends_of(self, host: str) -> tuple[End, ...]:
        """The interfaces of one host, in the order of the links."""
        return tuple(end for end in self.ends() if end.host == host)

    def address(self, host: str, interface: str, version: int = 4) -> Address:
        """The first address of that family there."""
        for end in self.ends_of(host):
            if end.interface == interface:
                for address in end.addresses:
                    if address.version == version:
                        return address.ip
        raise ValueError(f"{self.name}: {host}:{interface} has no IPv{version} address")
