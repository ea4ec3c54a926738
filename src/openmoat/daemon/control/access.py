"""Who is at the other end of the control socket, as the kernel says (SO_PEERCRED, SO_PEERGROUPS), and what they may do."""

import contextlib
import grp
import logging
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from openmoat.control.messages import Access, ErrorCode
from openmoat.errors import ControlError, SystemFault

__all__ = [
    "MAX_CONNECTIONS",
    "MAX_CONNECTIONS_PER_USER",
    "MAX_GROUPS",
    "RESERVED",
    "Caller",
    "Policy",
    "caller_of",
    "open_socket",
]

MAX_CONNECTIONS = 64
"""Callers at a time; further ones are cut off at once."""
MAX_CONNECTIONS_PER_USER = 16
"""The same of one user who is neither root nor that of moatd: a user who may only read cannot lock out the administrator."""
RESERVED = 8
"""Of all, those that root and the user of moatd alone can have: several such users cannot either."""
SO_PEERGROUPS = 59
UCRED = struct.Struct("=3i")
MAX_GROUPS = 256
"""Groups of a caller that are looked at; Python's `getsockopt` takes no more than 1024 octets."""

log = logging.getLogger("openmoat.daemon.control.access")


@dataclass(frozen=True, slots=True)
class Caller:
    """User and groups of a caller."""

    user: int
    groups: frozenset[int]

    @property
    def is_privileged(self) -> bool:
        """root, or the user of moatd."""
        return self.user in {0, os.geteuid()}


class Policy:
    """Which callers may connect, and what they may do."""

    def __init__(self, changers: frozenset[int] = frozenset(), readers: frozenset[int] = frozenset()) -> None:
        self._groups = {Access.CHANGE: changers, Access.READ: changers | readers}

    @classmethod
    def of(cls, change_group: str, read_group: str) -> "Policy":
        """By names of groups; an empty one, or one that does not exist, permits nobody."""
        return cls(group_ids(change_group), group_ids(read_group))

    def is_admitted(self, caller: Caller) -> bool:
        """Whether the caller may do anything at all."""
        return self._may(caller, Access.READ)

    def has_place(self, caller: Caller, others: Iterable[Caller]) -> bool:
        """Whether one more connection of this user may be served beside the others."""
        if caller.is_privileged:
            return True
        there = list(others)
        has_room = len(there) < MAX_CONNECTIONS - RESERVED
        return has_room and sum(other.user == caller.user for other in there) < MAX_CONNECTIONS_PER_USER

    def check(self, caller: Caller, access: Access) -> None:
        """Raise `ControlError` where the caller may not."""
        if not self._may(caller, access):
            raise ControlError(
                ErrorCode.NOT_PERMITTED,
                f"user {caller.user} may not {access.value}",
                "become root, or join the group of the socket",
            )

    def _may(self, caller: Caller, access: Access) -> bool:
        return caller.is_privileged or bool(caller.groups & self._groups[access])


def caller_of(sock: socket.socket) -> Caller:
    """The user and all groups of the process at the other end, as they were when it connected."""
    _, user, group = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    try:
        octets = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * MAX_GROUPS)
    except OSError:
        # Not every kernel tells them (gVisor does not), or there are more than we look at: the first group has to do.
        octets = b""
    return Caller(user, frozenset({group, *(number for (number,) in struct.iter_unpack("=I", octets))}))


def group_ids(name: str) -> frozenset[int]:
    """The group of that name; none where it is empty or does not exist."""
    if not name:
        return frozenset()
    try:
        return frozenset({grp.getgrnam(name).gr_gid})
    except KeyError:
        return frozenset()


def open_socket(file: Path, group: str = "", *, has_readers: bool = False) -> socket.socket:
    """A listening socket at this place; one left over by a dead daemon is replaced, that of a living one is not.

    A socket has one group: where readers have another, everybody may connect and unknown users are cut off.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(file)
        umask = os.umask(0o177)
        try:
            sock.bind(str(file))
        finally:
            os.umask(umask)
        numbers = group_ids(group)
        if group and not numbers:
            log.info("group %s does not exist: only root and the user of moatd may use the control socket", group)
        for number in numbers:
            with contextlib.suppress(PermissionError):
                os.chown(file, -1, number)
        # What a caller may do is decided for each request; the mode only keeps out those who may do nothing.
        file.chmod(0o666 if has_readers else 0o660)
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        sock.close()
        raise SystemFault(f"control socket {file}: {error.strerror or error}") from error
    except SystemFault:
        sock.close()
        raise
    return sock


def _remove_stale(file: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(file))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if not file.is_socket():
                raise SystemFault(f"control socket {file}: something else than a socket is there") from None
            file.unlink(missing_ok=True)
            return
    raise SystemFault(f"control socket {file}: another moatd listens there; see: systemctl status moatd")
