"""Groups of commands that are imported when a command of theirs runs, and commands that other distributions bring along."""

import importlib
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from openmoat.cli.common import ExitCode, fail
from openmoat.errors import ControlError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["ELSEWHERE", "EXTENSIONS", "GROUPS", "LazyGroup", "MoatGroup"]

GROUPS = {
    "keys": ("openmoat.cli.keys", "Keys and shared secrets of this side.", ""),
    "mtu": ("openmoat.cli.mtu", "Sizes of packets in tunnels.", "show"),
}
"""Name, module whose `app` it is, its line in the help, and the command that is meant where none of its own is named."""

EXTENSIONS = "openmoat.commands"
"""Group of entry points: each is the name of a command, and a function that builds it."""

ELSEWHERE = {"bench": "openmoat-lab", "lab": "openmoat-lab"}
"""Commands that are known here, and the distribution that has them."""


class LazyGroup(TyperGroup):
    """Knows its name and its help; everything else is in the module."""

    def __init__(self, name: str) -> None:
        self._module, summary, self._usual = GROUPS[name]
        if self._usual:
            summary += f"\n\n`moat {name} [CONNECTION]` is short for `moat {name} {self._usual} [CONNECTION]`."
        super().__init__(name=name, help=summary, no_args_is_help=not self._usual, rich_markup_mode=None)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`moat mtu CONNECTION` needs no further word; of two words the first is meant to be a command."""
        words = [arg for arg in args[:2] if not arg.startswith("-")]
        if self._usual and len(words) < 2 and (not args or args[0] not in {*self.list_commands(ctx), "--help"}):
            args = [self._usual, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands of the module."""
        return self._load().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of the module."""
        return self._load().get_command(ctx, cmd_name)

    def _load(self) -> TyperGroup:
        app = importlib.import_module(self._module).app
        app.rich_markup_mode = None  # all help looks alike
        group = typer.main.get_command(app)
        if not isinstance(group, TyperGroup):
            raise TypeError(f"{self._module}: app has one command only; give it a callback to make it a group")
        return group


class MoatGroup(TyperGroup):
    """The commands of `moat` itself, the lazy groups, and what other distributions add."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Own commands in the order of the file, then the groups, then those of others."""
        own = [*super().list_commands(ctx), *GROUPS]
        return [*own, *sorted(set(_extensions().names) - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A group is made without its module. Only for a name that is not ours other distributions are asked."""
        if cmd_name in GROUPS:
            return LazyGroup(cmd_name)
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        if cmd_name in _extensions().names:
            return _extensions()[cmd_name].load()()
        if cmd_name in ELSEWHERE and not ctx.resilient_parsing:
            text = f"moat {cmd_name} is not installed here; remedy: pip install {ELSEWHERE[cmd_name]}"
            fail(ExitCode.REFUSED, ControlError("not-permitted", text), as_json=False)
        return None


def _extensions() -> "EntryPoints":
    from importlib.metadata import entry_points  # which takes as long as all the rest of the start

    return entry_points(group=EXTENSIONS)
