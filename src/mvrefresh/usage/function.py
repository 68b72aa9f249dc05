"""The database function that refreshes the roll-ups, and its log: their DDL, what may be there."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

from mvrefresh.errors import ConfigurationError
from mvrefresh.postgres import definition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import Connection

    from mvrefresh.postgres.schema import Schema
    from mvrefresh.refreshing.view import ViewName

_RESULT = "TABLE(view_name text, refresh_status text)"
_LOGGED = {
    "view_name": None,
    "refreshed_at": None,
    "success": "bool",
    "error_message": None,
}

# What a call without arguments could mean.
_CALLABLE = """
SELECT pg_get_function_identity_arguments(p.oid), p.prokind, pg_get_function_result(p.oid)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = %s AND p.proname = %s AND p.pronargs = p.pronargdefaults
"""
_UNFILLED = """
SELECT a.attname
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
   AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attname <> ALL (%s)
 ORDER BY a.attnum
"""
_EXISTS = """
SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""


@cache
def _text(name: str) -> str:
    return files("mvrefresh.usage.sql").joinpath(f"{name}.sql").read_text(encoding="utf-8").strip()


def statements(
    function: ViewName, log: ViewName, views: Sequence[ViewName], schema: Schema
) -> list[sql.Composed]:
    """The DDL of log and function, for views that may come later; all of it may run again."""
    refresh_view = schema.identifier("refresh_view").as_string(None)
    body = sql.SQL(_text("refresh_function_body")).format(
        schema=sql.Identifier(schema.name),
        views=sql.SQL(", ").join(
            sql.SQL("({}, {}, {})").format(view.schema, view.name, str(view)) for view in views
        ),
        trigger=sql.Literal(function.name),
        log=definition.identifier(log),
    )
    return [
        sql.SQL(_text("requirement")).format(refresh_view=sql.Literal(refresh_view)),
        sql.SQL(_text("refresh_log")).format(log=definition.identifier(log)),
        sql.SQL(_text("refresh_function")).format(
            function=definition.identifier(function),
            tag=_tag(body.as_string(None)),
            body=body,
        ),
    ]


def _tag(body: str) -> sql.SQL:
    """Dollar quotes that no name in the body can end."""
    tag = "$function$"
    while tag in body:
        tag = f"{tag[:-1]}_$"
    return sql.SQL(tag)


def require(connection: Connection[Any], function: ViewName, log: ViewName, schema: Schema) -> None:
    """See that the library's schema is there, and that nothing else has the names.

    Raises:
        SchemaMissing: It is not, or not of this version.
        ConfigurationError: Another function, or a table of other columns, has the name.
    """
    schema.check(connection)
    cursor = connection.cursor(row_factory=tuple_row)
    for arguments, kind, result in cursor.execute(_CALLABLE, (function.schema, function.name)):
        if arguments or kind != "f" or result != _RESULT:
            raise ConfigurationError(
                f"{function}({arguments}) is there already and returns {result or 'nothing'}, not"
                f" {_RESULT}: rename it (ALTER ROUTINE ... RENAME TO), or call this one otherwise"
                " (UsageSource(refresh_function=...))"
            )
    if cursor.execute(_EXISTS, (log.schema, log.name)).fetchone() is None:
        return
    definition.require_columns(connection, log, _LOGGED)
    unfilled = cursor.execute(_UNFILLED, (log.schema, log.name, list(_LOGGED))).fetchall()
    if unfilled:
        raise ConfigurationError(
            f"column {unfilled[0][0]} of {log} has no default: give it one (ALTER TABLE ... ALTER"
            " ... SET DEFAULT), or call the log otherwise (UsageSource(refresh_log=...))"
        )


def removal(function: ViewName) -> sql.Composed:
    """The statement that drops the function; the log stays, as a history does."""
    return sql.SQL("DROP FUNCTION IF EXISTS {}()").format(definition.identifier(function))
