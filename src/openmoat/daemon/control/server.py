"""The control socket: HTTP and JSON over a unix socket, as `control.messages` writes it. Parsing is uvicorn's and h11's.

Who may read and who may change is decided by the kernel's word about the caller (SO_PEERCRED, SO_PEERGROUPS).
"""

import asyncio
import contextlib
import grp
import logging
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as WebRoute
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from openmoat.control.messages import (
    ROUTES,
    Access,
    Connections,
    ConnectionStatus,
    Entry,
    ErrorCode,
    ErrorReply,
    Message,
    Path,
    Route,
    Status,
)
from openmoat.daemon.control.handlers import Handlers
from openmoat.daemon.status.journal import MAX_ENTRIES
from openmoat.errors import ControlError, SystemFault

__all__ = ["MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_USER", "Caller", "Server", "open_socket"]

MAX_CONNECTIONS = 64
"""Callers at a time; further ones are cut off at once."""
MAX_CONNECTIONS_PER_USER = 16
"""The same of one user who is neither root nor that of moatd: who only reads cannot lock out who repairs."""
MAX_REQUEST = 16_384
"""Octets of one request, headers included."""
IDLE_SECONDS = 30
"""A caller that asks nothing for so long, or only half, is cut off; so is one that does not fetch its answer."""
SLICE_SECONDS = 0.005
"""CPU time for a part of a long answer, before everything else has its turn."""
MAX_DIGITS = 4
"""Of the number of log lines that are asked for: more are not even made a number of."""
SO_PEERGROUPS = 59
UCRED = struct.Struct("=3i")
MAX_GROUPS = 256
"""Groups of a caller that are looked at; Python's `getsockopt` takes no more than 1024 octets."""

log = logging.getLogger("openmoat.daemon.control.server")

STATUS_CODES = {
    ErrorCode.UNKNOWN_CONNECTION: 404,
    ErrorCode.UNKNOWN_PATH: 404,
    ErrorCode.UNKNOWN_METHOD: 405,
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.NOT_PERMITTED: 403,
    ErrorCode.CONFIGURATION: 422,
    ErrorCode.TEMPLATE: 409,
    ErrorCode.BUSY: 503,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end, as the kernel says."""

    user: int
    groups: frozenset[int]


class Server:
    """Answers on one listening socket until cancelled."""

    def __init__(
        self,
        desk: Handlers,
        listener: socket.socket,
        change_group: str = "",
        read_group: str = "",
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._desk = desk
        self._listener = listener
        self._idle_seconds = idle_seconds
        self._groups = {
            Access.CHANGE: group_ids(change_group),
            Access.READ: group_ids(change_group) | group_ids(read_group),
        }

    async def run(self) -> None:
        """Until cancelled."""
        config = Config(
            self.application(),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=None,
            timeout_keep_alive=IDLE_SECONDS,
            h11_max_incomplete_event_size=MAX_REQUEST,
        )
        config.load()
        state = ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Protocol(config, state, self), sock=self._listener)
        try:
            await loop.create_future()
        finally:
            server.close()
            for connection in list(state.connections):
                connection.shutdown()
            for task in list(state.tasks):
                task.cancel()

    def application(self) -> Starlette:
        """All paths of `ROUTES`, and errors in the form of `ErrorReply`."""
        desk = self._desk
        answers: dict[str, Callable[[Request], Message | Response | Awaitable[Message | Response]]] = {
            Path.VERSION: lambda _: desk.version(),
            Path.STATUS: lambda _: listing(desk.status(), desk.connections()),
            Path.CONNECTIONS: lambda _: listing(Connections(), desk.connections()),
            Path.CONNECTION: lambda request: desk.connection(request.path_params["name"]),
            Path.UP: lambda request: desk.up(request.path_params["name"]),
            Path.DOWN: lambda request: desk.down(request.path_params["name"]),
            Path.PROBE: lambda request: desk.probe(request.path_params["name"]),
            Path.RELOAD: lambda _: desk.reload(),
            Path.LOG: lambda request: desk.log(last_of(request)),
        }
        routes = [self._route(route, answers.get(route.path)) for route in ROUTES]
        handlers: dict[Any, Any] = {ControlError: refuse, HTTPException: refuse_path, Exception: fail}
        return Starlette(routes=routes, exception_handlers=handlers)

    def _route(
        self, route: Route, answer: Callable[[Request], Message | Response | Awaitable[Message | Response]] | None
    ) -> WebRoute:
        async def endpoint(request: Request) -> Response:
            self.check(request.state.caller, route.access)
            if answer is None:
                return StreamingResponse(server_sent(self._desk.follow()), media_type="text/event-stream")
            message = answer(request)
            if isinstance(message, Awaitable):
                message = await message
            return message if isinstance(message, Response) else reply(message)

        return WebRoute(route.path, endpoint, methods=[route.method])

    @property
    def idle_seconds(self) -> float:
        """How long a caller may be silent."""
        return self._idle_seconds

    def has_place(self, caller: Caller, others: Iterable[Caller]) -> bool:
        """Whether one more of this user may be served beside the others."""
        if caller.user in {0, os.geteuid()}:
            return True
        return sum(other.user == caller.user for other in others) < MAX_CONNECTIONS_PER_USER

    def is_admitted(self, caller: Caller) -> bool:
        """Whether the caller may do anything at all."""
        return caller.user in {0, os.geteuid()} or bool(caller.groups & self._groups[Access.READ])

    def check(self, caller: Caller, access: Access) -> None:
        """Raise `ControlError` where the caller may not."""
        if caller.user in {0, os.geteuid()} or caller.groups & self._groups[access]:
            return
        raise ControlError(
            ErrorCode.NOT_PERMITTED,
            f"user {caller.user} may not {access.value}",
            "become root, or join the group of the socket",
        )


class _Protocol(H11Protocol):
    """Tells the application who calls, and bounds how many do, and for how long without asking."""

    def __init__(self, config: Config, state: ServerState, server: Server) -> None:
        super().__init__(config, state, {})
        self._server = server
        self._patience: asyncio.TimerHandle | None = None
        self.caller: Caller | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            log.warning("control socket: at most %d callers at a time, another was cut off", MAX_CONNECTIONS)
            transport.abort()
            return
        try:
            caller = caller_of(transport.get_extra_info("socket"))
        except OSError:
            transport.abort()
            return
        others = [one.caller for one in self.connections if isinstance(one, _Protocol) and one.caller is not None]
        if not self._server.is_admitted(caller) or not self._server.has_place(caller, others):
            # Where readers have a group of their own everybody can connect: nobody else may hold a place.
            transport.abort()
            return
        self.caller = caller
        self.app_state = {"caller": caller}
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def _wait(self) -> None:
        """Uvicorn's own timer begins after the first answer, and any octet ends it."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(self._server.idle_seconds, self._lose_patience)

    def _lose_patience(self) -> None:
        # An answer under way, or one that never ends, is no silence; but what nobody fetches is, also behind another question.
        if self.cycle is None or self.cycle.response_complete or self.flow.write_paused:
            self.transport.abort()
        else:
            self._wait()


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


def open_socket(file: FilePath, group: str = "", *, has_readers: bool = False) -> socket.socket:
    """A listening socket at this place; one left over by a dead daemon is replaced, that of a living one is not.

    A socket has one group: where readers have another, everybody may connect and strangers are cut off.
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
        # Who may do what is decided for each request; the mode only keeps out those who may do nothing.
        file.chmod(0o666 if has_readers else 0o660)
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        sock.close()
        raise SystemFault(f"control socket {file}: {error.strerror or error}") from error
    except SystemFault:
        sock.close()
        raise
    return sock


def _remove_stale(file: FilePath) -> None:
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


def reply(message: Message, status: int = 200) -> Response:
    """A message as JSON."""
    return Response(message.model_dump_json(by_alias=True), status, media_type="application/json")


async def listing(head: Status | Connections, rows: Iterable[ConnectionStatus]) -> Response:
    """A message with `rows` for its connections, its last field. Made in slices: ten thousand rows would hold the loop.

    Sent as a whole, so that a caller who does not fetch it is cut off like any other.
    """
    text, parts, begun = head.model_dump_json(by_alias=True), [], time.thread_time()
    for row in rows:
        parts.append(row.model_dump_json(by_alias=True))
        if time.thread_time() - begun >= SLICE_SECONDS:
            await asyncio.sleep(0)
            begun = time.thread_time()
    return Response(f"{text.removesuffix(']}')}{','.join(parts)}]}}", media_type="application/json")


async def server_sent(entries: AsyncIterator[Entry]) -> AsyncIterator[bytes]:
    """Server-sent events; a comment first, so that the caller sees at once that it is heard."""
    yield b": moatd\n\n"
    async for one in entries:
        yield f"id: {one.number}\nevent: {one.kind}\ndata: {one.model_dump_json()}\n\n".encode()


def last_of(request: Request) -> int:
    """How many entries of the journal are wanted."""
    text = request.query_params.get("last", "100")
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and 1 <= int(text) <= MAX_ENTRIES):
        raise ControlError(ErrorCode.BAD_REQUEST, f"last: 1 to {MAX_ENTRIES}, {text[:20]!r} came")
    return int(text)


async def refuse(request: Request, error: Exception) -> Response:
    """A fault of the request or of the daemon, with what to do about it."""
    del request
    if not isinstance(error, ControlError):
        raise error
    code = ErrorCode(error.code)
    return reply(ErrorReply(code=code, text=str(error), hint=error.hint), STATUS_CODES.get(code, 500))


async def refuse_path(request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    is_method = isinstance(error, HTTPException) and error.status_code == 405
    code = ErrorCode.UNKNOWN_METHOD if is_method else ErrorCode.UNKNOWN_PATH
    text = (
        f"{request.method} {request.url.path}: {'another method is wanted' if is_method else 'there is no such path'}"
    )
    return reply(
        ErrorReply(code=code, text=text, hint="moat and moatd of one version fit together"), STATUS_CODES[code]
    )


async def fail(request: Request, error: Exception) -> Response:
    """A bug of ours: told to the log with its traceback, and to the caller without."""
    log.error("fault in %s %s", request.method, request.url.path, exc_info=error)
    return reply(ErrorReply(code=ErrorCode.INTERNAL, text="a fault in moatd", hint="see the log of moatd"), 500)
