"""Talks to `moatd` over its unix socket. Every failure is a `ControlError` with a code of `control.messages.ErrorCode`."""

import grp
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import ValidationError

from openmoat.control.messages import (
    Connections,
    ConnectionStatus,
    Done,
    Entry,
    ErrorCode,
    ErrorReply,
    Log,
    Message,
    Path,
    Reloaded,
    Status,
    Version,
)
from openmoat.errors import ControlError

__all__ = ["DEFAULT_SOCKET", "DEFAULT_TIMEOUT", "Client"]

DEFAULT_SOCKET = "/run/openmoat/control.sock"
DEFAULT_TIMEOUT = 10.0
"""Seconds; a daemon that does not answer within them is not well."""
MAX_LOG = 1000

Reply = TypeVar("Reply", bound=Message)


class Client:
    """One connection to a daemon; use it in a `with` statement. Calls block, for `timeout` seconds at most."""

    def __init__(self, socket: str = DEFAULT_SOCKET, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._socket = socket
        transport = httpx2.HTTPTransport(uds=socket)
        self._http = httpx2.Client(transport=transport, base_url="http://moatd", timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def version(self) -> Version:
        """What answers."""
        return self._ask("GET", Path.VERSION, Version)

    def status(self) -> Status:
        """The daemon and all connections."""
        return self._ask("GET", Path.STATUS, Status)

    def connections(self) -> Connections:
        """All connections."""
        return self._ask("GET", Path.CONNECTIONS, Connections)

    def connection(self, name: str) -> ConnectionStatus:
        """One connection, with the explanation of its last failure."""
        return self._ask("GET", _of(Path.CONNECTION, name), ConnectionStatus)

    def up(self, name: str) -> Done:
        """Begin it now, and end an override by `down`."""
        return self._ask("POST", _of(Path.UP, name), Done)

    def down(self, name: str) -> Done:
        """End it and keep it down, also over reloads."""
        return self._ask("POST", _of(Path.DOWN, name), Done)

    def probe(self, name: str) -> Done:
        """Find out now what its paths carry; `connection` tells what comes of it."""
        return self._ask("POST", _of(Path.PROBE, name), Done)

    def reload(self) -> Reloaded:
        """Read the configuration again and change what has changed."""
        return self._ask("POST", Path.RELOAD, Reloaded)

    def log(self, last: int = 100) -> Log:
        """The newest entries of the journal."""
        return self._ask("GET", Path.LOG, Log, {"last": min(max(last, 1), MAX_LOG)})

    def events(self) -> Iterator[Entry]:
        """Everything that happens from now on, until the daemon ends or the caller stops."""
        self._look()
        try:
            with self._http.stream("GET", Path.EVENTS, timeout=httpx2.Timeout(DEFAULT_TIMEOUT, read=None)) as answer:
                if answer.status_code != httpx2.codes.OK:
                    raise self._refusal(answer.read(), answer.status_code)
                for line in answer.iter_lines():
                    field, _, data = line.partition(":")
                    if field == "data":
                        yield Entry.model_validate_json(data)
        except httpx2.RemoteProtocolError:
            return  # the daemon ended
        except httpx2.TransportError as error:
            raise self._unreachable(error) from None
        except ValidationError as error:
            raise _not_understood(error) from None

    def _ask(self, method: str, path: str, reply: type[Reply], query: dict[str, int] | None = None) -> Reply:
        self._look()
        try:
            answer = self._http.request(method, path, params=query)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from None
        if answer.status_code != httpx2.codes.OK:
            raise self._refusal(answer.content, answer.status_code)
        try:
            return reply.model_validate_json(answer.content)
        except ValidationError as error:
            raise _not_understood(error) from None

    def _look(self) -> None:
        try:
            os.stat(self._socket)
        except FileNotFoundError:
            raise ControlError(
                ErrorCode.NO_DAEMON, f"{self._socket}: no moatd listens there", "systemctl start moatd"
            ) from None
        except OSError:
            return  # connecting says more

    def _refusal(self, body: bytes, status: int) -> ControlError:
        try:
            refusal = ErrorReply.model_validate_json(body)
        except ValidationError:
            return ControlError(
                ErrorCode.BAD_REPLY,
                f"{self._socket}: status {status} without an explanation",
                "is it moatd that listens there?",
            )
        return ControlError(refusal.code, refusal.text, refusal.hint)

    def _joining(self) -> str:
        """How somebody gets onto this socket."""
        try:
            group = grp.getgrgid(os.stat(self._socket).st_gid).gr_name
        except (KeyError, OSError):
            group = "GROUP"
        if group == "root":  # whose members may do far more than use a socket
            return "become root"
        return f"become root, or have root say: usermod --append --groups {group} YOU; then log in again"

    def _unreachable(self, error: httpx2.TransportError) -> ControlError:
        if isinstance(error, httpx2.TimeoutException):
            return ControlError(ErrorCode.NO_DAEMON, f"{self._socket}: moatd does not answer", "systemctl status moatd")
        if "Permission denied" in str(error):
            return ControlError(
                ErrorCode.NOT_PERMITTED,
                f"{self._socket}: you may not use this socket",
                self._joining(),
            )
        if isinstance(error, httpx2.RemoteProtocolError | httpx2.ReadError | httpx2.WriteError):
            text = f"{self._socket}: moatd hung up; it answers root and the members of its groups"
            return ControlError(ErrorCode.NOT_PERMITTED, text, self._joining())
        return ControlError(
            ErrorCode.NO_DAEMON, f"{self._socket}: no moatd listens there ({error})", "systemctl start moatd"
        )


def _of(path: str, name: str) -> str:
    if name in {"", ".", ".."}:  # would be another path
        raise ControlError(ErrorCode.UNKNOWN_CONNECTION, f'no connection "{name}"', "moat connections lists all")
    return path.format(name=quote(name, safe=""))


def _not_understood(error: ValidationError) -> ControlError:
    detail = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in detail["loc"])
    return ControlError(
        ErrorCode.BAD_REPLY,
        f"the reply of moatd: {where}: {detail['msg']}",
        "moat and moatd of one version fit together",
    )
