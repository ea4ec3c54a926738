"""`moat`: asks a running `moatd`, or does what needs none. Heavy libraries are imported by the command that needs them.

Exit codes: see `ExitCode`.
"""

import errno
import os
import sys
import time
from pathlib import Path

import click

from openmoat.cli.common import (
    MAY_NOT_BE_UP,
    NEEDS_DAEMON,
    Call,
    ConnectionName,
    ExitCode,
    Integer,
    Number,
    become_root,
    default_socket,
    end,
    fail,
    json_option,
    print_json_or_text,
)
from openmoat.cli.lazy import MoatGroup
from openmoat.errors import ConfigError, ControlError, SystemFault
from openmoat.places import CONFIGURATION, CONFIGURATION_DIRECTORY, UNIT_FILE

__all__ = ["app", "main"]

UNWRITABLE = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What may happen to output where it is sent."""

connection_argument = click.argument("connection", type=ConnectionName(), help="Name of a connection.")

peer_option = click.option(
    "--peer", metavar="IDENTITY", help="Only this peer, by its identity as `moat status` shows it."
)


def show_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """Before a command is asked for: `--version` needs none."""
    if wanted and not context.resilient_parsing:
        from openmoat import __version__

        print(f"moat {__version__}")
        context.exit(ExitCode.OK)


@click.group(name="moat", cls=MoatGroup, no_args_is_help=True)
@click.option("--socket", envvar="MOAT_SOCKET", show_envvar=True, help="Control socket of moatd.", metavar="PATH")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version of moat and exit.",
)
def app(socket: str | None) -> None:
    """Set up, watch and repair the IPsec tunnels of this host."""
    Call.socket = socket or default_socket()


@app.command(
    exits=MAY_NOT_BE_UP,
    examples={
        "moat up office": "start it and wait until it is up",
        "moat up office --wait 0": "start it and return at once",
    },
)
@connection_argument
@click.option("--wait", default=30.0, type=Number(min=0), metavar="SECONDS", help="Seconds to wait; 0 does not wait.")
@json_option
def up(connection: str, wait: float, as_json: bool) -> None:
    """Start a connection and report the result."""
    from openmoat.cli.asking import asking, show, show_connection, wait_until_up

    began = time.time()
    with asking(as_json=as_json) as client:
        done = client.up(connection)
        status = wait_until_up(client, connection, began, wait) if wait else None
    if status is None:
        show(done, done.text, as_json=as_json)
        return
    show_connection(status, as_json=as_json)


@app.command(
    exits=NEEDS_DAEMON,
    examples={
        "moat down office": "stop it",
        "moat down homes --peer anna.homes.example": "stop one peer of a template; the others stay",
    },
)
@connection_argument
@peer_option
@json_option
def down(connection: str, peer: str | None, as_json: bool) -> None:
    """Stop a connection, or one peer of it, and keep it down.

    It stays down, also after a reload, until `moat up` or until its configuration changes.
    """
    from openmoat.cli.asking import asking, show

    with asking(as_json=as_json) as client:
        done = client.down(connection) if peer is None else client.down_peer(connection, peer)
    show(done, done.text, as_json=as_json)


@app.command(
    exits=NEEDS_DAEMON,
    examples={
        "moat rekey office": "new keys for the IKE SA and all Child SAs",
        "moat rekey homes --peer anna.homes.example": "the same for one peer of a template",
    },
)
@connection_argument
@peer_option
@json_option
def rekey(connection: str, peer: str | None, as_json: bool) -> None:
    """Replace the keys of a connection, or of one peer of it.

    Traffic goes on while new SAs replace the old ones.
    """
    from openmoat.cli.asking import asking, show

    with asking(as_json=as_json) as client:
        done = client.rekey(connection) if peer is None else client.rekey_peer(connection, peer)
    show(done, done.text, as_json=as_json)


@app.command(exits=NEEDS_DAEMON, examples={"moat delete homes --peer anna.homes.example": "delete its SAs"})
@connection_argument
@click.option("--peer", required=True, metavar="IDENTITY", help="Identity of the peer, as `moat status` shows it.")
@json_option
def delete(connection: str, peer: str, as_json: bool) -> None:
    """Delete the SAs with one peer.

    The peer may come back at once, and a connection that is kept up starts again. `moat down` keeps it down.
    """
    from openmoat.cli.asking import asking, show

    with asking(as_json=as_json) as client:
        done = client.delete_peer(connection, peer)
    show(done, done.text, as_json=as_json)


@app.command(
    exits=MAY_NOT_BE_UP,
    examples={
        "moat status": "all connections; those with a problem come first",
        "moat status office": "one connection, and why its last negotiation failed",
        "moat status office --json": "the same for a script; exit code 5: not up",
    },
)
@click.argument("connection", type=ConnectionName(), required=False, help="Show this connection in detail.")
@json_option
def status(connection: str | None, as_json: bool) -> None:
    """Show what is up, what is not, why, and what to do.

    For one connection also why its last negotiation failed: what was received, and which connection came closest.
    """
    from openmoat.cli.asking import asking, show, show_connection
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


@app.command(exits=NEEDS_DAEMON, examples={"moat connections --json | jq '.connections[].state'": "for a script"})
@json_option
def connections(as_json: bool) -> None:
    """List all connections, one line each."""
    from openmoat.cli.asking import asking, show
    from openmoat.cli.screens import connections_screen

    with asking(as_json=as_json) as client:
        found = client.connections()
    show(found, connections_screen(found, time.time()), as_json=as_json)


@app.command(
    exits=NEEDS_DAEMON, examples={"moat events": "follow until Ctrl-C", "moat events --json": "one object a line"}
)
@json_option
def events(as_json: bool) -> None:
    """Print log entries as they are made.

    It goes on until it is interrupted or moatd stops.
    """
    from openmoat.cli.asking import asking
    from openmoat.cli.screens import entry_line

    with asking(as_json=as_json) as client:
        for entry in client.events():
            print(entry.to_json().decode() if as_json else entry_line(entry), flush=True)


@app.command(exits=NEEDS_DAEMON, examples={"moat log --last 200": "the 200 newest entries"})
@click.option("--last", default=50, type=Integer(1, 1000), metavar="N", help="How many entries.")
@json_option
def log(last: int, as_json: bool) -> None:
    """Show recent log entries.

    Older ones are in the journal of the system: journalctl --unit moatd.
    """
    from openmoat.cli.asking import asking, show
    from openmoat.cli.screens import entry_line

    with asking(as_json=as_json) as client:
        found = client.log(last)
    show(found, "\n".join(entry_line(entry) for entry in found.entries), as_json=as_json)


@app.command(
    exits=NEEDS_DAEMON | {ExitCode.FAULTY},
    name="reload",
    examples={"moat check && moat reload": "check the configuration, then use it"},
)
@json_option
def reload_(as_json: bool) -> None:
    """Read the configuration again.

    What has not changed is not touched. Where the configuration has an error, nothing is changed.
    """
    from openmoat.cli.asking import asking, show
    from openmoat.cli.screens import reloaded_screen

    with asking(as_json=as_json) as client:
        reloaded = client.reload()
    show(reloaded, reloaded_screen(reloaded), as_json=as_json)


@app.command(examples={"systemctl stop moatd; moat cleanup": "let protected traffic leave unencrypted again"})
@click.option("--force", is_flag=True, help="Also while moatd is running.")
@json_option
def cleanup(force: bool, as_json: bool) -> None:
    """Remove what a stopped moatd left behind (root).

    Its routes, rules and firewall entries keep protected traffic from leaving unencrypted until then.
    """
    from openmoat.cli.asking import daemon_answers
    from openmoat.control.remedies import Remedy
    from openmoat.system.reconcile import Reconciler

    if not force and daemon_answers():
        running = ControlError("busy", "moatd is running and would put it back", Remedy.STOP_DAEMON)
        fail(ExitCode.REFUSED, running, as_json=as_json)
    try:
        done = Reconciler().cleanup()
    except SystemFault as error:
        fail(ExitCode.REFUSED, ControlError("not-permitted", str(error), become_root()), as_json=as_json)
    print_json_or_text(
        {"schema": "moat.cleanup/1", "written": done.written, "settings": list(done.settings)},
        "\n".join([f"{done.written} changes; protected traffic is no longer blocked", *done.settings]),
        as_json=as_json,
    )


@app.command()
@json_option
def version(as_json: bool) -> None:
    """Show the versions of moat and of the running moatd."""
    from openmoat import __version__
    from openmoat.cli.asking import daemon_answers

    daemon = daemon_answers()
    fields = {"schema": "moat.version/1", "version": __version__, "daemon": daemon}
    print_json_or_text(fields, f"moat {__version__}, moatd {daemon or 'does not answer'}", as_json=as_json)


@app.command(
    exits={ExitCode.FAULTY},
    examples={
        "moat check": "the configuration of this host",
        "moat check ./moat.toml": "another file",
    },
)
@click.argument("file", default=CONFIGURATION, help="Configuration to read.")
@json_option
def check(file: str, as_json: bool) -> None:
    """Check a configuration and report all errors.

    It is read as moatd would read it, with all files that it names. Nothing is changed.
    """
    from openmoat.cli.init import USER
    from openmoat.cli.reader import reading_as
    from openmoat.config.conflicts import check as read
    from openmoat.control.remedies import Remedy

    try:
        with reading_as(USER, Path(file).parent):
            found = read(file)
    except ConfigError as error:
        faults = [
            {"file": fault.file, "line": fault.line, "path": fault.path, "text": fault.text} for fault in error.faults
        ]
        number = len(faults)
        text = f"{error}\n{number} error{'s' if number > 1 else ''}"
        print_json_or_text({"schema": "moat.check/1", "ok": False, "faults": faults}, text, as_json=as_json)
        if file == CONFIGURATION and not os.path.lexists(file) and not as_json:
            print(f"next: this host is not set up yet; as root: {Remedy.INIT}", file=sys.stderr)
        end(ExitCode.FAULTY)
    names = sorted(found.connections)
    text = f"{file}: no errors; {len(names)} connection{'s' if len(names) != 1 else ''}"
    print_json_or_text(
        {"schema": "moat.check/1", "ok": True, "faults": [], "connections": names}, text, as_json=as_json
    )
    if not names and not as_json:
        print(
            f"next: write a connection into it, as docs/guide/configuration.md shows; then {Remedy.RELOAD}",
            file=sys.stderr,
        )


@app.command(
    examples={
        "moat init": "with the full name of this host as its identity",
        "moat init --identity gw.example": "with another identity",
    }
)
@click.option(
    "--directory",
    default=Path(CONFIGURATION_DIRECTORY),
    type=click.Path(path_type=Path),
    help="Where the configuration and the key go.",
)
@click.option("--identity", default="", help="Identity of this host; its full name by default.")
@click.option("--unit", default=UNIT_FILE, help="Unit file for systemd; empty makes none.")
@click.option("--users/--no-users", default=True, help="Make the user moatd and the group moat.")
@json_option
def init(directory: Path, identity: str, unit: str, users: bool, as_json: bool) -> None:
    """Prepare this host for moatd (root).

    Makes the user and the groups, a key, a first configuration and the systemd unit, each only where it is missing.
    """
    from openmoat.cli.init import initialize
    from openmoat.control.remedies import Remedy

    try:
        done = initialize(directory, Path(unit) if unit else None, identity, with_users=users)
    except SystemFault as error:
        fail(ExitCode.REFUSED, ControlError("not-permitted", str(error), become_root()), as_json=as_json)
    start = Remedy.ENABLE_DAEMON if unit else f"moatd --config {directory}/moat.toml"
    lines = [
        *(done.steps or ("everything was there already",)),
        *(f"warning: {warning}" for warning in done.warnings),
        f'the other side needs, as its peer: identity = "{done.identity}"',
        f'                                   key = "{done.public_key}"',
        f"next: write a connection into {directory}/moat.toml, then: {start}",
    ]
    fields = {"schema": "moat.init/1", "steps": done.steps, "identity": done.identity, "key": done.public_key}
    fields["warnings"] = done.warnings
    print_json_or_text(fields, "\n".join(lines), as_json=as_json)


@app.command(
    examples={
        "moat completion bash > /etc/bash_completion.d/moat": "for all users of bash",
        'eval "$(moat completion zsh)"': "for this zsh",
    }
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), help="For which shell.")
def completion(shell: str) -> None:
    """Print a completion script for a shell.

    It completes commands, options and the names of connections.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is not None:
        print(found(app, {}, "moat", "_MOAT_COMPLETE").source())


@app.command(name="help", examples={"moat help mtu probe": "the same as: moat mtu probe --help"})
@click.argument("command", nargs=-1, help="Command to explain; none: all of them.")
@click.pass_context
def help_(context: click.Context, command: tuple[str, ...]) -> None:
    """Explain a command."""
    end(app.main([*command, "--help"], prog_name=context.find_root().info_name, standalone_mode=False) or ExitCode.OK)


def main() -> None:
    """Entry point of the command `moat`."""
    try:
        try:
            app(prog_name="moat")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        if error.errno != errno.EPIPE:  # a reader that is gone has seen enough
            click.echo(f"moat: output: {error.strerror}", err=True)
        # What is left in the buffer cannot be written at the end either.
        os._exit(ExitCode.REFUSED)
