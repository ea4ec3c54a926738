"""`Client` for programs with an event loop: the same requests, replies and failures, as coroutines."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

from openmoat.control.client import DEFAULT_SOCKET, DEFAULT_TIMEOUT
from openmoat.control.exchange import READ_OCTETS, Exchange, new_connection, unreachable
from openmoat.control.messages import EVENT_SILENCE, Entry, Reply, Route, Routes

__all__ = ["AsyncClient"]


class AsyncClient:
    """Each call has a connection of its own, so that calls may run side by side; each ends after `timeout` seconds."""

    def __init__(self, socket: str = DEFAULT_SOCKET, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._path = socket
        self._timeout = timeout

    async def ask(self, route: Route[Reply], query: Mapping[str, int] = MappingProxyType({}), **names: str) -> Reply:
        """The reply to one request, such as `ask(Routes.UP, name="office")`."""
        exchange = Exchange(new_connection(), route, query, names)
        try:
            async with asyncio.timeout(self._timeout), self._connected(exchange.request) as reader:
                while True:
                    for reply in exchange.receive(await reader.read(READ_OCTETS)):
                        return reply
        except OSError as error:
            raise unreachable(self._path, error) from None

    async def events(self) -> AsyncIterator[Entry]:
        """Everything that happens from now on, until the daemon ends or the caller stops."""
        exchange = Exchange(new_connection(), Routes.EVENTS, {}, {})
        has_begun, patience = False, self._timeout
        try:
            async with self._connected(exchange.request) as reader:
                while not exchange.is_over:
                    octets = await asyncio.wait_for(reader.read(READ_OCTETS), patience)
                    for entry in exchange.receive(octets):
                        yield entry
                    has_begun, patience = True, EVENT_SILENCE
        except ConnectionResetError as error:
            if not has_begun:
                raise unreachable(self._path, error) from None
        except OSError as error:
            raise unreachable(self._path, error) from None

    @asynccontextmanager
    async def _connected(self, request: bytes) -> AsyncIterator[asyncio.StreamReader]:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(request)
            yield reader
        finally:
            writer.close()
