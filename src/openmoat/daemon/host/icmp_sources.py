"""From which of our addresses ICMP errors about packets out of a tunnel come (RFC 1812 4.3.2.4, RFC 4301 6.2). Pure."""

import ipaddress
from collections.abc import Sequence

from openmoat.mtu.plan import IcmpSource
from openmoat.net import Address, Network
from openmoat.policy.selectors import Selectors
from openmoat.system.links import InterfaceAddress, address_inside, can_speak

__all__ = ["MAX_ICMP_SOURCES", "icmp_sources"]

MAX_ICMP_SOURCES = 64
"""Rows for one SA; of a host with more addresses those of the smallest networks are kept."""
ANYWHERE: dict[int, Network] = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}


def icmp_sources(
    local: Selectors, addresses: Sequence[InterfaceAddress], outside: Address, tunnel: Sequence[Address] = ()
) -> tuple[IcmpSource, ...]:
    """Rows for an SA with these local selectors, in order of trial; `outside` is our end of its path.

    First our address on the network that the packet was going to, if the selectors hold it; then any that they hold; then
    one of `tunnel`, which was configured for it, if they hold that (a peer may have narrowed them); and otherwise one of another interface than the outside one, which only passes at peers that look into what is quoted.
    """
    rows = []
    for version in (4, 6):
        mine = [row for row in addresses if row.address.version == version and can_speak(row.address)]
        inside = [row for row in mine if _holds(local, row.address)]
        inside.sort(key=lambda row: -row.prefix_length)
        rows += [IcmpSource(_network(row), row.address) for row in inside]
        named = next((one for one in tunnel if one.version == version and _holds(local, one)), None)
        other = address_inside(local, addresses, version) or named or _elsewhere(mine, addresses, outside)
        if other is not None:
            rows.append(IcmpSource(ANYWHERE[version], other))
    if len(rows) > MAX_ICMP_SOURCES:
        last = [row for row in rows if row.prefix in ANYWHERE.values()]
        rows = [row for row in rows if row not in last][: MAX_ICMP_SOURCES - len(last)] + last
    return tuple(rows)


def _holds(local: Selectors, address: Address) -> bool:
    ranges = [(one.first, one.last) for one in local if one.version == address.version]
    return any(first <= int(address) <= last for first, last in ranges)


def _network(row: InterfaceAddress) -> Network:
    return ipaddress.ip_network((row.address, row.prefix_length), strict=False)


def _elsewhere(
    mine: Sequence[InterfaceAddress], addresses: Sequence[InterfaceAddress], outside: Address
) -> Address | None:
    """An address of an interface that is not the outside one; None where that is not known."""
    wild = {row.index for row in addresses if row.address == outside}
    return next((row.address for row in mine if wild and row.index not in wild), None)
