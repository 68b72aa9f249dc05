"""A metrics store in PostgreSQL: table `refresh_metrics`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import class_row, tuple_row

from mvrefresh.metrics.store import (
    MetricsSummary,
    RefreshRecord,
    check_filters,
    check_purge,
    rounded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime, timedelta

    from psycopg import Connection

    from mvrefresh.postgres.database import Database

_COLUMNS = [field.name for field in fields(RefreshRecord)]
_WRITTEN = [name for name in _COLUMNS if name not in ("id", "created_at")]


class PostgresMetricsStore:
    """Keeps records in table `refresh_metrics` of the database's metrics schema.

    A refresh of the same database writes its record inside its own transaction.

    Args:
        database: Where; its schema must be installed (`mvrefresh schema --apply`).
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._table = database.schema.metrics_table

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.database!r})"

    @contextmanager
    def _connection(self, connection: Connection[Any] | None) -> Iterator[Connection[Any]]:
        if connection is not None:
            yield connection
        else:
            with self.database.connection() as pooled:
                yield pooled

    def record(
        self, record: RefreshRecord, *, connection: Connection[Any] | None = None
    ) -> RefreshRecord:
        """Store a record; inside the transaction of `connection`, where one is given."""
        query = sql.SQL(
            "INSERT INTO {} ({}, created_at) VALUES ({}, coalesce(%s, clock_timestamp()))"
            " RETURNING id, created_at"
        ).format(
            self._table,
            sql.SQL(", ").join(map(sql.Identifier, _WRITTEN)),
            sql.SQL(", ").join([sql.Placeholder()] * len(_WRITTEN)),
        )
        values = [getattr(record, name) for name in _WRITTEN]
        with self._connection(connection) as used:
            cursor = used.cursor(row_factory=tuple_row)
            row = cursor.execute(query, (*values, record.created_at)).fetchone()
        assert row is not None  # noqa: S101 - RETURNING of one INSERT
        return replace(record, id=row[0], created_at=row[1])

    def recent(
        self, limit: int = 100, view_name: str | None = None, since: datetime | None = None
    ) -> Sequence[RefreshRecord]:
        """The newest records first; see `MetricsStore.recent`."""
        check_filters(limit, since)
        query = sql.SQL("SELECT {} FROM {} {} ORDER BY created_at DESC, id DESC LIMIT %s").format(
            # A table of its users' own making may hold rows from before there was a status.
            sql.SQL(", ").join(
                sql.SQL(
                    "coalesce(status, CASE WHEN success THEN 'succeeded' ELSE 'failed' END)"
                    " AS status"
                )
                if name == "status"
                else sql.Identifier(name)
                for name in _COLUMNS
            ),
            self._table,
            _WHERE,
        )
        with self._connection(None) as used:
            cursor = used.cursor(row_factory=class_row(RefreshRecord))
            return cursor.execute(query, (*_filters(view_name, since), limit)).fetchall()

    def summary(
        self, view_name: str | None = None, since: datetime | None = None
    ) -> MetricsSummary:
        """Figures over all records that match; see `MetricsStore.summary`."""
        check_filters(1, since)
        query = _SUMMARY.format(self._table, _WHERE)
        with self._connection(None) as used:
            cursor = used.cursor(row_factory=class_row(MetricsSummary))
            found = cursor.execute(query, _filters(view_name, since)).fetchone()
        return rounded(found or MetricsSummary())

    def purge(
        self, *, older_than: timedelta | None = None, keep_per_view: int | None = None
    ) -> int:
        """Delete old records; see `MetricsStore.purge`."""
        check_purge(older_than, keep_per_view)
        query = _PURGE.format(table=self._table)
        with self._connection(None) as used:
            return used.execute(query, {"age": older_than, "keep": keep_per_view}).rowcount


_WHERE = sql.SQL(
    "WHERE (%s::text IS NULL OR view_name = %s) AND (%s::timestamptz IS NULL OR created_at >= %s)"
)


def _filters(view_name: str | None, since: datetime | None) -> tuple[Any, ...]:
    return (view_name, view_name, since, since)


_SUMMARY = sql.SQL("""
SELECT count(*) AS total_count,
       count(*) FILTER (WHERE success) AS success_count,
       count(*) FILTER (WHERE NOT success) AS failure_count,
       100.0::float8 * count(*) FILTER (WHERE success) / nullif(count(*), 0) AS success_rate,
       avg(refresh_duration_ms) AS average_duration_ms,
       percentile_cont(0.50) WITHIN GROUP (ORDER BY refresh_duration_ms) AS p50_duration_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY refresh_duration_ms) AS p95_duration_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY refresh_duration_ms) AS p99_duration_ms,
       min(refresh_duration_ms) AS min_duration_ms,
       max(refresh_duration_ms) AS max_duration_ms
  FROM {} {} AND success IS NOT NULL
""")

_PURGE = sql.SQL("""
DELETE FROM {table}
 WHERE created_at < clock_timestamp() - %(age)s::interval
    OR id IN (SELECT id FROM (SELECT id, row_number() OVER (
                  PARTITION BY view_name ORDER BY created_at DESC, id DESC) AS rank
                FROM {table} WHERE %(keep)s::bigint IS NOT NULL) ranked
               WHERE rank > %(keep)s::bigint)
""")
