"""What an exit code means, and how an error is said: on one line, or as one JSON document."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import click
import psycopg

from mvrefresh import errors
from mvrefresh.cli.output import write_json
from mvrefresh.cli.wording import one_line
from mvrefresh.postgres.faults import is_connection_loss, message_of


class Exit(IntEnum):
    """The exit codes of every command; `HELP` says them to people."""

    OK = 0
    NOT_REFRESHED = 1
    USAGE = 2
    UNAVAILABLE = 3
    SCHEMA = 4
    INTERRUPTED = 130


HELP: Final = """\
\b
Exit codes:
  0    all is well
  1    a view was not refreshed, or the status is not healthy, or
       PostgreSQL refused something
  2    wrong usage: no such option or view, a value that cannot be meant
  3    the database cannot be reached
  4    the library's tables are missing or of another version
  130  interrupted
"""

EXPECTED: Final = (
    click.ClickException,
    click.Abort,
    KeyboardInterrupt,
    errors.MvrefreshError,
    psycopg.Error,
    PermissionError,
)
"""What is said in one line; anything else is a fault of ours and keeps its traceback."""

_INTERRUPTS: Final = (click.Abort, KeyboardInterrupt)  # click makes the one of the other, mostly

_IN_WORDS_OF_THE_COMMAND: Final = {
    ', or pass coordination="local" to go without': " (`mvrefresh refresh --local` goes without)",
    'fallback="regular"': "--fallback regular",
}


def exit_code(error: BaseException) -> Exit:
    """The code with which an error ends the process."""
    match error:
        case click.Abort() | KeyboardInterrupt():
            return Exit.INTERRUPTED
        case click.UsageError() | errors.ConfigurationError() | errors.UnknownView():
            return Exit.USAGE
        case errors.DatabaseUnavailable():
            return Exit.UNAVAILABLE
        case errors.SchemaMissing():
            return Exit.SCHEMA
        case psycopg.Error() if is_connection_loss(error):
            return Exit.UNAVAILABLE
        case _:
            return Exit.NOT_REFRESHED


def message(error: BaseException) -> str:
    """The error in one line, in the words of the command line."""
    if isinstance(error, _INTERRUPTS):
        return "interrupted"
    said = error.format_message() if isinstance(error, click.ClickException) else message_of(error)
    for theirs, ours in _IN_WORDS_OF_THE_COMMAND.items():
        said = said.replace(theirs, ours)
    return one_line(" ".join(said.split()))


def say(error: BaseException, *, json: bool) -> None:
    """Tell the error: a line on stderr, or `{"error": {"type", "message"}}` on stdout."""
    if not json:
        click.echo(f"mvrefresh: {message(error)}", err=True)
        return
    write_json(error_document(error))


def error_document(error: BaseException) -> dict[str, dict[str, str]]:
    """The error as `{"error": {"type", "message"}}`."""
    kind = type(error).__name__
    if isinstance(error, click.UsageError):
        kind = "UsageError"  # click's finer classes are its own business
    elif isinstance(error, _INTERRUPTS):
        kind = "Interrupted"
    return {"error": {"type": kind, "message": message(error)}}
