"""HTTP/1.1 on one connection: bounds and deadlines over asyncio's streams; knows no route. Parsing is h11's."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import h11

__all__ = ["IDLE_SECONDS", "MAX_REQUEST", "MAX_UNSENT", "WRITE_SECONDS", "BadRequest", "HttpConnection", "Request"]

MAX_REQUEST = 16_384
"""Octets of request line and headers, and as many of content."""
MAX_UNSENT = 65_536
"""Octets of answers that wait for a caller to read them; also the slices in which a long one is written."""
READ_OCTETS = 16_384
"""What is read at a time."""
VERSIONS = {b"1.0", b"1.1"}
IDLE_SECONDS = 30.0
"""Until the next request of a caller is whole; a request that comes slowly gets no more time than none at all."""
WRITE_SECONDS = 30.0
"""Until a caller has read enough for the next slice of its answer to be written."""


class BadRequest(Exception):
    """What came is no HTTP that we answer; `status` and the text are for the caller."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole."""

    method: str
    target: str
    body: bytes


class HttpConnection:
    """Reads one request at a time and writes its answer; further requests wait in the socket meanwhile.

    Every method may raise `TimeoutError` where the caller is too slow and `ConnectionError` where it is gone: abort then.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        idle_seconds: float = IDLE_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._idle_seconds = idle_seconds
        self._write_seconds = write_seconds
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        self._method = ""
        writer.transport.set_write_buffer_limits(high=MAX_UNSENT)

    async def request(self) -> Request | None:
        """The next request; None where the caller has sent its last, or the connection cannot be used again."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        if self._http.our_state is not h11.IDLE:
            return None
        try:
            async with asyncio.timeout(self._idle_seconds):
                return await self._read_request()
        except h11.RemoteProtocolError as error:
            raise BadRequest(400, f"request: {error}") from None

    async def _read_request(self) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            match self._http.next_event():
                case h11.NEED_DATA:
                    if self._http.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=100, headers=[]))
                    self._http.receive_data(await self._reader.read(READ_OCTETS))
                case h11.Request() as came:
                    head, self._method = came, came.method.decode("ascii")
                    if came.http_version not in VERSIONS:
                        raise BadRequest(505, "request: HTTP/1.1 and HTTP/1.0 are answered here")
                case h11.Data(data=data):
                    body += data
                    if len(body) > MAX_REQUEST:
                        raise BadRequest(413, f"content of at most {MAX_REQUEST} octets; there are more")
                case h11.EndOfMessage() if head is not None:
                    return Request(self._method, head.target.decode("ascii", "replace"), bytes(body))
                case _:  # ConnectionClosed
                    return None

    @property
    def has_answered(self) -> bool:
        """Whether an answer has begun: too late for another."""
        return self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}

    async def answer(
        self, status: int, body: bytes, headers: Mapping[str, str] = MappingProxyType({}), *, closes: bool = False
    ) -> None:
        """A whole answer in JSON."""
        self._begin(status, {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}, closes)
        for start in range(0, len(body), MAX_UNSENT):
            await self._write(body[start : start + MAX_UNSENT])
        await self._end()

    async def stream(self, content_type: str, pieces: AsyncIterator[bytes]) -> None:
        """An answer whose length nobody knows, in pieces."""
        self._begin(200, {"Content-Type": content_type})
        if self._method != "HEAD":
            async for piece in pieces:
                await self._write(piece)
        await self._end()

    async def follow(self, content_type: str, pieces: AsyncIterator[bytes], comment: bytes, seconds: float) -> None:
        """An answer that goes on until the caller is gone, or the pieces end. The comment is sent whenever nothing else was."""
        self._begin(200, {"Content-Type": content_type}, closes=True)
        if self._method == "HEAD":
            return await self._end()
        gone = asyncio.ensure_future(self._is_gone())
        piece: asyncio.Future[bytes] = asyncio.ensure_future(anext(pieces, b""))
        try:
            while not gone.done():
                waiting: list[asyncio.Future[Any]] = [piece, gone]
                await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if not piece.done():
                    await self._write(comment)
                    continue
                if not (octets := piece.result()):
                    break
                await self._write(octets)
                piece = asyncio.ensure_future(anext(pieces, b""))
            await self._end()
        finally:
            gone.cancel()
            piece.cancel()
            await asyncio.gather(gone, piece, return_exceptions=True)

    async def close(self) -> None:
        """Once the caller has read what is left, or its time is over."""
        self._writer.close()
        try:
            async with asyncio.timeout(self._write_seconds):
                await self._writer.wait_closed()
        finally:
            self.abort()

    def abort(self) -> None:
        """At once, whatever is unsent."""
        self._writer.transport.abort()

    async def _is_gone(self) -> None:
        while await self._reader.read(READ_OCTETS):
            pass  # behind a stream without end there is no next request

    def _begin(self, status: int, headers: Mapping[str, str], closes: bool = False) -> None:
        rows = [*headers.items(), *([("Connection", "close")] if closes else [])]
        self._send(h11.Response(status_code=status, headers=rows, reason=HTTPStatus(status).phrase.encode()))

    async def _write(self, octets: bytes) -> None:
        """One slice; everything else has its turn before the next."""
        if self._method != "HEAD":
            self._send(h11.Data(data=octets))
        await self._drain()

    async def _end(self) -> None:
        self._send(h11.EndOfMessage())
        await self._drain()

    async def _drain(self) -> None:
        async with asyncio.timeout(self._write_seconds):
            await self._writer.drain()
        await asyncio.sleep(0)

    def _send(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")
