"""What commands ask of moatd. Imported by a command when it runs: help and completion of words must not pay for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from openmoat.cli.common import INTERRUPTED, Call, ExitCode, end, fail
from openmoat.control.client import Client
from openmoat.control.messages import ConnectionStatus, Message
from openmoat.errors import ControlError

__all__ = ["asking", "daemon_answers", "show", "show_connection", "wait_until_up"]

POLL_SECONDS = 0.25


@contextmanager
def asking(*, as_json: bool, note: str = "") -> Iterator[Client]:
    """A client whose failures end the command with their text and exit code.

    `note` is added where no connection of this name was found.
    """
    try:
        with Client(Call.socket) as client:
            yield client
    except ControlError as error:
        codes = {"no-daemon": ExitCode.NO_DAEMON, "bad-reply": ExitCode.NO_DAEMON, "configuration": ExitCode.FAULTY}
        if note and error.code in {"no-daemon", "unknown-connection"}:
            error = ControlError(error.code, f"{error}{note}", error.hint)
        fail(codes.get(error.code, ExitCode.REFUSED), error, as_json=as_json)
    except KeyboardInterrupt:
        end(INTERRUPTED)


def show(message: Message, text: str, *, as_json: bool) -> None:
    """A reply, for programs or for people."""
    print(message.to_json().decode() if as_json else text)


def daemon_answers() -> str | None:
    """Version of the moatd on the socket; None where none answers us."""
    try:
        with Client(Call.socket, timeout=2.0) as client:
            return client.version().version
    except ControlError as error:
        # A daemon that refuses us, or that we do not understand, is there all the same.
        return None if error.code == "no-daemon" else "?"


def wait_until_up(client: Client, name: str, began: float, wait: float) -> ConnectionStatus:
    """Ask again and again until it is up, an attempt since `began` has failed, or the time is over."""
    while True:
        found = client.connection(name)
        has_failed = found.failure is not None and found.failure.at >= began
        if found.is_up or has_failed or time.time() >= began + wait:
            return found
        time.sleep(POLL_SECONDS)


def show_connection(found: ConnectionStatus, *, as_json: bool) -> None:
    """One connection; the exit code tells whether it is up."""
    from openmoat.cli.screens import connection_screen

    show(found, connection_screen(found, time.time()), as_json=as_json)
    if not found.is_up:
        end(ExitCode.NOT_UP)
