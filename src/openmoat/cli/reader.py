"""Reads a configuration with the rights of `moatd`: what root can read says nothing about what the daemon can."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["reading_as"]


@contextmanager
def reading_as(user: str, directory: Path) -> Iterator[None]:
    """Be `user` for a while, where we are root and the directory is that user's own; else nothing changes."""
    row = _owner(user, directory)
    if os.geteuid() != 0 or row is None:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.initgroups(row.pw_name, row.pw_gid)
    os.setegid(row.pw_gid)
    os.seteuid(row.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _owner(user: str, directory: Path) -> pwd.struct_passwd | None:
    """The user, if there is one and the directory belongs to it."""
    try:
        row = pwd.getpwnam(user)
        return row if directory.stat().st_uid == row.pw_uid else None
    except (KeyError, OSError):
        return None
