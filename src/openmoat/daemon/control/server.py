"""The control socket: HTTP and JSON over a unix socket, as `control.messages` writes it. Decides what becomes of a caller."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable

from openmoat.control.messages import KEEPALIVE_SECONDS, ErrorCode, ErrorReply
from openmoat.daemon.control.access import MAX_CONNECTIONS, Caller, Policy, caller_of
from openmoat.daemon.control.handlers import Handlers
from openmoat.daemon.control.http import (
    IDLE_SECONDS,
    MAX_REQUEST,
    WRITE_SECONDS,
    BadRequest,
    HttpConnection,
    Request,
)
from openmoat.daemon.control.routes import Listing, find, methods, server_sent
from openmoat.errors import ControlError

__all__ = ["Server"]

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
OK, INTERNAL = 200, 500
KEEPALIVE = b": nothing new\n\n"


class Server:
    """Answers on one listening socket until cancelled."""

    def __init__(
        self,
        daemon: Handlers,
        listener: socket.socket,
        policy: Policy,
        idle_seconds: float = IDLE_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self._daemon = daemon
        self._listener = listener
        self._policy = policy
        self._deadlines = idle_seconds, write_seconds
        self._callers: dict[asyncio.Task[None], Caller] = {}
        self._turn = asyncio.Lock()
        """Held while a slice of a long answer is made: one slice, for all callers together, is what a turn of the loop may cost."""

    async def run(self) -> None:
        """Until cancelled."""
        server = await asyncio.start_unix_server(self._connected, sock=self._listener, limit=MAX_REQUEST)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for task in self._callers:
                task.cancel()
            await asyncio.gather(*self._callers, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the caller, or cut it off: where readers have a group of their own everybody can connect."""
        caller = self._admitted(writer.get_extra_info("socket"))
        if caller is None:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(
            self._serve(HttpConnection(reader, writer, *self._deadlines), caller)
        )
        self._callers[task] = caller
        task.add_done_callback(self._callers.pop)

    def _admitted(self, sock: socket.socket) -> Caller | None:
        if len(self._callers) >= MAX_CONNECTIONS:
            log.warning("control socket: at most %d callers at a time, another was cut off", MAX_CONNECTIONS)
            return None
        try:
            caller = caller_of(sock)
        except OSError:
            return None
        has_place = self._policy.is_admitted(caller) and self._policy.has_place(caller, self._callers.values())
        return caller if has_place else None

    async def _serve(self, http: HttpConnection, caller: Caller) -> None:
        """Until the caller is done, gone or too slow."""
        try:
            await self._converse(http, caller)
            await http.close()
        except (TimeoutError, ConnectionError):
            pass
        finally:
            http.abort()

    async def _converse(self, http: HttpConnection, caller: Caller) -> None:
        """Answer one request after the other."""
        try:
            while (request := await http.request()) is not None:
                await self._answer(http, request, caller)
        except BadRequest as error:
            if not http.has_answered:
                reply = ErrorReply(code=ErrorCode.BAD_REQUEST, text=str(error), hint="any HTTP/1.1 client will do")
                await http.answer(error.status, reply.to_json(), closes=True)

    async def _answer(self, http: HttpConnection, request: Request, caller: Caller) -> None:
        headers: dict[str, str] = {}
        try:
            await self._carry_out(http, request, caller)
            return
        except ControlError as error:
            code = ErrorCode(error.code)
            status = STATUS_CODES.get(code, INTERNAL)
            reply = ErrorReply(code=code, text=str(error), hint=error.hint)
            if code is ErrorCode.UNKNOWN_METHOD:
                headers = {"Allow": ", ".join(methods(request.target))}
        except (TimeoutError, ConnectionError):
            raise
        except Exception:
            # A bug of ours: told to the log with its traceback, and to the caller without.
            log.exception("error in %s %s", request.method, request.target)
            status, reply = (
                INTERNAL,
                ErrorReply(code=ErrorCode.INTERNAL, text="an error in moatd", hint="see the log of moatd"),
            )
        if http.has_answered:
            raise ConnectionAbortedError  # in the middle of a long answer, which must not look complete
        await http.answer(status, reply.to_json(), headers)

    async def _carry_out(self, http: HttpConnection, request: Request, caller: Caller) -> None:
        row, parameters = find(request.method, request.target)
        self._policy.check(caller, row.route.access)
        answer = row.answer(self._daemon, parameters)
        if isinstance(answer, Listing):
            await http.stream("application/json", self._in_turn(answer.slices()))
        elif isinstance(answer, AsyncIterator):
            await http.follow("text/event-stream", server_sent(answer), KEEPALIVE, KEEPALIVE_SECONDS)
        else:
            message = await answer if isinstance(answer, Awaitable) else answer
            await http.answer(OK, message.to_json())

    async def _in_turn(self, slices: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            async with self._turn:
                one = await anext(slices, None)
            if one is None:
                return
            yield one
