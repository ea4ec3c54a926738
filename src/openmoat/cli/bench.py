"""`moat bench`: this machine's figures, ours beside those of others. Measures by `openmoat.lab.bench`, which it imports late."""

import time
from collections.abc import Sequence
from pathlib import Path

import typer

from openmoat.cli.common import ExitCode, fail
from openmoat.errors import ControlError

__all__ = ["measure"]


def measure(
    works: Sequence[str],
    subjects: Sequence[str],
    *,
    rounds: int,
    seconds: int,
    is_quick: bool,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Run it and print the table, or one JSON object."""
    from openmoat.lab.bench.run import Options, bench, draw
    from openmoat.lab.processes import LabError

    start = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"{time.monotonic() - start:7.1f} s  {text}", err=True)

    if svg and not svg.parent.is_dir():
        missing = ControlError("bad-request", f"{svg}: there is no directory {svg.parent}", "moat bench --help")
        fail(ExitCode.USAGE, missing, as_json=as_json)
    options = Options(works=tuple(works), subjects=tuple(subjects), rounds=rounds, seconds=seconds, is_quick=is_quick)
    try:
        report = bench(options, say)
        if svg:
            svg.write_text(draw(report))
    except ValueError as error:
        fail(ExitCode.USAGE, ControlError("bad-request", str(error), "moat bench --help"), as_json=as_json)
    except (LabError, OSError) as error:
        fail(ExitCode.REFUSED, ControlError("not-permitted", str(error), ""), as_json=as_json)
    print(report.to_json() if as_json else report.table())
