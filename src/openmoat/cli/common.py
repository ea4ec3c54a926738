"""What the commands share: the form of their help, exit codes, options, a client, and how replies and errors are shown."""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn

import click

from openmoat.control.remedies import Remedy
from openmoat.errors import ControlError
from openmoat.places import CONTROL_SOCKET

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = [
    "EXIT_HELP",
    "MAY_NOT_BE_UP",
    "NEEDS_DAEMON",
    "Call",
    "Command",
    "ConnectionName",
    "ExitCode",
    "Group",
    "Integer",
    "Number",
    "become_root",
    "complete_connection",
    "default_socket",
    "end",
    "fail",
    "json_option",
    "print_json_or_text",
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
    """The configuration has errors."""
    NOT_UP = 5
    """The connection that was asked for is not up."""


EXIT_WORDS = {
    ExitCode.OK: "done",
    ExitCode.REFUSED: "refused",
    ExitCode.USAGE: "wrong command line",
    ExitCode.NO_DAEMON: "no moatd answers",
    ExitCode.FAULTY: "errors in the configuration",
    ExitCode.NOT_UP: "the connection is not up",
}
ANY_COMMAND = frozenset({ExitCode.OK, ExitCode.REFUSED, ExitCode.USAGE})
NEEDS_DAEMON = frozenset({ExitCode.NO_DAEMON})
"""Exit codes of a command that asks moatd, besides those of any command."""
MAY_NOT_BE_UP = NEEDS_DAEMON | {ExitCode.NOT_UP}
"""Of one that also reports whether a connection is up."""


def exit_help(codes: Collection[ExitCode]) -> str:
    """The exit codes of a command, in one sentence."""
    return f"Exit codes: {'; '.join(f'{code.value} {word}' for code, word in EXIT_WORDS.items() if code in codes)}."


EXIT_HELP = exit_help(frozenset(ExitCode))
INTERRUPTED = 130
"""As the shell says of a command ended by Ctrl-C."""


SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}
"""Of each command: `--help` shows defaults."""


class Command(click.Command):
    """Its help ends with examples and the exit codes that it may have; `exits` are those besides 0, 1 and 2."""

    def __init__(
        self,
        name: str | None,
        *,
        examples: Mapping[str, str] | None = None,
        exits: Collection[ExitCode] = frozenset(),
        **kwargs: Any,
    ) -> None:
        kwargs["context_settings"] = {**SETTINGS, **kwargs.get("context_settings", {})}
        super().__init__(name, **kwargs)
        self._exits = ANY_COMMAND.union(exits)
        self.examples = examples or {}
        """Command line to what it does."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Below the options."""
        write_examples(self.examples, formatter)
        formatter.write_paragraph()
        formatter.write_text(self.epilog or exit_help(self._exits))


class Group(click.Group):
    """Shows its commands in the order of the file."""

    command_class = Command

    def __init__(self, name: str | None, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**SETTINGS, **kwargs.get("context_settings", {})}
        super().__init__(name, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command that there is not is refused with the nearest of those that there are."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing and not name.startswith("-"):
            raise click.exceptions.NoSuchCommand(name, possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)


def write_examples(examples: Mapping[str, str], formatter: click.HelpFormatter) -> None:
    """One line each."""
    rows: Sequence[tuple[str, str]] = list(examples.items())
    if rows:
        with formatter.section("Examples"):
            formatter.write_dl(rows)


class Call:
    """Options of every command, kept for the command that runs."""

    socket = ""


class ConnectionName(click.ParamType[str]):
    """The name of a connection, which the shell completes."""

    name = "connection"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[Any]]":
        """Those that begin so, of the daemon whose socket the command line names."""
        from click.shell_completion import CompletionItem

        Call.socket = ctx.find_root().params.get("socket") or default_socket()
        return [CompletionItem(name) for name in complete_connection(incomplete)]


class Integer(click.IntRange):
    """A whole number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Says what is wanted where no number is given."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f'"{value}" is not a whole number.', param, ctx)
        return int(super().convert(number, param, ctx))


class Number(click.FloatRange):
    """A number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Says what is wanted where no number is given."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f'"{value}" is not a number.', param, ctx)
        return float(super().convert(number, param, ctx))


def complete_connection(incomplete: str) -> list[str]:
    """Names of connections for the shell; none where no daemon answers."""
    from openmoat.control.client import Client

    try:
        with Client(Call.socket or default_socket(), timeout=1.0) as client:
            names = [connection.name for connection in client.connections().connections]
    except ControlError:
        return []
    return [name for name in names if name.startswith(incomplete)]


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, with the name of its schema."
)


def become_root() -> str:
    """What to do where the host refused, as a hint."""
    return Remedy.BECOME_ROOT if os.geteuid() else ""


def default_socket() -> str:
    """Where moatd listens unless it was told otherwise."""
    return CONTROL_SOCKET


def print_json_or_text(fields: dict[str, Any], text: str, *, as_json: bool) -> None:
    """The same for what comes from no daemon."""
    print(json.dumps(fields) if as_json else text)


def fail(code: ExitCode, error: ControlError, *, as_json: bool) -> NoReturn:
    """End with an error: what, and what to do."""
    if as_json:
        fields = {"schema": "moat.error/1", "code": error.code, "text": str(error), "hint": error.hint}
        print(json.dumps(fields))
    else:
        print(f"moat: {error}" + (f"\nnext: {error.hint}" if error.hint else ""), file=sys.stderr)
    end(code)


def end(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise click.exceptions.Exit(code)
