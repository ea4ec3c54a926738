"""`moat bench`: this machine's figures, ours beside those of others."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from openmoat.cli.common import EXIT_HELP, ExitCode, Json, fail
from openmoat.errors import ControlError

__all__ = ["app", "command"]

app = typer.Typer(name="bench", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def command() -> Any:
    """The command, for the group `openmoat.commands` of entry points."""
    return typer.main.get_command(app)


@app.command("bench", epilog=EXIT_HELP)
def measure(
    quick: Annotated[
        bool, typer.Option("--quick", help="The main rows and some handshakes, in three minutes.")
    ] = False,
    work: Annotated[list[str] | None, typer.Option(help="What is done, by name or beginning: udp-64, tcp.")] = None,
    subject: Annotated[
        list[str] | None, typer.Option(help="Who is measured; everybody who is here by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each takes its turn.", min=1)] = 3,
    seconds: Annotated[int, typer.Option(help="Of one transfer.", min=1)] = 2,
    svg: Annotated[Path | None, typer.Option(help="Draw the main rows into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure our tunnel beside those of others (root).

    They take turns, in namespaces on this machine. What is not installed is named. Progress goes to standard error; the figures never make it fail.
    """
    from openmoat_lab.bench.run import Options, bench, draw
    from openmoat_lab.processes import LabError

    start = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"{time.monotonic() - start:7.1f} s  {text}", err=True)

    if svg and not svg.parent.is_dir():
        missing = ControlError("bad-request", f"{svg}: there is no directory {svg.parent}", "moat bench --help")
        fail(ExitCode.USAGE, missing, as_json=as_json)
    options = Options(
        works=tuple(work or ()), subjects=tuple(subject or ()), rounds=rounds, seconds=seconds, is_quick=quick
    )
    try:
        report = bench(options, say)
        if svg:
            svg.write_text(draw(report))
    except ValueError as error:
        fail(ExitCode.USAGE, ControlError("bad-request", str(error), "moat bench --help"), as_json=as_json)
    except (LabError, OSError) as error:
        fail(ExitCode.REFUSED, ControlError("not-permitted", str(error), ""), as_json=as_json)
    print(report.to_json() if as_json else report.table())
