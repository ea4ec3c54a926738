"""Whether a file is unchanged, without reading it. Ten thousand files are looked at in each reload, so that little work is done for each."""

import os
import time
from collections.abc import Sequence

from openmoat._native import stamps

__all__ = ["Stamp", "files_in", "stamp_of", "stamps_of"]

SETTLED_SECONDS = 2.0
"""A file that changed less than this ago may change again without new times, which some file systems keep this coarsely."""

Stamp = bytes
"""Device, inode, size, and times of the last change of the octets and of the file itself: while it is the same, so are they."""


def stamps_of(files: Sequence[str]) -> list[Stamp | None]:
    """None where nothing can be told from it later: the file is not there, or changed just now. Links are followed."""
    # One system call for each, from Rust: an object of Python for each answer, and its comparison, take longer than that.
    now, seconds = time.time_ns(), int(SETTLED_SECONDS * 1e9)
    return stamps(files, (now - seconds, now + seconds))


def stamp_of(file: str) -> Stamp | None:
    """As `stamps_of`, of one file."""
    return stamps_of([file])[0]


def files_in(directory: str, ending: str) -> list[str]:
    """The files of a directory that end so, in no order."""
    # Names alone: ten thousand of `Path` cost more than looking at as many files.
    return [f"{directory}/{one}" for one in os.listdir(directory) if one.endswith(ending)]
