"""`moat lab`: networks in namespaces on this machine, to look around and to try things out."""

import json
import time
from collections.abc import Callable
from typing import NoReturn

import click

from openmoat.cli.common import ExitCode, Group, end, fail, json_option
from openmoat.errors import ControlError

__all__ = ["app", "command"]

app = Group(name="lab", help="Networks in namespaces on this machine (root).", no_args_is_help=True)


def only(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option that selects entries of a list by name; without it all are selected."""
    return click.option(f"--{name}", multiple=True, help="Only this; repeat for more. A wrong name lists all.")


def command() -> click.Command:
    """The group of commands, for the group `openmoat.commands` of entry points."""
    return app


@app.command(examples={"moat lab up homes --name test": "start one network", "moat lab down test": "remove it"})
@click.argument("network", default="homes", help="Which network; `moat lab list` names them.")
@click.option("--name", help="Name of the lab: up to 12 lower case letters and digits.")
def up(network: str, name: str | None) -> None:
    """Start a network and leave it up."""
    from openmoat_lab.namespaces import Lab
    from openmoat_lab.networks import NETWORKS
    from openmoat_lab.processes import LabError, end_in_order

    end_in_order()
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


@app.command(name="list")
@json_option
def show(as_json: bool) -> None:
    """Show labs that are up, and networks that can be started."""
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
        owner = (
            "left by a program that was killed"
            if entry.is_stale
            else f"of process {entry.pid}"
            if entry.pid
            else "kept"
        )
        print(f"{entry.name:12} {entry.topology:16} {owner}: {', '.join(entry.hosts)}")
    if not entries:
        print("no lab is up")
    print(f"networks: {', '.join(NETWORKS)}; start one: moat lab up NETWORK")


@app.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("name", help="Name of the lab.")
@click.argument("host", help="Host of it.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, help="Command; a shell where none is given.")
def execute(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command, or a shell, on a host of a lab."""
    from openmoat_lab.namespaces import enter
    from openmoat_lab.processes import LabError

    try:
        enter(name, host, list(command))
    except LabError as error:
        _end(str(error))


@app.command()
@click.argument("name", required=False, help="Name of the lab; none: all labs that killed programs have left.")
def down(name: str | None) -> None:
    """Remove a lab: its processes, namespaces and files."""
    from openmoat_lab.namespaces import labs, remove, remove_stale
    from openmoat_lab.processes import LabError

    try:
        if name is None:
            print(f"removed: {', '.join(remove_stale()) or 'nothing'}")
        elif name not in {entry.name for entry in labs()}:
            _end(f"no lab {name!r} is up; moat lab list shows them")
        else:
            remove(name)
            print(f"{name} is down")
    except LabError as error:
        _end(str(error))


@app.command()
@only("path")
@only("policy")
@click.option("--class", "server", multiple=True, help="Kind of server; repeat for more.")
@only("inner")
@only("outer")
@only("peer")
@click.option("--quick", is_flag=True, help="The least that shows whether the promise is kept.")
@json_option
@click.option("--markdown", "as_markdown", is_flag=True, help="The tables as the guide has them.")
def zoo(*, quick: bool, as_json: bool, as_markdown: bool, **chosen: tuple[str, ...]) -> None:
    """See which servers can be reached through the tunnel.

    Tries kinds of servers under our policies over bad paths. Needs root. Without a selection it tries everything, which takes some minutes. Exit code 1 if anything that is promised does not arrive.
    """
    from openmoat_lab.processes import LabError, end_in_order
    from openmoat_lab.zoo.results import broken, to_json, to_markdown, to_text
    from openmoat_lab.zoo.run import Options, run

    start = time.monotonic()
    end_in_order()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - start:6.1f} s  {text}", err=True)

    try:
        options = Options(
            paths=chosen["path"],
            policies=chosen["policy"],
            servers=chosen["server"],
            inners=chosen["inner"],
            outers=chosen["outer"],
            peers=chosen["peer"],
            is_quick=quick,
        )
        rows = run(options, say)
    except ValueError as error:
        fail(ExitCode.USAGE, ControlError("bad-request", str(error), "moat lab zoo --help"), as_json=as_json)
    except (LabError, OSError) as error:
        fail(ExitCode.REFUSED, ControlError("not-permitted", str(error)), as_json=as_json)
    print((to_json if as_json else to_markdown if as_markdown else to_text)(rows))
    if broken(rows):
        end(1)


def _end(text: str) -> NoReturn:
    fail(ExitCode.REFUSED, ControlError("not-permitted", text), as_json=False)
