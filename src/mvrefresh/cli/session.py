"""What the global options say: where the database is, and how to answer."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from mvrefresh.cli.output import console, write_json
from mvrefresh.errors import ConfigurationError
from mvrefresh.postgres.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

DSN_VARIABLE = "MVREFRESH_DSN"


@dataclass(slots=True)
class Session:
    """The global options of one call of the command.

    Attributes:
        dsn: As the command line gave it; None leaves it to the environment.
    """

    dsn: str | None = None
    schema: str | None = None
    metrics_schema: str | None = None
    json: bool = False
    verbose: bool = False

    @contextmanager
    def database(self, dsn: str | None = None) -> Iterator[Database]:
        """The database that is meant, for as long as the block lasts.

        Args:
            dsn: Instead of the one given. Without any it is MVREFRESH_DSN, and without that
                libpq's own environment (PGHOST, PGDATABASE, ...) decides.
        """
        if dsn is None:
            dsn = self.dsn if self.dsn is not None else os.environ.get(DSN_VARIABLE, "")
        refuse_torn_password(dsn)
        with (
            self._logging(),
            Database(
                dsn, schema=self.schema or "mvrefresh", metrics_schema=self.metrics_schema
            ) as database,
        ):
            yield database

    def answer(self, document: dict[str, Any], people: Callable[[Console], None]) -> None:
        """Give the answer: the document with --json, else what `people` prints."""
        if self.json:
            write_json(document)
        else:
            people(console())

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """Log to stderr with --verbose; without, say nothing but the answer."""
        # Python sends what no handler takes to stderr, where an error is to be one line.
        silence, root = logging.NullHandler(), logging.getLogger()
        root.addHandler(silence)
        ours = logging.getLogger("mvrefresh")
        level, handler = ours.level, logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        if self.verbose:
            ours.addHandler(handler)
            ours.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            root.removeHandler(silence)
            ours.removeHandler(handler)
            ours.setLevel(level)


pass_session = click.make_pass_decorator(Session, ensure=True)
"""Hands a command the session as its first argument."""


def refuse_torn_password(dsn: str) -> None:
    """Refuse a URI whose password holds a bare @ or /, in words that do not show it.

    libpq would take the rest of such a password for a host, and say it in its error.
    """
    scheme, found, rest = dsn.partition("://")
    if not found or scheme not in ("postgresql", "postgres") or "@" not in rest:
        return
    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError:
        return  # Database says what is wrong with it, without a password
    if "user" not in parts or "@" in str(parts.get("host", "")):
        raise ConfigurationError(
            "the user or password in the DSN holds a character that a URI must write in percents "
            "(@ as %40, / as %2F)"
        )
