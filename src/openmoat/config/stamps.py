"""Whether a file is unchanged, without reading it. Ten thousand files are looked at in each reload, so that little work is done for each."""

import os
import time
from collections.abc import Iterable

__all__ = ["Stamp", "changed", "files_in", "stamp_of"]

SETTLED_SECONDS = 2.0
"""A file that changed less than this ago may change again without new times, which some file systems keep this coarsely."""

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, and times of the last change of the octets and of the file itself: while it is the same, so are they."""


def stamp_of(file: str) -> Stamp | None:
    """None where nothing can be told from it later: the file is not there, or changed just now."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    first, last = _unsettled()
    if first < status.st_mtime_ns < last or first < status.st_ctime_ns < last:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def files_in(directory: str, ending: str) -> list[str]:
    """The files of a directory that end so, in no order."""
    # Names alone: ten thousand of `Path` cost more than looking at as many files.
    return [f"{directory}/{one}" for one in os.listdir(directory) if one.endswith(ending)]


def changed(files: Iterable[tuple[str, Stamp | None]]) -> list[str]:
    """Those of which it is not certain that they are what their stamps say. One system call for each, and little beside it."""
    found = []
    first, last = _unsettled()
    for file, stamp in files:
        try:
            if stamp is not None and not (first < stamp[3] < last or first < stamp[4] < last):
                now = os.stat(file)
                # What changes at all has another time of change: that is looked at first, for the rest costs more.
                if now.st_ctime_ns == stamp[4] and (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) == stamp[:4]:
                    continue
        except OSError:
            pass  # the error is told when it is read
        found.append(file)
    return found


def _unsettled() -> tuple[int, int]:
    """Times, in nanoseconds, at which what changed may change once more and show the same ones."""
    now, seconds = time.time_ns(), int(SETTLED_SECONDS * 1e9)
    return now - seconds, now + seconds
