"""`moat lab`: networks in namespaces on this machine, to look around in and to try things out."""

import json
import time
from typing import Annotated, Any, NoReturn

import typer

from openmoat.cli.common import ExitCode, fail
from openmoat.errors import ControlError

__all__ = ["app", "command"]

app = typer.Typer(
    name="lab",
    help="Networks in namespaces on this machine (root).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Names = Annotated[list[str] | None, typer.Option(help="Only this; again for more. A wrong name shows all.")]


def command() -> Any:
    """The group of commands, for the group `openmoat.commands` of entry points."""
    return typer.main.get_command(app)


@app.command("up")
def up(
    network: Annotated[str, typer.Argument(help="Which network; `moat lab list` names them.")] = "homes",
    name: Annotated[str | None, typer.Option(help="Name of the lab: up to 12 lower case letters and digits.")] = None,
) -> None:
    """Raise a network and leave it up."""
    from openmoat_lab.namespaces import Lab
    from openmoat_lab.networks import NETWORKS
    from openmoat_lab.processes import LabError

    if network not in NETWORKS:
        _end(f"no network {network!r}; there are: {', '.join(NETWORKS)}")
    try:
        lab = Lab(NETWORKS[network], name)
        lab.up()
        lab.keep()
    except (LabError, ValueError) as error:
        _end(str(error))
    print(f"{lab.name} is up: {', '.join(host.name for host in lab.topology.hosts)}")
    print(f"look around: moat lab exec {lab.name} {lab.topology.hosts[0].name} -- ip address")
    print(f"end it:      moat lab down {lab.name}")


@app.command("list")
def show(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Show labs that are up, and networks to raise."""
    from openmoat_lab.namespaces import labs
    from openmoat_lab.networks import NETWORKS

    entries = labs()
    if as_json:
        rows = [
            {"name": e.name, "network": e.topology, "hosts": e.hosts, "pid": e.pid or None, "stale": e.is_stale}
            for e in entries
        ]
        print(json.dumps({"schema": "moat.lab-list/1", "labs": rows, "networks": sorted(NETWORKS)}))
        return
    for entry in entries:
        owner = "its raiser is gone" if entry.is_stale else f"raised by {entry.pid}" if entry.pid else "kept"
        print(f"{entry.name:12} {entry.topology:16} {owner}: {', '.join(entry.hosts)}")
    if not entries:
        print("no lab is up")
    print(f"networks: {', '.join(NETWORKS)}; raise one: moat lab up NETWORK")


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    name: Annotated[str, typer.Argument(help="Name of the lab.")],
    host: Annotated[str, typer.Argument(help="Host of it.")],
    command: Annotated[list[str] | None, typer.Argument(help="Command; a shell where none is given.")] = None,
) -> None:
    """Run a command, or a shell, on a host of a lab."""
    from openmoat_lab.namespaces import enter
    from openmoat_lab.processes import LabError

    try:
        enter(name, host, command or [])
    except LabError as error:
        _end(str(error))


@app.command("down")
def down(
    name: Annotated[str | None, typer.Argument(help="Name of the lab; none: every lab whose raiser is gone.")] = None,
) -> None:
    """Take a lab down: its processes, namespaces and files."""
    from openmoat_lab.namespaces import labs, remove, remove_stale
    from openmoat_lab.processes import LabError

    try:
        if name is None:
            print(f"removed: {', '.join(remove_stale()) or 'none was stale'}")
        elif name not in {entry.name for entry in labs()}:
            _end(f"no lab {name!r} is up; moat lab list shows them")
        else:
            remove(name)
            print(f"{name} is down")
    except LabError as error:
        _end(str(error))


@app.command("zoo")
def zoo(
    path: Names = None,
    policy: Names = None,
    server: Annotated[list[str] | None, typer.Option("--class", help="Kind of server; again for more.")] = None,
    inner: Names = None,
    outer: Names = None,
    peer: Names = None,
    quick: Annotated[bool, typer.Option("--quick", help="The least that shows whether the promise is kept.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with the name of its schema.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The tables as the guide has them.")] = False,
) -> None:
    """See which servers are reached through the tunnel.

    Kinds of servers, our policies, bad paths outside. Needs root. Everything that is not named is tried: some minutes. Exit code 1 where something that is promised does not arrive.
    """
    from openmoat_lab.processes import LabError
    from openmoat_lab.zoo.results import broken, to_json, to_markdown, to_text
    from openmoat_lab.zoo.run import Options, run

    start = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"{time.monotonic() - start:6.1f} s  {text}", err=True)

    try:
        options = Options(
            paths=path or (),
            policies=policy or (),
            servers=server or (),
            inners=inner or (),
            outers=outer or (),
            peers=peer or (),
            is_quick=quick,
        )
        rows = run(options, say)
    except ValueError as error:
        fail(ExitCode.USAGE, ControlError("bad-request", str(error), "moat lab zoo --help"), as_json=as_json)
    except (LabError, OSError) as error:
        fail(ExitCode.REFUSED, ControlError("not-permitted", str(error)), as_json=as_json)
    print((to_json if as_json else to_markdown if as_markdown else to_text)(rows))
    if broken(rows):
        raise typer.Exit(1)


def _end(text: str) -> NoReturn:
    fail(ExitCode.REFUSED, ControlError("not-permitted", text), as_json=False)
