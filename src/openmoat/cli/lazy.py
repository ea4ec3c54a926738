"""Groups of commands that are imported when a command of theirs runs, and commands that other distributions bring along."""

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from openmoat.cli.common import EXIT_HELP, ExitCode, Group, fail
from openmoat.control.remedies import Remedy
from openmoat.errors import ControlError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["ELSEWHERE", "EXTENSIONS", "GROUPS", "LazyGroup", "MoatGroup"]

GROUPS = {
    "keys": ("openmoat.cli.keys", "Make and show keys and pre-shared keys.", ""),
    "mtu": ("openmoat.cli.mtu", "Show and find out packet sizes.", "show"),
}
"""Name, module whose `app` it is, its line in the help, and the command that is meant where none of its own is named."""

EXTENSIONS = "openmoat.commands"
"""Group of entry points: each is the name of a command, and a function that returns a `click.Command`."""

ELSEWHERE = {"bench": "openmoat-lab", "lab": "openmoat-lab"}
"""Commands that are known here, and the distribution that has them."""


class LazyGroup(Group):
    """Knows its name and its help; everything else is in the module."""

    def __init__(self, name: str) -> None:
        self._module, summary, self._usual = GROUPS[name]
        text = f"{summary}\n\n`moat {name} [CONNECTION]` is short for `moat {name} {self._usual} [CONNECTION]`."
        super().__init__(name=name, help=text if self._usual else summary, no_args_is_help=not self._usual)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`moat mtu CONNECTION` needs no further word; of two words the first is meant to be a command."""
        words = [arg for arg in args[:2] if not arg.startswith("-")]
        if self._usual and len(words) < 2 and (not args or args[0] not in {*self.list_commands(ctx), "-h", "--help"}):
            args = [self._usual, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands of the module."""
        return self._load().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of the module."""
        return self._load().get_command(ctx, cmd_name)

    def _load(self) -> Group:
        app = importlib.import_module(self._module).app
        if not isinstance(app, Group):
            raise TypeError(f"{self._module}: app is no group of commands")
        return app


class MoatGroup(Group):
    """The commands of `moat` itself, the lazy groups, and what other distributions add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Own commands in the order of the file, then the groups, then those of others."""
        own = [*super().list_commands(ctx), *GROUPS]
        return [*own, *sorted(set(_extensions().names) - set(own))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A group is made without its module. Only for a name that is not ours other distributions are asked."""
        if cmd_name in GROUPS:
            return LazyGroup(cmd_name)
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        if cmd_name in _extensions().names:
            build: Callable[[], click.Command] = _extensions()[cmd_name].load()
            return build()
        if cmd_name in ELSEWHERE and not ctx.resilient_parsing:
            text = f"moat {cmd_name} is part of {ELSEWHERE[cmd_name]}, which is not installed"
            text += f"; remedy, in the source tree: {Remedy.INSTALL_LAB.format(python=sys.executable)}"
            fail(ExitCode.REFUSED, ControlError("not-permitted", text), as_json=False)
        return None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Below the list of commands."""
        formatter.write_paragraph()
        formatter.write_text(f"moat COMMAND --help explains one command. {EXIT_HELP}")


def _extensions() -> "EntryPoints":
    from importlib.metadata import entry_points  # which takes as long as all the rest of the start

    return entry_points(group=EXTENSIONS)
