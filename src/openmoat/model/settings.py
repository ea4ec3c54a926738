"""Settings of a daemon as a whole. The defaults of all of them stand here and nowhere else."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from openmoat.errors import FieldError, raise_errors
from openmoat.places import CONTROL_SOCKET

__all__ = ["LOG_LEVELS", "MAX_WORKERS", "EngineSettings", "OnStop", "Settings"]

LOG_LEVELS: Final = ("error", "warning", "info", "debug")

MAX_WORKERS: Final = 64
"""Pairs of packet threads, each with some megabytes of buffers."""

_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")


class OnStop(Enum):
    """What happens to protected traffic after `moatd` has been stopped."""

    BLOCK = "block"
    """Nothing is sent unencrypted: routes and firewall rules stay until `moat cleanup`."""
    OPEN = "open"
    """All routes and rules of ours are removed; the host routes as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How many threads the packet engine has, and what it may leave to the kernel, where the kernel can."""

    workers: int | Literal["auto"] = "auto"
    """Pairs of packet threads, one outbound and one inbound; `auto`: as many as suit the machine."""
    tun_tso: bool = True
    """Super-packets of TCP at the TUN device."""
    tun_uso: bool = True
    """Super-packets of UDP at the TUN device."""
    udp_gso: bool = True
    """Many ESP packets in one datagram with segments."""
    udp_gro: bool = True
    """ESP packets joined on receipt."""

    def __post_init__(self) -> None:
        if self.workers != "auto" and not 1 <= self.workers <= MAX_WORKERS:
            raise FieldError(("workers",), f"auto or 1 to {MAX_WORKERS}, not {self.workers}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One `moatd`. Changes of all but `key_log` and `log_level` take effect at its next start."""

    control_socket: str = CONTROL_SOCKET
    control_group: str = "moat"
    """Members of this group may read and change; everybody else is refused. Empty: root and moatd's own user only."""
    control_read_group: str = ""
    """Members of this group may read. Empty: nobody beyond those who may change."""
    device: str = "moat0"
    """Name of the TUN device."""
    on_stop: OnStop = OnStop.BLOCK
    cookie_threshold: int = 256
    """From this number of half-open IKE SAs on, unknown peers must return a cookie first (RFC 7296 2.6)."""
    max_half_open: int = 4096
    """Half-open IKE SAs as responder; further requests are dropped."""
    fragment_size: int = 1280
    """Octets of the largest IP packet a fragmented IKE message is cut into (RFC 7383 2.5.1)."""
    key_log: str = ""
    """File to which the keys of every IKE SA are written for Wireshark. Empty: none is written."""
    log_level: str = "info"
    """Least level of log lines: error, warning, info or debug."""
    engine: EngineSettings = EngineSettings()
    """Of the packet engine."""

    def __post_init__(self) -> None:
        raise_errors(self._errors())

    def _errors(self) -> Iterator[FieldError]:
        if not self.control_socket.startswith("/"):
            yield FieldError(("control_socket",), f'a path that begins with /, not "{self.control_socket}"')
        if not _DEVICE.fullmatch(self.device):
            yield FieldError(("device",), f'1 to 15 letters, digits, dots, - and _, not "{self.device}"')
        for name, low, high in (
            ("cookie_threshold", 0, 1 << 20),
            ("max_half_open", 1, 1 << 20),
            ("fragment_size", 576, 65535),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                yield FieldError((name,), f"{low} to {high}, not {value}")
        if self.log_level not in LOG_LEVELS:
            yield FieldError(("log_level",), f'error, warning, info or debug, not "{self.log_level}"')
