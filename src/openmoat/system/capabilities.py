"""Gives up every capability except the three that the daemon needs (capabilities(7)), no matter who started it."""

import ctypes
import errno
import os
from typing import Final

from openmoat.errors import SystemFault

__all__ = ["NEEDED", "give_up_the_rest", "held"]

CAP_NET_BIND_SERVICE: Final = 10
CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13
NEEDED: Final = frozenset({CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW})
"""Ports below 1024; TUN, routes, firewall, marks; ESP as IP protocol 50."""

LAST_CAPABILITY: Final = 63
VERSION_3: Final = 0x20080522
PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 23, 24, 38

LIBC = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Half(ctypes.Structure):
    """32 of the 64 capabilities."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def held() -> frozenset[int]:
    """Capabilities in force now."""
    return frozenset(number for number in range(LAST_CAPABILITY + 1) if _read()[0] >> number & 1)


def give_up_the_rest(needed: frozenset[int] = NEEDED) -> None:
    """Keep only those of `needed` that are held, here and in all children, for good; programs of root's gain none back.

    Call it before the first thread starts: capabilities belong to threads. Raises `SystemFault`.
    """
    for number in range(LAST_CAPABILITY + 1):
        if number not in needed and LIBC.prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            # Without CAP_SETPCAP the bounding set stays; then nothing beyond what we hold can be gained either, below.
            LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    _check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    permitted = _read()[1]
    mask = sum(1 << number for number in needed) & permitted
    halves = (_Half * 2)(*(_Half(*(mask >> shift & 0xFFFF_FFFF,) * 3) for shift in (0, 32)))
    _check(LIBC.capset(ctypes.byref(_Header(VERSION_3, 0)), halves), "capabilities")


def _read() -> tuple[int, int]:
    """Effective and permitted ones, as bits."""
    halves = (_Half * 2)()
    _check(LIBC.capget(ctypes.byref(_Header(VERSION_3, 0)), halves), "capabilities")
    return (
        halves[0].effective | halves[1].effective << 32,
        halves[0].permitted | halves[1].permitted << 32,
    )


def _check(answer: int, what: str) -> None:
    if answer:
        number = ctypes.get_errno()
        raise SystemFault(f"{what}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
