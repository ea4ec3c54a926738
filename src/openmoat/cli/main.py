"""`moat`: asks a running `moatd`, or does what needs none. Heavy libraries are imported by the command that needs them.

Exit codes: see `ExitCode`.
"""

import errno
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmoat.cli.common import (
    EXIT_HELP,
    Call,
    ExitCode,
    Json,
    Name,
    asking,
    become_root,
    complete_connection,
    daemon_answers,
    default_socket,
    fail,
    print_json_or_text,
    show,
)
from openmoat.cli.lazy import MoatGroup
from openmoat.errors import ConfigError, ControlError, SystemFault

if TYPE_CHECKING:
    from openmoat.control.client import Client
    from openmoat.control.messages import ConnectionStatus

__all__ = ["app", "main"]

POLL_SECONDS = 0.25
UNWRITABLE = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What may happen to output where it is sent."""

app = typer.Typer(
    name="moat",
    cls=MoatGroup,
    help="IPsec tunnels of this host: what is, why, and what to do next.",
    epilog=EXIT_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def common(
    socket: Annotated[
        str, typer.Option(envvar="MOAT_SOCKET", help="Control socket of moatd.", show_default=False)
    ] = "",
) -> None:
    """Keep what all commands share."""
    Call.socket = socket or default_socket()


@app.command(epilog=EXIT_HELP)
def up(
    connection: Name,
    wait: Annotated[float, typer.Option(help="Seconds to wait until it is up; 0 does not wait.", min=0.0)] = 30.0,
    as_json: Json = False,
) -> None:
    """Begin a connection, and say what came of it."""
    began = time.time()
    with asking(as_json=as_json) as client:
        done = client.up(connection)
        status = wait_until_up(client, connection, began, wait) if wait else None
    if status is None:
        show(done, done.text, as_json=as_json)
        return
    show_connection(status, as_json=as_json)


@app.command(epilog=EXIT_HELP)
def down(connection: Name, as_json: Json = False) -> None:
    """End a connection and keep it down.

    It stays down over reloads, until `moat up` or until its configuration changes.
    """
    with asking(as_json=as_json) as client:
        done = client.down(connection)
    show(done, done.text, as_json=as_json)


@app.command(epilog=EXIT_HELP)
def status(
    connection: Annotated[
        str | None, typer.Argument(help="One connection, in detail.", autocompletion=complete_connection)
    ] = None,
    as_json: Json = False,
) -> None:
    """What is, since when, why, and the next command.

    Of one connection also why its last negotiation failed: what came, and the nearest connections.
    """
    from openmoat.cli.screens import status_screen

    with asking(as_json=as_json) as client:
        if connection is not None:
            one = client.connection(connection)
        else:
            whole = client.status()
    if connection is not None:
        show_connection(one, as_json=as_json)
    else:
        show(whole, status_screen(whole), as_json=as_json)


@app.command(epilog=EXIT_HELP)
def connections(as_json: Json = False) -> None:
    """All connections, one line each."""
    from openmoat.cli.screens import connections_screen

    with asking(as_json=as_json) as client:
        found = client.connections()
    show(found, connections_screen(found, time.time()), as_json=as_json)


@app.command(epilog=EXIT_HELP)
def events(as_json: Json = False) -> None:
    """Follow what happens, until you end it.

    With --json one object a line.
    """
    from openmoat.cli.screens import entry_line

    with asking(as_json=as_json) as client:
        for entry in client.events():
            print(entry.to_json().decode() if as_json else entry_line(entry), flush=True)


@app.command(epilog=EXIT_HELP)
def log(
    last: Annotated[int, typer.Option(help="How many of the newest lines.", min=1, max=1000)] = 50,
    as_json: Json = False,
) -> None:
    """What happened lately.

    Older lines are in the journal of the system.
    """
    from openmoat.cli.screens import entry_line

    with asking(as_json=as_json) as client:
        found = client.log(last)
    show(found, "\n".join(entry_line(entry) for entry in found.entries), as_json=as_json)


@app.command(epilog=EXIT_HELP)
def reload(as_json: Json = False) -> None:
    """Read the configuration again.

    What did not change is not touched.
    """
    from openmoat.cli.screens import reloaded_screen

    with asking(as_json=as_json) as client:
        reloaded = client.reload()
    show(reloaded, reloaded_screen(reloaded), as_json=as_json)


@app.command(epilog=EXIT_HELP)
def cleanup(
    force: Annotated[bool, typer.Option("--force", help="Also while moatd answers.")] = False, as_json: Json = False
) -> None:
    """Remove what a stopped moatd left behind.

    Routes, rules and firewall entries that keep protected traffic from leaving in clear stay until then.
    """
    from openmoat.system.reconcile import Reconciler

    if not force and daemon_answers():
        running = ControlError("busy", "moatd is running and would put it back", "systemctl stop moatd")
        fail(ExitCode.REFUSED, running, as_json=as_json)
    try:
        done = Reconciler().cleanup()
    except SystemFault as error:
        fail(ExitCode.REFUSED, ControlError("not-permitted", str(error), become_root()), as_json=as_json)
    print_json_or_text(
        {"schema": "moat.cleanup/1", "written": done.written, "settings": list(done.settings)},
        "\n".join([f"{done.written} changes; protected traffic is no longer held back", *done.settings]),
        as_json=as_json,
    )


@app.command(epilog=EXIT_HELP)
def version(as_json: Json = False) -> None:
    """Versions of moat and of the moatd that answers."""
    from openmoat import __version__

    daemon = daemon_answers()
    fields = {"schema": "moat.version/1", "version": __version__, "daemon": daemon}
    print_json_or_text(fields, f"moat {__version__}, moatd {daemon or 'does not answer'}", as_json=as_json)


@app.command(epilog=EXIT_HELP)
def check(
    file: Annotated[str, typer.Argument(help="Configuration to read.")] = "/etc/openmoat/moat.toml",
    as_json: Json = False,
) -> None:
    """Read a configuration and tell all its faults.

    It is read as moatd would, with all files that it names. Nothing is changed.
    """
    from openmoat.cli.init import USER
    from openmoat.cli.reader import reading_as
    from openmoat.config.toml import load

    try:
        with reading_as(USER, Path(file).parent):
            found = load(file)
    except ConfigError as error:
        faults = [{"file": fault.file, "line": fault.line, "text": fault.text} for fault in error.faults]
        number = len(faults)
        text = f"{error}\n{number} fault{'s' if number > 1 else ''}"
        print_json_or_text({"schema": "moat.check/1", "ok": False, "faults": faults}, text, as_json=as_json)
        raise typer.Exit(ExitCode.FAULTY) from None
    names = sorted(found.connections)
    text = f"{file}: no faults; {len(names)} connection{'s' if len(names) != 1 else ''}"
    print_json_or_text(
        {"schema": "moat.check/1", "ok": True, "faults": [], "connections": names}, text, as_json=as_json
    )


@app.command(epilog=EXIT_HELP)
def init(
    directory: Annotated[Path, typer.Option(help="Where configuration and key go.", readable=False)] = Path(
        "/etc/openmoat"
    ),
    identity: Annotated[str, typer.Option(help="Who this host says it is; its full name by default.")] = "",
    unit: Annotated[str, typer.Option(help="Unit file for systemd; empty makes none.")] = (
        "/etc/systemd/system/moatd.service"
    ),
    users: Annotated[bool, typer.Option(help="Make the user moatd and the group moat.")] = True,
    as_json: Json = False,
) -> None:
    """Make this host ready for moatd.

    User and groups, a key, a first configuration and the systemd unit, where they are not there yet.
    """
    from openmoat.cli.init import initialize

    try:
        done = initialize(directory, Path(unit) if unit else None, identity, with_users=users)
    except SystemFault as error:
        fail(ExitCode.REFUSED, ControlError("not-permitted", str(error), become_root()), as_json=as_json)
    lines = [
        *(done.steps or ("everything was there already",)),
        *(f"warning: {warning}" for warning in done.warnings),
        f'the other side needs, as its peer: identity = "{done.identity}"',
        f'                                   key = "{done.public_key}"',
        f"next: write a connection into {directory}/moat.toml, then: systemctl enable --now moatd",
    ]
    fields = {"schema": "moat.init/1", "steps": done.steps, "identity": done.identity, "key": done.public_key}
    fields["warnings"] = done.warnings
    print_json_or_text(fields, "\n".join(lines), as_json=as_json)


def main() -> None:
    """Entry point of the command `moat`."""
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        if error.errno != errno.EPIPE:  # whoever reads has seen enough
            typer.echo(f"moat: output: {error.strerror}", err=True)
        # What is left in the buffer cannot be written at the end either.
        os._exit(ExitCode.REFUSED)


def wait_until_up(client: "Client", name: str, began: float, wait: float) -> "ConnectionStatus":
    """Ask again and again until it is up, an attempt since `began` has failed, or the time is over."""
    while True:
        found = client.connection(name)
        has_failed = found.failure is not None and found.failure.at >= began
        if found.state.value in {"up", "rekeying"} or has_failed or time.time() >= began + wait:
            return found
        time.sleep(POLL_SECONDS)


def show_connection(found: "ConnectionStatus", *, as_json: bool) -> None:
    """One connection; the exit code tells whether it is up."""
    from openmoat.cli.screens import connection_screen

    show(found, connection_screen(found, time.time()), as_json=as_json)
    if found.state.value not in {"up", "rekeying"}:
        raise typer.Exit(ExitCode.NOT_UP)
