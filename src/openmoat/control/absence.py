"""What to say where no `moatd` listens: it depends on whether this host is set up, and on which socket was asked."""

import os
from collections.abc import Iterator
from pathlib import Path

from openmoat.control.messages import ErrorCode
from openmoat.control.remedies import Remedy
from openmoat.errors import ControlError
from openmoat.places import CONTROL_SOCKET, UNIT

__all__ = ["absent", "has_unit"]

UNIT_PATH = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
"""Where systemd looks for units (systemd.unit(5))."""


def absent(socket: str, why: str = "") -> ControlError:
    """No daemon listens on this socket."""
    text, is_usual = f"{socket}: no moatd listens there{why}", socket == CONTROL_SOCKET
    if has_unit():
        if not is_usual:
            text += f"; it listens on {CONTROL_SOCKET}, or on the control-socket that its configuration names"
        return ControlError(ErrorCode.NO_DAEMON, text, Remedy.START_DAEMON)
    if is_usual:
        text += "; this host is not set up yet"
        return ControlError(ErrorCode.NO_DAEMON, text, f"as root: {Remedy.INIT}")
    hint = f'as root: {Remedy.RUN_DAEMON}, where FILE has control-socket = "{socket}" below [daemon]'
    return ControlError(ErrorCode.NO_DAEMON, text, hint)


def has_unit() -> bool:
    """Whether systemd has a unit for `moatd`."""
    return any((place / UNIT).exists() for place in _unit_path())


def _unit_path() -> Iterator[Path]:
    """As systemd itself: `SYSTEMD_UNIT_PATH` replaces the usual places, or precedes them where it ends with a colon."""
    named = os.environ.get("SYSTEMD_UNIT_PATH", "")
    yield from (Path(place) for place in named.split(":") if place)
    if not named or named.endswith(":"):
        yield from map(Path, UNIT_PATH)
