"""Talks to `moatd` over its unix socket. Every failure is a `ControlError` with a code of `control.messages.ErrorCode`."""

import select
import socket as sockets
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

from openmoat.control.exchange import READ_OCTETS, Exchange, new_connection, unreachable
from openmoat.control.messages import (
    EVENT_SILENCE,
    Connections,
    ConnectionStatus,
    Done,
    Entry,
    Log,
    Reloaded,
    Reply,
    Route,
    Routes,
    Status,
    Version,
)
from openmoat.places import CONTROL_SOCKET

__all__ = ["DEFAULT_SOCKET", "DEFAULT_TIMEOUT", "MAX_LOG", "Client"]

DEFAULT_SOCKET = CONTROL_SOCKET
DEFAULT_TIMEOUT = 10.0
"""Seconds; a daemon that does not answer within them is not well."""
MAX_LOG = 1000


class Client:
    """One connection to a daemon; use it in a `with` statement. Calls block, for `timeout` seconds at most."""

    def __init__(self, socket: str = DEFAULT_SOCKET, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._path = socket
        self._timeout = timeout
        self._socket: sockets.socket | None = None
        self._http = new_connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def version(self) -> Version:
        """What answers."""
        return self.ask(Routes.VERSION)

    def status(self) -> Status:
        """The daemon and all connections."""
        return self.ask(Routes.STATUS)

    def connections(self) -> Connections:
        """All connections."""
        return self.ask(Routes.CONNECTIONS)

    def connection(self, name: str) -> ConnectionStatus:
        """One connection, with the explanation of its last failure."""
        return self.ask(Routes.CONNECTION, name=name)

    def up(self, name: str) -> Done:
        """Start it now, and end an override by `down`."""
        return self.ask(Routes.UP, name=name)

    def down(self, name: str) -> Done:
        """End it and keep it down, also over reloads."""
        return self.ask(Routes.DOWN, name=name)

    def rekey(self, name: str) -> Done:
        """Replace the keys of all its SAs."""
        return self.ask(Routes.REKEY, name=name)

    def down_peer(self, name: str, peer: str) -> Done:
        """End what it has with one peer, by its identity, and keep that down."""
        return self.ask(Routes.PEER_DOWN, name=name, peer=peer)

    def rekey_peer(self, name: str, peer: str) -> Done:
        """Replace the keys of all SAs with one peer."""
        return self.ask(Routes.PEER_REKEY, name=name, peer=peer)

    def delete_peer(self, name: str, peer: str) -> Done:
        """Delete all SAs with one peer; it may come back at once."""
        return self.ask(Routes.PEER_DELETE, name=name, peer=peer)

    def probe(self, name: str) -> Done:
        """Find out now what its paths carry; `connection` shows the result."""
        return self.ask(Routes.PROBE, name=name)

    def reload(self) -> Reloaded:
        """Read the configuration again and change what has changed."""
        return self.ask(Routes.RELOAD)

    def log(self, last: int = 100) -> Log:
        """The newest entries of the journal."""
        return self.ask(Routes.LOG, {"last": min(max(last, 1), MAX_LOG)})

    def events(self) -> Iterator[Entry]:
        """Everything that happens from now on, until the daemon ends or the caller stops."""
        has_begun, patience = False, self._timeout
        try:
            sock, exchange = self._begin(Routes.EVENTS, {}, {})
            while not exchange.is_over:
                octets = _read(sock, time.monotonic() + patience)
                yield from exchange.receive(octets)
                has_begun, patience = True, EVENT_SILENCE
        except ConnectionResetError as error:
            if not has_begun:
                raise unreachable(self._path, error) from None
            return  # the daemon ended
        except OSError as error:
            raise unreachable(self._path, error) from None
        finally:
            self._close()

    def ask(self, route: Route[Reply], query: Mapping[str, int] = MappingProxyType({}), **names: str) -> Reply:
        """The reply to one request."""
        deadline = time.monotonic() + self._timeout
        exchange = None
        try:
            sock, exchange = self._begin(route, query, names)
            while True:
                for reply in exchange.receive(_read(sock, deadline)):
                    return reply
        except OSError as error:
            raise unreachable(self._path, error) from None
        finally:
            if exchange is None or not exchange.is_reusable:
                self._close()

    def _begin(
        self, route: Route[Reply], query: Mapping[str, int], names: Mapping[str, str]
    ) -> tuple[sockets.socket, Exchange[Reply]]:
        """Send a request, on the connection that there is if the daemon still holds it."""
        sock = self._socket
        if sock is not None and _has_news(sock):  # nothing was asked: it can only be the end
            self._close()
            sock = None
        if sock is None:
            self._http = new_connection()
        else:
            self._http.start_next_cycle()
        exchange = Exchange(self._http, route, query, names)
        if sock is None:
            sock = self._socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_CLOEXEC)
            sock.settimeout(self._timeout)
            sock.connect(self._path)
        sock.settimeout(self._timeout)
        sock.sendall(exchange.request)
        return sock, exchange

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def _read(sock: sockets.socket, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)
    return sock.recv(READ_OCTETS)


def _has_news(sock: sockets.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
