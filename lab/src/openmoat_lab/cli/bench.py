"""`moat bench`: figures of this machine, for our tunnel and for others."""

import time
from pathlib import Path

import click

from openmoat.cli.common import Command, ExitCode, Integer, fail, json_option
from openmoat.errors import ControlError

__all__ = ["app", "command"]


def command() -> click.Command:
    """The command, for the group `openmoat.commands` of entry points."""
    return app


@click.command(
    "bench",
    cls=Command,
    examples={
        "moat bench --quick": "the main rows",
        "moat bench --work handshakes --json": "one kind of work, for a script",
    },
)
@click.option("--quick", is_flag=True, help="The main rows and some handshakes, in three minutes.")
@click.option("--work", multiple=True, help="What is done, by name or beginning: udp-64, tcp.")
@click.option("--subject", multiple=True, help="Who is measured; everybody who is here by default.")
@click.option("--rounds", default=3, type=Integer(1), help="How often each takes its turn.")
@click.option("--seconds", default=2, type=Integer(1), help="Of one transfer.")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the main rows into this file.")
@json_option
def app(  # one parameter for each option
    work: tuple[str, ...],
    subject: tuple[str, ...],
    rounds: int,
    seconds: int,
    *,
    quick: bool,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Measure our tunnel beside those of others (root).

    All take turns, in network namespaces on this machine. What is not installed is listed as missing. Progress goes to standard error; the figures never make it fail.
    """
    from openmoat_lab.bench.run import Options, bench, draw
    from openmoat_lab.processes import LabError, end_in_order

    start = time.monotonic()
    end_in_order()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - start:7.1f} s  {text}", err=True)

    if svg and not svg.parent.is_dir():
        missing = ControlError("bad-request", f"{svg}: there is no directory {svg.parent}", "moat bench --help")
        fail(ExitCode.USAGE, missing, as_json=as_json)
    options = Options(works=work, subjects=subject, rounds=rounds, seconds=seconds, is_quick=quick)
    try:
        report = bench(options, say)
        if svg:
            svg.write_text(draw(report))
    except ValueError as error:
        fail(ExitCode.USAGE, ControlError("bad-request", str(error), "moat bench --help"), as_json=as_json)
    except (LabError, OSError) as error:
        fail(ExitCode.REFUSED, ControlError("not-permitted", str(error), ""), as_json=as_json)
    print(report.to_json() if as_json else report.table())
