"""What answers which request: one row for each of `control.messages.ROUTES`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from openmoat.control.messages import (
    Connections,
    ConnectionStatus,
    Entry,
    ErrorCode,
    Message,
    Route,
    Routes,
    Status,
)
from openmoat.control.remedies import Remedy
from openmoat.daemon.control.handlers import Handlers
from openmoat.daemon.status.journal import MAX_ENTRIES
from openmoat.errors import ControlError

__all__ = ["MAX_DIGITS", "SLICE_SECONDS", "TABLE", "Listing", "Row", "find", "methods", "server_sent"]

SLICE_SECONDS = 0.005
"""CPU time for a part of a long answer, before everything else has its turn."""
MAX_DIGITS = 4
"""Of the number of log lines that are asked for: a longer text is not converted to a number."""
MAX_PARAMETERS = 16
"""Of a query."""

Parameters = Mapping[str, str]
"""Names in the path and parameters of the query."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A message whose last field, `connections`, is filled with `rows` while it is sent."""

    head: Status | Connections
    rows: Iterable[ConnectionStatus]

    async def slices(self) -> AsyncIterator[bytes]:
        """The JSON, made in slices of CPU time: ten thousand rows at once would hold the loop."""
        text, empty = self.head.to_json(), b'"connections":[]}'
        if not text.endswith(empty):
            raise ValueError("connections is not the last field, or not empty")
        pending, separator, begun = bytearray(text.removesuffix(b"]}")), b"", time.thread_time()
        for row in self.rows:
            pending += separator + row.to_json()
            separator = b","
            if time.thread_time() - begun >= SLICE_SECONDS:
                yield bytes(pending)
                pending.clear()
                await asyncio.sleep(0)
                begun = time.thread_time()
        yield bytes(pending + b"]}")


Answer = Message | Awaitable[Message] | Listing | AsyncIterator[Entry]


@dataclass(frozen=True, slots=True)
class Row:
    """A route and what answers it."""

    route: Route[Any]
    answer: Callable[[Handlers, Parameters], Answer]

    def names(self, path: str) -> dict[str, str] | None:
        """What stands in the path for `{...}`; None where it is another path."""
        pattern, parts = self.route.path.split("/"), path.split("/")
        if len(pattern) != len(parts):
            return None
        names = {}
        for want, part in zip(pattern, parts, strict=True):
            if want.startswith("{"):
                names[want[1:-1]] = unquote(part, errors="replace")
            elif want != part:
                return None
        return names


def last_of(parameters: Parameters) -> int:
    """How many entries of the journal are wanted."""
    text = parameters.get("last", "100")
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and 1 <= int(text) <= MAX_ENTRIES):
        raise ControlError(ErrorCode.BAD_REQUEST, f"last must be a number from 1 to {MAX_ENTRIES}, not {text[:20]!r}")
    return int(text)


TABLE = (
    Row(Routes.VERSION, lambda daemon, _: daemon.version()),
    Row(Routes.STATUS, lambda daemon, _: Listing(daemon.status(), daemon.connections())),
    Row(Routes.CONNECTIONS, lambda daemon, _: Listing(Connections(), daemon.connections())),
    Row(Routes.CONNECTION, lambda daemon, given: daemon.connection(given["name"])),
    Row(Routes.UP, lambda daemon, given: daemon.up(given["name"])),
    Row(Routes.DOWN, lambda daemon, given: daemon.down(given["name"])),
    Row(Routes.REKEY, lambda daemon, given: daemon.rekey(given["name"])),
    Row(Routes.PEER_DOWN, lambda daemon, given: daemon.down(given["name"], given["peer"])),
    Row(Routes.PEER_REKEY, lambda daemon, given: daemon.rekey(given["name"], given["peer"])),
    Row(Routes.PEER_DELETE, lambda daemon, given: daemon.delete(given["name"], given["peer"])),
    Row(Routes.PROBE, lambda daemon, given: daemon.probe(given["name"])),
    Row(Routes.RELOAD, lambda daemon, _: daemon.reload()),
    Row(Routes.LOG, lambda daemon, given: daemon.log(last_of(given))),
    Row(Routes.EVENTS, lambda daemon, _: daemon.follow()),
)


def find(method: str, target: str) -> tuple[Row, Parameters]:
    """The row of a request, and its parameters; `ControlError` where there is none."""
    path, _, query = target.partition("?")
    wanted = "GET" if method == "HEAD" else method
    for row in TABLE:
        names = row.names(path)
        if names is not None and row.route.method == wanted:
            return row, {**parameters_of(query), **names}
    others, asked = methods(target), f"{method[:20]} {path[:200]}"
    code = ErrorCode.UNKNOWN_METHOD if others else ErrorCode.UNKNOWN_PATH
    text = f"{asked}: use {' or '.join(others)}" if others else f"{asked}: there is no such path"
    raise ControlError(code, text, f"moat and moatd must be of the same version: {Remedy.VERSIONS}")


def methods(target: str) -> list[str]:
    """Those with which a path can be asked."""
    return [row.route.method for row in TABLE if row.names(target.partition("?")[0]) is not None]


def parameters_of(query: str) -> dict[str, str]:
    """The parameters of a query; of one that is repeated the last."""
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS))
    except ValueError:
        text = f"at most {MAX_PARAMETERS} parameters; there are more"
        raise ControlError(ErrorCode.BAD_REQUEST, text) from None


async def server_sent(entries: AsyncIterator[Entry]) -> AsyncIterator[bytes]:
    """Server-sent events; a comment first, so that the caller sees at once that the stream has begun."""
    yield b": moatd\n\n"
    async for one in entries:
        yield b"id: %d\nevent: %s\ndata: %s\n\n" % (one.number, one.kind.encode(), one.to_json())
