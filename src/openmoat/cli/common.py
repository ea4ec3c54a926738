"""What the commands share: exit codes, options, a client, and how replies and errors are shown."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from openmoat.errors import ControlError

if TYPE_CHECKING:
    from openmoat.control.client import Client
    from openmoat.control.messages import Message

__all__ = [
    "EXIT_HELP",
    "Call",
    "ExitCode",
    "Json",
    "Name",
    "asking",
    "become_root",
    "complete_connection",
    "daemon_answers",
    "default_socket",
    "fail",
    "print_json_or_text",
    "show",
]


class ExitCode(IntEnum):
    """What a script may rely on."""

    OK = 0
    REFUSED = 1
    """moatd, or this host, refused; the text says why."""
    USAGE = 2
    """The command line is wrong."""
    NO_DAEMON = 3
    """Nobody answers on the control socket."""
    FAULTY = 4
    """The configuration has faults."""
    NOT_UP = 5
    """The connection that was asked for is not up."""


EXIT_HELP = (
    "Exit codes: 0 done; 1 refused; 2 wrong command line; 3 no moatd answers; 4 faults in the configuration;"
    " 5 the connection asked for is not up."
)


class Call:
    """Options of every command, kept for the command that runs."""

    socket = ""


def complete_connection(incomplete: str) -> list[str]:
    """Names of connections for the shell; none where no daemon answers."""
    from openmoat.control.client import Client

    try:
        with Client(Call.socket or default_socket(), timeout=1.0) as client:
            names = [connection.name for connection in client.connections().connections]
    except ControlError:
        return []
    return [name for name in names if name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="Name of a connection.", autocompletion=complete_connection)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object with the name of its schema.")]


def become_root() -> str:
    """What to do where the host refused, as a hint."""
    return "become root" if os.geteuid() else ""


def default_socket() -> str:
    """Where moatd listens unless it was told otherwise."""
    return "/run/openmoat/control.sock"


@contextmanager
def asking(*, as_json: bool) -> "Iterator[Client]":
    """A client whose failures end the command with their text and exit code."""
    from openmoat.control.client import Client

    try:
        with Client(Call.socket) as client:
            yield client
    except ControlError as error:
        codes = {"no-daemon": ExitCode.NO_DAEMON, "bad-reply": ExitCode.NO_DAEMON, "configuration": ExitCode.FAULTY}
        fail(codes.get(error.code, ExitCode.REFUSED), error, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None  # as the shell says of a command ended by Ctrl-C


def show(message: "Message", text: str, *, as_json: bool) -> None:
    """A reply, for programs or for people."""
    print(message.to_json().decode() if as_json else text)


def print_json_or_text(fields: dict[str, Any], text: str, *, as_json: bool) -> None:
    """The same for what comes from no daemon."""
    print(json.dumps(fields) if as_json else text)


def daemon_answers() -> str | None:
    """Version of the moatd on the socket; None where none answers us."""
    from openmoat.control.client import Client

    try:
        with Client(Call.socket, timeout=2.0) as client:
            return client.version().version
    except ControlError as error:
        # A daemon that refuses us, or that we do not understand, is there all the same.
        return None if error.code == "no-daemon" else "?"


def fail(code: ExitCode, error: ControlError, *, as_json: bool) -> NoReturn:
    """End with an error: what, and what to do."""
    if as_json:
        fields = {"schema": "moat.error/1", "code": error.code, "text": str(error), "hint": error.hint}
        print(json.dumps(fields))
    else:
        typer.echo(f"moat: {error}" + (f"\nnext: {error.hint}" if error.hint else ""), err=True)
    raise typer.Exit(code)
