"""One request to `moatd` and its reply as HTTP/1.1, without a socket: both clients send and receive for it."""

import errno
import grp
import os
from collections.abc import Iterator, Mapping
from typing import Generic

import h11

from openmoat.control.absence import absent
from openmoat.control.messages import ErrorCode, ErrorReply, Reply, Route
from openmoat.control.remedies import Remedy
from openmoat.errors import ControlError

__all__ = ["MAX_EVENT", "MAX_HEAD", "MAX_REPLY", "READ_OCTETS", "Exchange", "new_connection", "unreachable"]

MAX_HEAD = 16_384
"""Octets of status line and headers of a reply."""
MAX_REPLY = 128 << 20
"""Octets of one reply: ten times the list of ten thousand connections that are up."""
MAX_EVENT = 1 << 20
"""Octets of one server-sent event."""
READ_OCTETS = 65_536
"""What a client reads at a time."""
OK = 200


def new_connection() -> h11.Connection:
    """What is known of a connection to `moatd`; one exchange after the other may use it."""
    return h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)


class Exchange(Generic[Reply]):
    """Send `request`; give `receive` everything that comes, until `is_over`."""

    def __init__(
        self, http: h11.Connection, route: Route[Reply], query: Mapping[str, int], names: Mapping[str, str]
    ) -> None:
        self._http = http
        self._route = route
        self._status = 0
        self._body = bytearray()
        try:
            target = route.target(query, names)
        except ValueError:
            name = next(iter(names.values()))
            raise ControlError(ErrorCode.UNKNOWN_CONNECTION, f'no connection "{name}"', Remedy.LIST) from None
        # With a length a POST is complete for any server; a GET has no content (RFC 9110 8.6).
        headers = [("Host", "moatd"), *([("Content-Length", "0")] if route.method == "POST" else [])]
        head = http.send(h11.Request(method=route.method, target=target, headers=headers)) or b""
        self.request = head + (http.send(h11.EndOfMessage()) or b"")
        self.is_over = False

    def receive(self, octets: bytes) -> Iterator[Reply]:
        """The reply as soon as it is whole, or each event of a stream. No octets: the daemon closed the connection."""
        try:
            self._http.receive_data(octets)
            yield from self._replies()
        except h11.RemoteProtocolError as error:
            if not octets:
                raise ConnectionResetError(errno.ECONNRESET, "closed within a reply") from None
            raise ControlError(
                ErrorCode.BAD_REPLY, f"the reply of moatd: {error}", f"check what listens there: {Remedy.DAEMON_STATUS}"
            ) from None

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can be used for the next exchange."""
        return self.is_over and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def _replies(self) -> Iterator[Reply]:
        while True:
            event = self._http.next_event()
            match event:
                case h11.NEED_DATA:
                    return
                case h11.Response(status_code=status):
                    self._status = status
                case h11.Data(data=data):
                    self._body += data
                    if self._is_stream:
                        yield from self._events()
                    elif len(self._body) > MAX_REPLY:
                        raise _not_understood(f"more than {MAX_REPLY} octets")
                case h11.EndOfMessage():
                    self.is_over = True
                    if not self._is_stream:
                        yield self._whole()
                    return
                case h11.ConnectionClosed() | h11.PAUSED:
                    self.is_over = True
                    return
                case _:
                    pass  # informational

    @property
    def _is_stream(self) -> bool:
        return self._route.is_stream and self._status == OK

    def _events(self) -> Iterator[Reply]:
        """Server-sent events: only the lines that begin with `data` matter to us."""
        *lines, rest = self._body.split(b"\n")
        self._body = rest
        for line in lines:
            field, _, data = bytes(line).partition(b":")
            if field == b"data":
                yield self._read(data)
        if len(rest) > MAX_EVENT:
            raise _not_understood(f"an event of more than {MAX_EVENT} octets")

    def _whole(self) -> Reply:
        if self._status != OK:
            raise self._refusal()
        return self._read(self._body)

    def _read(self, octets: bytes | bytearray) -> Reply:
        try:
            return self._route.reply.from_json(bytes(octets))
        except ValueError as error:
            raise _not_understood(str(error)) from None

    def _refusal(self) -> ControlError:
        try:
            refusal = ErrorReply.from_json(bytes(self._body))
        except ValueError:
            return ControlError(
                ErrorCode.BAD_REPLY,
                f"status {self._status} without an explanation",
                f"check what listens there: {Remedy.DAEMON_STATUS}",
            )
        return ControlError(refusal.code, refusal.text, refusal.hint)


def unreachable(socket: str, error: OSError) -> ControlError:
    """What a failure of the socket means, and what to do about it."""
    match error:
        case TimeoutError():
            return ControlError(ErrorCode.NO_DAEMON, f"{socket}: moatd does not answer", Remedy.DAEMON_STATUS)
        case PermissionError():
            return ControlError(ErrorCode.NOT_PERMITTED, f"{socket}: you may not use this socket", _joining(socket))
        case ConnectionResetError() | BrokenPipeError():
            text = f"{socket}: moatd closed the connection; it answers root and the members of its groups"
            return ControlError(ErrorCode.NOT_PERMITTED, text, _joining(socket))
        case _:
            why = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror or error})"
            return absent(socket, why)


def _joining(socket: str) -> str:
    """How a user gets access to this socket."""
    try:
        group = grp.getgrgid(os.stat(socket).st_gid).gr_name
    except (KeyError, OSError):
        group = "GROUP"
    if group == "root":  # whose members may do far more than use a socket
        return Remedy.BECOME_ROOT
    return f"{Remedy.BECOME_ROOT}, or as root: {Remedy.JOIN_GROUP.format(group=group)}; then log in again"


def _not_understood(detail: str) -> ControlError:
    return ControlError(
        ErrorCode.BAD_REPLY,
        f"the reply of moatd: {detail}",
        f"moat and moatd must be of the same version: {Remedy.VERSIONS}",
    )
