"""DNS queries that go around the tunnels: the name of a peer must be found while nothing else may leave the house."""

import contextlib
import socket
from typing import Any

import dns.asyncbackend

from openmoat.errors import SystemFault
from openmoat.system.sockets import mark_outer

__all__ = ["outer_backend"]


def outer_backend() -> Any:
    """An asyncio backend for dnspython, with our outer mark on its UDP sockets.

    Without CAP_NET_ADMIN it works as if there were no mark. TCP, for answers that were cut off, bears none: addresses fit.
    """
    backend: Any = type(dns.asyncbackend.get_backend("asyncio"))()
    make_socket = backend.make_socket

    async def make_marked(af: int, socktype: int, *arguments: Any, **named: Any) -> Any:
        made = await make_socket(af, socktype, *arguments, **named)
        if socktype == socket.SOCK_DGRAM:
            # It is not connected: each datagram is routed by the mark that stands when it is sent.
            with contextlib.suppress(SystemFault):
                mark_outer(made.transport.get_extra_info("socket"))
        return made

    backend.make_socket = make_marked
    return backend
