"""Read every materialized view and what reads what: four statements in one round trip."""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mvrefresh.errors import NotAMaterializedView, UnknownView
from mvrefresh.postgres import sql as statements
from mvrefresh.postgres.faults import POSTGRES_17
from mvrefresh.refreshing.graph import ViewGraph
from mvrefresh.refreshing.view import MaterializedView, UniqueIndex, ViewName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from psycopg import Connection

_KINDS = {
    "r": "a table",
    "p": "a partitioned table",
    "f": "a foreign table",
    "v": "a plain view (it is always fresh)",
    "i": "an index",
    "I": "an index",
    "S": "a sequence",
    "t": "a TOAST table",
    "c": "a composite type",
}


def read_catalog(connection: Connection[Any]) -> ViewGraph:
    """The materialized views of the database, as of one moment.

    Views are keyed by oid; names are taken as they are, whatever they hold. Dependencies go
    through plain views, partitions and functions with an SQL body (BEGIN ATOMIC); what a
    function says in a string is hidden from the catalog, and so from us.

    Round trips: one, however many views there are.
    """
    privilege = "MAINTAIN" if connection.info.server_version >= POSTGRES_17 else "SELECT"
    with connection.pipeline():
        path = connection.execute("SELECT current_schemas(true)")
        views = connection.execute(
            statements.text("catalog_views").encode(), {"privilege": privilege}
        )
        edges = connection.execute(statements.text("catalog_edges").encode())
        functions = connection.execute(statements.text("catalog_functions").encode())
    search_path = path.fetchall()[0][0]
    reads, tables = _reading(edges.fetchall())
    impure = _by_reader(functions.fetchall())
    return ViewGraph(
        (_view(row, reads, tables, impure) for row in views.fetchall()),
        search_path=[schema for schema in search_path if schema != "pg_catalog"],
    )


@contextmanager
def naming_the_kind(connection: Connection[Any]) -> Iterator[None]:
    """Turn `UnknownView` into `NotAMaterializedView` where the name is that of something else."""
    try:
        yield
    except UnknownView as error:
        for schema, name in error.readings:
            if (kind := kind_of(connection, schema, name)) is not None:
                label = str(ViewName(schema, name)) if schema else name
                raise NotAMaterializedView(f"{label} is {kind}, not a materialized view") from None
        raise


def kind_of(connection: Connection[Any], schema: str | None, name: str) -> str | None:
    """What kind of relation goes by that name, in words; None if there is none.

    Asked only to explain why a name is not that of a materialized view.
    """
    row = connection.execute(
        "SELECT c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relname = %s AND CASE WHEN %s::text IS NULL THEN pg_table_is_visible(c.oid)"
        " ELSE n.nspname = %s END",
        (name, schema, schema),
    ).fetchone()
    return None if row is None else _KINDS.get(row[0], "another kind of relation")


def _reading(
    edges: Iterable[tuple[int, int, str | None, str | None, str | None]],
) -> tuple[dict[int, list[tuple[int, str]]], dict[int, str]]:
    """Direct edges by reader, each with the target's kind; and the labels of tables by oid."""
    reads: dict[int, list[tuple[int, str]]] = defaultdict(list)
    tables: dict[int, str] = {}
    for reader, target, schema, name, kind in edges:
        reads[reader].append((target, kind or "function"))
        if kind in ("r", "p", "f"):
            tables[target] = str(ViewName(schema or "", name or ""))
    return reads, tables


def _by_reader(
    rows: Iterable[tuple[int, str, bool]],
) -> dict[int, list[tuple[str, bool]]]:
    """Clock and volatile functions by the relation whose definition has them."""
    found: dict[int, list[tuple[str, bool]]] = defaultdict(list)
    for reader, function, clock in rows:
        found[reader].append((function, clock))
    return found


def _view(
    row: tuple[Any, ...],
    reads: dict[int, list[tuple[int, str]]],
    tables: dict[int, str],
    impure: dict[int, list[tuple[str, bool]]],
) -> MaterializedView:
    oid, schema, name, owner, populated, size, rows, permitted, indexes = row
    reached = _reach(oid, reads)
    functions = [f for part in (oid, *reached) for f in impure.get(part, ())]
    return MaterializedView(
        oid=oid,
        name=ViewName(schema, name),
        owner=owner,
        populated=populated,
        size_bytes=size,
        rows_estimate=rows,
        permitted=permitted,
        unique_indexes=tuple(
            UniqueIndex(**{**index, "columns": tuple(index["columns"])}) for index in indexes
        ),
        reads=frozenset(target for target, kind in reached.items() if kind == "m"),
        base_tables=tuple(sorted({tables[target] for target in reached if target in tables})),
        clock_functions=tuple(sorted({name for name, clock in functions if clock})),
        volatile_functions=tuple(sorted({name for name, clock in functions if not clock})),
    )


def _reach(oid: int, reads: dict[int, list[tuple[int, str]]]) -> dict[int, str]:
    """What `oid` reads, oid -> kind: through all but materialized views, which end the way."""
    reached: dict[int, str] = {}
    open_ = [oid]
    while open_:
        for target, kind in reads.get(open_.pop(), ()):
            if target not in reached and target != oid:
                reached[target] = kind
                if kind != "m":
                    open_.append(target)
    return reached
