"""The group of commands: finds a command when it is called, and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import click

from mvrefresh.cli import exits
from mvrefresh.cli.options import global_options
from mvrefresh.cli.session import Session, pass_session

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS: Final = {
    "demo": "mvrefresh.demo.command:demo",
    "list": "mvrefresh.cli.views:list_views",
    "plan": "mvrefresh.cli.views:plan_refresh",
    "refresh": "mvrefresh.cli.refreshing:refresh",
    "status": "mvrefresh.cli.status:status",
    "watch": "mvrefresh.cli.watch:watch",
    "history": "mvrefresh.cli.history:history",
    "schema": "mvrefresh.cli.schema:schema",
}
"""In the order of a first day with it. By name: a command's module is loaded when it is called."""


class Commands(click.Group):
    """Loads commands when they are needed, and ends the process with the code of `exits`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name."""
        module, _, attribute = _COMMANDS.get(cmd_name, "").partition(":")
        command: click.Command | None = (
            getattr(import_module(module), attribute) if module else None
        )
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,  # noqa: ARG002 - it is called so, however it was started
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line."""
        given = list(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(given, "mvrefresh", complete_var, standalone_mode=False, **extra)
        for stream in (sys.stdout, sys.stderr):  # a name may hold what the terminal cannot show
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(given, "mvrefresh", complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except exits.EXPECTED as error:
            exits.say(error, json=_wants_json(given))
            code = exits.exit_code(error)
        except BrokenPipeError:  # `mvrefresh list | head`: who reads has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = exits.Exit.NOT_REFRESHED
        sys.exit(code if isinstance(code, int) else exits.Exit.OK)


def _wants_json(given: list[str]) -> bool:
    """Also where the command line was not understood."""
    options = given[: given.index("--")] if "--" in given else given
    return "--json" in options


@click.group(
    cls=Commands,
    invoke_without_command=True,
    epilog=exits.HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(version("mvrefresh"), message="mvrefresh %(version)s")
@global_options
@pass_session
@click.pass_context
def app(ctx: click.Context, session: Session) -> None:
    """Keep PostgreSQL materialized views fresh.

    A view's name may have its schema before it; a part with dots, blanks or capitals is put in
    double quotes, as in SQL. Options of all commands may stand before the command or after it.
    """
    ctx.obj = session
    if ctx.invoked_subcommand is None:
        if session.json:
            raise click.UsageError("which command? `mvrefresh --help` shows them")
        click.echo(ctx.get_help())
        ctx.exit(exits.Exit.USAGE)
