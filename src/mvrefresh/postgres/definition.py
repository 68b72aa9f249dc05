"""What the ready-made views share: their script, their creation, their removal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.errors import DuplicateTable
from psycopg.rows import tuple_row

from mvrefresh.errors import ConfigurationError
from mvrefresh.refreshing.view import MAX_IDENTIFIER_BYTES, ViewName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from psycopg import Connection


def table_name(table: str, schema: str | None) -> ViewName:
    """The table that is meant: exactly `table` of `schema`, or `table` as SQL would read it.

    Raises:
        ConfigurationError: It is no name.
    """
    if schema is not None:
        return ViewName(_checked(schema, "schema"), _checked(table, "table"))
    found_schema, name = ViewName.parse(table)
    return ViewName(found_schema or "public", name)


def _checked(name: str, what: str) -> str:
    if not name or "\0" in name:
        raise ConfigurationError(f"{what}={name!r} is no name")
    if len(name.encode()) > MAX_IDENTIFIER_BYTES:
        raise ConfigurationError(
            f"{what}={name!r} is longer than PostgreSQL's {MAX_IDENTIFIER_BYTES} bytes"
        )
    return name


def check_names(names: Mapping[str, str | None]) -> None:
    """Refuse column and view names that PostgreSQL would not take as they are."""
    for what, name in names.items():
        if name is not None:
            _checked(name, what)


def identifier(name: ViewName) -> sql.Identifier:
    """A relation, quoted."""
    return sql.Identifier(name.schema, name.name)


@dataclass(frozen=True, slots=True)
class Definition:
    """One materialized view: its text, and the indexes that it needs."""

    name: ViewName
    text: sql.Composed
    indexes: tuple[sql.Composed, ...]


def unique_index(view: ViewName, *columns: str) -> sql.Composed:
    """The index that REFRESH CONCURRENTLY leans on; named by PostgreSQL, which shortens well."""
    return _index("CREATE UNIQUE INDEX ON {} ({})", view, columns)


def index(view: ViewName, *columns: str) -> sql.Composed:
    """An index for readers."""
    return _index("CREATE INDEX ON {} ({})", view, columns)


def _index(text: str, view: ViewName, columns: Iterable[str]) -> sql.Composed:
    quoted = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL(text).format(identifier(view), quoted)


def statements(definitions: Iterable[Definition]) -> list[sql.Composed]:
    """All statements, in an order in which they can be run."""
    return [s for d in definitions for s in (d.text, *d.indexes)]


def script(parts: Iterable[sql.Composable], connection: Connection[Any] | None) -> str:
    """Statements as one SQL text."""
    return "".join(f"{part.as_string(connection).strip()};\n" for part in parts)


def create(
    connection: Connection[Any],
    parts: Iterable[sql.Composed],
    *,
    if_there: str = "drop(connection) first, or leave it",
) -> None:
    """Run statements in one transaction: all of them or none.

    Args:
        connection: Where.
        parts: The statements.
        if_there: What to do about a relation that is there already.

    Raises:
        ConfigurationError: One is. Nothing was touched.
    """
    try:
        with connection.transaction():
            for part in parts:
                connection.execute(part)
    except DuplicateTable as error:
        raise ConfigurationError(f"{error.diag.message_primary}: {if_there}") from error


def drop(connection: Connection[Any], views: Sequence[ViewName]) -> None:
    """Drop views that are there, readers first; what else reads them is not dropped."""
    create(
        connection,
        [
            sql.SQL("DROP MATERIALIZED VIEW IF EXISTS {}").format(identifier(view))
            for view in reversed(views)
        ],
    )


def require_columns(
    connection: Connection[Any], table: ViewName, columns: Mapping[str, str | None]
) -> None:
    """See that a table and its columns exist, each of the type named for it, if one is.

    Raises:
        ConfigurationError: Something is missing; it says what, before anything is touched.
    """
    found: dict[str, str] = dict(
        connection.cursor(row_factory=tuple_row)
        .execute(
            "SELECT a.attname, t.typname FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " JOIN pg_type t ON t.oid = a.atttypid"
            " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'f', 'v', 'm')",
            (table.schema, table.name),
        )
        .fetchall()
    )
    if not found:
        raise ConfigurationError(f"there is no table {table}")
    missing = [name for name in columns if name not in found]
    if missing:
        raise ConfigurationError(
            f"table {table} has no column {', '.join(missing)}; it has {', '.join(sorted(found))}"
        )
    for name, wanted in columns.items():
        if wanted is not None and found[name] != wanted:
            raise ConfigurationError(
                f"column {name} of {table} is of type {found[name]}, and {wanted} is needed"
            )
