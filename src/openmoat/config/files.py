"""Reading of files: regular ones, up to a bound, that not anybody may write; secrets belong to us and nobody else may read them."""

import os
import pwd
import stat
from pathlib import Path

from openmoat.config.words import printable

__all__ = ["check_writers", "read_file", "unreadable"]

_PIECE = 1 << 16
"""Octets that are asked for at once: nearly every file is smaller."""


def read_file(file: Path, limit: int, owners: frozenset[int] = frozenset()) -> tuple[bytes, os.stat_result]:
    """Octets of a regular file, and what the system says of it; `ValueError` or `OSError` says why not.

    With `owners` it is a secret: one that others may read or own is refused (as ssh does).
    """
    # Without O_NONBLOCK a named pipe in the place of a file would block the daemon without end.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a file")
        if owners:
            _check_owner(file, status, owners)
        check_writers(file, status)
        octets = _read_octets(descriptor, limit)
    finally:
        os.close(descriptor)
    if len(octets) > limit:
        raise ValueError(f"has more than {limit} octets; is it the right file?")
    return octets, status


def unreadable(file: Path, error: OSError) -> str:
    """Why a file could not be read; where its rights are the reason, who could not, and what lets them."""
    if not isinstance(error, PermissionError):
        return f"cannot be read: {error.strerror}"
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    try:
        file.stat()
    except PermissionError:  # a change of the file alone would not help
        return (
            f"cannot be read by user {user}: a directory above it is closed to this user; become root, or move the file"
        )
    except OSError:
        pass
    return f"cannot be read by user {user}: {error.strerror}; chown {user} {printable(str(file))}"


def check_writers(file: Path, status: os.stat_result) -> None:
    """`ValueError` where anybody on the host may change it: who writes the configuration decides where packets go."""
    if status.st_mode & stat.S_IWOTH:
        mode = stat.S_IMODE(status.st_mode)
        raise ValueError(f"can be written by anybody (mode {mode:03o}); chmod o-w {printable(str(file))}")


def _read_octets(descriptor: int, limit: int) -> bytes:
    """All octets of a file, or one more than `limit`."""
    octets = os.read(descriptor, min(_PIECE, limit + 1))
    if len(octets) < _PIECE:
        return octets
    pieces, size = [octets], len(octets)
    while size <= limit and (octets := os.read(descriptor, min(_PIECE, limit + 1 - size))):
        pieces.append(octets)
        size += len(octets)
    return b"".join(pieces)


def _check_owner(file: Path, status: os.stat_result, owners: frozenset[int]) -> None:
    name = printable(str(file))
    if status.st_mode & 0o077:
        raise ValueError(f"can be read by others (mode {stat.S_IMODE(status.st_mode):03o}); chmod 600 {name}")
    if status.st_uid not in owners:
        raise ValueError(
            f"belongs to user {status.st_uid}, not to root, to us or to the owner of the configuration; chown root {name}"
        )
