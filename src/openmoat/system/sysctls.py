"""Settings below /proc/sys/net. CAP_NET_ADMIN is enough to write them; what was there before is told, and put back."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "ALL_RP_FILTER",
    "IPV4_FORWARD",
    "IPV6_FORWARD",
    "Setting",
    "accept_ra",
    "disable_ipv6",
    "has_ipv6",
    "parse_restore",
    "read",
    "restore_row",
    "rp_filter",
    "write",
]

ROOT: Final = Path("/proc/sys")
IPV4_FORWARD: Final = "net/ipv4/ip_forward"
IPV6_FORWARD: Final = "net/ipv6/conf/all/forwarding"
ALL_RP_FILTER: Final = "net/ipv4/conf/all/rp_filter"


@dataclass(frozen=True, slots=True)
class Setting:
    """A change of a setting. `name` is a path below /proc/sys, since interface names may have dots."""

    name: str
    before: int
    value: int
    is_ours: bool = False
    """Of our own device: it goes with the device, and nothing is put back."""

    def __str__(self) -> str:
        return restore_row(self.name, self.before, self.value)


def rp_filter(device: str) -> str:
    """Name of the reverse path filter of an interface (RFC 3704): 0 off, 1 strict, 2 loose; the larger of it and `all` holds."""
    return f"net/ipv4/conf/{device}/rp_filter"


def accept_ra(device: str) -> str:
    """Name of the wish to hear router advertisements: 1 as long as the host does not forward, 2 always."""
    return f"net/ipv6/conf/{device}/accept_ra"


def disable_ipv6(device: str) -> str:
    """Name of the switch that takes IPv6 from an interface."""
    return f"net/ipv6/conf/{device}/disable_ipv6"


def has_ipv6() -> bool:
    """Whether the kernel has IPv6 at all (`ipv6.disable=1` takes it away as a whole)."""
    return (ROOT / "net/ipv6").exists()


def read(names: Iterable[str]) -> dict[str, int]:
    """Values by name, without those that the kernel or the namespace does not have."""
    found = {}
    for name in names:
        try:
            found[name] = int((ROOT / name).read_text())
        except (OSError, ValueError):
            continue
    return found


def write(name: str, value: int) -> str:
    """Set it; answers with what stands in the way, or nothing."""
    try:
        (ROOT / name).write_text(f"{value}\n")
    except OSError as error:
        return error.strerror or "refused"
    return ""


def restore_row(name: str, before: int, value: int) -> str:
    """What is remembered of a change."""
    return f"{name}: {before} -> {value}"


def parse_restore(row: str) -> Setting | None:
    """The change that a row tells of; None for a row that is not of our making."""
    name, _, values = row.partition(": ")
    before, _, ours = values.partition(" -> ")
    parts = Path(name).parts
    if not (before.isdecimal() and ours.isdecimal() and parts[:1] == ("net",)) or ".." in parts:
        return None
    return Setting(name, int(before), int(ours))
