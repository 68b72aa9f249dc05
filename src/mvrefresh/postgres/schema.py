"""The library's own tables and functions: their DDL, their version, how they are installed.

Nothing is ever created silently: a host asks for it (`mvrefresh schema --apply`, or the text of
`mvrefresh schema --sql` in a migration of its own).
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from psycopg import errors, sql
from psycopg.rows import scalar_row, tuple_row

from mvrefresh.errors import SchemaMissing, SchemaNotPermitted, SchemaOutdated, SchemaTooNew
from mvrefresh.postgres import notify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

_LOCK = 0x6D767363_68656D61  # "mvschema": CREATE IF NOT EXISTS is not safe against itself


@contextmanager
def one_at_a_time(connection: Connection[Any]) -> Iterator[None]:
    """A transaction with DDL of the library's, which waits for others of its kind."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        yield


class Schema:
    """The library's place in a database.

    Args:
        name: Schema of state, functions and version.
        metrics: Schema of table `refresh_metrics`; the same by default.
    """

    def __init__(self, name: str = "mvrefresh", metrics: str | None = None) -> None:
        self.name = name
        self.metrics = metrics or name

    def __repr__(self) -> str:
        return f"Schema({self.name!r}, metrics={self.metrics!r})"

    @staticmethod
    def _steps() -> list[tuple[int, str]]:
        """The numbered files of `sql/schema`, oldest first."""
        folder = files("mvrefresh.postgres.sql").joinpath("schema")
        named = sorted((f.name, f) for f in folder.iterdir() if f.name.endswith(".sql"))
        return [(int(name[:3]), f.read_text(encoding="utf-8")) for name, f in named]

    @property
    def latest(self) -> int:
        """The version that this library needs."""
        return self._steps()[-1][0]

    def identifier(self, name: str) -> sql.Identifier:
        """A thing of this schema, quoted."""
        return sql.Identifier(self.name, name)

    @property
    def metrics_table(self) -> sql.Identifier:
        """Table `refresh_metrics`, quoted."""
        return sql.Identifier(self.metrics, "refresh_metrics")

    def _compose(self, text: str) -> sql.Composed:
        return sql.SQL(text).format(
            schema=sql.Identifier(self.name),
            metrics=sql.Identifier(self.metrics),
            channel=sql.Literal(notify.CHANNEL),
        )

    def statements(self, *, since: int = 0, until: int | None = None) -> list[sql.Composed]:
        """The DDL, one composed text a version, of the versions after `since` up to `until`.

        A migration that is to do the same for ever names its `until`.
        """
        head = self._compose(
            "CREATE SCHEMA IF NOT EXISTS {schema};\n"
            "CREATE SCHEMA IF NOT EXISTS {metrics};\n"
            "CREATE TABLE IF NOT EXISTS {schema}.version ("
            "version integer PRIMARY KEY, "
            "installed_at timestamptz NOT NULL DEFAULT clock_timestamp());\n"
        )
        steps = [
            self._compose(text)
            + self._compose(f"\nINSERT INTO {{schema}}.version (version) VALUES ({number});\n")
            for number, text in self._steps()
            if number > since and (until is None or number <= until)
        ]
        return [head, *steps]

    def ddl(
        self,
        connection: Connection[Any] | None = None,
        *,
        since: int = 0,
        until: int | None = None,
    ) -> str:
        """All of it as one SQL script, for a migration of the host's own.

        Identifiers are quoted by the rules of `connection`, or of a UTF-8 database without one.
        """
        parts = self.statements(since=since, until=until)
        body = "\n".join(part.as_string(connection) for part in parts)
        return f"BEGIN;\n{body}COMMIT;\n"

    def version(self, connection: Connection[Any]) -> int:
        """The installed version; 0 when there is none."""
        cursor = connection.cursor(row_factory=scalar_row)
        there = cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = 'version')",
            (self.name,),
        ).fetchone()
        if not there:
            return 0
        query = sql.SQL("SELECT coalesce(max(version), 0) FROM {}")
        try:
            cursor.execute(query.format(self.identifier("version")))
        except errors.InsufficientPrivilege as error:
            raise self._not_permitted() from error
        return int(cursor.fetchone() or 0)

    def apply(self, connection: Connection[Any]) -> tuple[int, int]:
        """Install or upgrade in place, in one transaction, safe against others doing the same.

        Returns:
            (version before, version after).

        Raises:
            SchemaTooNew: A newer library has been here.
        """
        with one_at_a_time(connection):
            before = self.version(connection)
            if before > self.latest:
                raise self._too_new(before)
            if before < self.latest:
                connection.execute("SET LOCAL client_min_messages = warning")
                for statement in self.statements(since=before):
                    connection.execute(statement)
        return before, self.latest

    def check(self, connection: Connection[Any]) -> None:
        """See that the installed version is the needed one.

        Raises:
            SchemaMissing, SchemaOutdated, SchemaTooNew: It is not; the error names the fix.
        """
        found = self.version(connection)
        if found == self.latest:
            self._check_use(connection)
            return
        if found == 0:
            raise SchemaMissing(f"mvrefresh's tables are not in schema {self.name!r}")
        if found < self.latest:
            raise SchemaOutdated(
                f"mvrefresh's tables in schema {self.name!r} are of version {found}, "
                f"and this library needs {self.latest}"
            )
        raise self._too_new(found)

    def _check_use(self, connection: Connection[Any]) -> None:
        """The role may use what is there, and it is all there."""
        names = {
            "state": self.identifier("state"),
            "schedule": self.identifier("schedule"),
            "metrics": self.metrics_table,
            "finish": self.identifier("finish_refresh"),
        }
        try:
            row = (
                connection.cursor(row_factory=tuple_row)
                .execute(
                    "SELECT to_regproc(%(finish)s) IS NOT NULL,"
                    " has_table_privilege(%(state)s, 'SELECT') AND"
                    " has_table_privilege(%(state)s, 'INSERT') AND"
                    " has_table_privilege(%(state)s, 'UPDATE') AND"
                    " has_table_privilege(%(schedule)s, 'SELECT') AND"
                    " has_table_privilege(%(schedule)s, 'INSERT') AND"
                    " has_table_privilege(%(schedule)s, 'UPDATE') AND"
                    " has_table_privilege(%(schedule)s, 'DELETE') AND"
                    " has_table_privilege(%(metrics)s, 'SELECT') AND"
                    " has_table_privilege(%(metrics)s, 'INSERT')",
                    {key: name.as_string(connection) for key, name in names.items()},
                )
                .fetchone()
            )
        except errors.InsufficientPrivilege as error:
            raise self._not_permitted() from error
        except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
            raise SchemaOutdated(
                f"mvrefresh's tables are not all there ({error.diag.message_primary}), although "
                f"table {self.name}.version says {self.latest}: delete its rows from 2 on"
            ) from error
        complete, permitted = row or (False, False)
        if not complete:
            raise SchemaOutdated(
                f"function {self.name}.finish_refresh is missing, although table "
                f"{self.name}.version says {self.latest}: delete its rows from 3 on"
            )
        if not permitted:
            raise self._not_permitted()

    def _not_permitted(self) -> SchemaNotPermitted:
        return SchemaNotPermitted(f"this role may not use mvrefresh's tables in {self.name!r}")

    def _too_new(self, found: int) -> SchemaTooNew:
        return SchemaTooNew(
            f"mvrefresh's tables in schema {self.name!r} are of version {found}, "
            f"and this library knows {self.latest} at most"
        )
